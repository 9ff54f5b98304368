"""What must hold in a hostile session, checked from outside: over the venue's own books and what is on its way to it.

At every event: the worst-case exposure of a side (position, resting orders, and every new order that may still reach
the venue) is within the limit; it never grows but by an order that execution sent; each client id is entered once;
each trade is booked once; no order is told as not found that the venue had when it was asked. While the venue can be
reached: no order stays UNKNOWN, and none rests at the venue that execution takes for done, for longer than 10 s.
Never: a ban that the client brought upon itself, a trip.
The engine's own sums are not used; its order table is read for what it believes of single orders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from engine.execution.order_states import FIRST_TERMINAL, OrderStatus
from engine.instruments import Instrument
from engine.matching.exchange import Exchange
from engine.matching.orders import Execution as VenueEvent
from engine.matching.orders import Notice
from engine.records import Kind, OrderAction, ReportKind
from engine.units import notional
from procs.venues.binance_usdm.reports import ClientIds
from procs.virtual.wire import MS, Wire

PATIENCE_NS = 10_000 * MS
_MOST_VIOLATIONS = 50  # that are kept
_SIDES = (1, -1)
_LASTING = ("gone", "half_open", "maintenance", "ban", "clock")


class Oracle:
    """See the module. `unsent`: new orders (ORDER records) that are not on the wire yet; limit: 1e-8 quote."""

    def __init__(
        self, exchange: Exchange, wire: Wire, instruments: Iterable[Instrument], limit: int, state: np.ndarray,
        ids: ClientIds, unsent: Callable[[], list[np.ndarray]],
    ):
        self.exchange = exchange
        self.wire = wire
        self.limit = limit
        self.violations: list[str] = []
        self.changed = False  # something may have moved exposure since the last check
        self.largest = 0  # exposure seen, 1e-8 quote
        self.checks = 0
        self.booked: dict[tuple[int, int], int] = {}  # (instrument, trade id) -> reports of it
        self._instruments = tuple(instruments)
        self._state = state
        self._ids = ids
        self._unsent = unsent
        self._sent: dict[str, tuple[int, int, int]] = {}  # client id -> instrument, side, size
        self._entered: dict[str, int] = {}
        self._entered_ns: dict[str, int] = {}  # when first
        self._mid = [0] * len(self._instruments)
        self._last = {(item.index, side): 0 for item in self._instruments for side in _SIDES}
        self._fresh: dict[tuple[int, int], int] = {}  # where an order was sent since the last check: its price
        self._since: dict[tuple[str, int], int] = {}  # what is wrong with an order, and since when
        self._told: set[tuple[str, int]] = set()  # ... of those that are violations already

    def fail(self, what: str) -> None:
        """Note a violation."""
        if len(self.violations) < _MOST_VIOLATIONS:
            self.violations.append(f"{(self.wire.loop.now_ns - self.start_ns) / 1e9:.3f} s: {what}")

    @property
    def start_ns(self) -> int:
        """When the session began."""
        return self.exchange.start_ns

    # --- what happens ---------------------------------------------------------------------------------------------

    def on_predictions(self, records: np.ndarray) -> None:
        """What execution is about to decide on."""
        for record in records[records["kind"] == Kind.PREDICTION]:
            self._mid[int(record["instrument"])] = (int(record["bid_price"]) + int(record["ask_price"]) + 1) // 2

    def on_orders(self, orders: np.ndarray) -> None:
        """What execution sends."""
        for order in orders[orders["kind"] == OrderAction.NEW]:
            index, side = int(order["instrument"]), int(order["side"])
            self._sent[self._ids.text(int(order["order_id"]))] = (index, side, int(order["size"]))
            self._fresh[index, side] = max(self._fresh.get((index, side), 0), int(order["price"]))
            self.changed = True

    def on_notice(self, notice: Notice) -> None:
        """What the venue did with an order."""
        self.changed = True
        name = notice.order.client_id
        self.wire.log.add(self.wire.loop.now_ns, f"venue {notice.execution} {name} {notice.order.executed}")
        if notice.execution == VenueEvent.NEW:
            self._entered[name] = self._entered.get(name, 0) + 1
            self._entered_ns.setdefault(name, self.wire.loop.now_ns)
            if self._entered[name] > 1:
                self.fail(f"{name} was entered {self._entered[name]} times")
            if name not in self._sent:
                self.fail(f"{name} was never sent by execution")

    def on_reports(self, reports: np.ndarray) -> None:
        """What the gateway tells execution."""
        for one in reports[reports["kind"] == ReportKind.FILL]:
            key = (int(one["instrument"]), int(one["trade_id"]))
            self.booked[key] = self.booked.get(key, 0) + 1
        for one in reports[reports["kind"] == ReportKind.NOT_FOUND]:
            name, asked_ns = self._ids.text(int(one["order_id"])), int(one["aux"])
            if self._entered_ns.get(name, asked_ns) < asked_ns:
                self.fail(f"{name} is told as not found, and the venue had it when it was asked")

    # --- checks ---------------------------------------------------------------------------------------------------

    def _exposures(self) -> dict[tuple[int, int], int]:
        """Worst case by instrument and side, size units."""
        worst = {(index, side): side * self.exchange.position(index) for index, side in self._last}
        for order in self.exchange.open.values():
            worst[order.symbol, int(order.side)] += order.remaining
        now_ms = self.wire.loop.now_ns // MS
        coming = [
            flight.client_id for flight in self.wire.flights.values()
            if now_ms <= flight.valid_until_ms and flight.client_id not in self._entered
        ]
        coming += [self._ids.text(int(order["order_id"][0])) for order in self._unsent()]
        for name in coming:
            if name in self._sent:
                index, side, size = self._sent[name]
                worst[index, side] += size
        return worst

    def after_event(self) -> None:
        """Check exposure where it may have moved."""
        if not self.changed:
            return
        self.changed = False
        self.checks += 1
        for key, worst in self._exposures().items():
            index, _ = key
            item = self._instruments[index]
            if worst > self._last[key]:
                price = max(self._fresh.get(key, 0), self._mid[index])
                value = int(notional(price, worst, item.price_exp + item.size_exp)) if worst > 0 else 0
                self.largest = max(self.largest, value)
                if value > self.limit:
                    self.fail(f"exposure {worst} of {item.symbol} is {value}, above the limit {self.limit}")
                if key not in self._fresh:
                    self.fail(f"exposure of {item.symbol} grew from {self._last[key]} to {worst} without an order")
            self._last[key] = worst
        self._fresh.clear()

    def _reachable_since(self) -> int:
        faults = self.wire.venue.faults
        if any(faults.lasting(name) for name in _LASTING):
            self.wire.last_trouble_ns = max(self.wire.last_trouble_ns, self.wire.loop.now_ns)
        return self.wire.last_trouble_ns

    def watch(self) -> None:
        """Now and then: nothing stays unclear while the venue can be reached."""
        now, reachable = self.wire.loop.now_ns, self._reachable_since()
        slots = self._state[0]["orders"]["slots"]
        wrong = {("UNKNOWN", int(one)) for one in slots["order_id"][slots["status"] == OrderStatus.UNKNOWN]}
        for order in self.exchange.open.values():
            number = self._ids.number(order.client_id)
            slot = slots[number % len(slots)]
            if int(slot["order_id"]) != number or int(slot["status"]) >= FIRST_TERMINAL:
                wrong.add(("open at the venue, done for execution", number))
        self._since = {key: self._since.get(key, now) for key in wrong}
        for key, since in self._since.items():
            if now - max(since, reachable) > PATIENCE_NS and key not in self._told:
                self._told.add(key)
                self.fail(f"order {key[1]} is {key[0]} for {(now - since) / 1e9:.1f} s")

    def finish(self) -> None:
        """After quiescence: everything is equal to the last unit, and nothing is left."""
        exchange, record = self.exchange, self._state[0]
        ledger, account = record["ledger"], exchange.account[0]
        for name, ours, theirs in (
            ("balance", int(ledger["balance"]), exchange.wallet()),
            ("fees", int(ledger["fees"]), int(account["fees"])),
            ("number of fills", int(ledger["fills"]), len(exchange.fills)),
            *(
                (f"position of {item.symbol}", int(ledger["positions"][item.index]["size"]),
                 exchange.position(item.index))
                for item in self._instruments
            ),
        ):
            if ours != theirs:
                self.fail(f"{name}: {ours} here, {theirs} at the venue")
        told = set(self.booked)
        truth = {(fill.symbol, fill.trade_id) for fill in exchange.fills}
        if told != truth:
            self.fail(f"trades never told: {sorted(truth - told)[:5]}; told and never made: {sorted(told - truth)[:5]}")
        if exchange.open:
            self.fail(f"resting at the venue: {sorted(order.client_id for order in exchange.open.values())}")
        if int(record["quiescent"]) != 1:
            self.fail("execution is not quiescent")
        for name in ("illegal_transitions", "cumulative_mismatches"):
            if int(record["orders"][name]):
                self.fail(f"{name}: {int(record['orders'][name])}")
        if int(record["reconcile"]["mismatch"]) or int(record["reconcile"]["done"]) < 2:
            self.fail(f"the last reconciliation ended with mismatch {int(record['reconcile']['mismatch'])}")
        if self.wire.venue.rest.limits.bans:
            self.fail(f"{self.wire.venue.rest.limits.bans} bans (418) that nobody ordered")
