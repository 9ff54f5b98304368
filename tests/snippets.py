"""What can be checked in Markdown: fenced blocks, commands, inline code, links and anchors."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import NamedTuple

from engine.kernel import PROJECT_ROOT

LANGUAGES = ("sh", "toml", "text", "ini", "python")


class Block(NamedTuple):
    """One fenced block."""

    line: int  # of its first fence, from 1
    language: str
    text: str
    heading: str  # under which it stands
    file: str = ""  # that the block is; then it is for another test to run it


def documents() -> list[Path]:
    """Every Markdown file of the project."""
    listed = subprocess.run(["git", "ls-files", "-z", "*.md"], cwd=PROJECT_ROOT, capture_output=True, check=False)
    tracked = [PROJECT_ROOT / name.decode() for name in listed.stdout.split(b"\0") if name]
    found = tracked or [*PROJECT_ROOT.glob("*.md"), *(PROJECT_ROOT / "docs").rglob("*.md")]
    return sorted(path for path in found if path.exists())


def blocks(text: str) -> list[Block]:
    """Fenced blocks in order. Raises ValueError for one that is not closed."""
    found: list[Block] = []
    heading, opened, language, file, lines = "", 0, "", "", list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        fence = re.fullmatch(r"\s*```(\w*)(?: +(\S+))?\s*", line)
        if opened and fence:
            found.append(Block(opened, language, "\n".join(lines) + "\n", heading, file))
            opened = 0
        elif opened:
            lines.append(line)
        elif fence:
            opened, language, file, lines = number, fence[1], fence[2] or "", []
        elif line.startswith("#"):
            heading = line.lstrip("# ")
    if opened:
        raise ValueError(f"line {opened}: a block that is not closed")
    return found


def prose(text: str) -> str:
    """The text with its fenced blocks left out, lines kept in their places."""
    kept, inside = [], False
    for line in text.splitlines():
        fence = line.lstrip().startswith("```")
        kept.append("" if inside or fence else line)
        inside ^= fence
    return "\n".join(kept)


def indented_blocks(text: str) -> list[int]:
    """Numbers of the lines at which code begins that has no fence, and so no language."""
    lines = prose(text).splitlines()
    return [
        number for number, line in enumerate(lines, 1)
        if line.startswith("    ") and line.strip() and (number == 1 or not lines[number - 2].strip())
    ]  # fmt: skip


def shell_commands(block: str) -> list[list[str]]:
    """Words of every command of a shell block, comments left out; raises ValueError for an open quote."""
    commands = []
    for line in block.splitlines():
        words: list[str] = []
        for word in shlex.split(line, comments=True):
            if word in ("&&", ";", "|"):
                commands.append(words)
                words = []
            else:
                words.append(word)
        commands.append(words)
    return [words for words in commands if words]


def inline_code(text: str) -> list[str]:
    """What stands between single backticks outside of blocks, joined where it goes over a line's end."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(text))]


def links(text: str) -> list[str]:
    """Targets of the links outside of blocks and code."""
    return re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", re.sub(r"`[^`]+`", "", prose(text)))


def anchors(text: str) -> set[str]:
    """The anchors that GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def outline(line: str) -> str:
    """A line of output without what differs from run to run: its first word, digits and paths left out."""
    words = re.sub(r"\S*/\S+|\S*\d\S*", "", line).split()
    return words[0] if words else ""
