"""The console on a terminal, attached to the memory of an instance without its processes.

Whatever ends it, the terminal is as it was before and the words come after that (tests/terminals.py checks both).
"""

from __future__ import annotations

import locale
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.safety.mode import Mode
from procs.attach import lock_path, plan_path
from procs.instance import Mapping, Plan
from procs.table import Role
from shm.clock import sleep
from shm.control import TripSource, tripped_sources
from tests.control_desk import control_desk
from tests.instance_memory import attachable, small_instance
from tests.terminals import needs_tmux, on_terminal, tmux
from tests.waiting import until
from tools import cli
from tools.console import loop
from tools.console.canvas import line
from tools.console.terminal import Terminal

OK, FINDING, USAGE = 0, 1, 2


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


def console(config: Path, *arguments: str) -> Callable[[], int]:
    """`bot4 console` as a function."""
    return lambda: cli.main(["console", "--config", str(config), *arguments])


def colours(output: bytes) -> set[bytes]:
    """The colours that were asked for."""
    codes = {code for found in re.findall(rb"\x1b\[([\d;]*)m", output) for code in found.split(b";")}
    return {code for code in codes if re.fullmatch(rb"[34][0-8]", code)}


def test_leaving_by_a_key(config: Path) -> None:
    with on_terminal(console(config)) as terminal:
        terminal.wait_for("[1 Engine]")
        until(lambda: colours(terminal.output), "colour")
        terminal.press("q")
        assert terminal.end() == (OK, "bot4: detached; the engine goes on\n")


@pytest.mark.parametrize(
    ("signum", "code", "words"),
    [
        (signal.SIGINT, OK, "bot4: detached; the engine goes on\n"),
        (signal.SIGTERM, FINDING, "bot4: the console was ended by SIGTERM; the engine goes on\n"),
        (signal.SIGHUP, FINDING, "bot4: the console was ended by SIGHUP; the engine goes on\n"),
        (signal.SIGQUIT, FINDING, "bot4: the console was ended by SIGQUIT; the engine goes on\n"),
    ],
)
def test_signals_give_the_terminal_back(config: Path, signum: int, code: int, words: str) -> None:
    with on_terminal(console(config), NO_COLOR="1") as terminal:
        terminal.wait_for("[1 Engine]")
        os.kill(terminal.pid, signum)
        assert terminal.end() == (code, words)
        assert not colours(terminal.output), "nobody wanted any"


def test_an_error_gives_the_terminal_back_and_is_one_line(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, drawn = loop.screen, []

    def screen(*given: object) -> object:
        drawn.append(given)
        return real(*given) if len(drawn) < 3 else 1 // 0  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "screen", screen)
    with on_terminal(console(config)) as terminal:
        code, errors = terminal.end()
        assert b"[1 Engine]" in terminal.output
        assert code == FINDING and errors.count("\n") == 1
        assert errors.startswith("bot4: ZeroDivisionError: ") and errors.endswith("this should not happen\n")


def test_the_check_of_the_terminal_can_fail(config: Path) -> None:
    """A console that is killed cannot give anything back."""
    with on_terminal(console(config)) as terminal:
        terminal.wait_for("[1 Engine]")
        os.kill(terminal.pid, signal.SIGKILL)
        with pytest.raises(AssertionError, match="another state"):
            terminal.end()


def test_an_engine_that_ends_behind_it(plan: Plan, config: Path) -> None:
    with on_terminal(console(config)) as terminal:
        terminal.wait_for("[1 Engine]")
        plan_path(plan.name).unlink()
        assert terminal.end() == (OK, f"bot4: the engine named {plan.name!r} has ended\n")


def test_a_supervisor_that_goes_and_comes_and_an_engine_that_is_killed_behind_it(plan: Plan, config: Path) -> None:
    """Without a supervisor it stays as long as any process is left; then only memory is."""
    lock, away = lock_path(plan.name), lock_path(plan.name).with_suffix(".away")
    mapping = Mapping(plan)
    mapping.control.set_pid(Role.KILLSWITCH, os.getpid())
    with on_terminal(console(config)) as terminal:
        terminal.wait_for("[1 Engine]")
        lock.rename(away)  # its holder is this process
        try:
            terminal.wait_for("supervisor: nobody replaces what dies")
        finally:
            away.rename(lock)
        shown = len(terminal.output)
        until(lambda: b"entries: " in terminal.output[shown:], "supervisor again")
        lock.rename(away)
        try:
            mapping.control.set_pid(Role.KILLSWITCH, 0)
            code, errors = terminal.end()
        finally:
            away.rename(lock)
        assert code == FINDING
        assert errors == (
            f"bot4: the engine named {plan.name!r} died and left its memory; the next `bot4 run` clears it\n"
        )
    mapping.close()


def test_a_terminal_with_one_screen_is_left_without_what_was_drawn(config: Path) -> None:
    with on_terminal(console(config), TERM="vt100") as terminal:
        terminal.wait_for("[1 Engine]")
        terminal.press("q")
        assert terminal.end() == (OK, "bot4: detached; the engine goes on\n")
        left = terminal.output[terminal.output.rfind(b"q detach") :]
        assert b"\x1b[?1049l" not in terminal.output and re.search(rb"\x1b\[(H\x1b\[)?2?J", left), left


@pytest.mark.parametrize("kind", ["", "no-such-terminal", "dumb"])
def test_a_terminal_that_is_not_known(kind: str, config: Path) -> None:
    with on_terminal(console(config), TERM=kind) as terminal:
        code, errors = terminal.end()
        assert code == USAGE and errors.startswith(f"bot4: console: TERM = {kind!r}: a terminal that is known")
        assert b"\x1b" not in terminal.output


def test_no_terminal_no_json(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, *arguments in (("is no terminal; `bot4 status`",), ("has no --json; `bot4 status --json`", "--json")):
        assert console(config, *arguments)() == USAGE
        said = capsys.readouterr()
        assert said.out == "" and words in said.err and said.err.count("\n") == 1


def test_no_engine_no_configuration(tmp_path: Path) -> None:
    nobody = tmp_path / "nobody.toml"
    nobody.write_text('[engine]\nname = "nobody-there"\n')
    with on_terminal(console(nobody)) as terminal:
        assert terminal.end() == (FINDING, "bot4: no engine named 'nobody-there' is running\n")
    with on_terminal(console(tmp_path / "none.toml")) as terminal:
        code, errors = terminal.end()
        assert code == USAGE and "none.toml" in errors and b"\x1b" not in terminal.output


def test_a_supervisor_that_does_not_answer_holds_nothing_up(config: Path) -> None:
    """Nobody serves the socket: pausing fails in words, and the screen goes on."""
    with on_terminal(console(config)) as terminal:
        terminal.wait_for("[1 Engine]")
        terminal.press("pwhy not\r")
        terminal.wait_for("no engine named")
        terminal.press("q")
        assert terminal.end()[0] == OK


def keys_until_q(encoding: str = "") -> int:
    """A process that names the keys it gets, and draws a line."""
    if encoding:
        locale.setlocale(locale.LC_ALL, encoding)
    keys: list[str] = []
    with Terminal() as terminal:
        terminal.show([line("Grüße 中 x")])
        while "q" not in keys:
            keys += filter(None, [terminal.key(1000)])
    print(ascii(keys[:-1]), file=sys.stderr)
    return OK


@pytest.mark.parametrize(
    ("typed", "keys"),
    [
        ("Grü中\U0001f600", [*"Grü中\U0001f600"]), ("\xa0\u200d", ["\xa0", "\u200d"]), ("\x1bü", []),
        ("\x01\x7f", ["BACKSPACE"]),
        # Bytes of another encoding are seen as such, and take no key behind them along.
        ("\udce9a", ["\ufffd", "a"]), ("\udce4\udcb8\r", ["\ufffd", "ENTER"]), ("\udcc3\x1bOA", ["\ufffd", "UP"]),
        ("\udce4\udcb8", ["\ufffd"]),
    ],
)
@pytest.mark.parametrize("encoding", ["", "C"])
def test_keys_of_every_script(typed: str, keys: list[str], encoding: str) -> None:
    with on_terminal(lambda: keys_until_q(encoding)) as terminal:
        drawn = "Grüße 中 x" if not encoding else "Gr??e ?? x"
        until(lambda: drawn.replace(" ", "").encode() in re.sub(rb"\x1b\[[\d;]*[A-Z]| ", b"", terminal.output), "line")
        terminal.press(typed)
        sleep(0.1)
        terminal.press("q")
        assert terminal.end() == (OK, f"{keys!a}\n")


@needs_tmux
def test_a_session_in_a_real_terminal(tmp_path: Path) -> None:
    """Keys, panes, sizes, pause and kill in tmux, against a control plane that ticks; the shell's screen after that.

    Pause and kill are done as the commands do them, with the reason given; nothing is loosened by a pause after a kill.
    """
    over = threading.Event()
    with control_desk() as desk, attachable(desk.mapping.plan, tmp_path) as config, tmux() as terminal:

        def serve() -> None:
            while not over.is_set():
                desk.tick()
                sleep(0.005)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            symbols = [item.symbol for item in desk.mapping.plan.instruments]
            terminal.press(f"stty -a > {config}.before; clear; echo here", "Enter")
            terminal.press(f"{sys.executable} -m tools.cli console --config {config}; echo code $?", "Enter")
            terminal.wait_for("[1 Engine]", 90)
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
            terminal.press("s")
            shown = terminal.wait_for("ENTER takes it").splitlines()
            assert [text.strip() for text in shown[3:6]] == ["symbol: _", f"> {symbols[0]}", symbols[1]]
            terminal.press("Down", "Enter")
            terminal.wait_for(f"{symbols[1]}  book ")
            terminal.resize(60, 10)
            assert terminal.wait_for("60x10: needs 80x24").strip() == "60x10: needs 80x24"
            terminal.resize(120, 40)
            until(lambda: terminal.screen().splitlines()[39].startswith(" ? help"), "footer in the last line")
            assert "[2 Market]" in terminal.screen()
            terminal.resize(80, 24)
            until(lambda: terminal.screen().splitlines()[23].startswith(" ? help"), "footer in the last line")

            terminal.press("p", "fed day", "Escape")
            terminal.wait_for("nothing was done")
            assert desk.plane.mode == Mode.NORMAL
            terminal.press("p", "Grüße 中 x", "Enter")
            assert re.search(r"the mode is PAUSE \(\d\d:\d\d:\d\d\)", terminal.wait_for("the mode is PAUSE"))
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
            assert "PAUSE by operator" in terminal.wait_for("Grüße 中 x")
            terminal.wait_for("EMERGENCY by operator")

            terminal.press("q")
            left = terminal.wait_for("code 0")
            assert "here" in left and "[5 Safety]" not in left and "bot4: detached; the engine goes on" in left
            assert terminal.restored
            terminal.press(f"clear; {sys.executable} -m tools.cli console --config {config}; echo code $?", "Enter")
            terminal.wait_for("[1 Engine]", 90)
            terminal.press("C-\\")
            left = terminal.wait_for("code 1")
            assert "bot4: the console was ended by SIGQUIT; the engine goes on" in left and terminal.restored
            terminal.press(f"stty -a > {config}.after; echo both", "Enter")
            terminal.wait_for("\nboth")
            assert Path(f"{config}.after").read_text() == Path(f"{config}.before").read_text()
        finally:
            over.set()
            thread.join()
        state = desk.plane.state
        assert [hold.reason for hold in state.holds] == ["Grüße 中 x"] and state.emergency is not None
