"""The control plane: the one place that changes the mode. Part of the supervisor, served in its tick, never waiting.

It joins the mode machine (engine/safety/modes.py) to the world: the emergency word and the mode word in the control
block, MODE commands to execution, the latch, the audit log, and what operators and monitors ask for
(procs/control_requests.py).
Order of a step towards safer: mode word (the last gate obeys at once), execution, latch, audit log.
Order of a step towards less safe: audit log (without an entry there is no step), mode word, execution, latch; a crash
in between leaves the safer latch. A reset first exchanges the emergency word, and does nothing more if that fails.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.config import Settings
from engine.records import Kind
from engine.safety import modes
from engine.safety.mode import Mode, mode_of
from engine.safety.modes import By, Change, Facts, ModeState, Rules, Step
from procs.audit import AuditError, AuditLog
from procs.instance import Mapping
from procs.latch import Latch, read_latch, write_latch
from procs.table import Role
from procs.trusted import OTHERS_MAY_WRITE, NotOurs, our_folder
from shm.clock import python_monotonic_ns, wall_ns
from shm.control import ControlBlock, Readiness, TripSource, tripped_sources

_SECOND = 1_000_000_000


def control_folder(data_folder: Path, name: str) -> Path:
    """Where latch, audit log and the operator's hash of an instance lie."""
    return data_folder / "control" / name


def open_control_folder(settings: Settings) -> Path:
    """The control folder of an instance, made where there is none; nobody else may reach it. Raises NotOurs."""
    data = our_folder(Path(settings.engine.data_folder).absolute(), OTHERS_MAY_WRITE)
    our_folder(data / "control")
    return our_folder(control_folder(data, settings.engine.name))


def rules_of(settings: Settings) -> Rules:
    """The machine's rules that the settings ask for."""
    safety = settings.safety
    return Rules(int(safety.cooldown_s * _SECOND), int(safety.hysteresis_s * _SECOND), safety.auto_returns_a_day)


def names_of(word: int) -> tuple[str, ...]:
    """The sources of an emergency word by name; a word without any is UNKNOWN's."""
    return tuple(source.name for source in tripped_sources(word)) or (TripSource.UNKNOWN.name,)


class ControlPlane:
    """See the module. Made before there is memory: `arm` it with a control block, then `attach` it to the instance."""

    def __init__(self, settings: Settings, say: Callable[[str], None]) -> None:
        """The caller holds the lease of the instance. Raises NotOurs and AuditError: then nothing may be started."""
        self.settings = settings
        self.rules = rules_of(settings)
        self.say = say
        self.folder = open_control_folder(settings)
        self.audit = AuditLog(self.folder, settings.engine.name)
        kept = read_latch(self.folder, settings.engine.name, expected=self.audit.count > 0, now_ns=wall_ns())
        self.latch = replace(kept, state=modes.restored(kept.state, wall_ns()))
        self.last_change: Change | None = None
        self._control: ControlBlock | None = None
        self._mapping: Mapping | None = None
        self._command: Callable[..., None] | None = None
        self._seen = 0  # the emergency word that was dealt with last
        self.kept_word = 0  # the emergency word that a session began with
        self._told: Mode | None = None  # what execution was told last
        self._trip_words = ""  # why, where the one who tripped has said so
        self._note_failed = False
        self._keep_again_ns = 0  # when to write the latch again that could not be written; 0: it is on the disk

    # --- beginning ------------------------------------------------------------------------------------------------

    @property
    def state(self) -> ModeState:
        """The machine's state."""
        return self.latch.state

    @property
    def mode(self) -> Mode:
        """The mode in force."""
        return self.latch.state.mode

    @property
    def mapping(self) -> Mapping:
        """The instance's memory."""
        assert self._mapping is not None
        return self._mapping

    def now_ns(self) -> int:
        """Session time; wall time before there is a session."""
        return self._mapping.now_ns() if self._mapping is not None else wall_ns()

    def arm(self, control: ControlBlock) -> None:
        """Bring new memory into the mode that was kept, before any process maps it. Raises AuditError, and what
        writing a latch raises: OSError, NotOurs."""
        if self.state.emergency is not None:
            for source in self._latched_sources():
                control.trip(source)
        control.mode = self.mode
        self.kept_word = self._seen = control.word
        self.audit.append("start", mode=self.mode.name, held_by=self._held_by())
        self._control = control
        self._write_latch()  # whoever could not keep a trip must not begin to trade
        if self.mode != Mode.NORMAL:
            self.say(self._as_found())

    def _latched_sources(self) -> list[TripSource]:
        assert self.state.emergency is not None
        names = self.state.emergency.sources
        return [TripSource[name] for name in names if name in TripSource.__members__] or [TripSource.UNKNOWN]

    def _as_found(self) -> str:
        if self.state.emergency is None:
            return f"{self.mode.name}, as it was left ({self._held_by()}); `bot4 mode normal --reason TEXT` ends it"
        return (
            f"EMERGENCY, as it was left ({', '.join(self.state.emergency.sources).lower()}: "
            f"{self.state.emergency.reason}). Nothing is traded; `bot4 status` says what a reset needs, "
            "`bot4 reset --reason TEXT` asks for it"
        )

    def _held_by(self) -> str:
        held = [f"{item.cause}: {item.reason}" for item in self.state.holds]
        if self.state.emergency is not None:
            held.insert(0, f"{', '.join(self.state.emergency.sources)}: {self.state.emergency.reason}")
        return "; ".join(held)

    def attach(self, mapping: Mapping, command: Callable[..., None], adopted: bool = False) -> None:
        """Begin to look after a live instance. adopted: of a supervisor that died.

        command: puts a command on execution's ring; raises RuntimeError where there is no room.
        """
        self._mapping, self._control, self._command = mapping, mapping.control, command
        # The wall clock may have been set since the session began; from here on its own time counts.
        self.latch = replace(self.latch, state=modes.restored(self.state, self.now_ns()))
        if adopted:
            self._take_over(mapping.control)
        self.look()

    def _take_over(self, control: ControlBlock) -> None:
        """A supervisor died somewhere between a mode word and its latch: of the two the safer one is right."""
        self._seen = 0
        control.count_reset()
        self.note("supervisor replaced", mode=self.mode.name)
        found = mode_of(control.mode)
        if self.state.emergency is not None and not control.tripped:
            # It had cleared the word and not yet written that down: the reset did not take place.
            for source in self._latched_sources():
                control.trip(source)
        elif found == Mode.EMERGENCY and not control.tripped:
            self.trip(TripSource.INTEGRITY, "the mode word was damaged while there was no supervisor")
        elif found > self.mode and found != Mode.EMERGENCY:
            words = f"the supervisor died while {found.name} was being set"
            self._go(modes.hold(self.state, found, By.OPERATOR, modes.OPERATOR_CAUSE, words, self.now_ns()))
        control.mode = self.mode

    # --- looking --------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """One tick: what was tripped, what goes back by itself, what execution has not heard yet."""
        self._look_at_the_word()
        self._go_back()
        self._tell_execution()
        if self._keep_again_ns and python_monotonic_ns() >= self._keep_again_ns:
            self._keep()

    def _look_at_the_word(self) -> None:
        control = self._control
        assert control is not None
        if control.mode != self.mode and not control.tripped:
            self.trip(TripSource.INTEGRITY, f"the mode word is damaged: it read {control.mode}")
        word = control.word
        if word == self._seen:
            return
        if word == 0:  # nobody but this process clears it
            self._seen = 0
            self.trip(TripSource.INTEGRITY, "the emergency word was cleared by nobody who may")
            word = control.word
        words = self._trip_words or f"tripped by {', '.join(names_of(word)).lower()}"
        self._seen, self._trip_words = word, ""
        step = modes.trip(self.state, names_of(word), words, self.now_ns())
        self._go(step)
        self.note("trip", word=word, sources=names_of(word), reason=words)
        self.say(f"EMERGENCY: {words}")

    def _go_back(self) -> None:
        step = modes.auto_return(self.state, self.rules, Facts(armed=self.not_armed()), self.now_ns())
        if step is not None:
            self.loosen(step)

    def _tell_execution(self) -> None:
        if self._told == self.mode or self._command is None:
            return
        mode = self.mode
        try:
            self._command(Kind.MODE, int(mode))
        except RuntimeError:
            return  # no room: the gateway's gate obeys already, and the next tick tells
        self._told = mode

    def not_armed(self) -> str:
        """Why trading cannot be less safe than now: who has not seen yet that the emergency is over; else empty."""
        control = self._control
        if control is None or control.tripped:
            return "the emergency word is set"
        for role, expected in ((Role.KILLSWITCH, control.token), (Role.GATEWAY, 0)):
            if control.readiness(role) != Readiness.READY:
                return f"{role.label} is not ready"
            if control.gate_epoch(role) != expected:
                return f"{role.label} has not seen yet that the emergency is over"
        return ""

    # --- changing -------------------------------------------------------------------------------------------------

    def trip(self, source: TripSource, words: str) -> None:
        """Set the emergency word; what follows is done when it is looked at."""
        assert self._control is not None
        self._trip_words = words
        self._control.trip(source)

    def clear_word(self, seen: int) -> bool:
        """Clear the emergency word if nobody has tripped since it was `seen`."""
        assert self._control is not None
        if not self._control.reset(seen):
            return False
        self._seen = 0
        return True

    def _go(self, step: Step) -> None:
        """Make a step take effect, and keep it. What cannot be kept is said: it stays in force for this session."""
        self.latch = replace(self.latch, state=step.state)
        self.last_change = step.change or self.last_change
        if self._control is not None:
            self._control.mode = self.mode
        self._tell_execution()
        self._keep()

    def _write_latch(self) -> None:
        write_latch(self.folder, self.settings.engine.name, self.latch)

    def _keep(self) -> None:
        try:
            self._write_latch()
        except (OSError, NotOurs) as error:
            if not self._keep_again_ns:
                self.say(f"the latch cannot be written, it is tried again and again: {error}")
            self._keep_again_ns = python_monotonic_ns() + _SECOND
        else:
            self._keep_again_ns = 0

    def tighten(self, step: Step, **who: Any) -> None:
        """A step towards safer, or one that changes nothing but what is held: it acts first and is written after."""
        self._go(step)
        if step.change is not None:
            self._note_change(step.change, who)

    def loosen(self, step: Step, **who: Any) -> str:
        """A step towards less safe: written first. Returns why it was not taken, empty when it was."""
        if step.change is not None:
            try:
                self.audit.append("mode", **self._fields(step.change), **who)
            except AuditError as error:
                self._say_once(str(error))
                return str(error)
            self._say_change(step.change)
        self._go(step)
        return ""

    def remember_attempts(self, attempts: tuple[int, ...], locked_until_ns: int) -> None:
        """Keep how often a wrong secret was given. Raises OSError or NotOurs: then none may be tried."""
        latch = replace(self.latch, attempts=attempts, locked_until_ns=locked_until_ns)
        write_latch(self.folder, self.settings.engine.name, latch)
        self.latch = latch

    def want(self, mode: Mode, cause: str, reason: str, by: By = By.MONITOR, **who: Any) -> None:
        """A monitor wants a safer mode (REDUCE or PAUSE) for a cause, until it calls `clear` for it. Say it again and
        again or once: it costs a write only where something changes."""
        for item in self.state.holds:
            if item.cause == cause and item.mode >= mode and not item.clear_since_ns and not item.stale:
                return
        self.tighten(modes.hold(self.state, mode, by, cause, reason, self.now_ns()), **who)

    def clear(self, cause: str) -> None:
        """A monitor's cause is gone: hysteresis begins."""
        state = modes.clear(self.state, cause, self.now_ns())
        if state != self.state:
            self._go(Step(state))

    def ask_execution(self, kind: Kind) -> None:
        """Put a command on execution's ring. Raises RuntimeError where there is no room."""
        assert self._command is not None
        self._command(kind, 0)

    def change_parameter(self, strategy: int, number: int, word: int) -> None:
        """Give execution another value of a strategy's parameter. Raises RuntimeError where there is no room."""
        assert self._command is not None
        self._command(Kind.PARAMETER, word, strategy, number)

    # --- writing down ---------------------------------------------------------------------------------------------

    @staticmethod
    def _fields(change: Change) -> dict[str, Any]:
        return {
            "source": change.source.name, "target": change.target.name, "by": change.by.value, "cause": change.cause,
            "reason": change.reason,
        }

    def _note_change(self, change: Change, who: dict[str, Any]) -> None:
        self.note("mode", **self._fields(change), **who)
        self._say_change(change)

    def _say_change(self, change: Change) -> None:
        self.say(f"{change.source.name} -> {change.target.name} by {change.by} ({change.cause}): {change.reason}")

    def note(self, event: str, **fields: Any) -> None:
        """An audit entry about what has happened already; one that cannot be written is said."""
        try:
            self.audit.append(event, **fields)
            self._note_failed = False
        except AuditError as error:
            self._say_once(str(error))

    def _say_once(self, words: str) -> None:
        if not self._note_failed:
            self.say(words)
        self._note_failed = True

    def close(self) -> None:
        """What was tripped to the very end is kept; then the log is closed."""
        if self._control is not None:
            self._look_at_the_word()
            self.note("stop", mode=self.mode.name)
            self._control = self._mapping = self._command = None
        self.audit.close()


def keep_what_was_tripped(folder: Path, name: str, word: int) -> None:
    """An instance is freed whose supervisor is gone: an emergency that it was in must not be forgotten.

    folder: its control folder. The caller holds its lease. Raises OSError or NotOurs.
    """
    if not word or not folder.is_dir():
        return
    kept: Latch = read_latch(folder, name, expected=True, now_ns=wall_ns())
    if kept.state.emergency is None:
        reason = "an engine ended without its supervisor in an emergency"
        state = modes.trip(kept.state, names_of(word), reason, wall_ns()).state
        write_latch(folder, name, replace(kept, state=state))
