"""How a button on another machine is believed: authenticated datagrams, and the state of both ends.

Pure: bytes and times go in and out. UDP, because each heartbeat stands by itself: one that is lost costs nothing, where
TCP would hold back all that follow; and the button calls the engine, so that it may sit behind address translation.

A datagram is 128 bytes each way (an answer is never larger than what asked for it): 96 bytes of fields, then their
HMAC-SHA256 under the shared key.

    button -> engine  HELLO    nonce of the button                    who are you?
    engine -> button  WELCOME  that nonce, session, stamp             the session is a random number of the engine
    button -> engine  BEAT     session, counter, last stamp, state    every heartbeat; counter goes up
    engine -> button  ANSWER   session, that counter, stamp, state    what the engine heard, and how it is

What it holds against, each refused and counted under its reason:
  forgery         KEY: no key, no datagram; LENGTH, FORMAT, INSTANCE are looked at before, and SESSION before the HMAC,
                  so that a stranger's flood costs a comparison
  replay          SESSION: of another session; COUNTER: not higher than the last one of this session
  delay           STALE: the stamp is the engine's own clock, sent back; one older than `lost_ns` proves nothing
  a replayed HELLO  changes nothing: the next session's number waits until a BEAT carries it
A BEAT of the running session that says "not released" acts even when it is stale. It is repeated until an ANSWER names
it, so that a short press survives the loss of datagrams. Delay by an adversary can hide the loss of a button for twice
`lost_ns`.

Limits: one button a key; the newest session wins. Whoever can drop datagrams can trip: that is what it is for.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections import Counter
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

from engine.safety.contact import ButtonState, state_of

KEY_BYTES = 32
NONCE_BYTES = 16
NAME_BYTES = 32
MOCK_PINS = 1  # flag of a BEAT: the button's pins are of no hardware
_MAGIC = b"BOT4"
_VERSION = 1
_MAC_BYTES = 32
# magic, version, kind, state, flags, instance, session, nonce, counter, stamp
_FIELDS = struct.Struct("!4sBBBB32s16s16sQQ8x")
DATAGRAM_BYTES = _FIELDS.size + _MAC_BYTES
_NOBODY = bytes(NONCE_BYTES)


class DatagramKind(IntEnum):
    """What a datagram is."""

    HELLO = 1
    WELCOME = 2
    BEAT = 3
    ANSWER = 4


class Refusal(IntEnum):
    """Why a datagram was not believed."""

    LENGTH = 1
    FORMAT = 2
    INSTANCE = 3
    SESSION = 4
    KEY = 5
    COUNTER = 6
    STALE = 7
    MOCK = 8


class EngineState(IntEnum):
    """How the engine is, as it tells a button: bits. 0 is NORMAL and ready."""

    TRIPPED = 1
    NOT_NORMAL = 2
    NOT_READY = 4


class Datagram(NamedTuple):
    """The fields of a datagram; what a kind does not use is 0."""

    kind: DatagramKind
    state: int = 0
    flags: int = 0
    session: bytes = _NOBODY
    nonce: bytes = _NOBODY
    counter: int = 0
    stamp: int = 0


class RefusedDatagram(ValueError):
    """A datagram that is not believed."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.name)
        self.refusal = refusal


def _name(instance: str) -> bytes:
    name = instance.encode()
    if not 0 < len(name) <= NAME_BYTES:
        raise ValueError(f"an instance's name has 1 to {NAME_BYTES} bytes, not {len(name)}")
    return name.ljust(NAME_BYTES, b"\0")


def pack(key: bytes, instance: str, datagram: Datagram) -> bytes:
    """The bytes of a datagram, with their HMAC."""
    kind, state, flags, session, nonce, counter, stamp = datagram
    fields = _FIELDS.pack(
        _MAGIC, _VERSION, kind, state, flags, _name(instance), session, nonce, counter, stamp
    )
    return fields + hmac.digest(key, fields, hashlib.sha256)


def unpack(
    key: bytes, instance: str, data: bytes, kinds: tuple[DatagramKind, ...], sessions: tuple[bytes, ...] = ()
) -> Datagram:
    """The datagram of some bytes, if it is of one of these kinds and, for BEAT and ANSWER, of one of these sessions.

    Raises RefusedDatagram.
    """
    if len(data) != DATAGRAM_BYTES:
        raise RefusedDatagram(Refusal.LENGTH)
    fields, mac = data[: _FIELDS.size], data[_FIELDS.size :]
    magic, version, kind, state, flags, name, session, nonce, counter, stamp = _FIELDS.unpack(fields)
    if magic != _MAGIC or version != _VERSION or kind not in kinds:
        raise RefusedDatagram(Refusal.FORMAT)
    if name != _name(instance):
        raise RefusedDatagram(Refusal.INSTANCE)
    if kind in (DatagramKind.BEAT, DatagramKind.ANSWER) and session not in sessions:
        raise RefusedDatagram(Refusal.SESSION)
    if not hmac.compare_digest(mac, hmac.digest(key, fields, hashlib.sha256)):
        raise RefusedDatagram(Refusal.KEY)
    return Datagram(DatagramKind(kind), state, flags, session, nonce, counter, stamp)


class EngineEnd:
    """The engine's end: what it knows of the button. All times are ns of the engine's monotonic clock."""

    def __init__(
        self, key: bytes, instance: str, lost_ns: int, new_nonce: Callable[[], bytes], allow_mock: bool
    ) -> None:
        """new_nonce: NONCE_BYTES that nobody can guess; allow_mock: a button whose pins are of no hardware will do."""
        self._key, self._instance = key, instance
        self._lost_ns, self._new_nonce, self._allow_mock = lost_ns, new_nonce, allow_mock
        self._session = _NOBODY
        self._next = new_nonce()
        self._counter = 0
        self._heard_ns = 0
        self._acted = False
        self._lost = False
        self.state = ButtonState.UNKNOWN
        self.armed = False  # it was heard once: from then on its loss is a trip
        self.beats = 0
        self.sessions = 0
        self.refused: Counter[Refusal] = Counter()

    def receive(self, data: bytes, now_ns: int, engine_state: int) -> tuple[bytes | None, bool]:
        """Take a datagram; returns the answer, if any, and whether the button says for the first time: trip."""
        known = (self._next,) if self._session == _NOBODY else (self._session, self._next)
        try:
            heard = unpack(self._key, self._instance, data, (DatagramKind.HELLO, DatagramKind.BEAT), known)
            if heard.kind == DatagramKind.HELLO:
                return self._reply(DatagramKind.WELCOME, engine_state, self._next, heard.nonce, 0, now_ns), False
            press = self._take(heard, now_ns)
        except RefusedDatagram as refused:
            self.refused[refused.refusal] += 1
            return None, False
        if not 0 <= now_ns - heard.stamp <= self._lost_ns:
            self.refused[Refusal.STALE] += 1
            return None, press
        self._heard_ns, self.armed, self._lost = now_ns, True, False
        self.state = state_of(heard.state)
        self.beats += 1
        return self._reply(DatagramKind.ANSWER, engine_state, heard.session, _NOBODY, heard.counter, now_ns), press

    def _take(self, beat: Datagram, now_ns: int) -> bool:
        """Whether a BEAT that is authentic says something new, and says: trip. Raises RefusedDatagram."""
        if beat.flags & MOCK_PINS and not self._allow_mock:
            raise RefusedDatagram(Refusal.MOCK)
        if beat.session == self._next:
            if not 0 <= now_ns - beat.stamp <= self._lost_ns:
                raise RefusedDatagram(Refusal.STALE)  # a session does not begin with an old datagram
            self._session, self._next, self._counter = self._next, self._new_nonce(), 0
            self.sessions += 1
        if beat.counter <= self._counter:
            raise RefusedDatagram(Refusal.COUNTER)
        self._counter = beat.counter
        if state_of(beat.state) == ButtonState.RELEASED:
            self._acted = False
            return False
        first = not self._acted
        self._acted = True
        return first

    def _reply(
        self, kind: DatagramKind, engine_state: int, session: bytes, nonce: bytes, counter: int, now_ns: int
    ) -> bytes:
        return pack(self._key, self._instance, Datagram(kind, engine_state, 0, session, nonce, counter, now_ns))

    @property
    def heard(self) -> bool:
        """Whether it was heard and is not lost."""
        return self.armed and not self._lost

    def lost(self, now_ns: int) -> bool:
        """Whether an armed button has just been lost: True once each time."""
        if not self.armed or self._lost or now_ns - self._heard_ns <= self._lost_ns:
            return False
        self._lost = True
        self.state = ButtonState.UNKNOWN
        return True


class ButtonEnd:
    """The button's end: what to send and when, and what the engine has heard. All times are ns of its own clock."""

    # After so many heartbeats without an answer it says HELLO too: the engine may be another one by now.
    _UNANSWERED = 2.5

    def __init__(
        self, key: bytes, instance: str, heartbeat_ns: int, lost_ns: int, new_nonce: Callable[[], bytes],
        flags: int = 0,
    ) -> None:
        """new_nonce: NONCE_BYTES that nobody can guess; flags: of every BEAT."""
        self._key, self._instance, self._flags = key, instance, flags
        self._heartbeat_ns, self._lost_ns = heartbeat_ns, lost_ns
        self._hello = new_nonce()
        self._new_nonce = new_nonce
        self._session = _NOBODY
        self._counter = self._answered = 0
        self._stamp = 0
        self._sent_ns = self._answered_ns = self._welcomed_ns = -(1 << 62)
        self._pressed_from = 0  # the first counter that told the latest press; 0: it was not told yet
        self._pressed = False
        self._state = ButtonState.UNKNOWN
        self.engine_state = 0

    def update(self, state: ButtonState, pressed: bool) -> None:
        """What the contact is now; pressed: it was pressed since the last call, however shortly."""
        self._state = state
        if pressed:
            self._pressed, self._pressed_from = True, 0

    @property
    def _told(self) -> ButtonState:
        return ButtonState.PRESSED if self._pressed else self._state

    def next_ns(self, urgent_ns: int) -> int:
        """When there is something to send; urgent_ns: the time between two reports of a press nobody has answered."""
        return self._sent_ns + (min(urgent_ns, self._heartbeat_ns) if self._pressed else self._heartbeat_ns)

    def datagrams(self, now_ns: int) -> list[bytes]:
        """What is to be sent now."""
        self._sent_ns = now_ns
        made: list[bytes] = []
        if self._session != _NOBODY:
            self._counter += 1
            if self._pressed and not self._pressed_from:
                self._pressed_from = self._counter
            beat = Datagram(
                DatagramKind.BEAT, self._told, self._flags, self._session, _NOBODY, self._counter, self._stamp
            )
            made.append(pack(self._key, self._instance, beat))
        if now_ns - max(self._answered_ns, self._welcomed_ns) > self._UNANSWERED * self._heartbeat_ns:
            made.append(pack(self._key, self._instance, Datagram(DatagramKind.HELLO, nonce=self._hello)))
        return made

    def receive(self, data: bytes, now_ns: int) -> bool:
        """Take a datagram; False when it is not believed or says nothing new."""
        kinds = (DatagramKind.WELCOME, DatagramKind.ANSWER)
        try:
            heard = unpack(self._key, self._instance, data, kinds, (self._session,))
        except RefusedDatagram:
            return False
        if heard.kind == DatagramKind.WELCOME:
            if heard.nonce != self._hello:
                return False
            self._hello, self._welcomed_ns = self._new_nonce(), now_ns
            self._session, self._counter, self._answered, self._pressed_from = heard.session, 0, 0, 0
        else:
            if not self._answered < heard.counter <= self._counter:
                return False
            self._answered = heard.counter
            self._answered_ns = now_ns
            if self._pressed_from and heard.counter >= self._pressed_from:
                self._pressed, self._pressed_from = False, 0
        self._stamp = heard.stamp
        self.engine_state = heard.state
        return True

    def heard(self, now_ns: int) -> bool:
        """Whether the engine has answered lately."""
        return now_ns - self._answered_ns <= self._lost_ns
