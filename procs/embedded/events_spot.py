"""What the embedded venue says on its user data stream as Binance spot.

Source: Binance spot, "User Data Streams".
"""

from __future__ import annotations

from engine.instruments import Instrument
from engine.matching.orders import Execution, OrderStatus, SpotNotice
from engine.records import Side, TimeInForce
from procs.embedded.answers import NS_PER_MS, Json, money
from procs.embedded.answers_spot import format_eight, kind_of

_EXPIRY_REASONS = {
    TimeInForce.IOC: "UNFILLED_IOC_QUANTITY_EXPIRED", TimeInForce.FOK: "UNFILLED_FOK_ORDER_EXPIRED",
}


def order_event(notice: SpotNotice, instrument: Instrument, number: int, now_ms: int) -> Json:
    """executionReport. number: of this report, rising."""
    order, fill = notice.order, notice.fill
    cancelled = notice.execution == Execution.CANCELED
    time_ms = notice.time_ns // NS_PER_MS
    fee_asset = instrument.base if order.side == Side.BUY else instrument.quote
    event: Json = {
        "e": "executionReport",
        "E": now_ms,
        "s": instrument.symbol,
        "c": order.cancel_id if cancelled else order.client_id,
        "S": Side(order.side).name,
        "o": kind_of(order),
        "f": "GTC" if order.time_in_force == TimeInForce.GTX else TimeInForce(order.time_in_force).name,
        "q": format_eight(order.size, instrument.size_exp),
        "p": format_eight(order.price, instrument.price_exp),
        "P": money(0),
        "F": money(0),
        "g": -1,
        "C": order.client_id if cancelled else "",
        "x": notice.execution.value,
        "X": order.status.value,
        "r": "NONE",
        "i": order.order_id,
        "l": format_eight(fill.size if fill else 0, instrument.size_exp),
        "z": format_eight(order.executed, instrument.size_exp),
        "L": format_eight(fill.price if fill else 0, instrument.price_exp),
        "n": money(fill.fee) if fill else "0",
        "N": fee_asset if fill else None,
        "T": time_ms,
        "t": fill.trade_id if fill else -1,
        "I": number,
        "w": order.is_open and order.may_rest,
        "m": fill.maker if fill else False,
        "M": fill is not None,
        "O": order.time_ns // NS_PER_MS,
        "Z": money(order.quote),
        "Y": money(fill.quote if fill else 0),
        "Q": money(order.quote_wanted),
        "W": order.time_ns // NS_PER_MS,
        "V": order.self_trade.name,
    }
    if order.status == OrderStatus.EXPIRED:
        event["eR"] = _EXPIRY_REASONS.get(order.time_in_force, "INSUFFICIENT_LIQUIDITY")
    return event


def balance_event(notice: SpotNotice, now_ms: int) -> Json:
    """outboundAccountPosition: the two assets of the order's symbol."""
    return {
        "e": "outboundAccountPosition",
        "E": now_ms,
        "u": notice.time_ns // NS_PER_MS,
        "B": [{"a": asset, "f": money(free), "l": money(locked)} for asset, free, locked in notice.balances],
    }
