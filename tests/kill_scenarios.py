"""What a kill switch goes through in a world of its own: trips, hostile venues, gateways that hang, errors, the end.

Each is a function that arranges a World (tests/kill_world.py), which then is played. Without a further error each ends
with the word set, nothing resting, and flat where an operator tripped.
"""

from __future__ import annotations

import dataclasses
import subprocess
from http.client import HTTPConnection

from engine.instruments import Instrument
from procs.clocks import Clocks
from procs.embedded.listing import list_anew
from procs.kill_credentials import kill_credentials
from procs.sweep import Sweep, sweep_until_nothing_rests
from procs.table import Role
from procs.venues.binance_usdm.endpoints import Endpoints
from procs.venues.binance_usdm.signed import HttpLine, SignedSession, tls_context
from shm.control import TripSource
from tests.kill_world import KEY, MS, SECRET, World, sleeping_child


class Injected(Exception):
    """An error that a test has put into a line."""


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
