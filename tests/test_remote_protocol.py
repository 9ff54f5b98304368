"""The remote button's protocol: a network that loses, repeats, reorders, delays and forges; time is a number."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.safety.contact import ButtonState
from engine.safety.remote_protocol import (
    DATAGRAM_BYTES,
    KEY_BYTES,
    MOCK_PINS,
    NONCE_BYTES,
    ButtonEnd,
    Datagram,
    DatagramKind,
    EngineEnd,
    EngineState,
    Refusal,
    pack,
)

KEY = bytes(range(KEY_BYTES))
OTHER_KEY = bytes(range(1, KEY_BYTES + 1))
BEAT_NS = 200_000_000
LOST_NS = 1_000_000_000
ENGINE_CLOCK = 77 * 10**12  # the two clocks have nothing to do with one another
RELEASED, PRESSED, UNKNOWN = ButtonState.RELEASED, ButtonState.PRESSED, ButtonState.UNKNOWN


def nonces(first: int) -> Callable[[], bytes]:
    count = itertools.count(first)
    return lambda: next(count).to_bytes(NONCE_BYTES, "big")


@dataclass
class Pair:
    """Both ends and a perfect network, until a test takes datagrams out of it."""

    engine: EngineEnd = field(default_factory=lambda: EngineEnd(KEY, "bot4", LOST_NS, nonces(1000), False))
    button: ButtonEnd = field(default_factory=lambda: ButtonEnd(KEY, "bot4", BEAT_NS, LOST_NS, nonces(5000)))
    now: int = 0
    presses: int = 0
    losses: int = 0
    sent: list[bytes] = field(default_factory=list)

    def hear(self, data: bytes, answered: bool = True) -> bytes | None:
        reply, press = self.engine.receive(data, ENGINE_CLOCK + self.now, EngineState.TRIPPED if self.presses else 0)
        self.presses += press
        if reply is not None and answered:
            self.button.receive(reply, self.now)
        return reply

    def turn(self, arrives: bool = True, answered: bool = True, after_ns: int = BEAT_NS) -> None:
        """A heartbeat later."""
        self.now += after_ns
        for data in self.button.datagrams(self.now):
            self.sent.append(data)
            if arrives:
                self.hear(data, answered)
        self.losses += self.engine.lost(ENGINE_CLOCK + self.now)

    def connect(self) -> None:
        self.button.update(RELEASED, False)
        self.turn()
        self.turn()
        assert self.engine.armed and self.engine.state == RELEASED and self.button.heard(self.now)


@pytest.fixture
def pair() -> Pair:
    made = Pair()
    made.connect()
    return made


def test_heartbeats_arm_and_a_silence_is_a_loss_once(pair: Pair) -> None:
    assert pair.engine.sessions == 1
    for _ in range(20):
        pair.turn()
    assert (pair.presses, pair.losses, sum(pair.engine.refused.values())) == (0, 0, 0)
    for _ in range(5):
        pair.turn(arrives=False)
    assert pair.losses == 0, "exactly lost_ns old is not lost yet"
    pair.turn(arrives=False, after_ns=1)
    assert pair.losses == 1 and pair.engine.state == UNKNOWN
    for _ in range(20):
        pair.turn(arrives=False)
    assert pair.losses == 1
    for _ in range(3):
        pair.turn()
    assert pair.engine.state == RELEASED and pair.engine.sessions >= 1
    for _ in range(6):
        pair.turn(arrives=False)
    assert pair.losses == 2, "found again, it can be lost again"


def test_before_the_first_heartbeat_nothing_is_lost() -> None:
    made = Pair()
    for _ in range(30):
        made.turn(arrives=False)
    assert made.losses == 0 and not made.engine.armed
    made.hear(pack(KEY, "bot4", Datagram(DatagramKind.HELLO, nonce=bytes(NONCE_BYTES))))
    assert not made.engine.armed, "HELLO says nothing of the button"


def test_a_press_is_one_trip_and_a_second_press_another(pair: Pair) -> None:
    for expected in (1, 2):
        pair.button.update(PRESSED, True)
        for _ in range(5):
            pair.turn()
            pair.button.update(PRESSED, False)
        assert pair.presses == expected and pair.engine.state == PRESSED
        pair.button.update(RELEASED, False)
        pair.turn()
        assert pair.engine.state == RELEASED
    assert pair.button.engine_state == EngineState.TRIPPED, "the button is told what became of it"


def test_a_short_press_survives_the_loss_of_what_told_it(pair: Pair) -> None:
    pair.button.update(PRESSED, True)
    pair.turn(arrives=False)
    pair.button.update(RELEASED, False)
    pair.turn(arrives=False)
    assert pair.presses == 0
    assert pair.button.next_ns(20) == pair.now + 20, "a press that nobody has answered is urgent"
    pair.turn(answered=False)
    assert pair.presses == 1
    pair.turn(answered=False)
    pair.turn()
    assert pair.presses == 1 and pair.engine.state == PRESSED
    pair.turn()
    assert pair.engine.state == RELEASED and pair.button.next_ns(20) == pair.now + BEAT_NS


def test_a_button_that_cannot_be_read_trips(pair: Pair) -> None:
    pair.button.update(UNKNOWN, False)
    pair.turn()
    pair.turn()
    assert pair.presses == 1 and pair.engine.state == UNKNOWN and pair.losses == 0
    for _ in range(6):
        pair.turn(arrives=False)
    assert pair.losses == 1, "and its loss is another cause"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data[:-1], Refusal.LENGTH),
        (lambda data: data + b"\0", Refusal.LENGTH),
        (lambda data: b"", Refusal.LENGTH),
        (lambda data: b"bot4" + data[4:], Refusal.FORMAT),
        (lambda data: data[:4] + b"\2" + data[5:], Refusal.FORMAT),
        (lambda data: data[:5] + bytes([DatagramKind.ANSWER]) + data[6:], Refusal.FORMAT),
        (lambda data: data[:8] + b"Bot4" + data[12:], Refusal.INSTANCE),
        (lambda data: data[:40] + bytes(16) + data[56:], Refusal.SESSION),
        (lambda data: data[:6] + bytes([data[6] ^ 3]) + data[7:], Refusal.KEY),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), Refusal.KEY),
    ],
)  # fmt: skip
def test_what_is_not_believed_is_counted_under_its_reason(
    pair: Pair, change: Callable[[bytes], bytes], reason: Refusal
) -> None:
    pair.turn(arrives=False)
    before = pair.engine.beats
    assert pair.hear(change(pair.sent[-1])) is None
    assert pair.engine.refused == {reason: 1} and pair.engine.beats == before and pair.presses == 0
    assert pair.hear(pair.sent[-1]) is not None, "the same datagram, unchanged, is believed"


def test_another_key_opens_nothing() -> None:
    made = Pair(button=ButtonEnd(OTHER_KEY, "bot4", BEAT_NS, LOST_NS, nonces(5000)))
    for _ in range(5):
        made.turn()
    assert made.engine.refused == {Refusal.KEY: 5} and not made.engine.armed and not made.button.heard(made.now)


def test_the_button_believes_no_stranger_either(pair: Pair) -> None:
    pair.turn(arrives=False)
    good = Datagram(DatagramKind.ANSWER, EngineState.TRIPPED, session=(1000).to_bytes(16, "big"), counter=2, stamp=9)
    assert not pair.button.receive(pack(OTHER_KEY, "bot4", good), pair.now)
    assert not pair.button.receive(pack(KEY, "bot5", good), pair.now)
    assert not pair.button.receive(pack(KEY, "bot4", good._replace(counter=99)), pair.now), "a beat never sent"
    assert not pair.button.receive(pair.sent[-1], pair.now), "its own words, sent back"
    assert pair.button.engine_state == 0
    assert pair.button.receive(pack(KEY, "bot4", good), pair.now)
    assert not pair.button.receive(pack(KEY, "bot4", good), pair.now), "twice"
    old_welcome = Datagram(DatagramKind.WELCOME, session=bytes(16), nonce=(5000).to_bytes(16, "big"))
    assert not pair.button.receive(pack(KEY, "bot4", old_welcome), pair.now), "of a HELLO of the past"


def test_a_heartbeat_that_was_held_back_proves_nothing_but_a_press_still_acts(pair: Pair) -> None:
    pair.turn(arrives=False)
    held = pair.sent[-1]
    pair.button.update(PRESSED, True)
    pair.turn(arrives=False)
    held_press = pair.sent[-1]
    pair.now += LOST_NS
    assert pair.hear(held) is None and pair.engine.refused == {Refusal.STALE: 1} and pair.presses == 0
    assert pair.hear(held_press) is None and pair.engine.refused == {Refusal.STALE: 2} and pair.presses == 1


@pytest.mark.parametrize("delay_ms", [0, 300, 700, 950, 5000])
@pytest.mark.parametrize("slow_ms", [0, 900])
def test_whoever_delays_the_heartbeats_hides_a_dead_button_for_twice_the_limit_at_most(
    delay_ms: int, slow_ms: int
) -> None:
    """From second 3 on each heartbeat takes delay_ms, and slow_ms lies between two; the button dies at second 10."""
    made = Pair()
    under_way: list[tuple[int, bytes]] = []
    step, dies, lost_at, last = 10_000_000, 10 * 10**9, 0, 0
    made.button.update(RELEASED, False)
    while not lost_at and made.now < 20 * 10**9:
        made.now += step
        late = made.now > 3 * 10**9
        if made.now < dies and made.now >= made.button.next_ns(BEAT_NS):
            under_way += [(made.now + late * delay_ms * 10**6, data) for data in made.button.datagrams(made.now)]
        while under_way and under_way[0][0] <= made.now and made.now - last >= late * slow_ms * 10**6:
            made.hear(under_way.pop(0)[1])
            last = made.now
        if made.engine.lost(ENGINE_CLOCK + made.now):
            lost_at = made.now
    assert made.engine.beats > 10
    assert 3 * 10**9 < lost_at <= dies + 2 * LOST_NS + step
    if delay_ms <= 300 and not slow_ms:
        assert lost_at > dies, "a small delay alone is no loss"


def test_recordings_of_one_session_are_worth_nothing_in_the_next(pair: Pair) -> None:
    for _ in range(10):
        pair.turn()
    pair.button.update(PRESSED, True)
    pair.turn()
    recorded = list(pair.sent)
    fresh = Pair(now=pair.now)
    fresh.engine = EngineEnd(KEY, "bot4", LOST_NS, nonces(9000), False)  # the engine was started again
    for data in recorded:
        fresh.hear(data, answered=False)
    assert not fresh.engine.armed and fresh.presses == 0
    assert set(fresh.engine.refused) <= {Refusal.SESSION}
    fresh.connect()
    for data in recorded:
        fresh.hear(data, answered=False)
    assert fresh.presses == 0 and fresh.engine.state == RELEASED and fresh.engine.beats == 1


def test_a_replayed_hello_disturbs_no_session(pair: Pair) -> None:
    hello = pair.sent[0]
    for _ in range(20):
        pair.hear(hello, answered=False)
        pair.turn()
    assert (pair.losses, pair.engine.sessions, sum(pair.engine.refused.values())) == (0, 1, 0)


def test_a_button_started_again_takes_over_and_so_does_an_engine(pair: Pair) -> None:
    pair.button = ButtonEnd(KEY, "bot4", BEAT_NS, LOST_NS, nonces(6000))
    pair.connect()
    assert pair.engine.sessions == 2 and pair.losses == 0
    pair.engine = EngineEnd(KEY, "bot4", LOST_NS, nonces(2000), False)
    turns = 0
    while not pair.engine.armed:
        pair.turn()
        turns += 1
    assert turns <= 4, "found again before the 5 s that an engine lives without a kill switch"


def test_a_mock_is_refused_where_money_is_traded() -> None:
    for allowed in (False, True):
        made = Pair(engine=EngineEnd(KEY, "bot4", LOST_NS, nonces(1), allowed))
        made.button = ButtonEnd(KEY, "bot4", BEAT_NS, LOST_NS, nonces(5000), MOCK_PINS)
        made.button.update(RELEASED, False)
        for _ in range(4):
            made.turn()
        assert made.engine.armed == allowed and bool(made.engine.refused[Refusal.MOCK]) != allowed


@settings(max_examples=300)
@given(st.lists(st.tuples(st.sampled_from(["pass", "drop", "hold", "twice", "no answer", "replay"]), st.booleans()),
                min_size=5, max_size=60), st.data())  # fmt: skip
def test_no_network_invents_a_press_or_hides_one(weather: list[tuple[str, bool]], data: st.DataObject) -> None:
    """Oracle: what the button really told. Every trip is a press that was sent; the first good minute tells the last.

    A heartbeat is believed once at the most: what was believed has strictly rising counters.
    """
    made = Pair()
    really_pressed = 0
    held: list[bytes] = []
    believed: list[bytes] = []

    def deliver(datagram: bytes, answered: bool) -> None:
        before = made.engine.beats
        made.hear(datagram, answered)
        if made.engine.beats > before:
            believed.append(datagram)

    for fate, pressed in weather:
        really_pressed += pressed
        made.button.update(PRESSED if pressed else RELEASED, pressed)
        made.now += BEAT_NS
        for datagram in made.button.datagrams(made.now):
            made.sent.append(datagram)
            if fate == "hold":
                held.append(datagram)
            elif fate != "drop":
                deliver(datagram, fate != "no answer")
            if fate == "twice":
                deliver(datagram, True)
        if fate == "replay" and made.sent:
            deliver(data.draw(st.sampled_from(made.sent)), True)
        if held and data.draw(st.booleans()):
            deliver(held.pop(data.draw(st.integers(0, len(held) - 1))), True)
        made.engine.lost(ENGINE_CLOCK + made.now)
    assert len(believed) == len(set(believed))
    assert made.presses <= really_pressed, "a trip that nobody pressed"
    told = made.presses
    made.button.update(RELEASED, False)
    for _ in range(10):
        made.turn()
    assert made.engine.state == RELEASED and made.button.heard(made.now)
    assert made.presses <= really_pressed
    if really_pressed:
        assert made.presses >= 1, "a press that never arrived"
    assert made.presses - told <= 1


@settings(max_examples=200)
@given(st.binary(max_size=2 * DATAGRAM_BYTES), st.integers(0, DATAGRAM_BYTES - 1), st.integers(1, 255))
def test_any_bytes_and_any_changed_byte_are_refused(noise: bytes, place: int, flip: int) -> None:
    made = Pair()
    made.connect()
    made.turn(arrives=False)
    changed = bytearray(made.sent[-1])
    changed[place] ^= flip
    for data in (noise, bytes(changed)):
        before = sum(made.engine.refused.values())
        assert made.engine.receive(data, ENGINE_CLOCK + made.now, 0) == (None, False)
        assert sum(made.engine.refused.values()) == before + 1


def test_a_name_that_does_not_fit_is_an_error() -> None:
    for name in ("", "x" * 33):
        with pytest.raises(ValueError, match="1 to 32 bytes"):
            pack(KEY, name, Datagram(DatagramKind.HELLO))
