"""What the embedded venue says on its user data stream, and about liquidations on its market streams.

An ACCOUNT_UPDATE of funding carries the balance only, as for a crossed position on the real venue.
Source: Binance USD-M futures, "User Data Streams", "Liquidation Order Streams".
"""

from __future__ import annotations

from engine.instruments import Instrument
from engine.matching.liquidation import MARGIN_CALL
from engine.matching.orders import Notice, WalletChange
from engine.records import OrderType, Side, TimeInForce
from engine.units import MONEY_EXP, format_units
from procs.embedded.answers import NS_PER_MS, AccountAnswers, Json, average_price, money


def order_event(notice: Notice, instrument: Instrument, now_ms: int) -> Json:
    """ORDER_TRADE_UPDATE of the user data stream."""
    order, fill = notice.order, notice.fill
    kind = OrderType(order.order_type).name
    data: Json = {
        "s": instrument.symbol,
        "c": order.client_id,
        "S": Side(order.side).name,
        "o": kind,
        "f": TimeInForce(order.time_in_force).name,
        "q": format_units(order.size, instrument.size_exp),
        "p": format_units(order.price, instrument.price_exp),
        "ap": average_price(order.quote, order.executed, instrument),
        "sp": "0",
        "x": notice.execution,
        "X": order.status.value,
        "i": order.order_id,
        "l": format_units(fill.size if fill else 0, instrument.size_exp),
        "z": format_units(order.executed, instrument.size_exp),
        "L": format_units(fill.price if fill else 0, instrument.price_exp),
    }
    if fill:
        data |= {"N": instrument.quote, "n": money(fill.fee)}
    data |= {
        "T": notice.time_ns // NS_PER_MS,
        "t": fill.trade_id if fill else 0,
        "b": money(notice.bid_value),
        "a": money(notice.ask_value),
        "m": fill.maker if fill else False,
        "R": order.reduce_only,
        "wt": "CONTRACT_PRICE",
        "ot": kind,
        "ps": "BOTH",
        "cp": False,
        "rp": money(fill.realised if fill else 0),
        "pP": False,
        "si": 0,
        "ss": 0,
        "V": order.self_trade.name,
        "pm": "NONE",
        "gtd": 0,
    }
    return {"e": "ORDER_TRADE_UPDATE", "E": now_ms, "T": notice.time_ns // NS_PER_MS, "o": data}


def account_event(notice: Notice, instrument: Instrument, now_ms: int) -> Json:
    """ACCOUNT_UPDATE of the user data stream, after a fill."""
    entry = average_price(notice.cost, abs(notice.position), instrument)
    return {
        "e": "ACCOUNT_UPDATE",
        "E": now_ms,
        "T": notice.time_ns // NS_PER_MS,
        "a": {
            "m": "ORDER",
            "B": [{"a": instrument.quote, "wb": money(notice.wallet), "cw": money(notice.wallet), "bc": "0"}],
            "P": [{
                "s": instrument.symbol,
                "pa": format_units(notice.position, instrument.size_exp),
                "ep": entry,
                "bep": entry,
                "cr": money(notice.realised),
                "up": money(notice.unrealised),
                "mt": "cross",
                "iw": "0",
                "ps": "BOTH",
            }],
        },
    }


def wallet_event(change: WalletChange, account: AccountAnswers, now_ms: int) -> Json:
    """ACCOUNT_UPDATE of a change without a fill, or MARGIN_CALL."""
    instrument = account.exchange.instruments[change.symbol]
    wallet = money(change.wallet)
    if change.reason == MARGIN_CALL:
        size = account.exchange.position(change.symbol)
        return {
            "e": "MARGIN_CALL", "E": now_ms, "cw": wallet,
            "p": [{
                "s": instrument.symbol, "ps": "BOTH", "pa": format_units(size, instrument.size_exp), "mt": "CROSSED",
                "iw": "0", "mp": money(account.mark(change.symbol) * 10 ** (MONEY_EXP - instrument.price_exp)),
                "up": money(account.exchange.unrealised(change.symbol)),
                "mm": money(account.maintenance(change.symbol)),
            }],
        }
    return {
        "e": "ACCOUNT_UPDATE", "E": now_ms, "T": change.time_ns // NS_PER_MS,
        "a": {
            "m": change.reason,
            "B": [{"a": instrument.quote, "wb": wallet, "cw": wallet, "bc": money(change.change)}],
            "P": [],
        },
    }


def force_order_event(notice: Notice, instrument: Instrument, now_ms: int) -> Json:
    """forceOrder of the market streams, once a liquidation order is done."""
    order = notice.order
    size = format_units(order.size, instrument.size_exp)
    return {
        "e": "forceOrder", "E": now_ms,
        "o": {
            "s": instrument.symbol, "S": Side(order.side).name, "o": "LIMIT", "f": "IOC", "q": size,
            "p": format_units(order.price, instrument.price_exp),
            "ap": average_price(order.quote, order.executed, instrument), "X": order.status.value,
            "l": format_units(notice.fill.size if notice.fill else 0, instrument.size_exp),
            "z": format_units(order.executed, instrument.size_exp), "T": notice.time_ns // NS_PER_MS,
        },
    }
