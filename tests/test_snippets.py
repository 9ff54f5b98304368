"""What the documents say is tried: commands, settings, code, links, files and keys. The tour of the README is run by
tests/test_tour.py."""

from __future__ import annotations

import argparse
import configparser
import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

from engine.config import Settings, settings_from
from engine.kernel import PROJECT_ROOT
from engine.settings import as_plain
from tests.snippets import (
    LANGUAGES,
    anchors,
    blocks,
    documents,
    indented_blocks,
    inline_code,
    links,
    shell_commands,
)
from tools import cli
from tools.docs.commands import commands

DOCUMENTS = [str(path.relative_to(PROJECT_ROOT)) for path in documents()]
COMMANDS = {name: parser for name, _, parser in commands(cli.command_parser())}
OK, FINDING, USAGE = 0, 1, 2
# Run here, each with the exit codes that it may end with where no engine runs.
RUN_HERE = {
    "check": {OK}, "doctor": {OK, FINDING}, "venues": {OK}, "status": {FINDING},
    "latency": {FINDING, USAGE},  # USAGE: of a session that is not there
    "kill": {FINDING}, "mode": {FINDING}, "reset": {FINDING}, "acknowledge": {FINDING}, "audit": {OK, FINDING},
    "data quarantine": {FINDING},
}  # fmt: skip
# Only understood here, and why.
UNDERSTOOD = {
    "run": "an engine; test_tour.py", "replay": "a session or a recording; test_tour.py",
    "drill": "minutes; test_drill.py", "button": "writes a key where it says; test_remote_button.py",
    "record": "asks a venue; test_record.py", "play": "serves until it is stopped; test_play_command.py",
    "venue": "serves until it is stopped; test_session.py", "bench": "half a minute of both cores; test_bench.py",
    "secret": "asks on a terminal; test_control_cli.py", "data show": "needs a capture; test_data_cli.py",
    "data convert": "needs a recording; test_data_cli.py",
    "data statistics": "needs a recording; test_market_statistics.py",
    "console": "a terminal; test_console_session.py", "explain": "a session; test_tour.py",
    "latency trace": "a session; test_tour.py", "latency jitter": "watches cores; test_latency_jitter.py",
    "set": "a running strategy; test_session_strategies.py", "new": "writes files; test_strategy_guide.py",
    "train": "minutes; test_models.py",
}  # fmt: skip
# Programs that are not ours: what they do is not tried.
SYSTEM = {"chmod", "scp", "sudo", "tail", "sleep", "cd", "spin", "gcc", "./pan"}
# Written while an engine runs, so not there in a checkout.
RUNTIME = ("var/",)


def read(name: str) -> str:
    return (PROJECT_ROOT / name).read_text(encoding="utf-8")


def command_name(words: list[str]) -> str:
    """The command that the words after `bot4` are about; empty where there is none of that name."""
    two = " ".join(words[:2])
    return two if two in COMMANDS else words[0] if words and words[0] in COMMANDS else ""


def shell_lines() -> list[tuple[str, list[str]]]:
    return [
        (f"{name}:{block.line}", words)
        for name in DOCUMENTS for block in blocks(read(name)) if block.language == "sh"
        for words in shell_commands(block.text)
    ]  # fmt: skip


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_block_has_a_fence_and_a_language(name: str) -> None:
    text = read(name)
    assert [(block.line, block.language) for block in blocks(text) if block.language not in LANGUAGES] == []
    assert indented_blocks(text) == []


@pytest.mark.parametrize(("where", "words"), shell_lines())
def test_every_command_line_is_one(
    where: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = words[0].removeprefix(".venv/bin/")
    if program == "bot4":
        options = cli.parse(words[1:])  # ends the process where it is no command line of ours
        assert options.command == words[1]
        name = command_name(words[1:])
        if name in RUN_HERE:
            monkeypatch.chdir(tmp_path)
            Path("bot4.toml").write_text('[engine]\nname = "snippets"\n')
            assert cli.main(words[1:]) in RUN_HERE[name], where
            said = capsys.readouterr()
            assert said.out or said.err.startswith("bot4: ")
        else:
            assert UNDERSTOOD[name]
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", read("Makefile"), re.MULTILINE)
        assert {word for word in words[1:] if "=" not in word} <= set(targets)
    elif program in ("python", "python3"):
        found = words[1] == "-m" and importlib.util.find_spec(words[2])
        assert found or words[1] == "button.pyz", where
    elif program == "pip":
        extras = re.findall(r"\[([\w,]+)\]", " ".join(words))
        known = configparser.ConfigParser()
        known.read(PROJECT_ROOT / "setup.cfg")
        assert extras and all(known["options.extras_require"][extra] for extra in extras)
    else:
        assert program in SYSTEM, where


def test_every_command_is_run_or_said_why_not() -> None:
    inner = {name: [act for act in parser._actions if isinstance(act, argparse._SubParsersAction)]
             for name, parser in COMMANDS.items()}  # fmt: skip
    alone = {name for name in COMMANDS if not any(action.required for action in inner[name])}
    assert set(RUN_HERE) | set(UNDERSTOOD) == alone, "add it to RUN_HERE, or to UNDERSTOOD with the reason"
    assert all(UNDERSTOOD.values()) and not set(RUN_HERE) & set(UNDERSTOOD)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_settings_are_taken(name: str) -> None:
    for block in blocks(read(name)):
        if block.language == "toml":
            settings_from(tomllib.loads(block.text))
        elif block.language == "ini":
            assert configparser.ConfigParser().read_string(block.text) is None
        elif block.language == "python" and block.file:
            assert re.search(r"`tests/test_\w+\.py`", read(name)), f"{name}: which test runs {block.file}?"
        elif block.language == "python":
            exec(compile(block.text, f"{name}:{block.line}", "exec"), {"__name__": "snippet"})


def placeholders_out(code: str) -> list[str]:
    return [word.split("=")[0] for word in code.replace("...", " ").replace(",", " ").split()]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_in_a_sentence_exist_with_their_options(name: str) -> None:
    for code in inline_code(read(name)):
        words = placeholders_out(code)
        if words[:1] != ["bot4"] or words[1:2] == ["COMMAND"] or len(words) < 2:
            continue
        if words[1].startswith("--"):
            assert words[1] in cli.command_parser().format_help(), code
            continue
        command = command_name(words[1:]) or words[1]
        assert command in COMMANDS, code
        known = {option for action in COMMANDS[command]._actions for option in action.option_strings}
        assert {word for word in words if word.startswith("--")} <= known, code


def flat(values: dict, before: str = "") -> set[str]:
    """Every section and key, dotted."""
    found = set()
    for key, value in values.items():
        found.add(f"{before}{key}")
        if isinstance(value, dict):
            found |= flat(value, f"{before}{key}.")
    return found


@pytest.mark.parametrize("name", DOCUMENTS)
def test_keys_that_are_named_are_keys(name: str) -> None:
    plain = as_plain(Settings())
    known = flat(plain)
    for code in inline_code(read(name)):
        key, _, value = code.partition(" = ")
        key = key.strip("[]") if code.startswith("[") else key
        if not re.fullmatch(r"[a-z_0-9]+(\.[a-z_0-9]+)+", key) or key.split(".")[0] not in plain:
            continue
        if key.endswith((".md", ".py", ".toml", ".pml", ".json", ".jsonl")) or key in METRICS_OF_A_SECTIONS_NAME:
            continue
        assert key in known, f"{name}: {code}"
        if value:
            tables = tomllib.loads(f"{key} = {value}")
            assert flat(as_plain(settings_from(tables))) == known


METRICS_OF_A_SECTIONS_NAME = {
    f"{section}.{figure}"
    for section, figures in {
        "feed": ("sockets_open", "losses", "copy_losses", "duplicates", "misaligned", "holes", "contradicted",
                 "broken_messages", "rest_refusals", "venue_lag_ms"),
        "validation": ("in", "accepted", "quarantined", "dropped", "checksums_verified", "checksums_failed", "rate"),
    }.items()
    for figure in figures
}  # fmt: skip


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    for link in links(read(name)):
        if re.match(r"https?://", link):
            continue
        target, _, anchor = link.partition("#")
        path = (PROJECT_ROOT / name).parent / target if target else PROJECT_ROOT / name
        assert path.exists(), f"{name}: {link}"
        assert not anchor or anchor in anchors(path.read_text(encoding="utf-8")), f"{name}: {link}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_that_are_named_are_there(name: str) -> None:
    text = read(name)
    named = {word for code in inline_code(text) for word in code.split()}
    if name == "ARCHITECTURE.md":
        named |= {word for block in blocks(text) for word in block.text.split()}
    floors = r"(engine|shm|procs|models|tools|tests|docs|\.ci)/[\w./*-]*"
    for word in named:
        if re.fullmatch(floors, word) and not word.startswith(RUNTIME):
            assert list(PROJECT_ROOT.glob(word.rstrip("./"))), f"{name}: {word}"


# --- these tests can fail --------------------------------------------------------------------------------------------

BAD = """# A page

    bot4 run

```
no language
```

```sh
bot4 fly --high && bot4 "status" # comment
```

See [it](#a-page) and [there](nowhere.md), `engine/none.py` and `bot4
status --colour`.
"""


def test_what_is_wrong_is_found() -> None:
    assert indented_blocks(BAD) == [3]
    found = blocks(BAD)
    assert [(block.line, block.language) for block in found] == [(5, ""), (9, "sh")]
    assert found[1].heading == "A page" and blocks("```python a/b.py\n```\n")[0].file == "a/b.py"
    assert shell_commands(found[1].text) == [["bot4", "fly", "--high"], ["bot4", "status"]]
    assert inline_code(BAD) == ["engine/none.py", "bot4 status --colour"]
    assert links(BAD) == ["#a-page", "nowhere.md"] and anchors(BAD) == {"a-page"}
    with pytest.raises(ValueError, match="line 1: a block that is not closed"):
        blocks("```sh\nbot4 run\n")
    with pytest.raises(SystemExit):
        cli.parse(["fly", "--high"])
    assert command_name(["fly"]) == "" and command_name(["data", "show", "X"]) == "data show"
