"""An exception raised at each line of the kill path in turn still ends tripped, with the cancels sent.

The lines are listed from the syntax tree: every statement of every function of the kill path, none excluded. Scenarios
(a trip, a hostile venue, a gateway that hangs, a first error, …) are run once under a trace to learn which lines they
pass; then each line is run again in the first scenario that passes it, and the trace raises there, once.

Judged each time: the word is set, also when nobody tripped but the error; cancels were carried out after the error;
nothing rests, not even an order that came at the moment of the error; and where an operator tripped, all is flat.
"""

from __future__ import annotations

import ast
import dataclasses
import subprocess
import sys
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from engine.instruments import Instrument
from procs.clocks import Clocks
from procs.embedded.listing import list_anew
from procs.kill_credentials import kill_credentials
from procs.sweep import Sweep, sweep_until_nothing_rests
from procs.table import Role
from procs.venues.binance_usdm.endpoints import Endpoints
from procs.venues.binance_usdm.signed import HttpLine, SignedSession, tls_context
from shm.control import TripSource
from tests.kill_world import KEY, MS, SECRET, World, sleeping_child, world

ROOT = Path(__file__).resolve().parent.parent
# Modules of the kill path, whole, or the functions of a module that belong to it.
KILL_PATH: dict[str, tuple[str, ...]] = {
    "procs/killswitch.py": (),
    "procs/kill_credentials.py": (),
    "procs/sweep.py": (),
    "procs/emergency/stop.py": (),
    "procs/emergency/flatten.py": (),
    "procs/emergency/gates.py": (),
    "procs/emergency/witness.py": (),
    "procs/venues/binance_usdm/signed.py": (),
    "procs/venues/binance_usdm/rate_limits.py": ("BudgetSpent", "Paid", "pay", "hear", "is_new_order", "cost_of"),
    "procs/venues/binance_usdm/reports.py": ("ClientIds",),
    "procs/orphans.py": ("_maps_memory", "end_process"),
    "procs/spawned.py": ("run_kill_switch",),
}
Line = tuple[str, int]


def statements_of(path: str, names: tuple[str, ...]) -> list[Line]:
    """The lines of a module on which a statement of a function begins; names: of these functions and classes alone."""
    lines: set[int] = set()

    def visit(body: list[ast.stmt]) -> None:
        for node in body:
            is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            declares = isinstance(node, ast.Nonlocal | ast.Global) or (
                isinstance(node, ast.AnnAssign) and node.value is None
            )
            if not is_docstring and not declares:
                lines.add(node.lineno if not getattr(node, "decorator_list", []) else node.decorator_list[0].lineno)
            for name in ("body", "orelse", "finalbody"):
                if not isinstance(node, ast.ClassDef | ast.Lambda):
                    visit(getattr(node, name, []))
            for handler in getattr(node, "handlers", []):
                lines.add(handler.lineno)
                visit(handler.body)

    def find(body: list[ast.stmt], wanted: bool) -> None:
        for node in body:
            inside = wanted or getattr(node, "name", "") in names
            if isinstance(node, ast.FunctionDef) and inside:
                visit(node.body)
            elif isinstance(node, ast.ClassDef):
                find(node.body, inside)

    find(ast.parse((ROOT / path).read_text()).body, not names)
    return [(path, line) for line in sorted(lines)]


LINES = [line for path, names in KILL_PATH.items() for line in statements_of(path, names)]
_PATHS = {str(ROOT / path): path for path in KILL_PATH}
_LISTED = frozenset(LINES)


class Injected(Exception):
    """The error of a line."""


class Trace:
    """Notes which lines of the kill path are passed; at `target` it raises, once."""

    def __init__(self, target: Line | None, on_error: Callable[[], None]) -> None:
        self.passed: dict[Line, None] = {}
        self.fired = False
        self._target = target
        self._on_error = on_error

    def __enter__(self) -> Trace:
        sys.settrace(self._enter)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        path = _PATHS.get(frame.f_code.co_filename)
        if path is None or (self._target is not None and self._target[0] != path):
            return None

        def local(frame: FrameType, event: str, argument: Any) -> Any:
            if event == "line":
                line = (path, frame.f_lineno)
                self.passed[line] = None
                if line == self._target and not self.fired:
                    self.fired = True
                    sys.settrace(None)
                    self._on_error()
                    raise Injected(f"{path}:{frame.f_lineno}")
            return local

        return local


# --- scenarios --------------------------------------------------------------------------------------------------------


def _end_when_done(made: World, at_least_ms: int, patience_ms: int = 90_000) -> None:
    """Ask the kill switch to go once the stop is done for the word that is set."""
    began = made.now_ns

    def look() -> None:
        done = made.control.word and made.control.gate_epoch(Role.KILLSWITCH) == made.control.token
        if (done and made.now_ns - began >= at_least_ms * MS) or made.now_ns - began > patience_ms * MS:
            made.stop()
        else:
            made.later(100 * MS, look)

    made.later(100 * MS, look)


def _trip_unless_it_fell(made: World, after_ms: int, source: TripSource) -> None:
    """Somebody trips, unless an error has come first: then the kill switch must trip by itself."""
    made.at_ms(after_ms, lambda: None if made.fell else made.trip(source))


def a_trip_that_flattens(made: World) -> None:
    made.hold(0, 60)
    made.gate_follows()
    made.at_ms(150, lambda: made.tell({"e": "ORDER_TRADE_UPDATE", "o": {"s": "BTCUSDT"}}))
    made.at_ms(200, lambda: made.tell({"e": "listenKeyExpired"}))
    _trip_unless_it_fell(made, 400, TripSource.OPERATOR)
    _end_when_done(made, 0)


def a_trip_that_holds_and_what_comes_later(made: World) -> None:
    made.gate_follows()
    _trip_unless_it_fell(made, 300, TripSource.DEAD_MAN)
    made.at_ms(4_000, made.rest)
    _end_when_done(made, 9_000)


def a_hostile_venue(made: World) -> None:
    """Each kind of failure once, at the cancels, the questions and the clips."""
    made.hold(0, 60)
    made.gate_follows()
    made.patch("procs.killswitch._WARM_EVERY_S", 0.2)
    made.stream_is_there = False
    for request in (
        {"action": "garbage_before", "path": "/fapi/v1/listenKey", "count": 6},
        {"action": "garbage_before", "path": "/fapi/v1/ping", "count": 1},
        {"action": "error_before", "path": "/fapi/v1/allOpenOrders", "count": 1},
        {"action": "garbage_before", "path": "/fapi/v1/openOrders", "count": 4},
        {"action": "error_before", "path": "/fapi/v1/countdownCancelAll", "count": 1},
        {"action": "garbage_before", "path": "/fapi/v3/positionRisk", "count": 6},
        {"action": "error_before", "path": "/fapi/v1/order", "method": "POST", "count": 1},
        {"action": "error_after", "path": "/fapi/v1/order", "method": "POST", "count": 1},
        {"action": "error_before", "path": "/fapi/v1/order", "method": "GET", "count": 1},
    ):
        made.fault(fault="http", **request)
    made.at_ms(200, lambda: setattr(made, "stream_is_there", True))
    _trip_unless_it_fell(made, 400, TripSource.OPERATOR)
    made.at_ms(800, lambda: made.fault(fault="http", action="rate_limit", path="/fapi/v1/", count=1))
    _end_when_done(made, 0)


def a_venue_that_is_gone(made: World) -> None:
    made.gate_follows()
    made.patch("procs.killswitch._WARM_EVERY_S", 0.2)
    made.at_ms(700, lambda: made.fault(fault="gone", duration_ms=2_500))
    _trip_unless_it_fell(made, 900, TripSource.OPERATOR)
    made.hold(1, -100)
    _end_when_done(made, 0)


def a_venue_behind_tls(made: World) -> None:
    """The certificates are read afresh; there is no encryption in this world."""
    tls_context.cache_clear()
    made.plan = dataclasses.replace(made.plan, endpoints=Endpoints("https://venue", "wss://venue"))
    made.patch("http.client.HTTPSConnection", lambda *address, context, **rest: HTTPConnection(*address, **rest))
    made.gate_follows()
    _trip_unless_it_fell(made, 300, TripSource.RISK)
    _end_when_done(made, 0)


def connections_that_were_closed(made: World) -> None:
    made.gate_follows()
    made.at_ms(390, lambda: setattr(made, "lines_closed_before", made.now_ns + 60 * MS))
    _trip_unless_it_fell(made, 400, TripSource.RISK)
    made.at_ms(449, lambda: made.fault(fault="http", action="error_before", path="/fapi/v1/allOpenOrders", count=2))
    _end_when_done(made, 0)


def connections_that_are_not_there(made: World) -> None:
    """Closed on our side, unnoticed."""
    lines: list[HttpLine] = []

    def open_line(root: str) -> HttpLine:
        lines.append(HttpLine(root))
        return lines[-1]

    made.outside = dataclasses.replace(made.outside, open_line=open_line)
    made.gate_follows()
    made.at_ms(390, lambda: [line.close() for line in lines])
    _trip_unless_it_fell(made, 400, TripSource.RISK)
    _end_when_done(made, 0)


def a_clock_that_is_off(made: World) -> None:
    made.hold(0, 20)
    made.gate_follows()
    made.fault(fault="clock", skew_ms=-5_000, duration_ms=600_000)
    _trip_unless_it_fell(made, 300, TripSource.OPERATOR)
    _end_when_done(made, 0)


def a_venue_that_fails_while_flattening(made: World) -> None:
    """Books that are no books, a clip whose outcome is UNKNOWN, and no answer to what became of it."""
    made.hold(0, 60)
    made.gate_follows()
    for request in (
        {"action": "garbage_before", "path": "/fapi/v1/depth", "count": 6},
        {"action": "error_after", "path": "/fapi/v1/order", "method": "POST", "count": 1},
        {"action": "hang_before", "path": "/fapi/v1/order", "method": "GET", "count": 1, "delay_ms": 2_500},
    ):
        made.fault(fault="http", **request)
    _trip_unless_it_fell(made, 300, TripSource.OPERATOR)
    _end_when_done(made, 0)


def a_book_that_is_far_away(made: World) -> None:
    """The mark price is off for a while; a clip that never arrives, one that is not understood."""
    made.hold(0, 30)
    made.gate_follows()
    account = made.venue.rest.account
    real = account.mark
    account.mark = lambda symbol: real(symbol) * 105 // 100  # type: ignore[method-assign]
    made.at_ms(1_500, lambda: setattr(account, "mark", real))
    _trip_unless_it_fell(made, 300, TripSource.OPERATOR)
    _end_when_done(made, 0)


def a_contract_that_is_listed_anew(made: World) -> None:
    """Clips are refused for their tick until the listing is read, which fails at first."""
    made.hold(0, 40)
    made.hold(1, 30)
    made.gate_follows()
    list_anew(made.venue.dialect, {"symbol": "BTCUSDT", "tick_size": "7.00"})
    made.fault(fault="http", action="error_before", path="/fapi/v1/exchangeInfo", count=1)
    _trip_unless_it_fell(made, 300, TripSource.OPERATOR)
    _end_when_done(made, 0)


def a_witness_that_contradicts(made: World) -> None:
    made.hold(0, 20)
    made.gate_follows()
    order = {"s": "BTCUSDT", "X": "NEW", "i": 999_999}
    made.at_ms(300, lambda: made.tell({"e": "ORDER_TRADE_UPDATE", "o": order}))
    _trip_unless_it_fell(made, 400, TripSource.OPERATOR)
    _end_when_done(made, 0)


def a_gateway_that_hangs(made: World) -> None:
    with_child = sleeping_child()
    pid = with_child.__enter__()
    made.cleanups.append(lambda: with_child.__exit__(None, None, None))
    made.control.set_pid(Role.GATEWAY, pid)
    made.control.beat(Role.GATEWAY, made.now_ns)
    _trip_unless_it_fell(made, 300, TripSource.DEAD_MAN)
    _end_when_done(made, 0)


def a_gateway_that_is_a_stranger(made: World) -> None:
    stranger = subprocess.Popen(["sleep", "600"])
    made.cleanups += [stranger.wait, stranger.kill]  # the last one first
    made.control.set_pid(Role.GATEWAY, stranger.pid)
    made.control.beat(Role.GATEWAY, made.now_ns)
    _trip_unless_it_fell(made, 300, TripSource.DEAD_MAN)
    _end_when_done(made, 0)


def a_gateway_that_has_just_ended(made: World) -> None:
    child = sleeping_child()
    pid = child.__enter__()
    child.__exit__(None, None, None)
    made.control.set_pid(Role.GATEWAY, pid)
    made.control.beat(Role.GATEWAY, made.now_ns)
    _trip_unless_it_fell(made, 300, TripSource.DEAD_MAN)
    _end_when_done(made, 0)


def a_gateway_that_ends_at_the_same_moment(made: World) -> None:
    a_gateway_that_hangs(made)
    made.patch("procs.orphans.signal.pidfd_send_signal", lambda *_: (_ for _ in ()).throw(ProcessLookupError()))


def execution_is_silent(made: World) -> None:
    made.control.beat(Role.EXECUTION, made.now_ns)
    _trip_unless_it_fell(made, 2_000, TripSource.SUPERVISOR)
    _end_when_done(made, 0)


def nobody_is_left(made: World) -> None:
    made.gate_follows()
    made.at_ms(300, lambda: made.patch("procs.ports.os.getppid", lambda: 1))
    made.patch("procs.killswitch.end_instance", lambda name: None)


def nobody_is_left_nor_the_venue(made: World) -> None:
    """Launcher, supervisor and embedded venue end at once; the venue comes back for another engine."""
    nobody_is_left(made)
    made.at_ms(250, lambda: made.fault(fault="gone", duration_ms=1_000))
    made.instead = _run_twice


def a_successor_that_flattens(made: World) -> None:
    """Clips of a predecessor are there already."""
    made.hold(0, 30)
    made.gate_follows()
    _trip_unless_it_fell(made, 300, TripSource.OPERATOR)
    _end_when_done(made, 0)

    def run(one: World) -> None:
        one.run()
        one.hold(0, 30)
        _run_again(one)

    made.instead = run


def told_to_stop_while_the_venue_is_away(made: World) -> None:
    made.gate_follows()
    made.fault(fault="half_open", streams="rest", duration_ms=20_000)
    _trip_unless_it_fell(made, 300, TripSource.DEAD_MAN)
    made.at_ms(400, made.stop)
    made.instead = _run_twice


def _run_twice(made: World) -> None:
    """It gives up in time; a later engine's kill switch finds the word set."""
    made.run()
    _run_again(made)


def _run_again(made: World) -> None:
    made.control.clear_role(Role.KILLSWITCH)
    _end_when_done(made, 0)
    made.run()


def reset_too_early(made: World) -> None:
    made.gate_follows()
    made.at_ms(300, lambda: made.trip(TripSource.DEAD_MAN))
    made.at_ms(900, lambda: None if made.fell else made.control.reset(made.control.word))
    _trip_unless_it_fell(made, 1_500, TripSource.DEAD_MAN)
    _end_when_done(made, 0)


def an_error_of_its_own(made: World) -> None:
    """The first error is natural, so that the lines that deal with errors are passed."""
    made.gate_follows()
    _break_at(made, "DELETE", 2)
    _trip_unless_it_fell(made, 300, TripSource.DEAD_MAN)
    _end_when_done(made, 0)


def too_many_errors_of_its_own(made: World) -> None:
    made.gate_follows()
    _break_at(made, "DELETE", 7)
    _trip_unless_it_fell(made, 300, TripSource.DEAD_MAN)
    _end_when_done(made, 0)


def an_error_in_a_thread(made: World) -> None:
    made.gate_follows()

    def on_send(method: str, target: str) -> None:
        if target == "/fapi/v1/ping":
            made.on_send = lambda method, target: None
            raise KeyError("natural")

    made.on_send = on_send
    _end_when_done(made, 0)


def a_disk_that_is_full(made: World) -> None:
    made.gate_follows()
    (made.plan.path / "killswitch.jsonl").mkdir()
    _trip_unless_it_fell(made, 300, TripSource.STORAGE)
    _end_when_done(made, 0)


def memory_that_cannot_be_locked(made: World) -> None:
    made.gate_follows()
    made.patch("shm.segment.Segment.lock_memory", lambda self: False)
    _trip_unless_it_fell(made, 300, TripSource.STORAGE)
    _end_when_done(made, 0)


def a_stream_whose_key_dies(made: World) -> None:
    """Long enough for the key of the private stream to be kept alive, twice; the second time it is refused."""
    made.gate_follows()
    made.patch("procs.killswitch._KEEP_ALIVE_NS", 200 * MS)
    made.patch("procs.killswitch._WARM_EVERY_S", 0.2)
    made.at_ms(350, lambda: setattr(made.venue.rest, "listen_key_until_ms", 0))
    made.at_ms(650, lambda: made.fault(fault="http", action="garbage_before", path="/fapi/v1/listenKey", count=5))
    _trip_unless_it_fell(made, 1_200, TripSource.DEAD_MAN)
    _end_when_done(made, 0)


def the_gateway_is_the_last_one(made: World) -> None:
    """No kill switch: the gateway has tripped and sweeps by itself."""
    made.instead = _sweep_alone


def the_gateway_is_the_last_one_and_errs(made: World) -> None:
    _break_at(made, "DELETE", 1)
    made.instead = _sweep_alone


def the_gateway_is_the_last_one_and_the_venue_has_gone_too(made: World) -> None:
    made.fault(fault="gone", duration_ms=1_000)
    made.instead = lambda one: (_sweep_alone(one, gives_up=True), one.advance(2_000 * MS), _sweep_alone(one))


SCENARIOS = (
    a_trip_that_flattens, a_trip_that_holds_and_what_comes_later, a_gateway_that_hangs, a_gateway_that_is_a_stranger,
    a_gateway_that_has_just_ended, a_gateway_that_ends_at_the_same_moment, execution_is_silent, nobody_is_left,
    nobody_is_left_nor_the_venue, a_successor_that_flattens,
    a_disk_that_is_full, memory_that_cannot_be_locked, an_error_of_its_own, an_error_in_a_thread, reset_too_early,
    a_book_that_is_far_away, a_venue_that_fails_while_flattening, a_witness_that_contradicts,
    a_contract_that_is_listed_anew,
    a_stream_whose_key_dies, connections_that_were_closed,
    connections_that_are_not_there, a_clock_that_is_off, a_venue_behind_tls, a_venue_that_is_gone,
    too_many_errors_of_its_own, a_hostile_venue, told_to_stop_while_the_venue_is_away, the_gateway_is_the_last_one,
    the_gateway_is_the_last_one_and_errs, the_gateway_is_the_last_one_and_the_venue_has_gone_too,
)


def _break_at(made: World, method: str, times: int) -> None:
    """So many requests of a method end in an error that nobody expects."""
    left = [times]

    def on_send(sent: str, target: str) -> None:
        if sent == method and left[0]:
            left[0] -= 1
            raise KeyError("natural")

    made.on_send = on_send


def _sweep_alone(made: World, gives_up: bool = False) -> None:
    """The gateway's end. Should it die too, the venue's dead-man switch is left, which it had armed."""
    made.trip(TripSource.GATEWAY)
    for symbol in (0, 1):
        made.venue.rest.cancel_at_ms[symbol] = made.now_ns // MS + 20_000
    clocks: Clocks = made.outside.clocks
    who = kill_credentials(made.plan.settings.venue, {"api_key": KEY, "secret": SECRET}).cancel
    items: tuple[Instrument, ...] = made.plan.instruments

    def make_sweep() -> Sweep:
        session = SignedSession("http://venue", who, made.context.budget(), len(items), clocks=clocks)
        return Sweep(session, [item.symbol for item in items], lambda: 0, clocks)

    try:
        sweep_until_nothing_rests(make_sweep, lambda failed: not (failed and gives_up), clocks)
    except (Injected, KeyError):
        made.advance(21_000 * MS)


def _play(folder: Path, scenario: Callable[[World], None], target: Line | None) -> tuple[Trace, list[str]]:
    """Run a scenario, with an error at a line; what was passed, and what is wrong at the end."""
    folder.mkdir()
    with world(folder) as made:
        made.rest(0)
        made.rest(1)
        at_error: dict[str, int] = {}

        def on_error() -> None:
            at_error.update(cancels=made.cancels, word=made.control.word)
            made.fell = True
            made.rest(0, "at-the-moment")

        with Trace(target, on_error) as trace:
            scenario(made)
            made.play()
        wrong = []
        if target is not None and not trace.fired:
            wrong.append("the line was not passed again")
        if not made.control.word:
            wrong.append("not tripped")
        if made.tripped_by_crew and target is not None and target[0] != "procs/spawned.py":
            wrong.append("it did not set the word itself")
        if made.resting():
            wrong.append(f"{made.resting()} orders rest")
        if trace.fired and made.cancels <= at_error["cancels"]:
            wrong.append("no cancel after the error")
        if made.control.word >> TripSource.OPERATOR & 1 and (made.position(0) or made.position(1)):
            wrong.append("not flat")
        return trace, wrong


@pytest.fixture(scope="module")
def by_scenario(tmp_path_factory: pytest.TempPathFactory) -> dict[Line, Callable[[World], None]]:
    """For every line the first scenario that passes it. Without an error each scenario ends well."""
    found: dict[Line, Callable[[World], None]] = {}
    root = tmp_path_factory.mktemp("scenarios")
    for scenario in SCENARIOS:
        trace, wrong = _play(root / scenario.__name__, scenario, None)
        assert wrong == [], f"{scenario.__name__}: {wrong}"
        for line in trace.passed:
            found.setdefault(line, scenario)
    return found


def test_every_line_of_the_kill_path_is_passed_by_a_scenario(
    by_scenario: dict[Line, Callable[[World], None]],
) -> None:
    missing = [f"{path}:{line}" for path, line in LINES if (path, line) not in by_scenario]
    assert not missing, "\n".join(missing)
    assert len(LINES) > 400


@pytest.mark.parametrize("path", KILL_PATH)
def test_an_error_at_each_line_ends_tripped_with_the_cancels_sent(
    path: str, by_scenario: dict[Line, Callable[[World], None]], tmp_path: Path
) -> None:
    failed = []
    lines = [line for line in LINES if line[0] == path]
    for line in lines:
        scenario = by_scenario[line]
        _, wrong = _play(tmp_path / f"{line[1]}", scenario, line)
        if wrong:
            failed.append(f"{path}:{line[1]} in {scenario.__name__}: {', '.join(wrong)}")
    print(f"{path}: an error at each of {len(lines)} lines")
    assert failed == []


def test_an_error_at_the_first_line_of_a_module_leaves_the_process_unready(tmp_path: Path) -> None:
    """What fails at import never says that it is ready; the word is set all the same."""
    with world(tmp_path) as made:
        made.patch("procs.kill_credentials.kill_credentials", lambda *_: (_ for _ in ()).throw(ImportError("broken")))
        with pytest.raises(AssertionError, match="2 kill switches have died"):
            made.run(processes=2)
        assert not made.tripped_by_crew
        assert made.control.word >> TripSource.KILLSWITCH & 1
        assert made.control.readiness(Role.KILLSWITCH).name == "STARTING"


def test_the_test_finds_an_error_that_is_swallowed(tmp_path: Path) -> None:
    """Shown to fail: a kill switch that takes errors for nothing does not trip."""
    line = next(one for one in LINES if one[0] == "procs/killswitch.py" and "_cover_for_the_dead()" in _text(one))

    def quiet(made: World) -> None:
        made.patch("shm.control.ControlBlock.trip", lambda self, source: self.word)
        made.gate_follows()
        made.at_ms(4_000, made.stop)

    _, wrong = _play(tmp_path / "one", quiet, line)
    assert "not tripped" in wrong


def _text(line: Line) -> str:
    return (ROOT / line[0]).read_text().splitlines()[line[1] - 1]
