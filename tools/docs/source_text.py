"""What comments in the source say of the names beside them.

A comment stands behind its name on the same line; lines that hold nothing but a comment go on with it. A name without
one is a mistake, said as MissingText: pages are made of these texts.
"""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path


class MissingText(ValueError):
    """Something that a page must describe has no text in the source; the message names it."""


def _comments(text: str) -> tuple[dict[int, str], dict[int, str]]:
    """Comments by line: those behind code, and those alone on their line."""
    behind: dict[int, str] = {}
    alone: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            words = token.string.lstrip("# ").strip()
            (alone if token.line.strip().startswith("#") else behind)[token.start[0]] = words
    return behind, alone


def _text_of_line(line: int, comments: tuple[dict[int, str], dict[int, str]]) -> str:
    behind, alone = comments
    words = [behind.get(line, "")]
    while words[0] and (line := line + 1) in alone:
        words.append(alone[line])
    return " ".join(words).removeprefix("fmt: skip")


def member_comments(path: Path, class_name: str) -> dict[str, str]:
    """Comment of every member of an enumeration, in order; empty where there is none."""
    text = path.read_text(encoding="utf-8")
    comments = _comments(text)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            return {
                item.targets[0].id: _text_of_line(item.lineno, comments)
                for item in node.body
                if isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name)
            }
    raise MissingText(f"{path.name}: no class {class_name}")


def field_comments(path: Path, name: str) -> dict[str, str]:
    """Comment of every ("field", type, ...) in what is assigned to a name at the top of a module, in order.

    Lists of fields that the assignment names (a common head) are not followed; the comment behind such a name is that
    of the key "_HEAD", by its name.
    """
    text = path.read_text(encoding="utf-8")
    comments = _comments(text)
    for node in ast.parse(text).body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
        if not isinstance(target, ast.Name) or target.id != name:
            continue
        found: dict[str, str] = {}
        for part in ast.walk(node.value):
            if isinstance(part, ast.Tuple) and part.elts and isinstance(part.elts[0], ast.Constant):
                found[str(part.elts[0].value)] = _text_of_line(part.lineno, comments)
            elif isinstance(part, ast.Name) and part.id.startswith("_"):
                found[part.id] = _text_of_line(part.lineno, comments)
        return found
    raise MissingText(f"{path.name}: no {name}")
