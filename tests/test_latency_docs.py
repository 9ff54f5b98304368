"""docs/latency.md: every hop is in it, and its commands do what it says."""

from __future__ import annotations

import re
from pathlib import Path

import orjson
import pytest

from engine.kernel import PROJECT_ROOT
from procs.instance import Mapping
from procs.table import CHECKPOINTED, HOPS
from tests.latency_samples import line, record, running
from tools import cli

TEXT = (PROJECT_ROOT / "docs" / "latency.md").read_text(encoding="utf-8")
COMMANDS = [
    command for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for command in block.strip().splitlines()
]


def test_every_hop_is_explained() -> None:
    explained = re.findall(r"^\| `([^`]+)` \| ", TEXT, re.MULTILINE)
    checkpoints = {f"checkpoint.{role.label}" for role in CHECKPOINTED}
    assert explained == [*(hop for hop in HOPS if hop not in checkpoints), "checkpoint.STAGE"]


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands_work(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is run as it stands there, for a short time, in a folder with a session, beside memory that looks alive."""
    monkeypatch.chdir(tmp_path)
    program, *arguments = re.sub(r"--for \S+", "--for 50ms", command).split()
    if "jitter" in arguments and "--for" not in arguments:
        arguments += ["--for", "50ms"]
    assert program == "bot4"
    if "latency.html" in arguments or "session.html" in arguments:
        pytest.importorskip("plotly", reason="the package plotly, which draws, is not here")
    if "--session" in arguments:
        folder = tmp_path / arguments[arguments.index("--session") + 1]
        folder.mkdir(parents=True)
        (folder / "metrics.jsonl").write_bytes(orjson.dumps(line(1, wire=5.0)) + b"\n")
    with running(tmp_path) as (plan, config):
        mapping = Mapping(plan)
        record(mapping, "decision", 20_000, 35_000)
        mapping.close()
        if "jitter" not in arguments:
            arguments += ["--config", str(config)]
        assert cli.main(arguments) == 0
    said = capsys.readouterr()
    assert said.err == "" and said.out
    if "--export" in arguments:
        assert (tmp_path / arguments[arguments.index("--export") + 1]).stat().st_size > 200
