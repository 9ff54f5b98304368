"""`bot4 new strategy`, and the guide: what they say is done, as a reader would."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from engine.kernel import PROJECT_ROOT
from engine.strategies.settings import SHIPPED
from tests.recordings import USDM_CAPTURES, require_capture

GUIDE = PROJECT_ROOT / "docs" / "strategies.md"


def in_folder(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command as a user types it, in a folder of his own."""
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, capture_output=True, text=True, timeout=300, check=False,
        env={"PYTHONPATH": str(PROJECT_ROOT), "PATH": "/usr/bin:/bin", "HOME": str(Path.home())},
    )


def written_from_the_guide(folder: Path) -> list[str]:
    """Every block of the guide that names its file, written there."""
    blocks = re.findall(r"^```\w+ (\S+)\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    for name, content in blocks:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    return [name for name, _ in blocks]


@pytest.fixture(scope="module")
def desk_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with the strategy of the guide and a scaffolded one."""
    folder = tmp_path_factory.mktemp("user")
    assert written_from_the_guide(folder) == [
        "strategies/follower.py", "strategies/test_follower.py", "bot4.toml", "strategies/patient.py",
        "strategies/test_patient.py",
    ]
    config = folder / "bot4.toml"
    for name, options in (("leaner", ()), ("loner", ("--python",))):
        made = in_folder(folder, "tools.cli", "new", "strategy", name, *options, "--json")
        assert made.returncode == 0, made.stderr
        answer = orjson.loads(made.stdout)
        assert answer["strategy"] == f"strategies/{name}.py" and answer["test"] == f"strategies/test_{name}.py"
        config.write_text(config.read_text() + "\n" + answer["toml"])
    config.write_text(config.read_text() + '\n[strategies.patient]\nfile = "strategies/patient.py"\n')
    return folder


def test_the_tests_beside_both_strategies_pass(desk_folder: Path) -> None:
    done = in_folder(desk_folder, "pytest", "-q", "-p", "no:cacheprovider", "strategies")
    assert done.returncode == 0, done.stdout
    assert "12 passed" in done.stdout


def test_the_configuration_of_the_guide_is_sound_and_every_parameter_is_shown(desk_folder: Path) -> None:
    done = in_folder(desk_folder, "tools.cli", "check", "--json")
    assert done.returncode == 0, done.stderr
    strategies = orjson.loads(done.stdout)["settings"]["strategies"]
    assert list(strategies) == ["follower", "momentum", "leaner", "loner", "patient"]
    assert strategies["patient"]["parameters"] == {"order_value": 200.0, "values": 50}
    assert (strategies["patient"]["stale_ms"], strategies["patient"]["hang_s"]) == (2_000, 30.0)
    assert strategies["follower"]["parameters"] == {
        "order_value": 300.0, "least_move_bps": 0.02, "widest_bps": 5.0, "quote_life_ms": 400,
    }
    assert strategies["leaner"]["parameters"]["lean"] == 0.3


@pytest.mark.recordings
def test_they_trade_on_a_recording(desk_folder: Path) -> None:
    recording = require_capture(USDM_CAPTURES[0])
    config = desk_folder / "one.toml"
    config.write_text((desk_folder / "bot4.toml").read_text() + '\n[venue]\nsymbols = ["BTCUSDT"]\n')

    def replayed() -> dict[str, Any]:
        done = in_folder(desk_folder, "tools.cli", "replay", str(recording), "--config", "one.toml", "--json")
        assert done.returncode == 0, done.stderr
        for name in ("loner", "patient"):
            assert f"bot4: {name} is Python alone: without a session's journal it decides nothing" in done.stderr
        summary: dict[str, Any] = orjson.loads(done.stdout)
        return summary

    summary = replayed()
    assert {name: found["intents"] > 0 for name, found in summary["strategies"].items()} == {
        "follower": True, "momentum": True, "leaner": True, "loner": False, "patient": False,
    }
    assert sum(found["intents"] for found in summary["strategies"].values()) == summary["decisions"]["intents"]
    assert all(found["faults"] == 0 for found in summary["strategies"].values())
    assert summary["unaccounted"] == 0
    config.write_text(config.read_text().replace("order_value = 300.0", "order_value = 150.0"))
    assert replayed()["decision_hash"] != summary["decision_hash"]


def test_what_is_there_is_not_written_over(desk_folder: Path) -> None:
    before = (desk_folder / "strategies" / "leaner.py").read_text()
    done = in_folder(desk_folder, "tools.cli", "new", "strategy", "leaner")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "bot4: strategies/leaner.py: is there already; nothing was written\n"
    assert (desk_folder / "strategies" / "leaner.py").read_text() == before


@pytest.mark.parametrize("name", ["Leaner", "1st", "../x", "a-b", "class", "test_it", "", "x" * 33, *SHIPPED])
def test_bad_names(tmp_path: Path, name: str) -> None:
    done = in_folder(tmp_path, "tools.cli", "new", "strategy", name)
    assert done.returncode == 2 and f"bot4: {name!r}: a name has 1 to 32" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["statistics", "numba", "engine", "procs", "sys", "typing"])
def test_a_name_that_would_hide_a_module_is_refused(tmp_path: Path, name: str) -> None:
    for kind in ((), ("--python",)):
        done = in_folder(tmp_path, "tools.cli", "new", "strategy", name, *kind)
        assert done.returncode == 2 and f"bot4: {name!r}: a module of this name " in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_that_name_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert in_folder(tmp_path, "tools.cli", "new", "strategy", "mine", "--folder", "mine").returncode == 0


def test_it_says_what_comes_next(tmp_path: Path) -> None:
    done = in_folder(tmp_path, "tools.cli", "new", "strategy", "mine", "--folder", "here")
    assert done.returncode == 0, done.stderr
    for words in ("python -m pytest here/test_mine.py", "[strategies.mine]", 'file = "here/mine.py"', "bot4 check"):
        assert words in done.stdout
