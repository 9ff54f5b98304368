"""The mode machine: which mode the engine is in, who may change it, and what that takes.

Purpose: one table of transitions (TRANSITIONS) and pure functions over one immutable state. No clock, no I/O: the
caller gives the time (session ns), the facts, and does what the answer says (procs/control_plane.py).
Rules:
  - The mode is the safest that anybody holds. A hold has a cause: "operator", or the name of what a monitor watches.
  - Towards safer: at once, by anybody, from anywhere.
  - A hold of a monitor or of the supervisor goes back by itself when its cause has been clear for the hysteresis time
    and the cooldown since it was set is over, so many times a day at the most.
  - What an operator holds, and EMERGENCY, only an operator lifts. EMERGENCY is left for PAUSE alone.
Invariants: every change of mode is a row of TRANSITIONS whose needs were all met; a trip drops the acknowledgement of
the one before and starts the cooldown again; a restored state is never less safe than the one that was kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum

from engine.safety.mode import Mode

OPERATOR_CAUSE = "operator"
_DAY_NS = 86_400 * 1_000_000_000


class By(StrEnum):
    """Who changes a mode."""

    MONITOR = "monitor"
    OPERATOR = "operator"
    SYSTEM = "system"  # the supervisor
    AUTO = "auto"  # a monitor's or the supervisor's hold goes back by itself


class Need(StrEnum):
    """What a transition may need."""

    AUTHORISED = "operator authorised"
    TRIGGER_RELEASED = "trigger released"
    ACKNOWLEDGED = "cause acknowledged"
    RECONCILED = "venue reconciliation clean"
    COOLDOWN_OVER = "cooldown over"
    CAUSES_CLEAR = "causes clear"
    RETURNS_LEFT = "automatic returns left"
    ARMED = "kill switch and gateway armed again"


@dataclass(frozen=True)
class Transition:
    """A row of the table: a change of mode, who may make it, and everything that it needs."""

    source: Mode
    target: Mode
    by: tuple[By, ...]
    needs: tuple[Need, ...] = ()


_ANYBODY = (By.MONITOR, By.OPERATOR, By.SYSTEM)
_BY_ITSELF = (Need.CAUSES_CLEAR, Need.COOLDOWN_OVER, Need.RETURNS_LEFT, Need.ARMED)
_LIFTED = (Need.AUTHORISED, Need.CAUSES_CLEAR, Need.ARMED)
_RESET = (Need.TRIGGER_RELEASED, Need.ACKNOWLEDGED, Need.RECONCILED, Need.COOLDOWN_OVER, Need.AUTHORISED)

TRANSITIONS = (
    # towards safer
    Transition(Mode.NORMAL, Mode.REDUCE, _ANYBODY),
    Transition(Mode.NORMAL, Mode.PAUSE, _ANYBODY),
    Transition(Mode.NORMAL, Mode.EMERGENCY, _ANYBODY),
    Transition(Mode.REDUCE, Mode.PAUSE, _ANYBODY),
    Transition(Mode.REDUCE, Mode.EMERGENCY, _ANYBODY),
    Transition(Mode.PAUSE, Mode.EMERGENCY, _ANYBODY),
    # towards less safe
    Transition(Mode.REDUCE, Mode.NORMAL, (By.AUTO,), _BY_ITSELF),
    Transition(Mode.PAUSE, Mode.NORMAL, (By.AUTO,), _BY_ITSELF),
    Transition(Mode.PAUSE, Mode.REDUCE, (By.AUTO,), _BY_ITSELF),
    Transition(Mode.REDUCE, Mode.NORMAL, (By.OPERATOR,), _LIFTED),
    Transition(Mode.PAUSE, Mode.NORMAL, (By.OPERATOR,), _LIFTED),
    Transition(Mode.PAUSE, Mode.REDUCE, (By.OPERATOR,), _LIFTED),
    Transition(Mode.EMERGENCY, Mode.PAUSE, (By.OPERATOR,), _RESET),
)


@dataclass(frozen=True)
class Rules:
    """The times, in ns, and the number of automatic returns within 24 hours."""

    cooldown_ns: int
    hysteresis_ns: int
    auto_returns_a_day: int


@dataclass(frozen=True)
class Hold:
    """One reason not to be in NORMAL."""

    cause: str
    mode: Mode  # REDUCE or PAUSE
    by: By
    reason: str
    since_ns: int
    clear_since_ns: int = 0  # the cause is gone since then; 0: it is there
    stale: bool = False  # of an earlier session: nobody has said in this one whether the cause is there


@dataclass(frozen=True)
class Emergency:
    """A trip that has not been reset."""

    sources: tuple[str, ...]
    reason: str
    since_ns: int  # of the last trip
    acknowledged_by: str = ""


@dataclass(frozen=True)
class ModeState:
    """Everything the machine remembers."""

    holds: tuple[Hold, ...] = ()
    emergency: Emergency | None = None
    auto_returns: tuple[int, ...] = ()  # when, ns, the newest last

    @property
    def mode(self) -> Mode:
        """The safest mode that anybody wants."""
        if self.emergency is not None:
            return Mode.EMERGENCY
        return max((hold.mode for hold in self.holds), default=Mode.NORMAL)


@dataclass(frozen=True)
class Facts:
    """What the machine cannot know by itself. A text says why something is not so; empty: it is so."""

    authorised: str = "no operator was authorised"
    released: str = "not known"
    reconciled: str = "not known"
    armed: str = "not known"


@dataclass(frozen=True)
class Missing:
    """A need that is not met, and why."""

    need: Need
    why: str


@dataclass(frozen=True)
class Change:
    """A change of mode that took place."""

    source: Mode
    target: Mode
    by: By
    cause: str
    reason: str
    at_ns: int


@dataclass(frozen=True)
class Step:
    """A state to go on with; `change` is None where the mode stays."""

    state: ModeState
    change: Change | None = None


@dataclass(frozen=True)
class Refused:
    """Why a step is not taken. `words` for people; `missing` names each need that is not met."""

    words: str
    missing: tuple[Missing, ...] = field(default=())


def transition(source: Mode, target: Mode, by: By) -> Transition | None:
    """The row for a change of mode; None when there is no such way."""
    for row in TRANSITIONS:
        if row.source == source and row.target == target and by in row.by:
            return row
    return None


# --- needs ----------------------------------------------------------------------------------------------------------


def _wait_words(left_ns: int) -> str:
    return f"{left_ns / 1e9:.0f} s are left" if left_ns >= 1_000_000_000 else f"{left_ns / 1e6:.0f} ms are left"


def _cooldown(since_ns: int, rules: Rules, now_ns: int) -> str:
    left_ns = since_ns + rules.cooldown_ns - now_ns
    return _wait_words(left_ns) if left_ns > 0 else ""


def _returns(state: ModeState, rules: Rules, now_ns: int) -> str:
    within_a_day = sum(now_ns - at < _DAY_NS for at in state.auto_returns)
    if within_a_day < rules.auto_returns_a_day:
        return ""
    return f"{within_a_day} within 24 hours, {rules.auto_returns_a_day} are allowed"


def _still_there(state: ModeState, target: Mode) -> str:
    """Causes that are there and want a safer mode than the target. An operator's own hold is not in his way."""
    there = [
        f"{hold.cause} wants {hold.mode.name}: {hold.reason}"
        for hold in state.holds
        if hold.mode > target and hold.by != By.OPERATOR and not hold.clear_since_ns and not hold.stale
    ]
    return "; ".join(there)


def missing(state: ModeState, row: Transition, rules: Rules, facts: Facts, now_ns: int) -> tuple[Missing, ...]:
    """The needs of a transition that are not met, in the order of the table."""
    emergency = state.emergency
    why: dict[Need, Callable[[], str]] = {
        Need.AUTHORISED: lambda: facts.authorised,
        Need.TRIGGER_RELEASED: lambda: facts.released,
        Need.ACKNOWLEDGED: lambda: "" if emergency and emergency.acknowledged_by else "nobody has acknowledged it",
        Need.RECONCILED: lambda: facts.reconciled,
        Need.COOLDOWN_OVER: lambda: _cooldown(emergency.since_ns, rules, now_ns) if emergency else "",
        Need.CAUSES_CLEAR: lambda: _still_there(state, row.target),
        Need.RETURNS_LEFT: lambda: _returns(state, rules, now_ns),
        Need.ARMED: lambda: facts.armed,
    }
    return tuple(Missing(need, words) for need in row.needs if (words := why[need]()))


def _refusal(target: Mode, lacking: tuple[Missing, ...]) -> Refused:
    words = "; ".join(f"{item.need.value}: no ({item.why})" for item in lacking)
    return Refused(f"not going to {target.name}: {words}", lacking)


def _changed(state: ModeState, new: ModeState, by: By, cause: str, reason: str, now_ns: int) -> Step:
    """A step that the caller has checked; raises ValueError for one that is in no row of the table."""
    if new.mode == state.mode:
        return Step(new)
    if transition(state.mode, new.mode, by) is None:
        raise ValueError(f"{state.mode.name} -> {new.mode.name} by {by.value}: no such transition")
    return Step(new, Change(state.mode, new.mode, by, cause, reason, now_ns))


# --- towards safer --------------------------------------------------------------------------------------------------


def trip(
    state: ModeState, sources: tuple[str, ...], reason: str, now_ns: int, by: By = By.SYSTEM
) -> Step:
    """The emergency word was set, for the first time or again: whatever was acknowledged before counts no more."""
    return _changed(state, replace(state, emergency=Emergency(sources, reason, now_ns)), by, "trip", reason, now_ns)


def hold(state: ModeState, mode: Mode, by: By, cause: str, reason: str, now_ns: int) -> Step:
    """Hold REDUCE or PAUSE for a cause; one that holds something safer already goes on holding that.

    Raises ValueError for another mode: EMERGENCY is reached by a trip, NORMAL is what nobody holds.
    """
    if mode not in (Mode.REDUCE, Mode.PAUSE) or by == By.AUTO:
        raise ValueError(f"{mode.name} cannot be held by {by.value}")
    if (cause == OPERATOR_CAUSE) != (by == By.OPERATOR):
        raise ValueError(f"the cause {cause!r} is not one of {by.value}")
    before = next((item for item in state.holds if item.cause == cause), None)
    since_ns = now_ns
    if before is not None:
        if not before.clear_since_ns and not before.stale and before.mode >= mode:
            since_ns = before.since_ns  # it goes on
        mode = max(mode, before.mode)
    others = tuple(item for item in state.holds if item.cause != cause)
    new = replace(state, holds=(*others, Hold(cause, mode, by, reason, since_ns)))
    return _changed(state, new, by, cause, reason, now_ns)


def clear(state: ModeState, cause: str, now_ns: int) -> ModeState:
    """A cause is gone: its hold begins its way back. Nothing changes for a cause that holds nothing."""
    if cause == OPERATOR_CAUSE:
        return state

    def cleared(item: Hold) -> Hold:
        if item.cause != cause or item.clear_since_ns:
            return item
        return replace(item, clear_since_ns=now_ns, stale=False)

    return replace(state, holds=tuple(cleared(item) for item in state.holds))


# --- towards less safe ----------------------------------------------------------------------------------------------


def auto_return(state: ModeState, rules: Rules, facts: Facts, now_ns: int) -> Step | None:
    """What goes back by itself now; None when nothing does."""

    def ripe(item: Hold) -> bool:
        return (
            item.by != By.OPERATOR
            and item.clear_since_ns > 0
            and now_ns - item.clear_since_ns >= rules.hysteresis_ns
            and not _cooldown(item.since_ns, rules, now_ns)
        )

    gone = [item for item in state.holds if ripe(item)]
    if not gone or state.emergency is not None:
        return None
    new = replace(state, holds=tuple(item for item in state.holds if item not in gone))
    if new.mode == state.mode:
        return Step(new)
    row = transition(state.mode, new.mode, By.AUTO)
    if row is None or missing(state, row, rules, facts, now_ns):
        return None
    kept = tuple(at for at in state.auto_returns if now_ns - at < _DAY_NS)
    names = ", ".join(item.cause for item in gone)
    return _changed(state, replace(new, auto_returns=(*kept, now_ns)), By.AUTO, names, f"clear: {names}", now_ns)


def lift(state: ModeState, target: Mode, rules: Rules, facts: Facts, reason: str, now_ns: int) -> Step | Refused:
    """An operator goes to a less safe mode; what nobody holds safer any more is let go of."""
    if state.emergency is not None:
        return Refused(f"there is no way from EMERGENCY to {target.name} but a reset, which leads to PAUSE")
    row = transition(state.mode, target, By.OPERATOR)
    if row is None or target >= state.mode:
        return Refused(f"{target.name} is not less safe than {state.mode.name}")
    lacking = missing(state, row, rules, facts, now_ns)
    if lacking:
        return _refusal(target, lacking)
    kept = tuple(item for item in state.holds if item.mode <= target and item.by != By.OPERATOR)
    if target != Mode.NORMAL:
        kept = (*kept, Hold(OPERATOR_CAUSE, target, By.OPERATOR, reason, now_ns))
    return _changed(state, replace(state, holds=kept), By.OPERATOR, OPERATOR_CAUSE, reason, now_ns)


def acknowledge(state: ModeState, facts: Facts, who: str) -> Step | Refused:
    """An operator says that he knows the cause of the emergency. `who` must not be empty."""
    if state.emergency is None:
        return Refused("there is no emergency to acknowledge")
    if facts.authorised:
        return _refusal(Mode.PAUSE, (Missing(Need.AUTHORISED, facts.authorised),))
    return Step(replace(state, emergency=replace(state.emergency, acknowledged_by=who)))


def missing_for_reset(state: ModeState, rules: Rules, facts: Facts, now_ns: int) -> tuple[Missing, ...]:
    """Which of the five conditions of a reset are not met; empty where there is no emergency."""
    row = transition(Mode.EMERGENCY, Mode.PAUSE, By.OPERATOR)
    assert row is not None
    return missing(state, row, rules, facts, now_ns) if state.emergency is not None else ()


def reset(state: ModeState, rules: Rules, facts: Facts, reason: str, now_ns: int) -> Step | Refused:
    """Leave EMERGENCY for PAUSE, which the operator then holds."""
    if state.emergency is None:
        return Refused("there is no emergency to reset")
    lacking = missing_for_reset(state, rules, facts, now_ns)
    if lacking:
        return _refusal(Mode.PAUSE, lacking)
    others = tuple(item for item in state.holds if item.cause != OPERATOR_CAUSE)
    mine = Hold(OPERATOR_CAUSE, Mode.PAUSE, By.OPERATOR, reason, now_ns)
    new = replace(state, emergency=None, holds=(*others, mine))
    return _changed(state, new, By.OPERATOR, OPERATOR_CAUSE, reason, now_ns)


# --- over a restart -------------------------------------------------------------------------------------------------


def restored(state: ModeState, now_ns: int) -> ModeState:
    """A state that was kept on disk, in a new session: what was held is held, cooldowns start again, and whether a
    monitor's cause is still there is not known."""
    holds = tuple(
        replace(item, since_ns=now_ns, clear_since_ns=0, stale=item.by != By.OPERATOR) for item in state.holds
    )
    emergency = replace(state.emergency, since_ns=now_ns) if state.emergency is not None else None
    return ModeState(holds, emergency, tuple(min(at, now_ns) for at in state.auto_returns))
