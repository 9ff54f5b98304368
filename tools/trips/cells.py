"""Cells of the matrix, mode x trigger x condition: which ones, in which sessions, and how one is run and judged.

A cell: the engine goes into the mode with orders flowing, the condition begins, the trigger is pulled, the condition is
undone a moment after the trip, and once the venue can be reached the stop must come to its end. Then it is judged
(tools/trips/judge.py), and reset by an operator's request for the next one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from engine.safety.mode import Mode
from procs.embedded.mix import Draws
from shm.clock import sleep
from tools.soak.session import leftovers, wait_until
from tools.trips.conditions import CONDITIONS
from tools.trips.covering import Row, covering_rows
from tools.trips.judge import Verdict, judge
from tools.trips.session import TripSession, trip_session
from tools.trips.spin import CannotSpin
from tools.trips.triggers import TRIGGERS
from tools.trips.watch import TripWatch, is_done

FACTORS = {"mode": [mode.name for mode in Mode], "trigger": list(TRIGGERS), "condition": list(CONDITIONS)}
# Triggers that come from inside, where what would trip does not run or is replaced by what finds nothing any more:
# execution's loop does not turn, or a new supervisor guards it; that one ends a process without life as it begins.
_NO_TRIP = {
    ("execution", "execution killed"), ("execution", "execution stopped"), ("execution", "spinning"),
    ("execution", "supervisor killed"), ("panic", "supervisor killed"),
}  # fmt: skip
_LONGEST_WAIT_S = 0.5
_HELD_ON_S = 0.6
_STOP_S = 60.0
_LATCH_S = 60.0  # it may take another supervisor
_END_S = 90.0
_EXIT_S = 5.0
_QUIET_S = 0.3


@dataclass(frozen=True, order=True)
class Cell:
    """One combination."""

    mode: str
    trigger: str
    condition: str

    def __str__(self) -> str:
        return f"{self.trigger} in {self.mode} with {self.condition}"


@dataclass
class Outcome:
    """What came of a cell."""

    cell: Cell
    verdict: Verdict
    word_ms: float = 0.0  # from the pull, of a trigger that acts at once
    shut_ms: float = 0.0  # from the word to the gate's acknowledgement, or the gateway's death
    cancelled_ms: float = 0.0  # from the word until the venue had been asked to cancel everything, of every symbol
    confirmed_ms: float = 0.0  # from the word to the end of the stop
    skipped: str = ""

    @property
    def words(self) -> str:
        """One line for people."""
        if self.skipped:
            return f"{self.cell}: not run, {self.skipped}"
        return (
            f"{self.cell}: gate shut after {self.shut_ms:.1f} ms, cancels after {self.cancelled_ms:.1f} ms, "
            f"stop done after {self.confirmed_ms:.0f} ms, {self.verdict.between} orders accepted between trip and "
            f"acknowledgement, {self.verdict.after} after it"
        )


# --- which cells -----------------------------------------------------------------------------------------------------


def makes_sense(row: Row) -> bool:
    """Whether a trigger does something. In an emergency monitors and execution trip no more, and a session with a venue
    of its own, which could not be reset, does not begin in one."""
    trigger = TRIGGERS[row[1]]
    if (row[1], row[2]) in _NO_TRIP:
        return False
    return row[0] != Mode.EMERGENCY.name or not (trigger.ends or trigger.panic or row[1] == "execution")


def _wanted() -> list[Row]:
    """Every trigger once idle; every condition once in NORMAL, the triggers of these in turn."""
    lasting = [name for name, trigger in TRIGGERS.items() if not trigger.ends and not trigger.panic]
    lasting.remove("execution")  # it takes eight seconds
    conditions = [name for name in CONDITIONS if name != "idle"]
    idle = [("NORMAL", trigger, "idle") for trigger in TRIGGERS]
    return [*idle, *(("NORMAL", lasting[at % len(lasting)], name) for at, name in enumerate(conditions))]


def all_cells(seed: int) -> list[Cell]:
    """A covering array of every pair of mode, trigger and condition, what must be there first."""
    return [Cell(*row) for row in covering_rows(FACTORS, seed, _wanted(), makes_sense)]


def few_cells(seed: int, number: int) -> list[Cell]:
    """What must be there, and then cells with the quick triggers that bring new pairs of mode with the others."""
    quick = [name for name, trigger in TRIGGERS.items() if not (trigger.ends or trigger.panic or name == "execution")]
    factors = FACTORS | {"trigger": quick}
    wanted = _wanted()
    rows = covering_rows(factors, seed, [row for row in wanted if row[1] in quick])
    rest = [row for row in rows if row not in wanted]
    return [Cell(*row) for row in [*wanted, *rest][:number]]


def by_session(cells: Iterable[Cell]) -> Iterator[tuple[tuple[bool, bool, bool], list[Cell]]]:
    """Cells by the kind of session that they need: (load, panic, ends). Those that end a session come one by one."""

    def kind(cell: Cell) -> tuple[bool, bool, bool]:
        trigger = TRIGGERS[cell.trigger]
        return CONDITIONS[cell.condition].load, trigger.panic, trigger.ends

    for needs, group in groupby(sorted(cells, key=lambda cell: (kind(cell), cells_order(cell))), kind):
        if needs[2]:
            yield from ((needs, [cell]) for cell in group)
        else:
            yield needs, list(group)


def cells_order(cell: Cell) -> tuple[int, Cell]:
    """Within a session: those that begin in EMERGENCY last of their trigger, so that resets alternate."""
    return Mode[cell.mode], cell


# --- running them ----------------------------------------------------------------------------------------------------


def run_cells(folder: Path, cells: list[Cell], seed: int) -> Iterator[Outcome]:
    """Run cells in as few sessions as they need; one outcome each, and one more line where a session's end broke
    something: the latch must survive its restart."""
    for number, ((load, panic, ends), group) in enumerate(by_session(cells)):
        own = folder / f"session-{number}"
        own.mkdir(parents=True)
        deaths = 3 if any(cell.trigger == "three deaths" for cell in group) else 1000
        with trip_session(own, load=load, panic=panic, terminal=ends, deaths_to_stop=deaths) as session:
            session.start()
            for place, cell in enumerate(group):
                outcome = run_cell(session, cell, Draws(seed, place))
                if place == len(group) - 1 and session.live.control.tripped:
                    _restart(session, outcome)
                yield outcome


def run_cell(session: TripSession, cell: Cell, draws: Draws) -> Outcome:
    """One cell in a session that runs; leaves it tripped, with the condition undone and the trigger released."""
    trigger, condition = TRIGGERS[cell.trigger], CONDITIONS[cell.condition]
    outcome = Outcome(cell, Verdict())
    outcome.skipped = condition.lacks(session)
    if outcome.skipped:
        return outcome
    if trigger.ends:
        session.wait_orders()
        if cell.mode != Mode.NORMAL.name:
            session.ask(command="mode", mode=cell.mode, reason="to be tripped in it")
    else:
        session.go_to(cell.mode)
    sleep(_LONGEST_WAIT_S * draws.uniform())
    watch = TripWatch(session.live)
    try:
        _trip(session, cell, draws, watch, outcome)
        watch.wait(lambda: watch.shut_ns > 0, _STOP_S)
        watch.wait(lambda: watch.confirmed_ns > 0 and _over(session), _STOP_S)
        if trigger.ends:
            wait_until(lambda: session.gone, _END_S, "end of the engine")
        # Without a supervisor the next one writes it.
        watch.wait(lambda: trigger.source.name in session.latched(), _LATCH_S)
        sleep(_QUIET_S)
        facts = session.facts(watch)
    finally:
        watch.stop()
        trigger.release(session)
    outcome.verdict = judge(facts, trigger.source.name)
    outcome.shut_ms = max(watch.shut_ns - watch.tripped_ns, 0) / 1e6
    outcome.cancelled_ms = outcome.verdict.cancelled_ns / 1e6
    outcome.confirmed_ms = max(watch.confirmed_ns - watch.tripped_ns, 0) / 1e6
    return outcome


def _trip(session: TripSession, cell: Cell, draws: Draws, watch: TripWatch, outcome: Outcome) -> None:
    """Condition, trigger, and the condition undone a moment later."""
    trigger, condition = TRIGGERS[cell.trigger], CONDITIONS[cell.condition]
    control, bit = session.live.control, 1 << trigger.source
    try:
        try:
            condition.begin(session, draws)
        except (CannotSpin, TimeoutError) as error:
            outcome.verdict.hold(False, f"{cell.condition}: {error}")
        pulled_ns = watch.now_ns()
        trigger.pull(session)
        watch.wait(lambda: control.word & bit != 0, trigger.patience_s)
        watch.wait(lambda: watch.tripped_ns > 0, 1.0)
        outcome.word_ms = max(watch.tripped_ns - pulled_ns, 0) / 1e6
        sleep(_HELD_ON_S)
    finally:
        condition.end(session)


def _restart(session: TripSession, outcome: Outcome) -> None:
    """End the engine, which is tripped, and start it again: the latch brings it back in EMERGENCY."""
    latched = session.latched()
    session.stop()
    with contextlib.suppress(TimeoutError):  # an orphan that has freed the memory is a moment from its end
        wait_until(lambda: not leftovers(session.made.name), _EXIT_S, "end of every process")
    remains = leftovers(session.made.name)
    outcome.verdict.hold(not remains, f"left behind: {remains}")
    session.start()
    status = session.status() or {"mode": "no answer", "emergency": None}
    sources = tuple(status["emergency"]["sources"]) if status["emergency"] else ()
    outcome.verdict.hold(
        status["mode"] == Mode.EMERGENCY.name and set(latched) <= set(sources),
        f"started again after a trip by {latched} it is in {status['mode']} by {sources}",
    )
    outcome.verdict.hold(session.live.control.tripped, "started again after a trip its emergency word is 0")
    session.stop()


def _over(session: TripSession) -> bool:
    """Whether the stop has come to its end for the word as it is now, or the engine has ended with it."""
    return is_done(session.live.control) or session.ended
