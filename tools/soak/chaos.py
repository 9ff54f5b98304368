"""Chaos: random processes are killed and stopped, one or two at a time, on good days of the venue and on bad ones.

A piece is one session on a venue of its own. Every process may be a victim, launcher and supervisor included; on half
of the days the venue has a burst of faults meanwhile. After each strike the engine must serve again, and the invariants
that can be seen from outside are checked; the others when the piece ends, as after the suite `kills`.

I1, I5  within ten seconds positions are equal to the venue's, and no order rests there that the engine does not know
I2      no position was ever worth more than the limit, by the venue's fills
I3      nobody has tripped (the suite `matrix` is about what follows a trip)
I4      each fill once: at the end, and in the replay
I6      the chain of the audit log holds
I7      no zombie stays, no segment comes or goes; at the end nothing is left
I8      in service again within five seconds, where the venue had no part in it and others leave the machine alone
I9      the venue's secret is in no file of the engine, no command line and no environment
I10     without execution, gateway or another vital process nothing is entered from one second after its death on
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from engine.execution.order_states import FIRST_TERMINAL
from engine.units import format_units, notional, parse_units
from procs.audit import AuditError, check_chain, read_log
from procs.control_plane import control_folder
from procs.embedded.mix import Draws
from procs.table import VITAL, Role
from procs.venues.binance_usdm.reports import ClientIds
from procs.virtual.hostile import script_of
from shm.clock import python_monotonic_ns, sleep, wall_ns
from tools.soak.kills import (
    IN_SERVICE_S,
    LOAD,
    SETTINGS,
    SIGNALS,
    VICTIMS,
    Watch,
    crowded,
    end_and_judge,
    strike,
)
from tools.soak.session import Engine, SessionError, Venue, engine, venue
from tools.soak.tally import Piece

STRIKES = 25
_ORDERS_BEFORE = 8
_AGREE_S = 10.0
_LOOK_S = 0.05
_ZOMBIE_S = 1.0
_DEAD_PEER_NS = 1_000_000_000
# A fill may be larger than what the limit left by what the price moved meanwhile.
_LIMIT_SLACK = 1.02
_VITAL = {role.label for role in VITAL}


@dataclass(frozen=True)
class Strike:
    """One blow: who is hit and how, a second one right after it, and whether the venue has a bad day."""

    victim: str
    name: str
    also: str  # killed a moment later; empty: nobody
    wait_s: float
    burst: int  # seed of the venue's faults; -1: none

    def __str__(self) -> str:
        return f"{self.name} to {self.victim}" + (f" and SIGKILL to {self.also}" if self.also else "") + (
            f" in burst {self.burst}" if self.burst >= 0 else ""
        )


def strikes_of(seed: int) -> Iterator[Strike]:
    """The blows of a piece. The launcher is only stopped: nobody could start it again."""
    draws = Draws(seed, 0)
    for number in range(STRIKES):
        victim, name = draws.choice(VICTIMS), draws.choice(sorted(SIGNALS))
        if victim == "launcher":
            name = "SIGSTOP"
        others = [one for one in VICTIMS if one not in (victim, "launcher", "zygote")]
        # Without launcher and supervisor there is nobody left who goes on.
        also = draws.choice(others) if draws.uniform() < 0.3 and victim != "launcher" else ""
        burst = seed * STRIKES + number if draws.uniform() < 0.5 else -1
        yield Strike(victim, name, also, 0.2 + 1.0 * draws.uniform(), burst)


class Burst:
    """The venue's bad day: begins now, and is over by itself."""

    def __init__(self, place: Venue, seed: int) -> None:
        burst = script_of(seed).bursts[0]
        place.fault(seed=seed, rates=burst.rates, delay_ms=burst.delay_ms, duration_ms=burst.duration_ms)
        self._place = place
        self._thread = threading.Thread(target=self._heal_after, args=(min(burst.length_ms, 3_000) / 1e3,))
        self._thread.start()

    def _heal_after(self, seconds: float) -> None:
        sleep(seconds)
        self._place.heal()

    def wait(self) -> None:
        """Until it is over."""
        self._thread.join()


class Inspector:
    """Checks what can be seen of the invariants while an engine runs."""

    def __init__(self, piece: Piece, made: Engine, place: Venue, watch: Watch) -> None:
        self._piece, self._made, self._place, self._watch = piece, made, place, watch
        self._segments = self._segments_now()
        self._secret = str(place.address["secret"]).encode()
        self._limit = parse_units(str(watch.mapping.plan.settings.gate.max_position_value), 8)

    def _segments_now(self) -> set[str]:
        return {path.name for path in Path("/dev/shm").glob(f"bot4.{self._made.name}.*")}

    def check(self, blow: Strike, killed_ns: int, unready_ns: int) -> None:
        """After a blow. killed_ns: wall time of the death of a vital process; unready_ns: of the last look that found
        it missing. When exactly its successor was there is not seen from here."""
        broken = [
            *self._agreement(), *self._exposure(), *self._audit(), *self._remains(), *self._secrets(),
            *self._dead_peer(killed_ns, unready_ns),
        ]
        if self._watch.mapping.control.tripped:
            broken.append(f"I3: the emergency word is {self._watch.mapping.control.word}")
        for text in broken:
            self._piece.hold(False, f"{blow}: {text}")

    def _difference(self) -> str:
        """What the engine has and the venue has not, at this moment, in words; empty when they agree."""
        mapping = self._watch.mapping
        state, truth = mapping.state(Role.EXECUTION)[0], self._place.state()
        ids = ClientIds(mapping.plan.session)
        slots = state["orders"]["slots"]
        open_here = set(slots["order_id"][(slots["status"] < FIRST_TERMINAL) & (slots["order_id"] > 0)].tolist())
        resting = [str(order["clientOrderId"]) for order in truth["open_orders"]]
        unknown = [client_id for client_id in resting if ids.number(client_id) not in open_here]
        if unknown:
            return f"I5: {unknown} rest at the venue and are not known"
        for item in mapping.plan.instruments:
            ours = format_units(int(state["ledger"]["positions"][item.index]["size"]), item.size_exp)
            theirs = truth["positions"][item.symbol]["size"]
            if ours != theirs:
                return f"I1: {item.symbol} is {ours} here, {theirs} at the venue"
        return "I1: reconciliation holds entries back" if state["reconcile"]["holding"] else ""

    def _agreement(self) -> list[str]:
        deadline = python_monotonic_ns() + int(_AGREE_S * 1e9)
        while difference := self._difference():
            if python_monotonic_ns() > deadline:
                return [f"{difference}, for {_AGREE_S:.0f} s"]
            sleep(_LOOK_S)
        return []

    def _exposure(self) -> list[str]:
        instruments = {item.symbol: item for item in self._watch.mapping.plan.instruments}
        worst = 0
        for event in self._place.log():
            if event["event"] == "fill":
                item = instruments[event["symbol"]]
                value = notional(event["price"], abs(event["position"]), item.price_exp + item.size_exp)
                worst = max(worst, int(value))
        self._piece.measure("share of the position limit", worst / self._limit)
        return [f"I2: a position was worth {worst / 1e8:.2f}"] if worst > _LIMIT_SLACK * self._limit else []

    def _audit(self) -> list[str]:
        folder = control_folder((self._made.folder / "var").resolve(), self._made.name)
        try:
            check_chain(*read_log(folder))
        except AuditError as error:
            return [f"I6: {error}"]
        return []

    def _remains(self) -> list[str]:
        stay = self._zombies()
        if stay:
            sleep(_ZOMBIE_S)
            stay &= self._zombies()
        broken = [f"I7: zombies {sorted(stay)}"] if stay else []
        if (now := self._segments_now()) != self._segments:
            broken.append(f"I7: other segments than before: {sorted(now ^ self._segments)}")
        return broken

    def _zombies(self) -> set[int]:
        found = set()
        for child in psutil.Process(self._watch.pid("launcher")).children(recursive=True):
            try:
                if child.status() == psutil.STATUS_ZOMBIE:
                    found.add(child.pid)
            except psutil.NoSuchProcess:
                continue
        return found

    def _secrets(self) -> list[str]:
        found = []
        for process in psutil.Process(self._watch.pid("launcher")).children(recursive=True):
            for what in ("cmdline", "environ"):
                try:
                    if self._secret in Path(f"/proc/{process.pid}/{what}").read_bytes():
                        found.append(f"I9: the secret is in the {what} of process {process.pid}")
                except OSError:
                    continue
        return found

    def secrets_on_disk(self) -> list[str]:
        """Files of the engine that hold the venue's secret."""
        return [
            f"I9: the secret is in {path}" for path in (self._made.folder / "var").rglob("*")
            if path.is_file() and self._secret in path.read_bytes()
        ]

    def _dead_peer(self, killed_ns: int, unready_ns: int) -> list[str]:
        if not killed_ns:
            return []
        late = [
            event["client_id"] for event in self._place.log()
            if event["event"] == "accepted" and killed_ns + _DEAD_PEER_NS < event["at_ns"] < unready_ns
        ]
        return [f"I10: {late} were entered without a vital process"] if late else []


def run_chaos(piece: Piece) -> None:
    """One session with all the blows of its seed."""
    draws = Draws(piece.seed, 1)
    with (
        venue(piece.folder, seed=piece.seed + 1, **LOAD) as place,
        engine(piece.folder, venue=place.connection, engine=SETTINGS, execution={"reconcile_every_s": 3.0}) as made,
    ):
        made.start()
        made.wait_trading(_ORDERS_BEFORE)
        watch = Watch(made)
        deaths = 0
        try:
            inspector = Inspector(piece, made, place, watch)
            for blow in strikes_of(piece.seed):
                ingestion = watch.pid("ingestion")
                try:
                    _strike(piece, blow, watch, place, inspector, draws)
                except (SessionError, TimeoutError) as error:
                    raise SessionError(f"{blow}: {error}") from None
                deaths += watch.pid("ingestion") != ingestion
            for text in inspector.secrets_on_disk():
                piece.hold(False, text)
            supervisor = watch.pid("supervisor")
            os.kill(watch.pid("launcher"), signal.SIGKILL)
        finally:
            watch.close()
        end_and_judge(piece, made, place, supervisor, deaths)


def _strike(
    piece: Piece, blow: Strike, watch: Watch, place: Venue, inspector: Inspector, draws: Draws
) -> None:
    """One blow, the way back into service, and the invariants."""
    burst = Burst(place, blow.burst) if blow.burst >= 0 else None
    sleep(blow.wait_s)
    second = watch.pid(blow.also) if blow.also else 0
    timer = threading.Timer(0.5 * draws.uniform(), _kill, (second,)) if second else None
    began_ns = wall_ns()
    try:
        if timer is not None:
            timer.start()
        ready, seconds = strike(watch, blow.victim, blow.name, draws)
    finally:
        if timer is not None:
            timer.join()
        if burst is not None:
            burst.wait()
    if second:  # it may have died after the first was back
        watch.wait_in_service(python_monotonic_ns(), lambda: watch.pid(blow.also) not in (0, second))
    alone = not second and burst is None
    vital = alone and blow.name == "SIGKILL" and blow.victim in _VITAL
    inspector.check(blow, began_ns if vital else 0, watch.unready_ns)
    piece.count("strikes")
    piece.count(f"{blow.victim} {blow.name}")
    piece.count("two at once", bool(second))
    piece.count("with faults of the venue", burst is not None)
    words = f"{blow}: ready after {ready:.2f} s, orders after {seconds:.2f} s"
    piece.note(words)
    if alone and not crowded():
        piece.measure("seconds, alone", seconds)
        piece.hold(seconds <= IN_SERVICE_S, f"I8: {words}")


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it was replaced just now
