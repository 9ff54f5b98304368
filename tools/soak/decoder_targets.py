"""What is fuzzed, compiled and interpreted side by side: sessions of each wire format, and the readers of numbers.

An input of a session is up to MOST_FRAMES frames with BETWEEN (RFC 7464) between them. An empty one says that the
connection was lost; what begins with AUDIT is the answer of an audit, any other REST depth body of Binance a snapshot,
of the instrument whose index is the number of spaces before it. What must hold after each of them, else `Unsound`:

- the compiled kernel and the interpreted one give the same answer, the same records and the same state, bit for bit;
- neither raises, and the loops of the interpreted one make no more than TURNS_A_BYTE turns a byte;
- in = processed + refused + dropped + waiting; a frame that is refused has changed counters and scratch only;
- records come in whole groups of one instrument that exists, out counts them, and their receive time is the call's.

An input of numbers is two bytes that choose the unit and the reader, then text. What is accepted must be the exact
value by arithmetic on whole numbers of any size, and what is a JSON number that the unit can hold must be accepted.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from engine.ingest import kernel as binance
from engine.ingest import kraken_kernel as kraken
from engine.ingest import places
from engine.ingest.kernel import is_snapshot_body
from engine.ingest.kraken_state import KRAKEN_DIALECTS
from engine.instruments import Dialect
from engine.reasons import Reason
from engine.records import Flag, Kind
from engine.stage import as_bytes
from engine.units import INT64_MAX
from tools.soak import number_kernels
from tools.soak.interpreted import Buffer, Interpreter, view_of
from tools.soak.number_kernels import ISO_TIME, PRINTED, READERS, UNITS
from tools.soak.seeds import INSTRUMENTS, NUMBERS, SESSIONS

BETWEEN, AUDIT = b"\x1e", b"\t"
MOST_FRAMES = 8
TURNS_A_BYTE, TURNS_BESIDE = 64, 4_096
ALL_INSTRUMENTS = -1
_T0, _STEP_NS = 1_700_000_000_000_000_000, 4_000_000
_LIQUIDATION_MIN = 10_000 * 10**8
_SCRATCH = ("frames", "records_in", "quarantined", "value_at", "inner_at")  # what a refusal may change
_FIRST, _LAST = int(Flag.FIRST), int(Flag.LAST)


class Unsound(AssertionError):
    """Something that must hold and did not."""


class Target(ABC):
    """One thing that is fuzzed. `answers` counts what became of the inputs."""

    of_frames = False  # True: an input is a session, frames with BETWEEN between them

    def __init__(self, name: str, seeds: tuple[bytes, ...], names: tuple[str, ...] = ()) -> None:
        self.name = name
        self.seeds = seeds
        self.names = names  # words of the format, for the fuzzer's dictionary
        self.answers: Counter[str] = Counter()
        self.drops: Counter[str] = Counter()  # of frames that were taken, by the reason why nothing came of them

    @abstractmethod
    def run(self, data: bytes) -> None:
        """Take one input. Raises Unsound, or whatever the code under test raised and must not."""

    @property
    def ways(self) -> int:
        """How many ways there are to follow, besides those of `functions`."""
        return 0

    def take_ways(self) -> dict[int, int]:
        """How often each of them, from 0 on, was taken since the last call."""
        return {}

    def functions(self) -> list[Callable[..., Any]]:
        """Ordinary functions of Python whose ways lead the fuzzer too: their byte code is for it to instrument."""
        return []


def _answer(name: str, function: Callable[..., Any], *arguments: Any) -> int:
    try:
        return int(function(*arguments))
    except Exception as error:
        raise Unsound(f"{name} kernel: {type(error).__name__}: {error}") from error


def _turns(frame: bytes) -> int:
    """How many turns the loops of a kernel may make over a frame."""
    return TURNS_A_BYTE * len(frame) + TURNS_BESIDE


def _words_beside(dtype: np.dtype, names: Sequence[str]) -> list[slice]:
    """The int64 words of a record that are not of these fields, as few slices."""
    marked = np.ones(1, dtype)
    for name in set(names) & set(dtype.names or ()):
        marked[name] = 0
    words = np.concatenate(([0], marked.view(np.int64) != 0, [0])).astype(np.int8)
    edges = np.flatnonzero(np.diff(words)).tolist()
    return [slice(first, end) for first, end in zip(edges[::2], edges[1::2])]


class InterpretedTarget(Target):
    """One whose kernels are interpreted beside the compiled ones."""

    _interpreter: Interpreter

    @property
    def ways(self) -> int:
        """See Target."""
        return len(self._interpreter.counts)

    def take_ways(self) -> dict[int, int]:
        """See Target."""
        return self._interpreter.take_ways()


class SessionTarget(InterpretedTarget):
    """Sessions of one dialect."""

    of_frames = True

    def __init__(self, dialect: Dialect, interpreter: Interpreter) -> None:
        self.dialect = dialect
        self._interpreter = interpreter
        self._kraken = dialect in KRAKEN_DIALECTS
        module: Any = kraken if self._kraken else binance
        self._prefix = "kraken" if self._kraken else "ingest"
        make = kraken.make_kraken_state if self._kraken else binance.make_ingest_state
        self._fresh = make(INSTRUMENTS[dialect], _LIQUIDATION_MIN)
        outbox = kraken.make_kraken_outbox() if self._kraken else binance.make_outbox()
        self._states = self._fresh.copy(), self._fresh.copy()
        self._outboxes = outbox, outbox.copy()
        self._words = [state.view(np.int64) for state in self._states]
        self._twin = interpreter.module(module.__name__)
        self._module = module
        self._places = self._place_kernels()
        self._compiled = as_bytes(self._states[0]), as_bytes(self._outboxes[0])
        self._buffers = Buffer(self._states[1]), Buffer(self._outboxes[1])
        self._known = {item.index for item in INSTRUMENTS[dialect]}
        seeds = tuple(BETWEEN.join(map(str.encode, session)) for session in SESSIONS[dialect])
        super().__init__(dialect.name, seeds, tuple(interpreter.names))
        self._kept = _words_beside(self._fresh.dtype, _SCRATCH)
        self._out = 0
        self._both("start", b"", _T0)
        self._fresh[:], self._started = self._states[0], self._out
        self.take_ways()

    def _place_kernels(self) -> tuple[Any, Any] | None:
        """The kernel that says where a frame stands in its stream, compiled and interpreted, where there is one."""
        name = "kraken_futures_place" if self.dialect == Dialect.KRAKEN_FUTURES else "binance_place"
        if self._kraken and self.dialect != Dialect.KRAKEN_FUTURES:
            return None
        return getattr(places, name), getattr(self._interpreter.module(places.__name__), name)

    def run(self, data: bytes) -> None:
        """See Target."""
        for words in self._words:
            words[:] = self._fresh.view(np.int64)
        self._out = self._started
        for number, frame in enumerate(data.split(BETWEEN)[:MOST_FRAMES], 1):
            self._give(frame, number)
        dropped = self._states[0]["dropped"][0]
        self.drops.update({Reason(int(code)).name: int(dropped[code]) for code in np.flatnonzero(dropped)})

    def _give(self, frame: bytes, number: int) -> None:
        now_ns = _T0 + number * _STEP_NS
        body = frame.removeprefix(AUDIT)
        index = len(body) - len(body.lstrip(b" "))
        if not frame:
            answer = self._both("lost", frame, ALL_INSTRUMENTS, number, now_ns)
        elif body != frame:
            answer = self._both("audit", frame, index, frame, now_ns, number)
        elif not self._kraken and is_snapshot_body(frame):
            answer = self._both("snapshot", frame, index, frame, now_ns, number)
        else:
            if self._places is not None and number == 1:
                self._compare_places(frame)
            answer = self._both("frame", frame, frame, now_ns, number)
        self.answers[Reason(-answer).name if answer < 0 else "taken"] += 1
        self._judge(max(answer, 0), now_ns)

    def _both(self, entry: str, frame: bytes, *arguments: Any) -> int:
        """The answer of an entry point, which must be that of both kernels, with all that they wrote."""
        name = f"{self._prefix}_{entry}"
        (state, outbox), (other, others) = self._compiled, self._buffers
        compiled = _answer("compiled", getattr(self._module, name), state, *arguments, outbox)
        # the interpreted kernel has not run yet: its state is that before the call
        if compiled < 0:
            for kept in self._kept:
                if not np.array_equal(self._words[0][kept], self._words[1][kept]):
                    raise Unsound("a frame that was refused has changed the state")
        self._interpreter.hold(frame, _turns(frame))
        interpreted = _answer("interpreted", getattr(self._twin, name), other, *arguments, others)
        if compiled != interpreted:
            raise Unsound(f"compiled answers {compiled}, interpreted {interpreted}")
        self._compare(max(compiled, 0))
        self._out += max(compiled, 0)
        return compiled

    def _compare(self, count: int) -> None:
        one, other = (outbox[:count].tobytes() for outbox in self._outboxes)
        if one != other:
            raise Unsound("compiled and interpreted records differ")
        if not np.array_equal(self._words[0], self._words[1]):
            names = self._fresh.dtype.names or ()
            differ = [name for name in names if not np.array_equal(self._states[0][name], self._states[1][name])]
            raise Unsound(f"compiled and interpreted state differ: {', '.join(differ)}")

    def _compare_places(self, frame: bytes) -> None:
        assert self._places is not None
        found = np.zeros(3, np.int64), np.zeros(3, np.int64)
        (state, outbox), (other, others) = self._compiled, self._buffers
        compiled = _answer("compiled", self._places[0], state, frame, outbox, found[0])
        self._interpreter.hold(frame, _turns(frame))
        interpreted = _answer("interpreted", self._places[1], other, frame, others, view_of(found[1]))
        if compiled != interpreted or not np.array_equal(*found):
            raise Unsound(f"places differ: {compiled} {found[0]}, {interpreted} {found[1]}")

    def _judge(self, count: int, now_ns: int) -> None:
        row = self._states[0][0]
        done = int(row["processed"]) + int(row["quarantined"].sum()) + int(row["dropped"].sum())
        waiting = 0 if self._kraken else int(row["pending_frames"])
        if int(row["records_in"]) != done + waiting:
            raise Unsound(f"{row['records_in']} frames in, {done} accounted for, {waiting} waiting")
        if int(row["out"]) != self._out:
            raise Unsound(f"{self._out} records out, {row['out']} counted")
        opened = -1
        for record in self._outboxes[0][:count]:
            kind, flags, instrument = int(record["kind"]), int(record["flags"]), int(record["instrument"])
            if kind != Kind.CLOCK and (instrument not in self._known or record["recv_ts_ns"] != now_ns):
                raise Unsound(f"a record of instrument {instrument}, received at {record['recv_ts_ns']}")
            if bool(flags & _FIRST) != (opened < 0) or (opened >= 0 and instrument != opened):
                raise Unsound("a group that does not begin, or goes on as another instrument's")
            opened = -1 if flags & _LAST else instrument
        if opened >= 0:
            raise Unsound("a group without an end")


_NUMBER = re.compile(rb"(-?)([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]+))?")
_ISO = re.compile(rb'"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?Z"')
_ENDS = b",]} \t\r\n"
_KEPT_DIGITS = 18
_MOST_EXPONENT = 10_000


class NumberTarget(InterpretedTarget):
    """The readers of numbers and times, compiled, interpreted, and by whole numbers of any size."""

    def __init__(self, interpreter: Interpreter) -> None:
        self._interpreter = interpreter
        self._twin = interpreter.module(number_kernels.__name__)
        self._found = np.zeros(2, np.int64), np.zeros(2, np.int64)
        readers = range(READERS)
        seeds = tuple(bytes((exp, reader)) + text.encode() + b"," for text in NUMBERS for exp in (0, 8)
                      for reader in readers)  # fmt: skip
        super().__init__("NUMBERS", seeds, ("9223372036854775807", "e-18", "000000000000000000", "922337203685477580"))

    def run(self, data: bytes) -> None:
        """See Target."""
        if len(data) < 2:
            return
        exp, reader, text = data[0] % 19, data[1] % READERS, data[2:]
        ends = []
        for found in self._found:
            found[:] = 0
        ends.append(_answer("compiled", number_kernels.read_number, text, exp, reader, self._found[0]))
        self._interpreter.hold(text, _turns(text))
        twin = view_of(self._found[1])
        ends.append(_answer("interpreted", self._twin.read_number, text, exp, reader, twin))
        if ends[0] != ends[1] or not np.array_equal(*self._found):
            raise Unsound(f"compiled {ends[0]} {self._found[0]}, interpreted {ends[1]} {self._found[1]}")
        value, decimals = map(int, self._found[0])
        end = ends[0]
        self.answers[Reason(-end).name if end < 0 else "taken"] += 1
        if reader == ISO_TIME:
            self._judge_time(text, value if end > 0 else None)
        else:
            self._judge_number(text, exp, reader, (value, decimals, end) if end >= 0 else None)

    @staticmethod
    def _judge_number(text: bytes, exp: int, reader: int, told: tuple[int, int, int] | None) -> None:
        quoted = text.startswith(b'"')
        match = _NUMBER.match(text, 1 if quoted else 0)
        end = match.end() if match else 0
        whole = match is not None and end < len(text) and text[end] in (b'"' if quoted else _ENDS)
        if match is None or not whole:
            if told is not None:
                raise Unsound(f"no number, and read as {told}")
            return
        wanted = _exact(match, exp) if reader in (UNITS, PRINTED) else _rounded(match, exp)
        if (told is None) != (wanted is None) or (told is not None and told[0] != wanted):
            raise Unsound(f"{match[0]!r} at 10^-{exp} is {wanted}, and read as {told}")
        if told is None:
            return
        if told[2] != end + quoted:
            raise Unsound(f"{match[0]!r} ends at {end + quoted}, and was read to {told[2]}")
        if reader == PRINTED and not match[1] and match[4] is None and told[1] != len(match[3] or b""):
            raise Unsound(f"{match[0]!r} was read as printed with {told[1]} decimals")

    @staticmethod
    def _judge_time(text: bytes, told: int | None) -> None:
        match = _ISO.match(text)
        if match is None:
            if told is not None:
                raise Unsound(f"no time, and read as {told}")
            return
        year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
        if not (1970 <= year <= 2200 and hour < 24 and minute < 60 and second <= 60):
            if told is not None:
                raise Unsound(f"{match[0]!r} was read as {told}")
            return
        try:
            days = datetime(year, month, day, tzinfo=UTC).toordinal() - datetime(1970, 1, 1, tzinfo=UTC).toordinal()
        except ValueError:
            if told is not None and not (1 <= month <= 12 and 1 <= day <= 31):
                raise Unsound(f"{match[0]!r} was read as {told}") from None
            return  # a day of 31 that its month does not have: documented, and left alone
        fraction = int((match[7] or b"").ljust(9, b"0"))
        wanted = ((days * 24 + hour) * 60 + minute) * 60 + second
        if told != wanted * 10**9 + fraction:
            raise Unsound(f"{match[0]!r} is {wanted} s, and read as {told} ns")


def _parts(match: re.Match[bytes], exp: int) -> tuple[int, str, int]:
    """(sign, digits without zeros in front, power of ten of the last of them, in units of 10^-exp)."""
    fraction = (match[3] or b"").decode()
    exponent = int(match[4] or 0)
    exponent = max(-_MOST_EXPONENT, min(exponent, _MOST_EXPONENT))
    return -1 if match[1] else 1, (match[2].decode() + fraction).lstrip("0"), exp + exponent - len(fraction)


def _exact(match: re.Match[bytes], exp: int) -> int | None:
    """The number as int64 units; None where it is none."""
    sign, digits, power = _parts(match, exp)
    stripped = digits.rstrip("0")
    power += len(digits) - len(stripped)
    if not stripped:
        return 0
    if power < 0 or power + len(stripped) > 19 or int(stripped) * 10**power > INT64_MAX:
        return None
    return sign * int(stripped) * 10**power


def _rounded(match: re.Match[bytes], exp: int) -> int | None:
    """The number as the nearest int64 unit by its first 18 digits; None where it does not fit."""
    sign, digits, power = _parts(match, exp)
    power += max(0, len(digits) - _KEPT_DIGITS)
    digits = digits[:_KEPT_DIGITS]
    if not digits:
        return 0
    if power >= 0:
        value = int(digits) * 10 ** min(power, 20)
        return sign * value if value <= INT64_MAX else None
    if -power > len(digits):
        return 0
    return sign * ((2 * int(digits) + 10**-power) // (2 * 10**-power))
