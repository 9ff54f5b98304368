"""The control block: one segment per instance that every process maps. Stop, trip, readiness, progress, wake.

Purpose: what must work while anything else is hung or dead. A trip is two atomic instructions by anybody.

Layout: `control` is the int64[::1] view of CONTROL_DTYPE, one record; role r has a ROLE_DTYPE block.
  emergency       the emergency word: low 16 bits one bit a source, high 48 bits the count of trips. 0 is the
                  only value that lets trading go on; anything else, known or not, is an emergency.
  session_offset  ns to add to CLOCK_MONOTONIC, fixed by the creator (shm.clock)
  supervisor_pid
  mode            what the control plane allows, with its complement beside it; written by the supervisor alone. What
                  the numbers mean is decided above this floor; a word that is not whole reads UNKNOWN_MODE
  asserted        one bit a source whose trigger is held at this moment (a pressed button); written by the kill switch
                  alone. The emergency word remembers, this one does not
  resets          how often the emergency word was cleared; written by the supervisor, after it cleared it
  roles[r]        pid, readiness, heartbeat, progress, gate_epoch: written by the role. gate_epoch: a gateway's,
                  the emergency word for which its gate is shut, 0 while it is open; the kill switch's, the token
                  (see `token`) that it has dealt with
                  stop, doorbell: written by others (the sleeping flag of the bell by the role)

Ordering: every load is an acquire, every store a release; trip and reset are sequentially consistent.
progress counts work done, heartbeat is the session time of the last loop turn: a role whose heartbeat moves
while its progress does not, with input waiting, is stuck.

Invariants: trip adds to the count before it sets its bit, so from the first of its two instructions on the
word differs from what any reset has seen. Reset is a compare-exchange of the whole word that was seen when
its conditions were checked; a trip in between makes it fail. One process at a time may reset.

Limits: 2^48 trips, then the count starts again and the source bits stay. What the roles are called is decided
above this floor.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from shm.atomics import (
    compare_exchange,
    fetch_add,
    inlined,
    load_acquire,
    load_relaxed,
    set_bits,
    store_release,
)
from shm.clock import new_session_offset_ns
from shm.doorbell import Doorbell
from shm.segment import Segment, layout_hash

ROLES = 32
SOURCE_BITS = 16
CONTROL_SEGMENT = "control"
UNKNOWN_MODE = -1
_MODE_BITS = 8
_TOKEN_WORD_BITS = 44  # the sources and 2^28 trips; above them 2^19 resets
_TOKEN_WORD = (1 << _TOKEN_WORD_BITS) - 1
_MODE_MASK = (1 << _MODE_BITS) - 1

# What has one writer has 128 bytes (two cache lines) of its own. The layout hash covers all names here.
ROLE_DTYPE = np.dtype(
    {
        "names": ["pid", "readiness", "heartbeat", "progress", "gate_epoch", "stop", "doorbell"],
        "formats": ["<i8", "<i8", "<i8", "<i8", "<i8", "<i8", ("<i4", (2,))],
        "offsets": [0, 8, 16, 24, 32, 128, 136],
        "itemsize": 256,
    }
)
CONTROL_DTYPE = np.dtype(
    {
        "names": ["emergency", "session_offset", "supervisor_pid", "mode", "resets", "asserted", "roles"],
        "formats": ["<i8", "<i8", "<i8", "<i8", "<i8", "<i8", (ROLE_DTYPE, (ROLES,))],
        "offsets": [0, 128, 136, 144, 152, 256, 384],
        "itemsize": 384 + ROLES * 256,
    }
)


def _word(dtype: np.dtype, field: str) -> int:
    """Index of a field in the int64 view."""
    if dtype.fields is None:
        raise TypeError(f"{dtype} has no fields")
    offset: int = dtype.fields[field][1]
    return offset // 8


# Indexes into control, the int64 view.
EMERGENCY = _word(CONTROL_DTYPE, "emergency")
SESSION_OFFSET = _word(CONTROL_DTYPE, "session_offset")
SUPERVISOR_PID = _word(CONTROL_DTYPE, "supervisor_pid")
MODE = _word(CONTROL_DTYPE, "mode")
RESETS = _word(CONTROL_DTYPE, "resets")
ASSERTED = _word(CONTROL_DTYPE, "asserted")
CONTROL_WORDS = CONTROL_DTYPE.itemsize // 8
_ROLE_BLOCKS = _word(CONTROL_DTYPE, "roles")
_ROLE_WORDS = ROLE_DTYPE.itemsize // 8

# Offsets into a role block.
PID = _word(ROLE_DTYPE, "pid")
READINESS = _word(ROLE_DTYPE, "readiness")
HEARTBEAT = _word(ROLE_DTYPE, "heartbeat")
PROGRESS = _word(ROLE_DTYPE, "progress")
GATE_EPOCH = _word(ROLE_DTYPE, "gate_epoch")
STOP = _word(ROLE_DTYPE, "stop")
DOORBELL = _word(ROLE_DTYPE, "doorbell")


class TripSource(IntEnum):
    """Who tripped: the bit of the emergency word. Numbers outside the list count as UNKNOWN."""

    HARDWARE = 0
    OPERATOR = 1
    PANIC = 2
    SUPERVISOR = 3
    RISK = 4
    EXECUTION = 5
    DEAD_MAN = 6
    STORAGE = 7
    GATEWAY = 8
    INTEGRITY = 9
    KILLSWITCH = 10
    UNKNOWN = 15


class Readiness(IntEnum):
    """How far a role is; it comes and goes by itself and is not a trading mode."""

    STARTING = 0
    READY = 1
    DRAINING = 2
    STOPPED = 3


class Stop(IntEnum):
    """What a role is asked to do; a value outside the list means NOW."""

    RUN = 0
    DRAIN = 1
    NOW = 2


# --- kernels: control is the int64[::1] view -----------------------------------------------------------


@inlined
def role_at(role: int) -> int:
    """Index of the first word of a role's block."""
    return _ROLE_BLOCKS + role * _ROLE_WORDS


@inlined
def doorbell_at(role: int) -> int:
    """Index of a role's doorbell in the int32 view of the block."""
    return 2 * (_ROLE_BLOCKS + role * _ROLE_WORDS + DOORBELL)


@inlined
def trip(control: np.ndarray, source: int) -> int:
    """Set the emergency word; returns it as read afterwards. Wait-free: one locked add, one locked or."""
    bit = source if 0 <= source < SOURCE_BITS else SOURCE_BITS - 1
    fetch_add(control, EMERGENCY, 1 << SOURCE_BITS)
    set_bits(control, EMERGENCY, 1 << bit)
    return load_acquire(control, EMERGENCY)


@inlined
def emergency_word(control: np.ndarray) -> int:
    """The emergency word; anything but 0 stops trading."""
    return load_acquire(control, EMERGENCY)


@inlined
def reset_emergency(control: np.ndarray, seen: int) -> bool:
    """Clear the word if it still is `seen`; False if anybody tripped since."""
    return compare_exchange(control, EMERGENCY, seen, 0) == seen


@inlined
def set_mode(control: np.ndarray, mode: int) -> None:
    """Publish the mode, a number from 0 to 255."""
    store_release(control, MODE, mode << _MODE_BITS | (mode ^ _MODE_MASK))


@inlined
def mode_word(control: np.ndarray) -> int:
    """The mode, UNKNOWN_MODE where none was published or the word is damaged."""
    word = load_acquire(control, MODE)
    mode = word >> _MODE_BITS
    if mode < 0 or mode > _MODE_MASK or word != mode << _MODE_BITS | (mode ^ _MODE_MASK):
        return UNKNOWN_MODE
    return mode


@inlined
def token(control: np.ndarray) -> int:
    """The emergency word together with the number of resets before it: one that never comes back.

    After a reset the count of trips starts again, so a word alone can. Who acknowledges a token has dealt with this
    trip and not with one like it. The resets are read first: a token that mixes two times is then an old one.
    """
    resets = load_acquire(control, RESETS)
    return (resets << _TOKEN_WORD_BITS) | (load_acquire(control, EMERGENCY) & _TOKEN_WORD)


@inlined
def count_reset(control: np.ndarray) -> None:
    """One more reset, after the word was cleared. By the one resetter."""
    store_release(control, RESETS, load_relaxed(control, RESETS) + 1)


@inlined
def set_asserted(control: np.ndarray, bits: int) -> None:
    """The kill switch publishes which triggers are held, one bit a TripSource."""
    store_release(control, ASSERTED, bits)


@inlined
def asserted(control: np.ndarray) -> int:
    """The triggers that are held, one bit a TripSource."""
    return load_acquire(control, ASSERTED)


@inlined
def session_offset(control: np.ndarray) -> int:
    """The ns that turn CLOCK_MONOTONIC into session time; constant, so read it once."""
    return load_acquire(control, SESSION_OFFSET)


@inlined
def stop_requested(control: np.ndarray, role: int) -> int:
    """A value of Stop: 0 to run on, anything else to stop."""
    return load_acquire(control, _ROLE_BLOCKS + role * _ROLE_WORDS + STOP)


@inlined
def request_stop(control: np.ndarray, role: int, stop: int) -> None:
    """Ask a role to stop (a value of Stop); ring its doorbell afterwards."""
    store_release(control, _ROLE_BLOCKS + role * _ROLE_WORDS + STOP, stop)


@inlined
def beat(control: np.ndarray, role: int, now_ns: int) -> None:
    """Publish the session time of this loop turn."""
    store_release(control, _ROLE_BLOCKS + role * _ROLE_WORDS + HEARTBEAT, now_ns)


@inlined
def heartbeat(control: np.ndarray, role: int) -> int:
    """Session time of the role's last loop turn; 0 before the first."""
    return load_acquire(control, _ROLE_BLOCKS + role * _ROLE_WORDS + HEARTBEAT)


@inlined
def add_progress(control: np.ndarray, role: int, count: int) -> None:
    """Count work done by the role itself."""
    at = _ROLE_BLOCKS + role * _ROLE_WORDS + PROGRESS
    store_release(control, at, load_relaxed(control, at) + count)


@inlined
def progress(control: np.ndarray, role: int) -> int:
    """Work done by the role so far."""
    return load_acquire(control, _ROLE_BLOCKS + role * _ROLE_WORDS + PROGRESS)


@inlined
def set_readiness(control: np.ndarray, role: int, value: int) -> None:
    """Publish a value of Readiness."""
    store_release(control, _ROLE_BLOCKS + role * _ROLE_WORDS + READINESS, value)


@inlined
def readiness(control: np.ndarray, role: int) -> int:
    """The role's Readiness; compare with READY, anything else is not ready."""
    return load_acquire(control, _ROLE_BLOCKS + role * _ROLE_WORDS + READINESS)


@inlined
def set_gate_epoch(control: np.ndarray, role: int, word: int) -> None:
    """A gateway publishes the emergency word for which its gate is shut, the kill switch the token it dealt with."""
    store_release(control, _ROLE_BLOCKS + role * _ROLE_WORDS + GATE_EPOCH, word)


@inlined
def gate_epoch(control: np.ndarray, role: int) -> int:
    """What a gateway or the kill switch published with `set_gate_epoch`; 0 before that."""
    return load_acquire(control, _ROLE_BLOCKS + role * _ROLE_WORDS + GATE_EPOCH)


@inlined
def set_pid(control: np.ndarray, role: int, pid: int) -> None:
    """The role's process id; 0 where there is none."""
    store_release(control, _ROLE_BLOCKS + role * _ROLE_WORDS + PID, pid)


@inlined
def role_pid(control: np.ndarray, role: int) -> int:
    """The process id that the role published."""
    return load_acquire(control, _ROLE_BLOCKS + role * _ROLE_WORDS + PID)


# --- Python --------------------------------------------------------------------------------------------


def is_tripped(word: int) -> bool:
    """True unless the word is exactly 0: what we do not understand is an emergency."""
    return word != 0


def word_of(token: int) -> int:
    """The emergency word in a token; its count of trips only to 2^28."""
    return token & _TOKEN_WORD


def tripped_sources(word: int) -> list[TripSource]:
    """The sources whose bits are set; a bit without a name is UNKNOWN. Empty between a trip's two steps."""
    names: list[TripSource] = []
    for bit in range(SOURCE_BITS):
        if word >> bit & 1:
            names.append(TripSource(bit) if bit in TripSource._value2member_map_ else TripSource.UNKNOWN)
    return sorted(set(names))


def trip_count(word: int) -> int:
    """How many trips the word has counted since it was last 0."""
    return (word >> SOURCE_BITS) & ((1 << 48) - 1)


class ControlBlock:
    """One mapped control block: `words` is its int64 view, `bells` the int32 view for doorbells."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.words = segment.array(np.int64, 0, CONTROL_WORDS)
        self.bells = segment.array(np.int32, 0, 2 * CONTROL_WORDS)

    @classmethod
    def create(cls, *, instance: str, kernel_digest: str, epoch: int = 0) -> ControlBlock:
        """Make the control block of an instance; fixes its session clock. Raises SegmentError."""
        segment = Segment.create(
            CONTROL_SEGMENT,
            CONTROL_DTYPE.itemsize,
            layout_hash=layout_hash(CONTROL_DTYPE, 1),
            record_size=CONTROL_DTYPE.itemsize,
            capacity=1,
            instance=instance,
            kernel_digest=kernel_digest,
            epoch=epoch,
            prefault=True,
        )
        block = cls(segment)
        block.words[SESSION_OFFSET] = new_session_offset_ns()  # plain: its readers are started after this
        return block

    @classmethod
    def attach(cls, *, instance: str, kernel_digest: str | None, read_only: bool = False) -> ControlBlock:
        """Map an instance's control block; kernel_digest None for those who only look or trip."""
        segment = Segment.attach(
            CONTROL_SEGMENT,
            instance=instance,
            layout_hash=layout_hash(CONTROL_DTYPE, 1),
            record_size=CONTROL_DTYPE.itemsize,
            capacity=1,
            kernel_digest=kernel_digest,
            read_only=read_only,
            prefault=True,
        )
        return cls(segment)

    @property
    def word(self) -> int:
        """The emergency word."""
        return int(emergency_word(self.words))

    @property
    def tripped(self) -> bool:
        """True unless the emergency word is exactly 0."""
        return is_tripped(self.word)

    def trip(self, source: int) -> int:
        """Stop trading everywhere, then wake all roles so that they notice; returns the word."""
        word = int(trip(self.words, int(source)))
        for role in range(ROLES):
            self.doorbell(role).ring()
        return word

    def reset(self, seen: int) -> bool:
        """Clear the emergency word if nobody tripped since it was `seen`."""
        if not reset_emergency(self.words, seen):
            return False
        count_reset(self.words)
        return True

    @property
    def token(self) -> int:
        """The emergency word and how many resets came before it, in one number that never comes back."""
        return int(token(self.words))

    def count_reset(self) -> None:
        """For a supervisor that takes over: the one before may have died between clearing the word and counting."""
        count_reset(self.words)

    @property
    def session_offset_ns(self) -> int:
        """Offset of the session clock (shm.clock.python_session_ns)."""
        return int(session_offset(self.words))

    @property
    def supervisor_pid(self) -> int:
        """The supervisor's process id; 0 before it has published it."""
        return int(load_acquire(self.words, SUPERVISOR_PID))

    @supervisor_pid.setter
    def supervisor_pid(self, pid: int) -> None:
        store_release(self.words, SUPERVISOR_PID, pid)

    @property
    def mode(self) -> int:
        """The mode that the supervisor published; UNKNOWN_MODE where it did not, or the word is damaged."""
        return int(mode_word(self.words))

    @mode.setter
    def mode(self, value: int) -> None:
        if not 0 <= value <= _MODE_MASK:
            raise ValueError(f"mode {value}: 0 to {_MODE_MASK} are allowed")
        set_mode(self.words, int(value))

    @property
    def asserted(self) -> list[TripSource]:
        """The sources whose trigger is held at this moment."""
        return tripped_sources(int(asserted(self.words)))

    def gate_epoch(self, role: int) -> int:
        """What a gateway or the kill switch published with `set_gate_epoch`; 0 before that."""
        return int(gate_epoch(self.words, _checked(role)))

    def set_gate_epoch(self, role: int, value: int) -> None:
        """Publish what `gate_epoch` of the module says of a gateway or the kill switch."""
        set_gate_epoch(self.words, _checked(role), value)

    def doorbell(self, role: int) -> Doorbell:
        """The doorbell of a role."""
        return Doorbell(self.bells, doorbell_index(role))

    def request_stop(self, role: int, stop: Stop = Stop.DRAIN) -> None:
        """Ask a role to stop and wake it."""
        request_stop(self.words, _checked(role), int(stop))
        self.doorbell(role).ring()

    def stop_requested(self, role: int) -> Stop:
        """What a role is asked to do."""
        value = int(stop_requested(self.words, _checked(role)))
        return Stop(value) if value in Stop._value2member_map_ else Stop.NOW

    def clear_role(self, role: int) -> None:
        """Forget a dead role before its successor starts: all of its block but the doorbell's count."""
        at = int(role_at(_checked(role)))
        for offset in (PID, READINESS, HEARTBEAT, PROGRESS, GATE_EPOCH, STOP):
            store_release(self.words, at + offset, 0)
        self.doorbell(role).silence()

    def set_readiness(self, role: int, value: Readiness) -> None:
        """Publish how far a role is."""
        set_readiness(self.words, _checked(role), int(value))

    def readiness(self, role: int) -> Readiness:
        """How far a role is; a value that is not known reads STARTING."""
        value = int(readiness(self.words, _checked(role)))
        return Readiness(value) if value in Readiness._value2member_map_ else Readiness.STARTING

    def set_pid(self, role: int, pid: int) -> None:
        """Publish a role's process id."""
        set_pid(self.words, _checked(role), pid)

    def pid(self, role: int) -> int:
        """A role's process id; 0 where there is none."""
        return int(role_pid(self.words, _checked(role)))

    def beat(self, role: int, now_ns: int) -> None:
        """Publish the session time of a role's loop turn."""
        beat(self.words, _checked(role), now_ns)

    def heartbeat(self, role: int) -> int:
        """Session time of a role's last loop turn; 0 before the first."""
        return int(heartbeat(self.words, _checked(role)))

    def add_progress(self, role: int, count: int) -> None:
        """Count work done by a role; called by that role alone."""
        add_progress(self.words, _checked(role), count)

    def progress(self, role: int) -> int:
        """Work done by a role so far."""
        return int(progress(self.words, _checked(role)))

    def close(self) -> None:
        """Let go of the segment and of the views of it."""
        for view in ("words", "bells"):
            vars(self).pop(view, None)
        self.segment.close()

    def unlink(self) -> None:
        """Remove the segment's name."""
        self.segment.unlink()


def _checked(role: int) -> int:
    """The role's number, or IndexError: the kernels do not check."""
    if not 0 <= role < ROLES:
        raise IndexError(f"role {role}: 0 to {ROLES - 1} are allowed")
    return int(role)


def doorbell_index(role: int) -> int:
    """Index of a role's doorbell in `bells`, for wiring in Python; IndexError outside the roles."""
    return int(doorbell_at(_checked(role)))
