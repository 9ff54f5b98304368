"""The console on a terminal, attached to the memory of an instance without its processes.

Whatever ends it, the terminal is as it was before and the words come after that (tests/terminals.py checks both).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.safety.mode import Mode
from procs.attach import lock_path, plan_path
from procs.instance import Mapping, Plan
from procs.table import Role
from shm.clock import sleep
from shm.control import TripSource, tripped_sources
from shm.lease import Lease
from tests.control_desk import control_desk
from tests.instance_memory import attachable, small_instance
from tests.terminals import PROJECT_ROOT, Tmux, needs_tmux, on_terminal, tmux
from tests.waiting import until

OK, FINDING, USAGE = 0, 1, 2
CONSOLE = ("-m", "tools.cli", "console", "--config")
BLUE, ORANGE = b"38;5;75m", b"38;5;208m"


@pytest.fixture
def plan(tmp_path: Path) -> Iterator[Plan]:
    with small_instance(tmp_path, capacity=64) as made:
        yield made


@pytest.fixture
def config(plan: Plan, tmp_path: Path) -> Iterator[Path]:
    with attachable(plan, tmp_path) as path:
        yield path


@pytest.fixture(autouse=True)
def _hears_interrupts() -> Iterator[None]:
    """A shell that starts the tests in the background makes them, and what they start, deaf to SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def console_in(terminal: Tmux, config: Path) -> None:
    """Start a console in a shell, and wait for its first screen."""
    terminal.press(f"{sys.executable} {' '.join(CONSOLE)} {config}; echo code $?", "Enter")
    terminal.wait_for("[1 Engine]", 60)


def test_leaving_by_a_key(config: Path) -> None:
    with on_terminal(*CONSOLE, str(config)) as terminal:
        terminal.wait_for("[1 Engine]")
        assert BLUE in terminal.output or ORANGE in terminal.output
        terminal.press("q")
        assert terminal.end() == (OK, "bot4: detached; the engine goes on\n")


@needs_tmux
def test_keys_and_panes(config: Path) -> None:
    with tmux() as terminal:
        console_in(terminal, config)
        for number, title in enumerate(("Market", "Trading", "Latency", "Safety", "Log"), 2):
            terminal.press(str(number))
            terminal.wait_for(f"[{number} {title}]")
        terminal.press("Tab")
        terminal.wait_for("[1 Engine]")
        terminal.press("M-K", "M-p", "F5")
        sleep(0.7)
        assert "? help" in terminal.screen(), "keys that nobody knows do nothing"
        terminal.press("?")
        terminal.wait_for("*2  two orders of ours rest there")
        terminal.press("q")
        terminal.wait_for("? help")
        terminal.press("q")
        terminal.wait_for("code 0")


@pytest.mark.parametrize(
    ("signum", "code", "words"),
    [
        (signal.SIGINT, OK, "bot4: detached; the engine goes on\n"),
        (signal.SIGTERM, FINDING, "bot4: the console was ended by SIGTERM; the engine goes on\n"),
        (signal.SIGHUP, FINDING, "bot4: the console was ended by SIGHUP; the engine goes on\n"),
    ],
)
def test_signals_give_the_terminal_back(config: Path, signum: int, code: int, words: str) -> None:
    with on_terminal(*CONSOLE, str(config), NO_COLOR="1") as terminal:
        terminal.wait_for("[1 Engine]")
        assert b"\x1b[38;5" not in terminal.output and b"\x1b[3" not in terminal.output.replace(b"\x1b[39", b"")
        terminal.process.send_signal(signum)
        assert terminal.end() == (code, words)


def test_an_error_gives_the_terminal_back_and_is_one_line(config: Path) -> None:
    broken = (
        "import sys, tools.console.loop as loop\nreal, times = loop.screen, []\n"
        "def screen(*given):\n    times.append(1)\n    return real(*given) if len(times) < 3 else 1 // 0\n"
        "loop.screen = screen\nfrom tools.cli import main\nsys.exit(main(['console', '--config', sys.argv[1]]))\n"
    )
    with on_terminal("-c", broken, str(config)) as terminal:
        code, errors = terminal.end()
        assert b"[1 Engine]" in terminal.output
        assert code == FINDING and errors.count("\n") == 1
        assert errors.startswith("bot4: ZeroDivisionError: ") and errors.endswith("this should not happen\n")


def test_an_engine_that_ends_behind_it(plan: Plan, config: Path) -> None:
    with on_terminal(*CONSOLE, str(config)) as terminal:
        terminal.wait_for("[1 Engine]")
        plan_path(plan.name).unlink()
        assert terminal.end() == (OK, f"bot4: the engine named {plan.name!r} has ended\n")


def test_an_engine_that_is_killed_behind_it(plan: Plan, tmp_path: Path) -> None:
    """Its lease is free and none of its processes is left, but its memory is still there."""
    with attachable(plan, tmp_path) as config, on_terminal(*CONSOLE, str(config)) as terminal:
        terminal.wait_for("[1 Engine]")
        lock_path(plan.name).rename(lock_path(plan.name).with_suffix(".gone"))  # its holder is this process
        try:
            code, errors = terminal.end()
        finally:
            lock_path(plan.name).with_suffix(".gone").unlink()
        assert code == FINDING
        assert errors == (
            f"bot4: the engine named {plan.name!r} died and left its memory; the next `bot4 run` clears it\n"
        )


@needs_tmux
def test_without_a_supervisor_but_with_a_process_left_it_stays_and_says_so(plan: Plan, config: Path) -> None:
    mapping = Mapping(plan)
    mapping.control.set_pid(Role.KILLSWITCH, os.getpid())
    with tmux() as terminal:
        console_in(terminal, config)
        lock_path(plan.name).rename(lock_path(plan.name).with_suffix(".gone"))
        terminal.wait_for("!no supervisor: nobody replaces what dies")
        lock_path(plan.name).with_suffix(".gone").rename(lock_path(plan.name))
        terminal.wait_for("!no entries: ")
    mapping.close()


@pytest.mark.parametrize("kind", ["", "no-such-terminal", "dumb"])
def test_a_terminal_that_is_not_known(kind: str, config: Path) -> None:
    with on_terminal(*CONSOLE, str(config), TERM=kind) as terminal:
        code, errors = terminal.end()
        assert code == USAGE and errors.startswith(f"bot4: console: TERM = {kind!r}: a terminal that is known")
        assert b"\x1b" not in terminal.output


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=60, check=False,
        stdin=subprocess.DEVNULL,
    )


def test_no_terminal_no_json_no_engine(config: Path, tmp_path: Path) -> None:
    done = run(*CONSOLE, str(config))
    assert (done.returncode, done.stdout) == (USAGE, "") and "standard input is no terminal" in done.stderr
    done = run(*CONSOLE, str(config), "--json")
    assert (done.returncode, done.stdout) == (USAGE, "") and "has no --json; `bot4 status --json`" in done.stderr
    nobody = tmp_path / "nobody.toml"
    nobody.write_text('[engine]\nname = "nobody-there"\n')
    with on_terminal(*CONSOLE, str(nobody)) as terminal:
        assert terminal.end() == (FINDING, "bot4: no engine named 'nobody-there' is running\n")
    with on_terminal("-m", "tools.cli", "console", "--config", "/no/such.toml") as terminal:
        code, errors = terminal.end()
        assert code == USAGE and "/no/such.toml" in errors and b"\x1b" not in terminal.output


@needs_tmux
def test_pause_and_kill_through_the_control_plane(tmp_path: Path) -> None:
    """Both as the commands do them, with the reason given; and nothing is loosened: no pause after the kill."""
    over = threading.Event()
    with control_desk() as desk, attachable(desk.mapping.plan, tmp_path) as config, tmux() as terminal:

        def serve() -> None:
            while not over.is_set():
                desk.tick()
                sleep(0.005)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            console_in(terminal, config)
            terminal.press("p", "fed day", "Escape")
            terminal.wait_for("nothing was done")
            assert desk.plane.mode == Mode.NORMAL
            terminal.press("p", "fed day", "Enter")
            terminal.wait_for("the mode is PAUSE")
            assert desk.plane.mode == Mode.PAUSE
            terminal.press("K", "kill", "Enter")
            terminal.wait_for("not killed: the word KILL was not typed")
            assert desk.control.word == 0
            terminal.press("K", "KILL", "Enter")
            terminal.wait_for("emergency word set by operator (trip 1)")
            assert tripped_sources(desk.control.word) == [TripSource.OPERATOR]
            terminal.wait_for("!EMERGENCY, tripped by OPERATOR")
            terminal.press("p", "again", "Enter")
            terminal.wait_for("!not paused: EMERGENCY is safer already")
            terminal.press("5")
            terminal.wait_for("EMERGENCY by operator")
            terminal.press("q")
            terminal.wait_for("code 0")
        finally:
            over.set()
            thread.join()
        state = desk.plane.state
        assert [hold.reason for hold in state.holds] == ["fed day"] and state.emergency is not None


@needs_tmux
def test_a_supervisor_that_does_not_answer_holds_nothing_up(config: Path) -> None:
    """Nobody serves the socket: pausing fails in words, and the screen goes on."""
    with tmux() as terminal:
        console_in(terminal, config)
        terminal.press("p", "why not", "Enter")
        terminal.wait_for("!not paused: no engine named")
        terminal.press("5")
        terminal.wait_for("the supervisor does not answer: who holds the mode is not known")


@needs_tmux
def test_whole_screens_in_a_real_terminal(plan: Plan, config: Path) -> None:
    """What tmux shows is what the panes draw: header, tabs, symbols; and the shell's own screen after that."""
    with tmux(80, 24) as terminal:
        terminal.press(f"stty -a > {config}.before; clear; echo here", "Enter")
        console_in(terminal, config)
        terminal.press("s")
        shown = terminal.wait_for("ENTER takes it").splitlines()
        assert [text.strip() for text in shown[3:7]] == [
            "symbol: _", f"> {plan.instruments[0].symbol}", plan.instruments[1].symbol, "ENTER takes it, ESC goes back",
        ]
        terminal.press("Down", "Enter")
        terminal.wait_for(f"{plan.instruments[1].symbol}  book ")
        terminal.resize(60, 10)
        assert terminal.wait_for("60x10: needs 80x24").strip() == "60x10: needs 80x24"
        terminal.resize(120, 40)
        shown = terminal.wait_for("[2 Market]").splitlines()
        until(lambda: terminal.screen().splitlines()[39].startswith(" ? help"), "footer in the last line")
        terminal.press("q")
        left = terminal.wait_for("code 0")
        assert "here" in left and "[2 Market]" not in left and "bot4: detached; the engine goes on" in left
        assert terminal.restored
        terminal.resize(80, 24)
        terminal.press(f"stty -a > {config}.after; echo both", "Enter")
        terminal.wait_for("\nboth")
        assert Path(f"{config}.after").read_text() == Path(f"{config}.before").read_text()
    assert Lease.is_held(lock_path(plan.name))
