"""What the embedded venue says about orders, fills and balances as Binance spot, in its field names.

Numbers are decimal texts with eight decimals. Order lists, icebergs and stops do not exist here.
Source: Binance spot, "Exchange information", "New order", "Cancel order", "Account Endpoints".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.instruments import Instrument
from engine.matching.balances import Balances
from engine.matching.orders import ClientFill, ClientOrder
from engine.matching.settings import SymbolSettings, VenueSettings
from engine.records import OrderType, Side, TimeInForce
from engine.units import MONEY_EXP, format_units, parse_units
from procs.embedded.answers import NS_PER_MS, Json, money
from procs.embedded.orders import MAX_PRICE

PRICE_BAND = ("0.2", "5")  # of the reference price: lowest and highest price of either side
MAX_NOTIONAL = "9000000"
SELF_TRADE_MODES = ("NONE", "EXPIRE_TAKER", "EXPIRE_MAKER", "EXPIRE_BOTH")


def eight(text: str) -> str:
    """A decimal text with eight decimals."""
    return money(parse_units(text, MONEY_EXP))


def kind_of(order: ClientOrder) -> str:
    """The type of an order in the venue's words."""
    if order.time_in_force == TimeInForce.GTX:
        return "LIMIT_MAKER"
    return OrderType(order.order_type).name


def exchange_information(settings: VenueSettings, now_ms: int, halted: bool = False) -> Json:
    """Answer of exchangeInfo."""
    weight, orders = settings.limits()
    return {
        "timezone": "UTC",
        "serverTime": now_ms,
        "rateLimits": [
            {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": weight},
            {"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": orders["10S"]},
            {"rateLimitType": "ORDERS", "interval": "DAY", "intervalNum": 1, "limit": orders["1D"]},
        ],
        "exchangeFilters": [],
        "symbols": [_symbol(settings, entry, halted) for entry in settings.listed()],
    }


def _symbol(settings: VenueSettings, entry: SymbolSettings, halted: bool) -> Json:
    tick, lot, largest = eight(entry.tick_size), eight(entry.lot_size), eight(entry.max_size)
    least, most = PRICE_BAND
    return {
        "symbol": entry.symbol,
        "status": "HALT" if halted else entry.status,
        "baseAsset": entry.base,
        "baseAssetPrecision": MONEY_EXP,
        "quoteAsset": entry.quote,
        "quotePrecision": MONEY_EXP,
        "quoteAssetPrecision": MONEY_EXP,
        "baseCommissionPrecision": MONEY_EXP,
        "quoteCommissionPrecision": MONEY_EXP,
        "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET"],
        "icebergAllowed": False,
        "ocoAllowed": False,
        "otoAllowed": False,
        "opoAllowed": False,
        "quoteOrderQtyMarketAllowed": True,
        "allowTrailingStop": False,
        "cancelReplaceAllowed": True,
        "amendAllowed": False,
        "pegInstructionsAllowed": False,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": eight(MAX_PRICE), "tickSize": tick},
            {"filterType": "LOT_SIZE", "minQty": lot, "maxQty": largest, "stepSize": lot},
            {"filterType": "MARKET_LOT_SIZE", "minQty": lot, "maxQty": largest, "stepSize": lot},
            {"filterType": "PERCENT_PRICE_BY_SIDE", "bidMultiplierUp": most, "bidMultiplierDown": least,
             "askMultiplierUp": most, "askMultiplierDown": least, "avgPriceMins": 0},
            {"filterType": "NOTIONAL", "minNotional": eight(entry.min_notional), "applyMinToMarket": True,
             "maxNotional": eight(MAX_NOTIONAL), "applyMaxToMarket": False, "avgPriceMins": 0},
            {"filterType": "MAX_NUM_ORDERS", "maxNumOrders": settings.max_open_orders},
        ],
        "permissions": [],
        "permissionSets": [["SPOT"]],
        "defaultSelfTradePreventionMode": "NONE",
        "allowedSelfTradePreventionModes": list(SELF_TRADE_MODES),
    }


def _terms(order: ClientOrder, instrument: Instrument) -> Json:
    """What all answers about an order have in common."""
    return {
        "price": format_eight(order.price, instrument.price_exp),
        "origQty": format_eight(order.size, instrument.size_exp),
        "executedQty": format_eight(order.executed, instrument.size_exp),
        "origQuoteOrderQty": money(order.quote_wanted),
        "cummulativeQuoteQty": money(order.quote),
        "status": order.status.value,
        "timeInForce": "GTC" if order.time_in_force == TimeInForce.GTX else TimeInForce(order.time_in_force).name,
        "type": kind_of(order),
        "side": Side(order.side).name,
    }


def format_eight(value: int, exp: int) -> str:
    """Units of 10^-exp as text with eight decimals."""
    return format_units(value * 10 ** (MONEY_EXP - exp), MONEY_EXP)


def order_answer(order: ClientOrder, instrument: Instrument) -> Json:
    """One order as it is shown to who asks."""
    time_ms = order.time_ns // NS_PER_MS
    return {
        "symbol": instrument.symbol,
        "orderId": order.order_id,
        "orderListId": -1,
        "clientOrderId": order.client_id,
        **_terms(order, instrument),
        "stopPrice": money(0),
        "icebergQty": money(0),
        "time": time_ms,
        "updateTime": order.update_ns // NS_PER_MS,
        "isWorking": True,
        "workingTime": time_ms,
        "selfTradePreventionMode": order.self_trade.name,
    }


def new_order_answer(
    order: ClientOrder, fills: Sequence[ClientFill], instrument: Instrument, fee_asset: str, response: str
) -> Json:
    """The answer to a new order. response: ACK, RESULT or FULL."""
    time_ms = order.time_ns // NS_PER_MS
    answer: Json = {
        "symbol": instrument.symbol, "orderId": order.order_id, "orderListId": -1, "clientOrderId": order.client_id,
        "transactTime": time_ms,
    }
    if response != "ACK":
        answer |= _terms(order, instrument)
        answer |= {"workingTime": time_ms, "selfTradePreventionMode": order.self_trade.name}
    if response == "FULL":
        answer["fills"] = [
            {
                "price": format_eight(fill.price, instrument.price_exp),
                "qty": format_eight(fill.size, instrument.size_exp),
                "commission": money(fill.fee),
                "commissionAsset": fee_asset,
                "tradeId": fill.trade_id,
            }
            for fill in fills
        ]
    return answer


def cancel_answer(order: ClientOrder, instrument: Instrument) -> Json:
    """The answer to a cancel."""
    return {
        "symbol": instrument.symbol,
        "origClientOrderId": order.client_id,
        "orderId": order.order_id,
        "orderListId": -1,
        "clientOrderId": order.cancel_id,
        "transactTime": order.update_ns // NS_PER_MS,
        **_terms(order, instrument),
        "selfTradePreventionMode": order.self_trade.name,
    }


def fill_answer(fill: ClientFill, instrument: Instrument) -> Json:
    """One entry of myTrades."""
    return {
        "symbol": instrument.symbol,
        "id": fill.trade_id,
        "orderId": fill.order_id,
        "orderListId": -1,
        "price": format_eight(fill.price, instrument.price_exp),
        "qty": format_eight(fill.size, instrument.size_exp),
        "quoteQty": money(fill.quote),
        "commission": money(fill.fee),
        "commissionAsset": instrument.base if fill.side == Side.BUY else instrument.quote,
        "time": fill.time_ns // NS_PER_MS,
        "isBuyer": fill.side == Side.BUY,
        "isMaker": fill.maker,
        "isBestMatch": True,
    }


def rates_answer(maker: int, taker: int) -> Json:
    """Fee rates (1e-8) as account and commission show them."""
    return {"maker": money(maker), "taker": money(taker), "buyer": money(0), "seller": money(0)}


def account_answer(balances: Balances, maker: int, taker: int, now_ms: int, without_zeros: bool) -> Json:
    """Answer of account."""
    listed: list[dict[str, Any]] = [
        {"asset": asset, "free": money(balances.free[asset]), "locked": money(balances.locked[asset])}
        for asset in sorted(balances.free)
        if not without_zeros or balances.free[asset] or balances.locked[asset]
    ]
    per_mille = 10 ** (MONEY_EXP - 4)
    return {
        "makerCommission": maker // per_mille,
        "takerCommission": taker // per_mille,
        "buyerCommission": 0,
        "sellerCommission": 0,
        "commissionRates": rates_answer(maker, taker),
        "canTrade": True,
        "canWithdraw": False,
        "canDeposit": False,
        "brokered": False,
        "requireSelfTradePrevention": False,
        "preventSor": False,
        "updateTime": now_ms,
        "accountType": "SPOT",
        "balances": listed,
        "permissions": ["SPOT"],
        "uid": 1,
    }
