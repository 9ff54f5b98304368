"""A gateway at work: real rings and a real venue, in a thread of the test."""

from __future__ import annotations

import threading
from decimal import Decimal
from typing import Any

import numpy as np

from engine.reasons import Reason
from engine.records import ORDER, REPORT, OrderAction, ReportKind, TimeInForce
from engine.stage import as_bytes
from procs.gateway import Gateway
from procs.instance import Mapping, ProcessContext
from procs.ports import Outlet
from procs.table import Role
from procs.venues.binance_usdm.endpoints import Credentials
from procs.venues.binance_usdm.signed import SignedSession
from shm.control import Readiness, Stop
from tests.embedded_venue import RunningVenue
from tests.instance_memory import own_budget
from tests.waiting import until

NO_DEADLINE = 2**63 - 1


class Desk:
    """A gateway in a thread, and both ends of its rings."""

    def __init__(self, venue: RunningVenue, plan: Any) -> None:
        self.venue = venue
        self.mapping = Mapping(plan)
        self.context = ProcessContext(plan, Role.GATEWAY)
        self.gateway = Gateway(self.context, Credentials(venue.address.api_key, venue.address.secret))
        self.failure: BaseException | None = None
        self._orders = Outlet(self.mapping, "orders")
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.reports: list[np.ndarray] = []
        self._number = 0

    def _run(self) -> None:
        try:
            self.gateway.run()
        except BaseException as error:
            self.failure = error

    def start(self) -> None:
        self._thread.start()
        until(lambda: self.mapping.control.readiness(Role.GATEWAY) == Readiness.READY, "gateway that is ready")

    def stop(self) -> None:
        self.mapping.control.request_stop(Role.GATEWAY, Stop.DRAIN)
        self._thread.join(15)
        assert not self._thread.is_alive()
        if self.failure is not None:  # it died as a process does, with its threads; here they must be ended
            self.gateway._stream.stop()
            self.gateway._ending.set()
            self.gateway._dead_man_thread.join(5)
        self.context.close()
        self.mapping.close()

    def ended(self) -> bool:
        return not self._thread.is_alive()

    def send(self, action: OrderAction, order_id: int, **values: int) -> int:
        record = np.zeros(1, ORDER)
        record["kind"], record["order_id"], record["aux"] = action, order_id, order_id
        record["deadline_ns"] = NO_DEADLINE
        for name, value in values.items():
            record[name] = value
        assert self._orders.give(as_bytes(record), 1) == 1
        return order_id

    def new(self, taking: bool, **values: int) -> int:
        """A buy of 0.003 BTC that is filled at once, or one that rests far below the market."""
        ticker = self.venue.get("/fapi/v1/ticker/bookTicker?symbol=BTCUSDT").json()
        key, share = ("askPrice", "1.003") if taking else ("bidPrice", "0.97")
        price = int(Decimal(ticker[key]) * Decimal(share) * 10) * 10
        self._number += 1
        time_in_force = TimeInForce.IOC if taking else TimeInForce.GTX
        values = {"side": 1, "price": price, "size": 3, "time_in_force": time_in_force} | values
        return self.send(OrderAction.NEW, self._number, **values)

    def heard(self, order_id: int) -> list[ReportKind]:
        """Kinds of the reports on an order so far."""
        ring = self.mapping.ring("fills")
        while len(batch := ring.pop(64)):
            self.reports += [np.array([one], REPORT) for one in batch]
        return [ReportKind(int(one["kind"][0])) for one in self.reports if one["order_id"][0] == order_id]

    def fills(self, order_id: int) -> list[int]:
        self.heard(order_id)
        return [
            int(one["trade_id"][0]) for one in self.reports
            if one["order_id"][0] == order_id and one["kind"][0] == ReportKind.FILL
        ]

    def wait(self, order_id: int, kind: ReportKind, timeout_s: float = 10.0) -> None:
        until(lambda: kind in self.heard(order_id), f"{kind.name} of order {order_id}", timeout_s)

    def denial(self, order_id: int) -> Reason:
        """Why the order was denied; reports of others may have come since."""
        of_order = [one for one in self.reports if one["order_id"][0] == order_id]
        return Reason(int([one["reason"][0] for one in of_order if one["kind"][0] == ReportKind.DENIED][-1]))

    def client_id(self, order_id: int) -> str:
        return f"b4{self.mapping.plan.session}-{order_id}"

    def at_venue(self, order_id: int) -> bool:
        return self.client_id(order_id) in {o["clientOrderId"] for o in self.venue.state()["open_orders"]}

    def counters(self) -> np.void:
        return self.mapping.state(Role.GATEWAY)[0]


def signed(venue: RunningVenue) -> SignedSession:
    credentials = Credentials(venue.address.api_key, venue.address.secret)
    return SignedSession(venue.address.rest_url, credentials, own_budget())


def clear(venue: RunningVenue) -> None:
    """No faults, no orders."""
    venue.call(venue.venue.faults.clear)
    session = signed(venue)
    session.call("DELETE", "/fapi/v1/allOpenOrders", symbol="BTCUSDT")
    session.close()
