"""A hostile session of a seed: the real engine against the real venue on its worst days, in virtual time.

The session opens, trades through one or two bursts of faults with calm between them, is asked to stop, comes to rest
and is compared with the venue. Which faults there are, how often, and who is killed when, all follow from the seed;
each kind is left out by half of the seeds, so that the others meet in every combination.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from engine.config import Settings
from engine.matching.settings import SymbolSettings, VenueSettings
from engine.records import MARKET, SOURCE_COMMANDS, SOURCE_FILLS, SOURCE_MAIN, Kind
from engine.risk.settings import money
from procs.embedded.fanout import Fanout
from procs.embedded.faults import Faults
from procs.embedded.mix import FATES, HTTP_ACTIONS, TIMED, Draws
from procs.embedded.usdm import UsdmDialect
from procs.embedded.venue import Venue
from procs.states import initial_states
from procs.table import Role
from procs.venues.binance_usdm.endpoints import Credentials
from procs.venues.binance_usdm.reports import ClientIds
from procs.virtual.execution import Execution
from procs.virtual.feed import Feed
from procs.virtual.gateway import Desk, VirtualGateway, as_records
from procs.virtual.loop import EventLog, Loop
from procs.virtual.oracle import Oracle
from procs.virtual.wire import MS, Wire

Market = TypeVar("Market", bound=SymbolSettings)

START_NS = 1_700_000_000_000_000_000
_SESSION = "virtual0"
_KEY, _SECRET, _LISTEN_KEY = "k" * 32, "s" * 32, "l" * 32
_QUIESCENCE_MS = 15_000  # as the supervisor waits
_BAN_AFTER = 3  # requests over a limit: the venue has little patience
_SETTLE_MS = 7_500  # until whatever is still on its way has arrived
_WATCH_NS = 50 * MS


@dataclass(frozen=True)
class Outcome:
    """What came of a session. It is sound when there are no violations."""

    seed: int
    faults: dict[str, int]  # by kind, kills among them
    orders: int  # new orders that execution sent
    fills: int
    unknown: int  # orders that were ever UNKNOWN
    exposure: float  # the largest worst case seen, as a share of the limit
    events: int
    virtual_s: float
    event_hash: str  # of everything that happened, in order
    violations: tuple[str, ...]


@dataclass(frozen=True)
class Burst:
    """A time of faults."""

    begin_ms: int
    length_ms: int
    rates: dict[str, float]
    delay_ms: int
    duration_ms: int


@dataclass(frozen=True)
class Script:
    """What a seed says about its session."""

    symbols: tuple[str, ...]
    position_limit: float
    quote_life_ms: int
    loop_interval_ms: int
    bursts: tuple[Burst, ...]
    gateway_kills_ms: tuple[int, ...]
    execution_kills_ms: tuple[int, ...]
    key_expiry_ms: int  # 0: never
    stop_ms: int
    weight_limit_1m: int = 2_400
    order_limit_10s: int = 300


def _rates(draws: Draws) -> dict[str, float]:
    """Each kind of fault or not, and how often."""
    groups = (
        (HTTP_ACTIONS, (0.01, 0.03, 0.08)),
        (tuple(f"{fate}_depth" for fate in FATES), (0.001, 0.005, 0.02)),
        (tuple(f"{fate}_user" for fate in FATES), (0.02, 0.05, 0.15)),
        (("disconnect", *TIMED), (0.03, 0.08, 0.15)),
    )
    return {name: draws.choice(levels) for names, levels in groups for name in names if draws.uniform() < 0.5}


def script_of(seed: int) -> Script:
    """The script of a seed."""
    draws = Draws(seed, 100)
    bursts, now = [], 2_000
    for _ in range(draws.whole(1, 2)):
        length = draws.whole(3_000, 7_000)
        bursts.append(Burst(now, length, _rates(draws), draws.choice((20, 200, 1_500, 7_000)),
                            draws.choice((300, 1_000, 3_000))))
        now += length + draws.choice((300, 2_000, 2_000, 11_000))
    kills = [
        tuple(sorted(draws.whole(2_000, now) for _ in range(draws.choice((0, 0, 1, 1, 2))))) for _ in range(2)
    ]
    expiry = draws.whole(2_000, now) if draws.uniform() < 0.15 else 0
    return Script(
        symbols=draws.choice((("BTCUSDT",), ("ETHUSDT",), ("BTCUSDT", "ETHUSDT"))),
        position_limit=draws.choice((1_000.0, 2_500.0, 10_000.0)), quote_life_ms=draws.choice((50, 150, 400)),
        loop_interval_ms=draws.choice((20, 50, 100)),
        bursts=tuple(bursts), gateway_kills_ms=kills[0], execution_kills_ms=kills[1], key_expiry_ms=expiry,
        stop_ms=now, weight_limit_1m=draws.choice((2_400, 2_400, 1_200)), order_limit_10s=draws.choice((300, 300, 40)),
    )


def quiet_market(settings: VenueSettings) -> VenueSettings:
    """The same with fewer orders that rest, which live longer, and as many that take: half the work, as many fills."""

    def quiet(symbol: Market) -> Market:
        return replace(symbol, limit_rate=30.0, order_lifetime_s=3.0)

    return replace(settings, btcusdt=quiet(settings.btcusdt), ethusdt=quiet(settings.ethusdt))


class HostileSession:
    """The parts of one session."""

    def __init__(self, seed: int, script: Script | None = None):
        """script: instead of the seed's own."""
        self.seed = seed
        self.script = script = script or script_of(seed)
        settings = Settings()
        settings = replace(
            settings, gate=replace(settings.gate, max_position_value=script.position_limit),
            maker=replace(settings.maker, min_quote_life_ms=script.quote_life_ms),
        )
        market = quiet_market(VenueSettings(
            seed=seed, symbols=script.symbols, loop_interval_ms=script.loop_interval_ms,
            weight_limit_1m=script.weight_limit_1m, order_limit_10s=script.order_limit_10s, ban_after=_BAN_AFTER,
        ))
        self.loop = Loop(START_NS)
        self.log = EventLog()
        self.kills: dict[str, int] = {}
        self.faults = Faults()
        self.venue = Venue(
            market, lambda: self.loop.now_ns, Fanout(self.faults), self.faults, _KEY, _SECRET, _LISTEN_KEY
        )
        market_side = self.venue.dialect
        assert isinstance(market_side, UsdmDialect)
        self.exchange, self.rest = market_side.exchange, market_side.rest
        self.instruments = self.exchange.instruments
        self.wire = Wire(self.loop, self.venue, Draws(seed, 101), self.log)
        self.feed = Feed(self.wire, settings, self.instruments, self._predicted)
        self.state = self.feed.path.states[Role.EXECUTION]
        self.execution = Execution(self.loop, self.log, Draws(seed, 102), self.state, self._ordered)
        self.desk = Desk(
            self.wire, tuple(self.instruments), initial_states(settings, self.instruments)[Role.GATEWAY], self.state,
            Credentials(_KEY, _SECRET), _SESSION, self._reported, lambda: self.oracle.fail("tripped"),
        )
        self.oracle = Oracle(
            self.exchange, self.wire, self.instruments, money(script.position_limit), self.state,
            ClientIds(_SESSION), self._unsent,
        )
        self.gateway: VirtualGateway | None = None
        self.venue.watch = self.oracle.on_notice
        self.loop.after_event = self.oracle.after_event

    # --- between the parts ----------------------------------------------------------------------------------------

    def _predicted(self, records: np.ndarray) -> None:
        self.execution.give(SOURCE_MAIN, records)

    def _reported(self, reports: np.ndarray) -> None:
        self.oracle.on_reports(reports)
        self.execution.give(SOURCE_FILLS, reports)

    def _ordered(self, orders: np.ndarray) -> None:
        self.oracle.on_orders(orders)
        self.desk.orders += as_records(orders)
        self.loop.after(50_000, self._ring_gateway)

    def _ring_gateway(self) -> None:
        if self.gateway is not None:
            self.gateway.take_orders()

    def _unsent(self) -> list[np.ndarray]:
        return self.gateway.unsent() if self.gateway is not None else []

    # --- the supervisor -------------------------------------------------------------------------------------------

    def _command(self, kind: Kind, aux: int = 0) -> None:
        record = np.zeros(1, MARKET)
        record["kind"], record["aux"], record["recv_ts_ns"] = kind, aux, self.loop.now_ns
        self.execution.give(SOURCE_COMMANDS, record)

    def _start_gateway(self, successor: bool) -> None:
        self.gateway = VirtualGateway(self.desk, successor, self._gateway_ended)

    def _gateway_ended(self, why: str) -> None:
        self.oracle.fail(f"the gateway died by itself: {why}")
        self._replace_gateway(300)

    def _replace_gateway(self, after_ms: int) -> None:
        self._command(Kind.READINESS, 1 << Role.GATEWAY)

        def start() -> None:
            self._start_gateway(successor=True)
            self._command(Kind.READINESS, 0)

        self.loop.after(after_ms * MS, start)

    def _kill_gateway(self, after_ms: int) -> None:
        if self.gateway is not None and not self.gateway.dead:
            self.log.add(self.loop.now_ns, "gateway is killed")
            self._count_kill("kill_gateway")
            self.gateway.kill()
            self._replace_gateway(after_ms)

    def _kill_execution(self, after_ms: int) -> None:
        if self.execution.alive:
            self._count_kill("kill_execution")
            self.execution.kill(after_ms * MS)

    def _count_kill(self, name: str) -> None:
        self.kills[name] = self.kills.get(name, 0) + 1

    def _until(self, done: Callable[[], bool], patience_ms: int) -> bool:
        self.loop.run(self.loop.now_ns + patience_ms * MS, done)
        return done()

    def _reconcile(self, opening: bool) -> bool:
        """Ask the venue, as the supervisor does; True when ledger and venue agree."""
        reconcile = self.state[0]["reconcile"]
        done = int(reconcile["done"])
        before = done + int(reconcile["failed"])
        self._command(Kind.RECONCILE, 1 if opening else 0)
        answered = self._until(
            lambda: int(reconcile["done"]) + int(reconcile["failed"]) > before, _QUIESCENCE_MS
        )
        return answered and int(reconcile["done"]) > done and int(reconcile["mismatch"]) == 0

    # --- the session ----------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """From opening to comparison."""
        self._schedule()
        if not self._reconcile(opening=True):
            self.oracle.fail("not opened")
        self._until(lambda: False, self.script.stop_ms - (self.loop.now_ns - START_NS) // MS)
        self._command(Kind.QUIESCE)
        if not self._until(lambda: int(self.state[0]["quiescent"]) == 1, _QUIESCENCE_MS):
            self.oracle.fail("orders are still open or unknown after the stop")
        self._compare()
        self._until(lambda: False, _SETTLE_MS)
        self.oracle.finish()
        return self.outcome()

    def _compare(self) -> None:
        """Compare ledger and venue: three whole answers may differ, others are asked for again for a while."""
        give_up_ns = self.loop.now_ns + _QUIESCENCE_MS * MS
        done = self.state[0]["reconcile"]
        before = int(done["done"])
        while not self._reconcile(opening=False):
            if self.loop.now_ns > give_up_ns or int(done["done"]) >= before + 3:
                return
            self._until(lambda: False, 500)

    def _schedule(self) -> None:
        loop, script = self.loop, self.script
        draws = Draws(self.seed, 103)
        loop.every(script.loop_interval_ms * MS, lambda: self.venue.turn(loop.now_ns))
        loop.every(_WATCH_NS, self.oracle.watch)
        self.feed.start()
        self._start_gateway(successor=False)
        for burst in script.bursts:
            request = {
                "seed": self.seed, "rates": burst.rates, "delay_ms": burst.delay_ms, "duration_ms": burst.duration_ms,
            }
            loop.after(burst.begin_ms * MS, partial(self._begin_burst, request))
            loop.after((burst.begin_ms + burst.length_ms) * MS, self.faults.clear)
        for at_ms in script.gateway_kills_ms:
            loop.after(at_ms * MS, partial(self._kill_gateway, draws.whole(200, 900)))
        for at_ms in script.execution_kills_ms:
            loop.after(at_ms * MS, partial(self._kill_execution, draws.whole(50, 400)))
        if script.key_expiry_ms:
            loop.after(script.key_expiry_ms * MS, self._expire_key)

    def _begin_burst(self, request: dict[str, Any]) -> None:
        self.venue.order_fault(request)

    def _expire_key(self) -> None:
        self._count_kill("expire_listen_key")
        self.rest.listen_key_until_ms = 0

    def outcome(self) -> Outcome:
        """What came of it so far."""
        record = self.state[0]
        if self.execution.differences:
            self.oracle.fail(f"{self.execution.differences} successors of execution were not what the dead was")
        return Outcome(
            seed=self.seed, faults=dict(sorted((self.faults.applied + Counter(self.kills)).items())),
            orders=int(record["sent"]), fills=int(record["ledger"]["fills"]), unknown=int(record["orders"]["unknown"]),
            exposure=self.oracle.largest / self.oracle.limit,
            events=self.log.entries, virtual_s=(self.loop.now_ns - START_NS) / 1e9, event_hash=self.log.digest(),
            violations=tuple(self.oracle.violations),
        )


def run_hostile_session(seed: int) -> Outcome:
    """Run the session of a seed. The same seed gives the same Outcome, bit for bit.

    Never raises for what an engine does wrong: an error in it is a violation too.
    """
    session = HostileSession(seed)
    try:
        return session.run()
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        session.oracle.fail(f"{type(error).__name__}: {error} in {where.name}, line {where.lineno} of {where.filename}")
        return session.outcome()
