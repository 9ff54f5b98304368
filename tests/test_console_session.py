"""`bot4 run` and its console in a real terminal: every pane of an engine that trades, with its figures masked.

One engine twice: first its supervisor is killed, its console left and itself stopped in order; then it is killed behind
an attached console.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from pathlib import Path

import pytest

from procs.attach import attach, lock_path
from procs.orphans import free_instance
from procs.table import PROCESSES, RINGS, Role
from tests.engine_session import BOT4, Engine, engine, leftovers, wait_until
from tests.terminals import Tmux, masked, needs_tmux, tmux
from tests.waiting import until
from tools.soak.session import alive

pytestmark = [pytest.mark.session, needs_tmux]
TABS = {
    number: " ".join(f"[9 {name}]" if place == number else f"9 {name}" for place, name in enumerate(
        ("Engine", "Market", "Trading", "Latency", "Safety", "Log"), 1
    )) for number in range(1, 7)
}
OWNER_FOOT = "? help 99 TAB pane s symbol p pause K kill q stop or leave"


def pane(terminal: Tmux, number: int, text: str) -> list[str]:
    """The masked lines of a pane, once it shows a text."""
    terminal.press(str(number))
    terminal.wait_for(text)
    lines = masked(terminal.screen())
    assert lines[2] == TABS[number], lines
    return lines


def look_at_every_pane(terminal: Tmux) -> None:
    lines = pane(terminal, 1, "killswitch")
    assert "(paper) NORMAL ready 9 frames/s up 9" in lines[0]
    assert lines[1] == "realised 9 unrealised 9 fees 9 orders 9 (9 open) fills 9"
    roles = [Role.SUPERVISOR, *sorted(spec.role for spec in PROCESSES)]
    assert [text.split()[:3] for text in lines[4:14]] == [[role.label, "9", "ready"] for role in roles]
    assert [text.split()[:2] for text in lines[15:22]] == [[spec.name, "[]"] for spec in RINGS]
    assert lines[22] == OWNER_FOOT
    assert "BTCUSDT book VALID tape" in pane(terminal, 2, "spread ")[3]
    lines = pane(terminal, 3, "net ")
    assert lines[3] == "position size entry price unreal. realised fees" and lines[4].startswith("BTCUSDT 9 ")
    assert "net 9 = realised 9, unrealised 9, fees 9, funding 9" in lines
    lines = pane(terminal, 4, "decision")
    assert any(text.startswith("decision ") for text in lines) and lines[3] == "the last second since the start"
    lines = pane(terminal, 5, "emergency word")
    assert "emergency word 9: not tripped" in lines and "ready all processes that trading needs" in lines
    assert "dead-man switch the venue cancels in 9 s without us" in lines
    assert "trading; Ctrl-C stops" in " ".join(pane(terminal, 6, "trading; Ctrl-C stops"))


def command(made: Engine, *words: str) -> str:
    return f"{' '.join(BOT4)} {' '.join(words)} --config {made.config}; echo code $?"


def settings_of(terminal: Tmux, file: Path) -> str:
    """What stty says of a terminal, on a screen that is empty then."""
    terminal.press(f"clear; stty -a > {file}.part; mv {file}.part {file}", "Enter")
    until(file.exists, "answer of stty")
    until(lambda: terminal.screen().strip() == "$", "empty screen")
    return file.read_text()


def test_a_run_on_a_terminal_and_one_that_is_killed(tmp_path: Path) -> None:
    with engine(tmp_path) as made, tmux() as terminal:
        before = settings_of(terminal, tmp_path / "before")
        terminal.press(command(made, "run"), "Enter")
        terminal.wait_for("[1 Engine]", 120)
        wait_until(lambda: re.search(r"NORMAL ready +[1-9]", terminal.screen()), 30, "rate of frames, and all ready")
        look_at_every_pane(terminal)
        terminal.press("C-\\")  # would end the launcher too
        with contextlib.closing(attach(made.name)) as mapping:
            os.kill(mapping.control.supervisor_pid, signal.SIGKILL)
        terminal.wait_for("adopted the running engine", 60)
        terminal.resize(60, 10)
        terminal.wait_for("60x10: needs 80x24")
        terminal.resize(80, 24)
        terminal.wait_for("[6 Log]")
        terminal.press("q")
        terminal.wait_for("s: stop the engine   l: leave the console")
        terminal.press("l")
        terminal.wait_for("bot4: the console is closed; the engine goes on")
        terminal.wait_for("frames/s  orders")
        assert terminal.restored and "ended by SIGKILL; starting it again" in terminal.screen(), "said afterwards"
        terminal.press("C-c")
        shown = terminal.wait_for("code 0", 60)
        assert "stopping: no more entries" in shown and "ledger equals venue: True" in shown
        assert settings_of(terminal, tmp_path / "after") == before

        made.start("--no-console")
        wait_until(lambda: made.status() is not None, 60, "engine")
        terminal.press(command(made, "console"), "Enter")
        terminal.wait_for("[1 Engine]", 60)
        with contextlib.closing(attach(made.name)) as mapping:
            control, launcher = mapping.control, mapping.plan.launcher_pid
            wait_until(lambda: all(control.pid(spec.role) for spec in PROCESSES), 60, "every process")
            pids = [launcher, control.supervisor_pid, *(control.pid(spec.role) for spec in PROCESSES)]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        made.launcher.wait()
        shown = terminal.wait_for("code 1", 60)
        assert "died and left its" in shown and "[1 Engine]" not in shown and terminal.restored
        assert settings_of(terminal, tmp_path / "killed") == before
        assert not any(alive(pid) for pid in pids)
        wait_until(lambda: not [left for left in leftovers(made.name) if " " in left], 30, "end of the last process")
        free_instance(made.name)  # as the next `bot4 run` does
        lock_path(made.name).unlink()
        assert leftovers(made.name) == []
