"""What the embedded venue says about orders, fills, positions and the account, in Binance USD-M's field names.

Numbers are decimal texts at the wire precision. The break-even price is given as the entry price.
Source: Binance USD-M futures, "Trade" and "Account" endpoints.
"""

from __future__ import annotations

from typing import Any

from engine.instruments import Instrument
from engine.matching.exchange import Exchange
from engine.matching.margin import BRACKETS, largest_notional
from engine.matching.orders import ClientFill, ClientOrder, FundingRate, IncomeEntry
from engine.matching.settings import SymbolSettings, VenueSettings
from engine.records import OrderType, Side, TimeInForce
from engine.units import MONEY_EXP, format_units, notional
from procs.embedded.orders import MAX_PRICE

NS_PER_MS = 1_000_000
LIMITS = [
    {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1},
    {"rateLimitType": "ORDERS", "interval": "MINUTE", "intervalNum": 1},
    {"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10},
]
Json = dict[str, Any]


def money(value: int) -> str:
    """1e-8 quote units as text."""
    return format_units(value, MONEY_EXP)


def average_price(cost: int, size: int, instrument: Instrument) -> str:
    """cost (1e-8) / size (size units) as text with eight decimals, truncated; "0.00" for no size."""
    if size == 0:
        return format_units(0, instrument.price_exp)
    return money(cost * 10**instrument.size_exp // size)


def exchange_information(settings: VenueSettings, now_ms: int, halted: bool = False) -> Json:
    """Answer of exchangeInfo."""
    limits = [
        dict(entry, limit=limit)
        for entry, limit in zip(LIMITS, (settings.weight_limit_1m, settings.order_limit_1m, settings.order_limit_10s))
    ]
    return {
        "timezone": "UTC",
        "serverTime": now_ms,
        "futuresType": "U_MARGINED",
        "rateLimits": limits,
        "exchangeFilters": [],
        "assets": [{"asset": "USDT", "marginAvailable": True, "autoAssetExchange": "0"}],
        "symbols": [_contract(settings, entry, halted) for entry in settings.listed()],
    }


def _contract(settings: VenueSettings, entry: SymbolSettings, halted: bool) -> Json:
    tick, lot, largest = entry.tick_size, entry.lot_size, entry.max_size
    return {
        "symbol": entry.symbol,
        "pair": entry.symbol,
        "contractType": "PERPETUAL",
        "deliveryDate": 4133404800000,
        "onboardDate": 1569398400000,
        "status": "PENDING_TRADING" if halted else entry.status,
        "maintMarginPercent": "2.5000",
        "requiredMarginPercent": "5.0000",
        "baseAsset": entry.base,
        "quoteAsset": entry.quote,
        "marginAsset": entry.quote,
        "pricePrecision": entry.price_exp,
        "quantityPrecision": entry.size_exp,
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "underlyingType": "COIN",
        "underlyingSubType": ["PoW"],
        "settlePlan": 0,
        "triggerProtect": "0.0500",
        "liquidationFee": f"{float(settings.liquidation_fee):.6f}",
        "marketTakeBound": "0.05",
        "maxMoveOrderLimit": 10000,
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": MAX_PRICE, "tickSize": tick},
            {"filterType": "LOT_SIZE", "minQty": lot, "maxQty": largest, "stepSize": lot},
            {"filterType": "MARKET_LOT_SIZE", "minQty": lot, "maxQty": largest, "stepSize": lot},
            {"filterType": "MAX_NUM_ORDERS", "limit": settings.max_open_orders},
            {"filterType": "MIN_NOTIONAL", "notional": entry.min_notional},
            {"filterType": "PERCENT_PRICE", "multiplierUp": "1.0500", "multiplierDown": "0.9500",
             "multiplierDecimal": "4"},
        ],
        "orderTypes": ["LIMIT", "MARKET"],
        "timeInForce": ["GTC", "IOC", "FOK", "GTX"],
    }


def order_answer(order: ClientOrder, instrument: Instrument, acknowledged_only: bool = False) -> Json:
    """One order as REST shows it. acknowledged_only: as it was when accepted (newOrderRespType ACK)."""
    executed = 0 if acknowledged_only else order.executed
    quote = 0 if acknowledged_only else order.quote
    kind = OrderType(order.order_type).name
    return {
        "orderId": order.order_id,
        "symbol": instrument.symbol,
        "status": "NEW" if acknowledged_only else order.status.value,
        "clientOrderId": order.client_id,
        "price": format_units(order.price, instrument.price_exp),
        "avgPrice": average_price(quote, executed, instrument),
        "origQty": format_units(order.size, instrument.size_exp),
        "executedQty": format_units(executed, instrument.size_exp),
        "cumQty": format_units(executed, instrument.size_exp),
        "cumQuote": money(quote),
        "timeInForce": TimeInForce(order.time_in_force).name,
        "type": kind,
        "reduceOnly": order.reduce_only,
        "closePosition": False,
        "side": Side(order.side).name,
        "positionSide": "BOTH",
        "stopPrice": "0",
        "workingType": "CONTRACT_PRICE",
        "priceProtect": False,
        "origType": kind,
        "priceMatch": "NONE",
        "selfTradePreventionMode": order.self_trade.name,
        "goodTillDate": 0,
        "time": order.time_ns // NS_PER_MS,
        "updateTime": order.update_ns // NS_PER_MS,
    }


def fill_answer(fill: ClientFill, instrument: Instrument) -> Json:
    """One entry of userTrades."""
    return {
        "buyer": fill.side == Side.BUY,
        "commission": money(fill.fee),
        "commissionAsset": instrument.quote,
        "id": fill.trade_id,
        "maker": fill.maker,
        "orderId": fill.order_id,
        "price": format_units(fill.price, instrument.price_exp),
        "qty": format_units(fill.size, instrument.size_exp),
        "quoteQty": money(fill.quote),
        "realizedPnl": money(fill.realised),
        "side": fill.side.name,
        "positionSide": "BOTH",
        "symbol": instrument.symbol,
        "time": fill.time_ns // NS_PER_MS,
    }


def income_answer(entry: IncomeEntry, instrument: Instrument) -> Json:
    """One entry of income."""
    return {
        "symbol": instrument.symbol,
        "incomeType": entry.income.value,
        "income": money(entry.amount),
        "asset": instrument.quote,
        "info": str(entry.trade_id) if entry.trade_id else entry.income.value,
        "time": entry.time_ns // NS_PER_MS,
        "tranId": entry.transaction_id,
        "tradeId": str(entry.trade_id) if entry.trade_id else "",
    }


def funding_answer(entry: FundingRate, instrument: Instrument) -> Json:
    """One entry of fundingRate."""
    return {
        "symbol": instrument.symbol,
        "fundingTime": entry.time_ns // NS_PER_MS,
        "fundingRate": money(entry.rate),
        "markPrice": money(entry.mark * 10 ** (MONEY_EXP - instrument.price_exp)),
    }


def bracket_answer(name: str) -> Json:
    """One entry of leverageBracket."""
    return {"symbol": name, "notionalCoef": 1.0, "brackets": [
        {
            "bracket": item.number, "initialLeverage": item.leverage, "notionalCap": item.cap // 10**MONEY_EXP,
            "notionalFloor": item.floor // 10**MONEY_EXP, "maintMarginRatio": item.rate / 10**MONEY_EXP,
            "cum": item.cum / 10**MONEY_EXP,
        }
        for item in BRACKETS
    ]}


class AccountAnswers:
    """Positions and balances of an exchange's account as REST shows them."""

    def __init__(self, exchange: Exchange):
        self.exchange = exchange

    def mark(self, symbol: int) -> int:
        """Mark price, price units."""
        return self.exchange.clearing.mark(symbol)

    def value(self, symbol: int) -> int:
        """Signed notional of a position at its mark price, 1e-8."""
        item = self.exchange.instruments[symbol]
        position = self.exchange.position(symbol)
        return int(notional(self.mark(symbol), position, item.price_exp + item.size_exp))

    def maintenance(self, symbol: int) -> int:
        """Maintenance margin, 1e-8."""
        return self.exchange.clearing.maintenance(symbol)

    def position_margin(self, symbol: int) -> int:
        """Initial margin of the position alone, 1e-8."""
        return abs(self.value(symbol)) // int(self.exchange.account["leverage"][0, symbol])

    def in_use(self, symbol: int) -> bool:
        """Whether there is a position or an open order."""
        return self.exchange.position(symbol) != 0 or any(
            order.symbol == symbol for order in self.exchange.open.values()
        )

    def position(self, symbol: int, now_ms: int) -> Json:
        """One position with the fields of positionRisk v2 and v3."""
        item = self.exchange.instruments[symbol]
        account = self.exchange.account
        size = self.exchange.position(symbol)
        entry = average_price(self.exchange.cost(symbol), abs(size), item)
        margin = self.exchange.initial_margin(symbol)
        return {
            "symbol": item.symbol,
            "positionSide": "BOTH",
            "positionAmt": format_units(size, item.size_exp),
            "entryPrice": entry,
            "breakEvenPrice": entry,
            "markPrice": money(self.mark(symbol) * 10 ** (MONEY_EXP - item.price_exp)),
            "unRealizedProfit": money(self.exchange.unrealised(symbol)),
            "liquidationPrice": format_units(self.exchange.clearing.liquidation_price(symbol), item.price_exp),
            "leverage": str(int(account["leverage"][0, symbol])),
            "maxNotionalValue": str(largest_notional(int(account["leverage"][0, symbol])) // 10**MONEY_EXP),
            "marginType": "cross",
            "isolatedMargin": "0",
            "isAutoAddMargin": "false",
            "notional": money(self.value(symbol)),
            "marginAsset": item.quote,
            "isolatedWallet": "0",
            "initialMargin": money(margin),
            "maintMargin": money(self.maintenance(symbol)),
            "positionInitialMargin": money(self.position_margin(symbol)),
            "openOrderInitialMargin": money(margin - self.position_margin(symbol)),
            "adl": 0,
            "bidNotional": money(int(account["open_buy"][0, symbol])),
            "askNotional": money(int(account["open_sell"][0, symbol])),
            "updateTime": now_ms if size else 0,
        }

    def account(self, now_ms: int, every_contract: bool) -> Json:
        """Answer of account; every_contract: v2 lists all contracts, v3 those in use."""
        symbols = range(len(self.exchange.instruments))
        wallet = self.exchange.wallet()
        profit = sum(self.exchange.unrealised(symbol) for symbol in symbols)
        margin = sum(self.exchange.initial_margin(symbol) for symbol in symbols)
        of_positions = sum(self.position_margin(symbol) for symbol in symbols)
        free = max(0, self.exchange.available())
        totals = {
            "InitialMargin": margin,
            "MaintMargin": sum(self.maintenance(symbol) for symbol in symbols),
            "WalletBalance": wallet,
            "UnrealizedProfit": profit,
            "MarginBalance": wallet + profit,
            "PositionInitialMargin": of_positions,
            "OpenOrderInitialMargin": margin - of_positions,
            "CrossWalletBalance": wallet,
            "CrossUnPnl": profit,
        }
        asset = {name[0].lower() + name[1:]: money(value) for name, value in totals.items()}
        rest = {"availableBalance": money(free), "maxWithdrawAmount": money(free)}
        positions = []
        for symbol in symbols:
            if every_contract or self.in_use(symbol):
                entry = self.position(symbol, now_ms)
                entry["unrealizedProfit"] = entry.pop("unRealizedProfit")
                entry["isolated"] = False
                positions.append(entry)
        head = {"feeTier": 0, "canTrade": True, "canDeposit": False, "canWithdraw": False, "updateTime": 0,
                "multiAssetsMargin": False, "tradeGroupId": -1}
        return {
            **(head if every_contract else {}),
            **{"total" + name: money(value) for name, value in totals.items()},
            **rest,
            "assets": [{"asset": "USDT", **asset, **rest, "marginAvailable": True, "updateTime": now_ms}],
            "positions": positions,
        }

    def balance(self, now_ms: int) -> list[Json]:
        """Answer of balance."""
        profit = sum(self.exchange.unrealised(symbol) for symbol in range(len(self.exchange.instruments)))
        free = money(max(0, self.exchange.available()))
        wallet = money(self.exchange.wallet())
        return [{
            "accountAlias": "bot4", "asset": "USDT", "balance": wallet, "crossWalletBalance": wallet,
            "crossUnPnl": money(profit), "availableBalance": free, "maxWithdrawAmount": free,
            "marginAvailable": True, "updateTime": now_ms,
        }]
