"""A running engine, read: everything mapped once and read-only, a snapshot whenever one is asked for.

States that change while they are read are taken from the checkpoints that stages write ten times a second: whole, and
of one moment. Rates are made here, of cursors and counters; memory use is what monitoring measured, since it costs
much. Nobody waits for a reader, and it writes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Set
from dataclasses import dataclass

import numpy as np

from engine.execution.order_states import FIRST_TERMINAL, OrderStatus
from engine.execution.summary import execution_summary, unrealised_profit
from engine.instruments import Instrument
from engine.reasons import Reason
from engine.records import Flag, Kind, ReportKind
from engine.stage import as_bytes
from engine.units import MONEY_EXP, format_units
from procs.attach import NotRunning, attach, launcher_of, lock_path, plan_path, started_ticks
from procs.checkpoint import HEADER_WORDS, load_checkpoint
from procs.deaths import Deaths
from procs.instance import Mapping
from procs.metrics import mode_name
from procs.states import state_dtype
from procs.summary import by_strategy, hop_histograms, latency_summary, ring_counts
from procs.table import Role
from shm.clock import python_monotonic_ns
from shm.histogram import between
from shm.lease import Lease
from shm.segment import SegmentError
from tools.console.logs import LogTail
from tools.console.market import Recent, best_levels
from tools.console.processes import ProcessWatch, Rates
from tools.console.snapshot import (
    LATENCY,
    LOG,
    MARKET,
    Account,
    Fill,
    Level,
    Market,
    Order,
    Percentiles,
    Position,
    Process,
    Ring,
    Safety,
    Snapshot,
    Trade,
)

_LEVELS = 100
_TRADES = 200
_SECOND_NS = 1_000_000_000


@dataclass(frozen=True)
class Ending:
    """Why there is nothing more to look at, and the exit code that says it."""

    words: str
    code: int


class _Copied:
    """The state of a stage out of its newest checkpoint."""

    def __init__(self, arena: np.ndarray, dtype: np.dtype) -> None:
        self._arena = arena
        self._state, self._header = np.zeros(1, dtype), np.zeros(HEADER_WORDS, np.int64)

    def read(self) -> np.ndarray:
        """The newest whole copy; the one before where both are being written. Shape (1,)."""
        load_checkpoint(self._arena.copy(), as_bytes(self._state), self._header)
        return self._state


def _rescaled(value: int, from_exp: int, to_exp: int) -> int:
    """A value in units of 10^-from_exp in units of 10^-to_exp, cut off."""
    return value * 10 ** (to_exp - from_exp) if to_exp >= from_exp else value // 10 ** (from_exp - to_exp)


class Reader:
    """One running engine. Raises NotRunning when there is none of that name."""

    def __init__(self, name: str) -> None:
        self._mapping = attach(name)
        self.plan = self._mapping.plan
        self._roles = (Role.SUPERVISOR, *sorted(process.role for process in self.plan.processes))
        try:
            self._map(self._mapping)
        except (OSError, SegmentError):
            self._mapping.close()
            raise NotRunning(f"the engine named {name!r} is just ending") from None

    def _map(self, mapping: Mapping) -> None:
        """Map everything at once: an engine that ends takes the names away, not what is mapped."""
        plan = mapping.plan
        self._plan_file = plan_path(plan.name).stat().st_ino
        self._execution = _Copied(mapping.arena(Role.EXECUTION), state_dtype(Role.EXECUTION, plan.instruments))
        self._validation = _Copied(mapping.arena(Role.VALIDATION), state_dtype(Role.VALIDATION, plan.instruments))
        self._frames, self._gateway = mapping.state(Role.INGESTION)["frames"], mapping.state(Role.GATEWAY)
        self._trades = Recent(mapping.ring("valid"), Kind.TRADE, _TRADES)
        self._fills = Recent(mapping.ring("fills"), ReportKind.FILL, _TRADES)
        self._metrics, self._budget = mapping.metrics(), mapping.budget()
        self._deaths = Deaths(mapping.deaths())
        self._histograms = hop_histograms(mapping)
        self._counted: dict[str, np.ndarray] = {}
        self._counted_ns = 0
        self._latency: tuple[dict[str, Percentiles], dict[str, Percentiles]] = {}, {}
        self._watch, self._rates, self._log = ProcessWatch(), Rates(), LogTail(plan.path)
        self._up_from_ns = _started_ns(mapping.control.supervisor_pid, plan.launcher_pid)

    def close(self) -> None:
        """Let go of the engine's memory."""
        self._mapping.close()

    def now_ns(self) -> int:
        """Session time, ns since the epoch."""
        return self._mapping.now_ns()

    def ending(self) -> Ending | None:
        """Why the engine is not there any more; None while it is, with or without a supervisor."""
        name = self.plan.name
        try:
            if plan_path(name).stat().st_ino != self._plan_file:
                return Ending(f"the engine named {name!r} has ended, and another has been started", 0)
        except OSError:
            return Ending(f"the engine named {name!r} has ended", 0)
        if Lease.is_held(lock_path(name)) or launcher_of(name):
            return None
        control = self._mapping.control
        if any(started_ticks(pid) for pid in map(control.pid, self._roles[1:]) if pid):
            return None  # its kill switch cancels, and ends what is left
        return Ending(f"the engine named {name!r} died and left its memory; the next `bot4 run` clears it", 1)

    def read(self, symbol: str, wanted: Set[str]) -> Snapshot:
        """What is known now. symbol: whose market is read; wanted: MARKET, LATENCY, LOG, where they are shown."""
        mapping, plan = self._mapping, self.plan
        now, monotonic = mapping.now_ns(), python_monotonic_ns()
        if MARKET not in wanted:
            self._trades.look_away()
        account = self._account(now)
        return Snapshot(
            name=plan.name, session=plan.path.name, symbols=tuple(item.symbol for item in plan.instruments),
            paper=plan.settings.venue.embedded, now_ns=now, up_ns=max(monotonic - self._up_from_ns, 0),
            supervised=Lease.is_held(lock_path(plan.name)), safety=self._safety(now),
            frames_per_second=self._rates.per_second("frames", float(self._frames[0]), monotonic),
            processes=self._processes(monotonic), rings=self._rings(monotonic),
            market=self._market(symbol, account) if MARKET in wanted else None, account=account,
            **self._hops(monotonic, LATENCY in wanted), log=self._log.look() if LOG in wanted else (),
        )

    # --- processes and rings ----------------------------------------------------------------------------------------

    def _processes(self, monotonic: int) -> tuple[Process, ...]:
        control, latest = self._mapping.control, self._metrics.read()
        found = []
        for role in self._roles:
            pid = control.supervisor_pid if role == Role.SUPERVISOR else control.pid(role)
            core, cpu = self._watch.look(pid, monotonic) if pid and started_ticks(pid) else (None, None)
            if role == Role.SUPERVISOR:
                readiness = "ready" if core is not None else "dead"
            else:
                readiness = control.readiness(role).name.lower() if core is not None else "dead" if pid else "none"
            beat, progress = control.heartbeat(role), control.progress(role)
            pss = int(latest[0]["processes"][role]["pss_bytes"]) if latest is not None else 0
            found.append(Process(
                role.label, pid, readiness, core, tuple(self.plan.cores.get(role.label, ())), cpu, pss / 2**20,
                max(self._mapping.now_ns() - beat, 0) if beat else None, self._deaths.total(role),
                self._rates.per_second(role, progress, monotonic) if role != Role.SUPERVISOR else None,
            ))
        return tuple(found)

    def _rings(self, monotonic: int) -> tuple[Ring, ...]:
        return tuple(
            Ring(
                name, row["capacity"], row["produced"], row["in_flight"], row["dropped"],
                self._rates.per_second(name, row["produced"], monotonic),
            )
            for name, row in ring_counts(self._mapping, tuple(spec.name for spec in self.plan.rings)).items()
        )

    def _hops(self, monotonic: int, wanted: bool) -> dict[str, dict[str, Percentiles]]:
        """Latencies of the last whole second and since the start, brought up to date once a second."""
        if not wanted:
            self._counted_ns, self._counted = 0, {}
            return {}
        if monotonic - self._counted_ns >= _SECOND_NS:
            counted = {hop: histogram.copy() for hop, histogram in self._histograms.items()}
            before = self._counted
            last = latency_summary({hop: between(before[hop], counted[hop]) for hop in before})
            self._latency = last, latency_summary(counted)
            self._counted, self._counted_ns = counted, monotonic
        return {"last_second": self._latency[0], "since_start": self._latency[1]}

    # --- market -----------------------------------------------------------------------------------------------------

    def _item(self, symbol: str) -> Instrument:
        return next(item for item in self.plan.instruments if item.symbol == symbol)

    def _market(self, symbol: str, account: Account) -> Market:
        item, state = self._item(symbol), self._validation.read()[0]
        self._trades.look()
        book, checks = state["books"][item.index], state["checks"]
        bids, asks = (best_levels(book, side, _LEVELS) for side in (1, -1))
        verdict = "VALID" if state["audits"]["proven"][item.index] else "UNVERIFIED"
        if not checks["valid"][item.index]:
            verdict = _name(Reason, int(checks["verdict"][item.index]))
        spread = format_units(asks[0][0] - bids[0][0], item.price_exp) if asks and bids else ""
        return Market(
            symbol, verdict, _levels(asks, item, account, -1), _levels(bids, item, account, 1), spread,
            tuple(
                Trade(
                    int(trade["recv_ts_ns"]), int(trade["side"]), format_units(int(trade["price"]), item.price_exp),
                    format_units(int(trade["size"]), item.size_exp),
                )
                for trade in self._trades.newest(item.index)
            ),
            self._trades.missed,
        )

    # --- account ----------------------------------------------------------------------------------------------------

    def _account(self, now: int) -> Account:
        state, items = self._execution.read(), self.plan.instruments
        row, summary = state[0], execution_summary(state, items)
        strategies = by_strategy(state, self.plan.settings, items)
        self._fills.look()
        compared = summary["reconciliation"]
        return Account(
            summary["cash"], summary["pnl"],
            {
                **{key: summary["orders"][key] for key in ("sent", "filled", "cancelled", "rejected", "unknown")},
                "denied": sum(summary["orders"]["denied"].values()), "fills": summary["fills"],
            },
            tuple(_position(state, item) for item in items), self._orders(row["orders"]["slots"], now),
            tuple(self._fill(record) for record in self._fills.newest_of_all()),
            ", ".join(compared["differs"]) or "an answer was not whole" if compared["holding"] else "",
            {name: row["faults"] for name, row in strategies.items() if row["faults"]},
        )

    def _symbols(self) -> dict[int, Instrument]:
        return {item.index: item for item in self.plan.instruments}

    def _orders(self, slots: np.ndarray, now: int) -> tuple[Order, ...]:
        """Orders that are not done, newest first."""
        items = self._symbols()
        living = slots[(slots["status"] > OrderStatus.EMPTY) & (slots["status"] < FIRST_TERMINAL)]
        return tuple(
            Order(
                int(slot["order_id"]), items[int(slot["instrument"])].symbol, int(slot["side"]),
                format_units(int(slot["price"]), items[int(slot["instrument"])].price_exp),
                format_units(int(slot["size"]), items[int(slot["instrument"])].size_exp),
                format_units(int(slot["filled"]), items[int(slot["instrument"])].size_exp),
                _name(OrderStatus, int(slot["status"])), max(now - int(slot["created_ns"]), 0),
            )
            for slot in living[np.argsort(living["order_id"])[::-1]]
        )

    def _fill(self, record: np.void) -> Fill:
        item = self._symbols()[int(record["instrument"])]
        return Fill(
            int(record["recv_ts_ns"]), int(record["order_id"]), item.symbol, int(record["side"]),
            format_units(int(record["price"]), item.price_exp), format_units(int(record["size"]), item.size_exp),
            format_units(int(record["fee"]), MONEY_EXP), bool(int(record["flags"]) & Flag.MAKER),
        )

    # --- safety -----------------------------------------------------------------------------------------------------

    def _safety(self, now: int) -> Safety:
        control, budget = self._mapping.control, self._budget.report()
        word = control.word
        return Safety(
            mode_name(control.mode, word), word, tuple(source.name for source in control.asserted),
            control.gate_epoch(Role.KILLSWITCH) == control.token,
            max(int(self._gateway["dead_man_until_ns"][0]) - now, 0) / 1e9, banned_s=budget["banned_s"],
            budget=tuple((name, row["used"], row["limit"]) for name, row in budget["limits"].items()),
        )


def _started_ns(supervisor: int, launcher: int) -> int:
    """CLOCK_MONOTONIC when the launcher, or without one the supervisor, was started."""
    ticks = started_ticks(launcher) or started_ticks(supervisor)
    per_second = os.sysconf("SC_CLK_TCK")
    # Ticks count from boot on; where the machine was suspended, the time since then reads a little too short.
    return ticks * _SECOND_NS // per_second if ticks else python_monotonic_ns()


def _name(kind: type, value: int) -> str:
    """The name of a number of an enumeration; one that is not known is shown as it is."""
    known = value in kind._value2member_map_  # type: ignore[attr-defined]
    return str(kind(value).name) if known else f"{kind.__name__} {value}"


def _levels(found: list[tuple[int, int]], item: Instrument, account: Account, side: int) -> tuple[Level, ...]:
    largest = max((size for _, size in found), default=0)
    own: dict[str, int] = {}
    for order in account.orders:
        if order.symbol == item.symbol and order.side == side:
            own[order.price] = own.get(order.price, 0) + 1
    shown = [(format_units(price, item.price_exp), size) for price, size in found]
    return tuple(
        Level(price, format_units(size, item.size_exp), size / largest if largest else 0.0, own.get(price, 0))
        for price, size in shown
    )


def _position(state: np.ndarray, item: Instrument) -> Position:
    held, view = state[0]["ledger"]["positions"][item.index], state[0]["views"][item.index]
    size, cost, exps = int(held["size"]), int(held["cost"]), item.price_exp + item.size_exp
    entry = format_units(cost * 10**exps // (10**MONEY_EXP * abs(size)), item.price_exp) if size else ""
    price = _rescaled(int(view["mark_price"]), MONEY_EXP, item.price_exp)
    if not price and view["bid_price"] > 0 and view["ask_price"] > 0:
        price = int(view["bid_price"] + view["ask_price"]) // 2
    return Position(
        item.symbol, format_units(size, item.size_exp), entry, format_units(price, item.price_exp) if price else "",
        format_units(int(held["realised"]), MONEY_EXP), format_units(unrealised_profit(state, item), MONEY_EXP),
        format_units(int(held["fees"]), MONEY_EXP),
    )
