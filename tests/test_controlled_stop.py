"""What a trip does: cancel, shut the gate, flatten or hold; the real kill switch at the embedded venue."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import ConnectionSettings
from engine.instruments import Instrument
from engine.records import Side
from engine.safety.settings import SafetySettings
from engine.safety.trip_settings import OnTripSettings, TripSettings
from engine.settings import SettingsError, build
from procs import last_words
from procs.embedded.venue import Reply
from procs.emergency import gates
from procs.emergency.flatten import FIRST_CLIP, clip_of
from procs.kill_credentials import KillCredentials, has_own_key, kill_credentials
from procs.table import Role
from procs.venues.binance_usdm.endpoints import Credentials, CredentialsError
from procs.venues.binance_usdm.signed import SignedSession
from shm.control import Stop, TripSource
from tests import kill_world
from tests.kill_world import KEY, MS, SECRET, START_NS, World, sleeping_child, world

ORDER = "/fapi/v1/order"
FLATTENING = [TripSource.HARDWARE, TripSource.OPERATOR, TripSource.RISK]


@pytest.fixture
def made(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as one:
        one.gate_follows()
        one.rest(0)
        one.rest(1)
        yield one


def run_trip(made: World, *sources: TripSource, stop_ms: int = 6_000) -> None:
    """Trip half a second after the start, and stop later."""
    for source in sources:
        made.at_ms(500, lambda source=source: made.trip(source))  # type: ignore[misc]
    made.at_ms(stop_ms, made.stop)
    made.run(processes=1)


def clips(made: World) -> list[dict]:
    return [note for note in made.notes() if note["event"] == "clip"]


def order_bodies(made: World) -> list[str]:
    return [target for _, method, target in made.sent if method == "POST" and target == ORDER]


# --- by source --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", TripSource)
def test_every_source_cancels_and_some_flatten(made: World, source: TripSource) -> None:
    made.hold(0, 40)
    run_trip(made, source)
    assert made.resting() == 0
    assert made.position() == (0 if source in FLATTENING else 40)
    last = made.notes()[-1]
    assert (last["event"], last["flat"]) == ("stopped", source in FLATTENING)
    assert last["orders"] == "confirms"
    assert last["positions"] == ("confirms" if source in FLATTENING else "held")
    assert made.control.gate_epoch(Role.KILLSWITCH) == made.control.token


def test_a_decision_is_not_undone_by_a_heartbeat_that_is_lost_too(made: World) -> None:
    made.hold(0, 40)
    run_trip(made, TripSource.DEAD_MAN, TripSource.OPERATOR)
    assert (made.resting(), made.position()) == (0, 0)


def test_an_operator_flattens_what_a_lost_heartbeat_has_held(made: World) -> None:
    made.hold(0, 40)
    made.at_ms(4_000, lambda: held.append(made.position()))
    made.at_ms(5_000, made.trip)
    held: list[int] = []
    run_trip(made, TripSource.DEAD_MAN, stop_ms=9_000)
    assert held == [40] and made.position() == 0


def test_the_settings_name_every_source() -> None:
    assert [field.name for field in dataclasses.fields(OnTripSettings)] == [one.name.lower() for one in TripSource]
    chosen = build(SafetySettings, {"on_trip": {"panic": "flatten"}}).on_trip
    assert chosen.flattens(("panic",)) and not OnTripSettings().flattens(("panic",))
    assert not chosen.flattens(())
    with pytest.raises(SettingsError, match=r"on_trip.risk = 'hold': allowed is one of 'flatten', 'cancel'"):
        build(SafetySettings, {"on_trip": {"risk": "hold"}})


# --- cancelling -------------------------------------------------------------------------------------------------------


def test_the_cancels_of_all_symbols_leave_before_an_answer_is_awaited(made: World) -> None:
    run_trip(made, TripSource.DEAD_MAN)
    first = next(place for place, (_, method, _) in enumerate(made.sent) if method == "DELETE")
    (when, one, target), (when_too, another, target_too) = made.sent[first : first + 2]
    assert (one, another, when) == ("DELETE", "DELETE", when_too)
    assert {dict(parse_qsl(text.partition("?")[2]))["symbol"] for text in (target, target_too)} == {
        "BTCUSDT", "ETHUSDT",
    }


def test_what_comes_late_is_cancelled_too(made: World) -> None:
    made.at_ms(1_200, made.rest)  # a request that was under way, its signature still valid
    made.at_ms(7_500, made.rest)  # nobody knows how: the venue is asked again and again while tripped
    run_trip(made, TripSource.DEAD_MAN, stop_ms=16_000)
    assert made.resting() == 0
    assert made.events().count("stopped") == 2


def test_what_fills_while_the_cancels_fail_is_flattened_too(made: World) -> None:
    """Flat was once believed before nothing rested: the order that filled afterwards stayed as a position."""
    made.fault(fault="http", action="error_before", path="/fapi/v1/allOpenOrders", count=14)
    made.at_ms(4_500, lambda: made.hold(0, 40))
    run_trip(made, TripSource.OPERATOR, stop_ms=14_000)
    assert (made.resting(), made.position()) == (0, 0)
    assert made.notes()[-1]["positions"] == "confirms"


def test_a_venue_that_is_gone_is_cancelled_at_when_it_is_back(made: World) -> None:
    made.fault(fault="gone", duration_ms=20_000)
    made.at_ms(19_000, lambda: resting.append(made.resting()))
    resting: list[int] = []
    run_trip(made, TripSource.DEAD_MAN, stop_ms=26_000)
    assert resting == [2] and made.resting() == 0
    assert made.events()[-1] == "stopped"


@pytest.mark.parametrize(
    "fault",
    [
        {"fault": "http", "action": "error_before", "path": "/fapi/v1/allOpenOrders", "count": 5},
        {"fault": "http", "action": "error_after", "path": "/fapi/v1/", "count": 6},
        {"fault": "http", "action": "hang_before", "path": "/fapi/v1/allOpenOrders", "count": 3, "delay_ms": 9_000},
        {"fault": "http", "action": "garbage_before", "path": "/fapi/v1/", "count": 9},
        {"fault": "http", "action": "rate_limit", "path": "/fapi/v1/", "count": 2},
        {"fault": "half_open", "streams": "rest", "duration_ms": 5_000},
        {"fault": "maintenance", "mode": "closed", "duration_ms": 5_000},
        {"fault": "ban", "duration_ms": 5_000},
    ],
    ids=lambda fault: fault.get("action", fault["fault"]),
)
def test_a_hostile_venue_is_cancelled_at_in_the_end(made: World, fault: dict) -> None:
    made.hold(1, -30)
    made.at_ms(400, lambda: made.fault(**fault))
    run_trip(made, TripSource.RISK, stop_ms=30_000)
    assert (made.resting(), made.position(1)) == (0, 0)
    assert made.notes()[-1]["event"] == "stopped"


def test_a_ban_is_sat_out_without_a_byte_on_the_wire(made: World) -> None:
    made.at_ms(400, lambda: made.fault(fault="ban", duration_ms=8_000))
    run_trip(made, TripSource.DEAD_MAN, stop_ms=15_000)
    first = next(when for when, method, _ in made.sent if method == "DELETE")
    during = [target for when, _, target in made.sent if first + 100 * MS < when < START_NS + 10_000 * MS]
    assert during == [], "the first answer said for how long"
    assert made.resting() == 0


def test_connections_that_the_venue_has_closed_are_replaced_at_once(made: World) -> None:
    made.at_ms(499, lambda: setattr(made, "lines_closed_before", made.now_ns + 2 * MS))
    run_trip(made, TripSource.DEAD_MAN)
    assert made.resting() == 0


def test_the_stream_may_be_down(made: World) -> None:
    made.stream_is_there = False
    made.hold(0, 40)
    run_trip(made, TripSource.RISK)
    assert (made.resting(), made.position()) == (0, 0)
    assert (made.notes()[-1]["orders"], made.notes()[-1]["positions"]) == ("silent", "silent")


def test_the_venue_is_left_its_shortest_countdown(made: World) -> None:
    made.at_ms(700, lambda: left.extend(made.venue.rest.cancel_at_ms.values()))
    left: list[int] = []
    run_trip(made, TripSource.DEAD_MAN)
    assert len(left) == 2 and max(left) - (START_NS // MS + 2_500) <= 1_200


def test_a_word_that_is_reset_ends_the_stop(made: World) -> None:
    made.fault(fault="half_open", streams="rest", duration_ms=60_000)
    made.at_ms(5_000, lambda: made.control.reset(made.control.word))
    run_trip(made, TripSource.DEAD_MAN, stop_ms=12_000)
    assert made.events()[-1] == "reset before the stop was done"
    assert made.control.gate_epoch(Role.KILLSWITCH) == made.control.token == 1 << 44


def test_an_order_to_stop_now_is_obeyed(made: World) -> None:
    made.fault(fault="half_open", streams="rest", duration_ms=60_000)
    made.at_ms(8_000, lambda: made.stop(Stop.NOW))
    made.at_ms(500, made.trip)
    made.run(processes=1)
    assert "stopped before the venue was clean" in made.events()


# --- the gate ---------------------------------------------------------------------------------------------------------


def test_a_gate_that_is_shut_in_time_costs_nobody_his_life(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "end_process", lambda *_: pytest.fail("killed"))
    run_trip(made, TripSource.DEAD_MAN)
    assert [note["gate"] for note in made.notes() if note["event"] == "tripped"] == ["shut"]


def test_a_gateway_whose_gate_stays_open_is_killed_and_the_cancels_go_on(tmp_path: Path) -> None:
    with world(tmp_path) as made, sleeping_child() as pid:
        made.rest()
        made.control.set_pid(Role.GATEWAY, pid)
        made.control.beat(Role.GATEWAY, made.now_ns)
        made.at_ms(800, made.rest)  # what it had sent before it died
        run_trip(made, TripSource.DEAD_MAN)
        assert made.resting() == 0
        assert [note["gate"] for note in made.notes() if note["event"] == "tripped"] == ["killed"]
        tripped, killed = (next(note for note in made.notes() if note["event"] == name) for name in (
            "tripped", "gateway killed: its gate was not shut in time",
        ))
        assert 50 * MS <= killed["wall_ns"] - (START_NS + 2_500 * MS) <= 110 * MS, tripped


def test_a_venue_that_lets_connections_hang_delays_neither_the_gate_nor_a_sign_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cold connections are waited for one after the other; the supervisor takes a silent kill switch for stuck."""
    connect = kill_world._Socket.__init__
    silences: list[int] = []

    def hang(line: object, made: World) -> None:
        if made.now_ns < START_NS + 30_000 * MS:
            made.advance(2_000 * MS)
            silences.append(made.now_ns - made.control.heartbeat(Role.KILLSWITCH))
            raise TimeoutError
        connect(line, made)  # type: ignore[arg-type]

    monkeypatch.setattr(kill_world._Socket, "__init__", hang)
    monkeypatch.setattr(SignedSession, "warm", lambda session: False)  # in this world threads would hold up the loop
    with world(tmp_path) as made, sleeping_child() as pid:
        made.rest(0)
        made.rest(1)
        made.control.set_pid(Role.GATEWAY, pid)
        made.at_ms(12_000, lambda: made.control.beat(Role.GATEWAY, made.now_ns))
        made.at_ms(12_000, lambda: made.trip(TripSource.DEAD_MAN))
        made.at_ms(40_000, made.stop)
        made.run(processes=1)
        assert made.resting() == 0
        killed = next(note for note in made.notes() if note["event"] == "gateway killed: its gate was not shut in time")
        tripped = next(note for note in made.notes() if note["event"] == "tripped")
        assert killed["wall_ns"] >= tripped["seen_ns"] + 50 * MS
        assert len(silences) > 4 and max(silences) < 3_000 * MS


def test_a_stranger_with_the_gateways_pid_is_left_alone(tmp_path: Path) -> None:
    with world(tmp_path) as made:
        made.control.set_pid(Role.GATEWAY, 1)
        made.control.beat(Role.GATEWAY, made.now_ns)
        run_trip(made, TripSource.DEAD_MAN)
        assert [note["gate"] for note in made.notes() if note["event"] == "tripped"] == ["absent"]


# --- flattening -------------------------------------------------------------------------------------------------------


def sides_of(made: World, size: int) -> None:
    """Every fill of a clip has made the position smaller, and none has turned it round."""
    for notice in made.fills:
        if f"-{str(FIRST_CLIP)[:6]}" in notice.order.client_id:
            assert notice.order.reduce_only and notice.order.side == (Side.SELL if size > 0 else Side.BUY)


@pytest.mark.parametrize("size", [2, -2, 60, -60, 400, -400])
def test_positions_go_to_zero_clip_by_clip(made: World, size: int) -> None:
    made.hold(0, size)
    held = made.position()
    assert held
    run_trip(made, TripSource.OPERATOR, stop_ms=60_000)
    assert made.position() == 0
    sides_of(made, size)
    largest = max(note["size"] for note in clips(made))
    assert largest * 60_000 / 1000 <= 5_000 * 1.02
    assert sum(int(Decimal(note["executed"]) * 1000) for note in clips(made)) == abs(held)


def test_every_clip_lies_within_the_collar_and_is_reduce_only(made: World) -> None:
    made.hold(0, 300)
    made.hold(1, -900)
    marks = [made.venue.rest.account.mark(symbol) for symbol in (0, 1)]
    run_trip(made, TripSource.OPERATOR, stop_ms=60_000)
    assert (made.position(0), made.position(1)) == (0, 0)
    for note in clips(made):
        symbol = ("BTCUSDT", "ETHUSDT").index(note["symbol"])
        assert abs(note["price"] / marks[symbol] - 1) < 0.0102
    assert len({note["id"] for note in clips(made)}) == len(clips(made))


def test_a_price_beyond_the_collar_is_waited_for(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mark runs away from the book, and comes back."""
    made.hold(0, 50)
    account = made.venue.rest.account
    mark = type(account).mark
    away = True
    monkeypatch.setattr(type(account), "mark", lambda self, symbol: mark(self, symbol) * (105 if away else 100) // 100)

    def come_back() -> None:
        nonlocal away
        away = False

    made.at_ms(9_000, lambda: held.append(made.position()))
    made.at_ms(9_001, come_back)
    held: list[int] = []
    run_trip(made, TripSource.OPERATOR, stop_ms=20_000)
    assert held == [50] and made.position() == 0
    assert "nothing within the collar" in made.events()


@pytest.mark.parametrize(
    "fault",
    [
        {"action": "error_after", "count": 3},
        {"action": "error_before", "count": 3},
        {"action": "hang_after", "count": 2, "delay_ms": 7_000},
        {"action": "hang_before", "count": 2, "delay_ms": 2_500},
        {"action": "garbage_after", "count": 5},
        {"action": "garbage_before", "count": 5},
        {"action": "rate_limit", "count": 2},
    ],
    ids=lambda fault: fault["action"],
)
def test_a_clip_with_an_unknown_outcome_is_asked_for_before_another(made: World, fault: dict) -> None:
    made.hold(0, 120)
    made.at_ms(400, lambda: made.fault(fault="http", path=ORDER, method="POST", **fault))
    run_trip(made, TripSource.OPERATOR, stop_ms=60_000)
    assert (made.position(), made.resting()) == (0, 0)
    sides_of(made, 120)
    # Between two orders of one symbol lies an answer that knows the first, or the question what became of it.
    unknown = ""
    for note in made.notes():
        if note["event"] == "clip":
            assert not unknown, f"{note} while {unknown} was UNKNOWN"
            unknown = "" if note["known"] else note["id"]
        elif note["event"] in ("clip found", "clip never arrived"):
            assert note["id"] == unknown
            unknown = ""
    assert not unknown
    if fault["action"] != "rate_limit":
        assert not all(note["known"] for note in clips(made))


def test_a_successor_counts_its_clips_on(made: World) -> None:
    made.hold(0, 200)
    run_trip(made, TripSource.OPERATOR, stop_ms=60_000)
    before = {note["id"] for note in clips(made)}
    made.control.clear_role(Role.KILLSWITCH)
    made.control.reset(made.control.word)
    made.hold(0, 200)
    run_trip(made, TripSource.OPERATOR, stop_ms=60_000)
    after = [note["id"] for note in clips(made)]
    assert made.position() == 0
    assert len(after) == len(set(after)) > len(before)


RULES = TripSettings(flatten_collar_bps=100.0, flatten_depth_share=0.1, flatten_clip_value=5_000.0)
COIN = Instrument(0, "BTCUSDT", "BTC", "USDT", 2, 3, 10, 5, 0)


@given(
    position=st.integers(-10**7, 10**7).filter(bool).map(lambda lots: lots * 5),
    mark=st.decimals("10000", "20000000", places=6),
    offsets=st.lists(st.tuples(st.integers(-300, 300), st.integers(1, 10**6)), max_size=20),
)
def test_a_clip_reduces_within_the_collar_and_its_bounds(
    position: int, mark: Decimal, offsets: list[tuple[int, int]]
) -> None:
    levels = [(int(mark * (10_000 + offset) / 10_000), size) for offset, size in offsets]
    clip = clip_of(position, mark, levels, COIN, RULES)
    low, high = mark * Decimal("0.99"), mark * Decimal("1.01")
    if position > 0:
        reachable = [size for price, size in levels if price >= math.ceil(low / 10) * 10]
    else:
        reachable = [size for price, size in levels if price <= math.floor(high / 10) * 10]
    if clip is None:
        assert not sum(reachable)
        return
    assert clip.side == (Side.SELL if position > 0 else Side.BUY)
    assert low <= clip.price <= high and clip.price % 10 == 0
    assert 0 < clip.size <= abs(position) and clip.size % 5 == 0
    assert clip.size <= max(sum(reachable) // 10, 5)
    assert clip.size * mark <= max(Decimal(5_000) * 10**5, 5 * mark)


# --- keys -------------------------------------------------------------------------------------------------------------


def test_cancels_and_questions_use_one_key_and_flattening_alone_the_other(
    made: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One secret, so that the venue takes both signatures; it is told the key that it knows."""
    keys = KillCredentials(Credentials("cancel" * 8, SECRET), Credentials("flatten" * 8, SECRET))
    monkeypatch.setattr("procs.kill_credentials.kill_credentials", lambda *_: keys)
    asked: dict[tuple[str, str], set[str | None]] = {}
    exchange = made.exchange

    def with_key(method: str, target: str, body: str, key: str | None, timeout_ns: int) -> Reply:
        asked.setdefault((method, target.partition("?")[0]), set()).add(key)
        return exchange(method, target, body, KEY, timeout_ns)

    monkeypatch.setattr(made, "exchange", with_key)
    made.hold(0, 40)
    run_trip(made, TripSource.OPERATOR)
    assert (made.resting(), made.position()) == (0, 0)
    flattening = {("POST", ORDER), ("GET", "/fapi/v3/positionRisk"), ("GET", "/fapi/v1/depth"), (
        "GET", "/fapi/v1/allOrders",
    )}
    both = {("GET", "/fapi/v1/ping")}
    assert flattening <= asked.keys()
    for call, used in asked.items():
        expected = {keys.flatten.api_key} if call in flattening else {keys.cancel.api_key}
        assert used == expected or (call in both and used <= {keys.cancel.api_key, keys.flatten.api_key}), call
    assert {("DELETE", "/fapi/v1/allOpenOrders"), ("GET", "/fapi/v1/openOrders")} <= asked.keys() - flattening


def key_file(folder: Path, name: str, mode: int = 0o600) -> str:
    path = folder / f"{name}.toml"
    path.touch(mode=mode)
    path.write_text(f'api_key = "{name}"\nsecret = "of {name}"\n')
    return str(path)


def test_the_files_of_the_keys(tmp_path: Path) -> None:
    handed = {"api_key": "engine", "secret": "of engine"}
    cancel, flatten = key_file(tmp_path, "cancel"), key_file(tmp_path, "flatten")

    def used(**files: str) -> tuple[str, str]:
        venue = ConnectionSettings(embedded=False, **files)
        found = kill_credentials(venue, {} if has_own_key(venue) else handed)
        assert found.cancel.secret == f"of {found.cancel.api_key}"
        return found.cancel.api_key, found.flatten.api_key

    assert used() == ("engine", "engine")
    assert used(kill_credentials_file=cancel) == ("cancel", "cancel"), "and the engine's key is not handed over"
    assert used(flatten_credentials_file=flatten) == ("engine", "flatten")
    assert used(kill_credentials_file=cancel, flatten_credentials_file=flatten) == ("cancel", "flatten")
    embedded = ConnectionSettings(kill_credentials_file=cancel, flatten_credentials_file=flatten)
    assert kill_credentials(embedded, handed).flatten.api_key == "engine", "the embedded venue knows one key"
    with pytest.raises(CredentialsError, match="mode 0600"):
        used(kill_credentials_file=key_file(tmp_path, "open", 0o640))


def test_a_disk_that_takes_neither_notes_nor_last_words_ends_nobody(
    made: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log of a process lies on the disk whose fullness it would tell of."""
    (made.plan.path / "killswitch.jsonl").symlink_to("/dev/full")
    with open("/dev/full", "wb", buffering=0) as full:
        monkeypatch.setattr(last_words, "STANDARD_ERROR", full.fileno())
        run_trip(made, TripSource.STORAGE)
    assert made.resting() == 0
    assert made.control.gate_epoch(Role.KILLSWITCH) == made.control.token
