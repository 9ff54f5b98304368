"""What became of our orders, as the venue's own lists say: answers to questions, catching up, and reconciliations.

The thread that asks the venue calls everything but `learn`, `forget` and `stream_lost`, by which another tells
meanwhile what the private stream said. Every fill is told at least once; execution books each trade id once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

import ccxt
import numpy as np

from engine.instruments import Instrument
from engine.reasons import Reason
from engine.records import Flag, ReportKind
from engine.units import MONEY_EXP, parse_units
from procs.venues.binance_usdm.known_orders import KnownOrders
from procs.venues.binance_usdm.payments import Payments
from procs.venues.binance_usdm.reports import ClientIds, from_order, from_user_trade, owner_of, report

_TRADES_PAGE = 1000
_RESTING = ("NEW", "PARTIALLY_FILLED")
_NOT_OPENED = -1
_PICTURE_TRIES = 3


class AccountHistory:
    """See the module. Raises ccxt's errors, and what an answer that lacks something makes Python raise."""

    def __init__(self, exchange: ccxt.binanceusdm, instruments: list[Instrument], ids: ClientIds) -> None:
        self._exchange = exchange
        self._instruments = {item.index: item for item in instruments}
        self._ids = ids
        self._known_orders = KnownOrders(lambda order_id: order_id in self._open)
        self._payments = Payments(exchange, instruments)
        self._open: dict[int, int] = {}  # order id -> instrument index, of orders that may rest at the venue
        # By instrument: the last trade before the session, the last one known, and, since the private stream broke,
        # the last one that is surely known with all before it.
        self._opened_after = {item.index: _NOT_OPENED for item in instruments}
        self._last_trade = dict(self._opened_after)
        self._missed_after: dict[int, int] = {}
        self._recall_due = False
        self._must_be_listed: set[int] = set()  # the venue's ids, until they were
        # By instrument, of the trades that reconciliations have gone through: the last one, and what was reported.
        self._gone_through = {item.index: 0 for item in instruments}
        self._told: dict[int, set[int]] = {item.index: set() for item in instruments}
        self._booked_to = dict(self._gone_through)  # what a predecessor has surely told
        self._missed: list[np.ndarray] = []  # found by a reconciliation that has not come to its end
        self._fees = 0  # of this session's fills among them, 1e-8 quote
        self._lock = threading.Lock()

    @property
    def may_rest(self) -> bool:
        """Whether an order of ours may rest at the venue, as far as is known."""
        return bool(self._open)

    def may_rest_now(self, order_id: int, index: int) -> None:
        """This order is about to be sent."""
        self._open[order_id] = index

    def forget(self, order_id: int) -> None:
        """This order surely does not rest: it is done, or was refused, or not sent."""
        self._open.pop(order_id, None)

    def learn(self, venue_order_id: int, order_id: int, index: int, trade_id: int) -> None:
        """What the private stream says of an order: its venue id and its last trade."""
        self._known_orders.remember(venue_order_id, order_id)
        with self._lock:
            self._last_trade[index] = max(self._last_trade[index], trade_id)
            if trade_id > self._gone_through[index]:
                self._told[index].add(trade_id)

    def stream_lost(self) -> None:
        """The private stream broke: what it says from now on does not prove that nothing was missed before."""
        with self._lock:
            for index, last in self._last_trade.items():
                self._missed_after.setdefault(index, last)

    def from_order(self, answer: Mapping[str, Any], instrument: Instrument, order_id: int) -> np.ndarray:
        """The report of an order as the venue answered it; what it says is remembered."""
        self._known_orders.remember(int(answer["orderId"]), order_id)
        record = from_order(answer, instrument, order_id)
        if record["kind"][0] != ReportKind.ACCEPTED or answer["status"] == "FILLED":
            self._open.pop(order_id, None)
        return record

    def query(self, order_id: int, index: int) -> list[np.ndarray]:
        """What the venue knows of an order, its fills first. Raises ccxt errors other than 'no such order'."""
        symbol = self._instruments[index].symbol
        try:
            answer = self._exchange.fapiPrivateGetOrder(
                {"symbol": symbol, "origClientOrderId": self._ids.text(order_id)}
            )
        except ccxt.OrderNotFound:
            return [report(ReportKind.NOT_FOUND, order_id, index, Reason.UNKNOWN_ORDER)]
        self._known_orders.remember(int(answer["orderId"]), order_id)
        trades = self._exchange.fapiPrivateGetUserTrades(
            {"symbol": symbol, "orderId": answer["orderId"], "limit": _TRADES_PAGE}
        )
        fills = [from_user_trade(trade, self._instruments[index], order_id) for trade in trades]
        return [*fills, self.from_order(answer, self._instruments[index], order_id)]

    def succeed(
        self, last_trades: Mapping[int, int], opened_after: Mapping[int, int], orders: Mapping[int, int],
        payments_after_ms: int,
    ) -> None:
        """This client takes the place of one that died: what that one knew is asked for before the first catch-up or
        reconciliation, so that it may start while the venue is away.

        last_trades, opened_after: by instrument index the venue's trade ids up to which nothing is missing, and after
        which the session began; orders: our numbers of orders that the venue must list, by its ids;
        payments_after_ms: the venue's time up to which payments are part of the opening balance.
        """
        self._known_orders.remember_all(orders)
        self._must_be_listed = set(orders)
        for index in self._instruments:
            self._opened_after[index] = self._gone_through[index] = opened_after.get(index, 0)
            self._last_trade[index] = self._booked_to[index] = last_trades.get(index, 0)
        self._payments.resume(payments_after_ms)
        self._recall_due = True

    def _recall(self) -> None:
        """Ask for what a successor must know of its session: the venue's ids of its orders. Raises ccxt errors.

        A list without an order that the venue must list is no answer, whatever its status: it is asked for again,
        since the fees of what it leaves out would be missing for good.
        """
        if not self._recall_due:
            return
        listed = set()
        for instrument in self._instruments.values():
            from_id = 1  # without an id the venue would give the newest page only
            while True:
                page = self._exchange.fapiPrivateGetAllOrders(
                    {"symbol": instrument.symbol, "limit": _TRADES_PAGE, "orderId": from_id}
                )
                for order in page:
                    from_id = max(from_id, int(order["orderId"]) + 1)
                    listed.add(int(order["orderId"]))
                    order_id = owner_of(order["clientOrderId"], self._ids)
                    self._known_orders.remember(int(order["orderId"]), order_id)
                    if order_id > 0 and order["status"] in _RESTING:
                        self._open[order_id] = instrument.index
                if len(page) < _TRADES_PAGE:
                    break
        if not self._must_be_listed <= listed:
            raise ccxt.BadResponse("the list of orders lacks some that the venue must know")
        self._must_be_listed.clear()
        self._recall_due = False

    def _trades_after(self, instrument: Instrument, last: int) -> Iterator[Mapping[str, Any]]:
        """Own trades of an instrument with a larger id, oldest first."""
        while True:
            page = self._exchange.fapiPrivateGetUserTrades(
                {"symbol": instrument.symbol, "limit": _TRADES_PAGE, "fromId": last + 1}
            )
            for trade in page:
                last = max(last, int(trade["id"]))
                yield trade
            if len(page) < _TRADES_PAGE:
                return

    def catch_up(self) -> list[np.ndarray]:
        """Everything that a broken private stream may have kept from us: fills, then orders that are no more.

        Raises ccxt errors; asking again later is safe, since fills are idempotent by trade id.
        """
        self._recall()
        with self._lock:
            missed, self._missed_after = self._missed_after, {}
            begin = self._last_trade | missed
        try:
            paid = self._payments.since_told()
            reports = [*self._missed_reports(begin), *paid]
            self._payments.told(paid)
            return reports
        except BaseException:
            with self._lock:
                for index, last in missed.items():
                    self._missed_after[index] = min(last, self._missed_after.get(index, last))
            raise

    def _missed_reports(self, begin: Mapping[int, int]) -> list[np.ndarray]:
        reports: list[np.ndarray] = []
        told: set[tuple[int, int]] = set()
        for index, instrument in self._instruments.items():
            if begin[index] == _NOT_OPENED:
                continue  # before the opening no order is ours
            for trade in self._trades_after(instrument, begin[index]):
                order_id = self._owner(int(trade["orderId"]), instrument)
                if order_id:
                    reports.append(from_user_trade(trade, instrument, max(order_id, 0)))
                    told.add((index, int(trade["id"])))
                    self.learn(int(trade["orderId"]), order_id, index, int(trade["id"]))
        for order_id, index in list(self._open.items()):
            answers = self.query(order_id, index)
            reports += [one for one in answers if (index, int(one["trade_id"][0])) not in told]
        return reports

    def _owner(self, venue_order_id: int, instrument: Instrument) -> int:
        """Whose order it is, by the venue's id (reports.owner_of); the venue is asked where it is not known (any more).

        Before the opening no order is ours but those that were sent.
        """
        owner = self._known_orders.owner(venue_order_id)
        if owner is None and self._opened_after[instrument.index] != _NOT_OPENED:
            try:
                order = self._exchange.fapiPrivateGetOrder({"symbol": instrument.symbol, "orderId": venue_order_id})
                owner = owner_of(order["clientOrderId"], self._ids)
            except ccxt.OrderNotFound:
                owner = 0
            self._known_orders.remember(venue_order_id, owner)
        return owner or 0

    def _new_trades(self) -> int:
        """Go through the trades since the last time and keep those of ours that nobody has told of. Returns how many
        trades there were."""
        count = 0
        for index, instrument in self._instruments.items():
            for trade in self._trades_after(instrument, self._gone_through[index]):
                count += 1
                trade_id, order_id = int(trade["id"]), self._owner(int(trade["orderId"]), instrument)
                with self._lock:
                    told = trade_id in self._told[index]
                if order_id:
                    fill = from_user_trade(trade, instrument, max(order_id, 0))
                    self._fees += int(fill["fee"][0])
                    if not told and trade_id > self._booked_to[index]:
                        self._missed.append(fill)
                with self._lock:
                    self._gone_through[index] = trade_id
                    self._told[index].discard(trade_id)
        return count

    def _resting_orders(self) -> tuple[int, list[np.ndarray]]:
        """How many orders rest, and what became of those of ours that do not rest any more, or that rest unknown."""
        resting = 0
        reports: list[np.ndarray] = []
        for index, instrument in self._instruments.items():
            believed = {order_id for order_id, place in list(self._open.items()) if place == index}
            found = self._exchange.fapiPrivateGetOpenOrders({"symbol": instrument.symbol})
            resting += len(found)
            for order in found:
                order_id = owner_of(order["clientOrderId"], self._ids)
                if order_id > 0 and order_id not in believed:
                    self._open[order_id] = index
                    reports.append(self.from_order(order, instrument, order_id))
                believed.discard(order_id)
            for order_id in believed:
                # Its fills are gone through with all others.
                reports += [one for one in self.query(order_id, index) if one["kind"][0] != ReportKind.FILL]
        return resting, reports

    def _begin(self) -> dict[int, int]:
        """Trades up to now are not of this session: the newest one by instrument."""
        for index, instrument in self._instruments.items():
            newest = self._exchange.fapiPrivateGetUserTrades({"symbol": instrument.symbol, "limit": 1})
            self._opened_after[index] = max((int(trade["id"]) for trade in newest), default=0)
            with self._lock:
                self._last_trade[index] = max(self._last_trade[index], self._opened_after[index])
                self._gone_through[index] = self._opened_after[index]
                self._told[index].clear()
        self._fees = 0
        self._payments.begin()
        return self._opened_after

    def payments(self) -> list[np.ndarray]:
        """What was paid into the wallet and out of it, trades apart, since this was told. Raises ccxt errors."""
        paid = self._payments.since_told()
        self._payments.told(paid)
        return paid

    def reconcile(self, opening: bool, deeply: bool = False) -> list[np.ndarray]:
        """Balance, positions, open orders and fees as the venue has them, after every fill and end of an order that
        nobody has told of. Raises ccxt errors.

        opening: adopt as the session's opening state (older trades are not ours to count); deeply: look for payments
        too, which is dear. The parts are asked for one by one; a trade between them makes it start again.
        """
        self._recall()
        flags = Flag.FIRST if opening else 0
        ends: list[np.ndarray] = []
        newest = self._begin() if opening else {}
        paid = self._payments.since_told() if deeply else []
        for _ in range(_PICTURE_TRIES):
            self._new_trades()
            account = self._exchange.fapiPrivateV3GetAccount()
            # Only the opening must know what a position cost; what is asked again and again must be cheap.
            listed = self._exchange.fapiPrivateV3GetPositionRisk() if opening else account["positions"]
            positions = {entry["symbol"]: entry for entry in listed}
            resting, ended = self._resting_orders()
            ends += ended
            moved = self._new_trades()
            if opening:
                moved += len(self._payments.since_told())
                moved += self._sizes(account["positions"]) != self._sizes(listed)
            if opening and moved:
                newest = self._begin()
            if not moved:
                break
        if opening and self._sizes(account["positions"]) != self._sizes(listed):
            raise ccxt.BadResponse("the account and the list of positions differ in size")
        missed, self._missed = self._missed, []
        self._payments.told(paid)
        reports = [*missed, *ends, *paid]
        reports.append(
            report(
                ReportKind.BALANCE, 0, flags=flags, aux=parse_units(account["totalWalletBalance"], MONEY_EXP),
                exch_ts_ns=self._payments.opened_ms * 1_000_000,
            )
        )
        for instrument in self._instruments.values():
            position = _position(positions.get(instrument.symbol), instrument, flags, opening)
            position["trade_id"] = newest.get(instrument.index, 0)
            reports.append(position)
        reports.append(report(ReportKind.OPEN_ORDERS, 0, flags=flags, aux=resting))
        reports.append(report(ReportKind.FEES, 0, flags=flags, aux=self._fees))
        reports.append(report(ReportKind.RECONCILE_END, 0, flags=flags, aux=1))
        return reports

    def _sizes(self, listed: list[Mapping[str, Any]]) -> dict[str, int]:
        """Sizes of our instruments that are not flat, by symbol, of entries of account or positionRisk."""
        traded = {one.symbol: one for one in self._instruments.values()}
        sizes = {
            entry["symbol"]: parse_units(entry["positionAmt"], traded[entry["symbol"]].size_exp)
            for entry in listed if entry["symbol"] in traded
        }
        return {symbol: size for symbol, size in sizes.items() if size}


def _position(entry: Mapping[str, Any] | None, instrument: Instrument, flags: int, with_cost: bool) -> np.ndarray:
    """The POSITION report of an entry of account or, with_cost, of positionRisk; the venue names none that is zero.

    The printed entry price is rounded; value at mark less unrealised profit is what the position cost, exactly.
    """
    if entry is None:
        return report(ReportKind.POSITION, 0, instrument.index, flags=flags)
    size = parse_units(entry["positionAmt"], instrument.size_exp)
    if not with_cost:
        return report(ReportKind.POSITION, 0, instrument.index, flags=flags, size=size)
    unrealised = parse_units(entry["unRealizedProfit"], MONEY_EXP)
    cost = abs(parse_units(entry["notional"], MONEY_EXP)) - (unrealised if size > 0 else -unrealised)
    price = int(Decimal(entry["entryPrice"]).scaleb(instrument.price_exp))
    return report(
        ReportKind.POSITION, 0, instrument.index, flags=flags, size=size, price=price, aux=cost if size else 0
    )
