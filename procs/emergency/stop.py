"""The controlled stop: cancels first, then the gate, then flatten or hold, until the venue says that it is done.

The order of things: the cancels of all symbols are written; the gateway's gate is shut or the gateway ended; the
venue's own dead-man switch is set to its shortest time; sweeps go on until nothing rests and nothing can come any more;
with a source that wants it positions are brought to zero, from the moment that nothing rests or two seconds after the
trip; both are confirmed by REST, and what the private stream says of it is kept.
It has no end but this, or a word that was reset.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from procs.clocks import SYSTEM_CLOCKS, Clocks
from procs.emergency.flatten import Flattener
from procs.emergency.gates import Gate, GateWatch
from procs.emergency.witness import Testimony, Witness
from procs.sweep import Progress, Sweep, Swept
from shm.control import trip_count, tripped_sources, word_of

# The shortest countdown of the venue's dead-man switch that leaves room for the answer.
SHORTEST_COUNTDOWN_MS = 1_000
_FLATTEN_AFTER_NS = 2_000_000_000
# How long the private stream may take to say what REST says already.
_WITNESS_PATIENCE_NS = 2_000_000_000
# Once nothing rests, while positions are still brought to zero.
_LOOK_AGAIN_NS = 2_000_000_000
# How often REST is asked anew for all that the private stream contradicts; it may know an old state for good.
_RECONSIDERED = 2
_PAUSE_S = 0.02


@dataclass
class _Course:
    """How far a stop is."""

    tripped_ns: int
    progress: Progress
    cancelled: bool = False
    flat: bool = False
    failed: str = ""  # of the last sweep
    next_sweep_ns: int = 0
    next_clip_ns: int = 0
    reconsidered: int = 0


class ControlledStop:
    """See the module. Makes no assumption about what ran before: a successor starts it anew."""

    def __init__(
        self, sweep: Sweep, gate: GateWatch, flattener: Flattener, witness: Witness, note: Callable[..., None],
        token: Callable[[], int], flattens: Callable[[int], bool], goes_on: Callable[[str], bool],
        clocks: Clocks = SYSTEM_CLOCKS,
    ) -> None:
        """note: called with an event and its fields; token: of the emergency word (shm/control.py), read afresh;
        flattens: whether a word wants positions brought to zero; goes_on: called after each step with what failed,
        False gives up."""
        self._sweep = sweep
        self._gate = gate
        self._flattener = flattener
        self._witness = witness
        self._note = note
        self._token = token
        self._flattens = flattens
        self._goes_on = goes_on
        self._clocks = clocks

    def run(self, token: int) -> int:
        """Stop. Returns the token for which everything is done: 0 when the word was reset, or it was given up."""
        word = word_of(token)
        resets = token - word
        tripped_ns = self._clocks.monotonic_ns()
        # The gate must not wait for connections that do not come.
        gate = None if self._sweep.warm else self._gate.enforce(tripped_ns)
        sent = self._sweep.send()
        written_ns = self._sweep.written_ns
        gate = gate or self._gate.enforce(tripped_ns)
        names = [source.name for source in tripped_sources(word)]
        self._note(
            "tripped", sources=names, count=trip_count(word), gate=gate.value, seen_ns=tripped_ns,
            written_ns=written_ns,
        )
        if gate == Gate.KILLED:
            self._note("gateway killed: its gate was not shut in time")
        # An order that passed the gate just before it was shut is on its way.
        course = _Course(tripped_ns, Progress(self._clocks.monotonic_ns()))
        self._swept(course, self._sweep.finish(sent))
        self._heard("countdown failed", self._sweep.countdown(SHORTEST_COUNTDOWN_MS))
        self._flattener.begin()
        while True:
            wants_flat = self._flattens(word_of(token))
            if wants_flat and not course.flat:
                self._reduce(course)
            if course.cancelled and (course.flat or not wants_flat):
                if self._confirm(wants_flat) or course.reconsidered >= _RECONSIDERED:
                    return token
                course.reconsidered += 1
                course.flat = course.cancelled = False
                course.progress = Progress(self._clocks.monotonic_ns() - _WITNESS_PATIENCE_NS)
                self._flattener.begin()
            if not self._goes_on(course.failed):
                return 0
            self._clocks.sleep(_PAUSE_S)
            token = self._token()
            if not word_of(token) or token - word_of(token) != resets:
                self._note("reset before the stop was done")
                return 0
            if self._clocks.monotonic_ns() >= course.next_sweep_ns:
                # Once nothing rests, only a look now and then.
                self._swept(course, self._sweep.once(dry=course.cancelled))

    def _heard(self, event: str, failed: str) -> None:
        if failed:
            self._note(event, error=failed)

    def _swept(self, course: _Course, swept: Swept) -> None:
        """Take note of a sweep."""
        self._heard("cancel failed", swept.failed)
        course.failed = swept.failed
        pause_s = course.progress.add(swept)
        now = self._clocks.monotonic_ns()
        cancelled = course.progress.done(now)
        if cancelled and not course.cancelled:
            self._note("nothing rests", stream=self._witness.nothing_rests().value)
        course.cancelled = cancelled
        course.flat = course.flat and cancelled  # what rests may fill
        course.next_sweep_ns = now + (_LOOK_AGAIN_NS if cancelled else int(pause_s * 1e9))

    def _reduce(self, course: _Course) -> None:
        """Bring positions nearer to zero, once nothing rests or the cancels have had their time."""
        now = self._clocks.monotonic_ns()
        too_late = now - course.tripped_ns >= _FLATTEN_AFTER_NS
        if now < course.next_clip_ns or not (course.progress.clean or too_late):
            return
        step = self._flattener.step()
        self._heard("flatten failed", step.failed)
        course.flat = step.flat and course.cancelled
        course.next_clip_ns = self._clocks.monotonic_ns() + int(step.pause_s * 1e9)

    def _confirm(self, wants_flat: bool) -> bool:
        """Say that it is done, and what the private stream says of it. Returns False when that contradicts."""
        deadline_ns = self._clocks.monotonic_ns() + _WITNESS_PATIENCE_NS
        while self._contradicted(wants_flat) and self._clocks.monotonic_ns() < deadline_ns and self._goes_on(""):
            self._clocks.sleep(0.05)
        self._note(
            "stopped", flat=wants_flat, orders=self._witness.nothing_rests().value,
            positions=self._witness.flat().value if wants_flat else "held",
        )
        return not self._contradicted(wants_flat)

    def _contradicted(self, wants_flat: bool) -> bool:
        contradiction = Testimony.CONTRADICTS
        return self._witness.nothing_rests() == contradiction or (
            wants_flat and self._witness.flat() == contradiction
        )
