"""The monitoring process: looks at everything, disturbs nobody, and keeps the metrics of the last second.

Once a second it reads cursors, states, histograms and the control block, and writes the METRICS record
(procs/metrics.py) through a sequence lock and as a line of metrics.jsonl, which is put aside as metrics.jsonl.1 when it
is full. In between it follows rings for what states do not hold: the last trade, the touch and the model's outputs.
Its death costs a second of metrics. A successor goes on with its predecessor's counts.
"""

from __future__ import annotations

import gc
import math
from pathlib import Path

import numpy as np

from engine.execution.orders import open_order_count
from engine.execution.summary import unrealised_profit
from engine.records import Kind, ReportKind
from engine.validation.state import book_valid_times
from procs.deaths import Deaths
from procs.feed_counts import FEED_COUNTS
from procs.following import Following
from procs.instance import ProcessContext
from procs.lines import LineFile
from procs.memory_use import descriptor_count, pss_bytes
from procs.metrics import METRICS, REST_AUDITS, SEEN, as_plain
from procs.ports import Turns
from procs.table import HOPS, Role
from procs.venue_lag import least_lag_ns
from shm.clock import sleep
from shm.control import Stop
from shm.histogram import between, summary

_POLL_S = 0.05
_EVERY_NS = 1_000_000_000
_PSS_EVERY = 10  # metrics between two looks at memory: each walks the page tables of all processes
_BATCH = 4096
_METRICS_FILE_BYTES = 16 << 20
_LAG_WINDOW_S = 30.0


class Monitoring:
    """See the module. `run` returns when the process is asked to stop."""

    def __init__(self, context: ProcessContext) -> None:
        self._context = context
        self._turns = Turns(context)
        self._following = Following(context)
        self._view = self._following.view
        self._block = context.metrics()
        before = self._block.read()
        # None: the predecessor died while writing. What it counted is gone; the next write makes the block whole.
        self.metrics = before if before is not None else np.zeros(1, METRICS)
        self._histograms = {hop: self._view.histogram(*place) for hop, place in HOPS.items()}
        self._deaths = Deaths(self._view.deaths())
        self._feed_counts, self._lags = self._view.feed_counts(), self._view.lags()
        self._counted = {hop: histogram.copy() for hop, histogram in self._histograms.items()}
        self._file = LineFile(Path(context.plan.folder) / "metrics.jsonl", _METRICS_FILE_BYTES)
        self._due_ns = context.now_ns()
        self._last_ns = 0  # of the metrics before, of this process
        self._written = 0

    def run(self) -> None:
        """Serve until stopped; what the rings still hold by then is looked at before the end."""
        gc.enable()
        self._context.ready()
        while True:
            moved = self.follow()
            stop = self._turns.turn(moved)
            if stop >= Stop.NOW or self._turns.orphaned or (stop and not moved):
                break
            if self._context.now_ns() >= self._due_ns:
                self._due_ns += _EVERY_NS
                self.measure()
            if not moved:
                sleep(_POLL_S)
        self.measure()
        self._file.close()
        self._following.close()

    # --- rings -----------------------------------------------------------------------------------------------------

    def follow(self) -> int:
        """Look at a batch of what passed in every ring; returns how many records."""
        moved = 0
        for name in self._context.spec.follows:
            records = self._following.read(name, _BATCH)
            if len(records):
                moved += len(records)
                self._look(name, records)
        return moved

    def _look(self, name: str, records: np.ndarray) -> None:
        row = self.metrics[0]
        instruments, kinds = row["instruments"], records["kind"]
        if name == "valid":
            trades = records[kinds == Kind.TRADE]
            row["seen"][SEEN.index("trades")] += len(trades)
            for trade in self._last_of_each(trades):
                instruments[trade["instrument"]]["trade_price"] = trade["price"]
        elif name == "predictions":
            predictions = records[kinds == Kind.PREDICTION]
            row["seen"][SEEN.index("predictions")] += len(predictions)
            for prediction in self._last_of_each(predictions):
                place = instruments[prediction["instrument"]]
                for field in ("bid_price", "bid_size", "ask_price", "ask_size", "output"):
                    place[field] = prediction[field]
        elif name == "orders":
            row["seen"][SEEN.index("orders")] += len(records)
        else:
            row["seen"][SEEN.index("fills")] += int(np.count_nonzero(kinds == ReportKind.FILL))

    def _last_of_each(self, records: np.ndarray) -> list[np.void]:
        """The last record of every instrument of the session."""
        lasts = [np.flatnonzero(records["instrument"] == item.index) for item in self._context.plan.instruments]
        return [records[places[-1]] for places in lasts if len(places)]

    # --- once a second ---------------------------------------------------------------------------------------------

    def measure(self) -> None:
        """Bring the metrics up to now and publish them."""
        row, now = self.metrics[0], self._context.now_ns()
        interval = now - self._last_ns if self._last_ns else 0
        row["at_ns"], row["interval_ns"] = now, interval
        # Of the first interval of a process nothing is known.
        per_second = 1e9 / interval if interval > 0 else 0.0
        self._measure_rings(row, per_second)
        self._measure_hops(row)
        self._measure_processes(row, now, per_second)
        self._measure_validation(row["validation"])
        self._measure_books(row["instruments"])
        self._measure_feed(row["feed"], now)
        self._measure_trading(row, per_second)
        self._last_ns = now
        self._block.write(self.metrics)
        self._file.append([as_plain(row, self._context.plan.instruments)])
        self._written += 1

    def _measure_rings(self, row: np.void, per_second: float) -> None:
        for place, spec in enumerate(self._context.plan.rings):
            ring, target = self._view.ring(spec.name), row["rings"][place]
            consumed = ring.consumed  # read first, so that nothing in flight is ever negative
            produced = ring.produced
            target["per_second"] = (produced - int(target["produced"])) * per_second
            target["produced"], target["consumed"], target["dropped"] = produced, consumed, ring.dropped
            target["capacity"] = ring.capacity

    def _measure_hops(self, row: np.void) -> None:
        for place, (hop, histogram) in enumerate(self._histograms.items()):
            counted = histogram.copy()
            values = summary(between(self._counted[hop], counted))
            self._counted[hop] = counted
            for key in ("count", "p50", "p99", "p99_9", "max"):
                row["hops"][place][key] = values[key]

    def _measure_processes(self, row: np.void, now: int, per_second: float) -> None:
        control = self._context.control
        for role in (Role.SUPERVISOR, *(process.role for process in self._context.plan.processes)):
            target = row["processes"][role]
            pid = control.supervisor_pid if role == Role.SUPERVISOR else control.pid(role)
            target["restarts"] = self._deaths.total(role)
            progress, heartbeat = control.progress(role), control.heartbeat(role)
            target["per_second"] = max(0, progress - int(target["progress"])) * per_second
            target["heartbeat_age_ns"] = now - heartbeat if heartbeat else -1
            target["descriptors"] = descriptor_count(pid) if pid else 0
            if self._written % _PSS_EVERY == 0 or pid != target["pid"]:
                target["pss_bytes"] = pss_bytes(pid) if pid else 0
                self._turns.turn(0)
            target["pid"], target["progress"], target["readiness"] = pid, progress, control.readiness(role)

    def _measure_validation(self, target: np.void) -> None:
        state = self._view.state(Role.VALIDATION)[0]
        target["accepted"] = state["processed"]
        for field in ("quarantined", "dropped"):
            target[field] = state[field].sum()
        target["in"] = state["records_in"]  # read last: never less than what became of it
        target["checksums_verified"] = state["checks"]["verified"].sum()
        target["checksums_failed"] = state["checks"]["mismatched"].sum()

    def _measure_books(self, instruments: np.ndarray) -> None:
        state = self._view.state(Role.VALIDATION)
        valid_ns, total_ns = book_valid_times(state)
        for item in self._context.plan.instruments:
            target, index = instruments[item.index], item.index
            target["book_valid_ns"], target["book_ns"] = valid_ns[index], total_ns[index]
            target["books_lost"] = state["instruments"]["lost"][0, index]
            target["audits_agreed"] = state["audits"]["agreed"][0, index]
            target["audits_disagreed"] = state["audits"]["disagreed"][0, index]
            by_rest = state["rest_audits"][0, index]
            for name in REST_AUDITS:
                target[name] = by_rest[name.removeprefix("rest_audits_")]

    def _measure_feed(self, target: np.void, now: int) -> None:
        for name, value in zip(FEED_COUNTS, self._feed_counts.tolist(), strict=True):
            target[name] = value
        least = least_lag_ns(self._lags, now, _LAG_WINDOW_S)
        target["venue_lag_known"] = not math.isnan(least)
        target["venue_lag_ns"] = 0 if math.isnan(least) else int(least)

    def _measure_trading(self, row: np.void, per_second: float) -> None:
        frames = int(self._view.state(Role.INGESTION)["frames"][0])
        row["frames_per_second"] = max(0, frames - int(row["frames"])) * per_second
        row["frames"] = frames
        state = self._view.state(Role.EXECUTION)
        execution, total = state[0], 0
        row["emergency_word"], row["mode"] = self._context.control.word, self._context.control.mode
        for field in ("signals", "intents", "sent"):
            row[field] = execution[field]
        row["open_orders"] = open_order_count(execution["orders"])
        for field in ("realised", "fees", "funding", "balance", "fills"):
            row[field] = execution["ledger"][field]
        for item in self._context.plan.instruments:
            profit = unrealised_profit(state, item)
            total += profit
            row["instruments"][item.index]["position"] = execution["ledger"]["positions"][item.index]["size"]
            row["instruments"][item.index]["unrealised"] = profit
        row["unrealised"] = total
