"""The tour of the README, command by command, with an engine of its own: what it shows is what a reader sees.

Each line of the tour's shell blocks is run in its order; the text block behind a block shows a part of what its
commands say, line by line, but for what differs from run to run.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest

from engine.kernel import PROJECT_ROOT
from shm.clock import sleep
from tests.engine_session import Engine, engine, leftovers, wait_until
from tests.snippets import Block, blocks, outline
from tools.text import parse_duration

pytestmark = pytest.mark.session
TOUR = "Five minutes with it"


def tour_blocks() -> list[Block]:
    """The blocks of the tour, up to the next heading of its rank."""
    text = (PROJECT_ROOT / "README.md").read_text(encoding="utf-8")
    part = text.split(f"\n## {TOUR}\n")[1]
    return blocks(re.split(r"\n## ", part)[0])


def strangers(shown: str, said: str) -> list[str]:
    """Lines of a text block whose first words begin no line of what was said, and those that come in another order."""
    left = iter([outline(line) for line in said.splitlines()])
    return [
        line for line in shown.splitlines()
        if line.strip() and line != "..." and not any(words == outline(line) for words in left)
    ]  # fmt: skip


def run_line(words: list[str], made: Engine) -> str:
    """What a command of the tour says; a finding of it fails the test."""
    if words[0] == "sleep":
        sleep(parse_duration(words[1]))
        return ""
    assert words[0] == "bot4", words
    given = list(words[1:])
    if given[-1].endswith("/NAME"):
        given[-1] = str(made.folder / given[-1].replace("NAME", session_name(made)))
    done: subprocess.CompletedProcess[str] = made.command(*given)
    assert done.returncode == 0, (words, done.stderr)
    if words[1] == "replay":
        assert f"decision hash {made.summary()['decision_hash']}, unaccounted records: 0" in done.stdout
    return done.stdout


def printed_with_figures(made: Engine) -> str | None:
    """What `bot4 run` has printed, once its first line of figures is there: orders may be quicker than that line."""
    printed = (made.folder / f"{made.name}.out").read_text()
    return printed if "NORMAL" in printed else None


def session_name(made: Engine) -> str:
    (folder,) = (made.folder / "var" / "sessions").iterdir()
    return folder.name


def test_the_tour(tmp_path: Path) -> None:
    tour = tour_blocks()
    settings = tomllib.loads(next(block.text for block in tour if block.language == "toml"))
    said, checked, ended = "", 0, False
    with engine(tmp_path, **settings) as made:
        for block in (block for block in tour if block.language != "toml"):
            if block.language == "text":
                if "stopping: " in block.text:
                    code, said, errors = made.finish()
                    assert code == 0, errors
                    said, ended = said[said.index("stopping: "):], True
                assert strangers(block.text, said) == [], said
                checked += 1
                continue
            said = ""
            for line in block.text.splitlines():
                words = shlex.split(line, comments=True)
                if words[:2] == ["bot4", "run"]:
                    made.start(*words[2:])
                    made.wait_trading()
                    said += wait_until(lambda: printed_with_figures(made), 30, "line with the run's figures")
                elif words:
                    said += run_line(words, made)
        assert ended and checked >= 6
        name = made.name
    assert leftovers(name) == []


def test_a_text_that_is_not_what_was_said_is_found() -> None:
    said = "bot4: PAUSE\nhop   count\nml    12  1.0\nwire   3  4.5\n"
    assert strangers("hop  count\n...\nwire 7 8.5\n", said) == []
    assert strangers("wire 7\nml 8\n", said) == ["ml 8"]
    assert strangers("hop count\nsettlement 1\n", said) == ["settlement 1"]
