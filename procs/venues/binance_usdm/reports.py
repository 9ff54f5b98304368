"""The venue's words about our orders, as REPORT records. Pure; one conformance test.

Source: Binance USD-M futures, "Event: Order Update", "Account Trade List", "Query Order", error codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from engine.instruments import Instrument
from engine.reasons import Reason
from engine.records import REPORT, Flag, ReportKind, Side
from engine.units import MONEY_EXP, parse_units

_REASON_BY_CODE = {
    -5022: Reason.WOULD_TAKE,
    -2019: Reason.INSUFFICIENT_MARGIN,
    -2011: Reason.UNKNOWN_ORDER,
    -2013: Reason.UNKNOWN_ORDER,
    -1003: Reason.RATE_LIMITED,
    -1015: Reason.RATE_LIMITED,
}
UNTIMELY = -1021  # the time stamp is too old, or ahead of the venue's clock
_KIND_BY_STATUS = {
    "NEW": ReportKind.ACCEPTED,
    "PARTIALLY_FILLED": ReportKind.ACCEPTED,
    "FILLED": ReportKind.ACCEPTED,
    "CANCELED": ReportKind.CANCELLED,
    "EXPIRED": ReportKind.EXPIRED,
    "EXPIRED_IN_MATCH": ReportKind.EXPIRED,
    "REJECTED": ReportKind.REJECTED,
}


def reason_of_code(code: int) -> Reason:
    """Our reason code for an error code of the venue."""
    return _REASON_BY_CODE.get(code, Reason.VENUE_REJECTED)


# The owner of an order that the venue makes for our account: a liquidation, an auto-deleveraging, a settlement.
FORCED = -1
_FORCED_IDS = ("autoclose-", "adl_autoclose", "settlement_autoclose-")


class ClientIds:
    """Client order ids of one session: `b4<session>-<order number>`, at most 36 characters."""

    def __init__(self, session: str) -> None:
        self._prefix = f"b4{session}-"

    def text(self, order_id: int) -> str:
        """The client order id of an order number."""
        return f"{self._prefix}{order_id}"

    def number(self, text: str) -> int:
        """The order number of a client order id, or 0 when it is not of this session."""
        tail = text[len(self._prefix) :]
        if not text.startswith(self._prefix) or not (tail.isascii() and tail.isdigit()) or tail[0] == "0":
            return 0
        return int(tail)


def owner_of(client_id: str, ids: ClientIds) -> int:
    """Our number of an order, FORCED for one that the venue made for our account, 0 for one of somebody else."""
    return FORCED if client_id.startswith(_FORCED_IDS) else ids.number(client_id)


def report(
    kind: ReportKind, order_id: int, instrument: int = 0, reason: Reason = Reason.NONE, **fields: int
) -> np.ndarray:
    """One REPORT record, shape (1,)."""
    record = np.zeros(1, REPORT)
    record["kind"], record["order_id"], record["instrument"], record["reason"] = kind, order_id, instrument, reason
    for name, value in fields.items():
        record[name] = value
    return record


def _fee(text: str, asset: str, instrument: Instrument) -> int:
    """A fee in 1e-8 quote units. Raises ValueError for one that is paid in another asset: the ledger has no price."""
    fee = parse_units(text, MONEY_EXP)
    if fee and asset != instrument.quote:
        raise ValueError(f"{instrument.symbol}: a fee in {asset} is not one in {instrument.quote}")
    return fee


def from_order_update(
    event: Mapping[str, Any], instruments: Mapping[str, Instrument], ids: ClientIds
) -> np.ndarray | None:
    """The report of an ORDER_TRADE_UPDATE frame, or None when it is not about an order of this session.

    A fill of an order that the venue made for our account has order id 0.
    """
    order = event["o"]
    order_id = owner_of(order["c"], ids)
    instrument = instruments.get(order["s"])
    if not order_id or instrument is None:
        return None
    execution = order["x"]
    if order_id == FORCED and execution != "TRADE":
        return None
    order_id = max(order_id, 0)
    if execution == "TRADE":
        kind = ReportKind.FILL
    else:
        kind = _KIND_BY_STATUS.get(order["X"], ReportKind.ACCEPTED)
    fields = {
        "exch_ts_ns": int(order["T"]) * 1_000_000,
        "venue_order_id": int(order["i"]),
        "cumulative_size": parse_units(order["z"], instrument.size_exp),
        "side": Side.BUY if order["S"] == "BUY" else Side.SELL,
    }
    if kind == ReportKind.FILL:
        fields |= {
            "price": parse_units(order["L"], instrument.price_exp),
            "size": parse_units(order["l"], instrument.size_exp),
            "trade_id": int(order["t"]),
            "fee": _fee(order.get("n", "0"), order.get("N", ""), instrument),
            "flags": Flag.MAKER if order["m"] else 0,
        }
    reason = Reason.WOULD_TAKE if kind == ReportKind.EXPIRED and order["f"] == "GTX" else Reason.NONE
    return report(kind, order_id, instrument.index, reason, **fields)


def from_order(order: Mapping[str, Any], instrument: Instrument, order_id: int) -> np.ndarray:
    """The report of an order as REST tells it (new order answer, query, cancel answer)."""
    kind = _KIND_BY_STATUS.get(order["status"], ReportKind.ACCEPTED)
    return report(
        kind,
        order_id,
        instrument.index,
        venue_order_id=int(order["orderId"]),
        exch_ts_ns=int(order.get("updateTime", 0)) * 1_000_000,
        cumulative_size=parse_units(order["executedQty"], instrument.size_exp),
        side=Side.BUY if order["side"] == "BUY" else Side.SELL,
        flags=Flag.FROM_REST,
    )


def from_user_trade(trade: Mapping[str, Any], instrument: Instrument, order_id: int) -> np.ndarray:
    """The fill report of one entry of `userTrades`."""
    return report(
        ReportKind.FILL,
        order_id,
        instrument.index,
        venue_order_id=int(trade["orderId"]),
        trade_id=int(trade["id"]),
        exch_ts_ns=int(trade["time"]) * 1_000_000,
        price=parse_units(trade["price"], instrument.price_exp),
        size=parse_units(trade["qty"], instrument.size_exp),
        fee=_fee(trade["commission"], trade["commissionAsset"], instrument),
        side=Side.BUY if trade["side"] == "BUY" else Side.SELL,
        flags=Flag.FROM_REST | (Flag.MAKER if trade["maker"] else 0),
    )
