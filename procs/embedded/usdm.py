"""The embedded venue as Binance USD-M futures: margin account, listen keys, dead-man switches, liquidations."""

from __future__ import annotations

from typing import Any

import orjson

from engine.matching.exchange import Exchange
from engine.matching.market import SimulatedMarket
from engine.matching.orders import Notice, WalletChange
from engine.matching.settings import VenueSettings
from engine.matching.wire import MarketFeed
from engine.units import format_units
from procs.embedded.answers import NS_PER_MS, fill_answer, money, order_answer
from procs.embedded.dialect import VenueDialect, Wiring
from procs.embedded.events import account_event, force_order_event, order_event, wallet_event
from procs.embedded.rest_usdm import UsdmRest


class UsdmDialect(VenueDialect):
    """See VenueDialect."""

    api_root = "/fapi/"
    cancel_all_path = "/fapi/v1/allOpenOrders"
    ping_interval_s = 180.0
    exchange: Exchange
    rest: UsdmRest

    def __init__(self, settings: VenueSettings, wiring: Wiring):
        self._hub = wiring.hub
        self._skew_ms = wiring.skew_ms
        self.market = SimulatedMarket(settings, start_ns=wiring.start_ns)
        self.exchange = Exchange(
            settings, wiring.start_ns, wiring.on_market, wiring.on_notice, self._on_wallet, self.market
        )
        self.feed = MarketFeed(self.market, wiring.hub.wanted, wiring.clock_ms())
        self.rest = UsdmRest(
            self.exchange, self.feed, wiring.key, wiring.secret, wiring.listen_key, wiring.clock_ms, wiring.shown_ms
        )

    def turn(self, now_ns: int) -> None:
        """See VenueDialect."""
        now_ms = now_ns // NS_PER_MS
        for symbol, deadline in list(self.rest.cancel_at_ms.items()):
            if now_ms >= deadline:
                del self.rest.cancel_at_ms[symbol]
                self.exchange.cancel_all(symbol, now_ns)
        self.requested(now_ms)

    def requested(self, now_ms: int) -> None:
        """Keep the hub's listen key in step with what the clients asked for."""
        alive = now_ms < self.rest.listen_key_until_ms
        if alive:
            self._hub.listen_key = self.rest.listen_key
        elif self._hub.listen_key:
            self._hub.publish_user({"e": "listenKeyExpired", "E": now_ms, "listenKey": self._hub.listen_key})
            self._hub.listen_key = ""

    def _told_ms(self) -> int:
        """The time that user data carry."""
        return self.exchange.now_ns // NS_PER_MS + self._skew_ms()

    def tell(self, notice: Notice) -> None:
        """See VenueDialect."""
        instrument = self.exchange.instruments[notice.order.symbol]
        if notice.fill is not None:
            self._hub.publish_user(account_event(notice, instrument, self._told_ms()))
        self._hub.publish_user(order_event(notice, instrument, self._told_ms()), is_fill=notice.fill is not None)
        if notice.order.forced and not notice.order.is_open:
            payload = orjson.dumps(force_order_event(notice, instrument, self.exchange.now_ns // NS_PER_MS))
            self._hub.publish([(f"{instrument.symbol.lower()}@forceOrder", payload), ("!forceOrder@arr", payload)])

    def _on_wallet(self, change: WalletChange) -> None:
        self._hub.publish_user(wallet_event(change, self.rest.account, self._told_ms()))

    def log_entry(self, notice: Notice) -> dict[str, Any]:
        """See VenueDialect."""
        return {"reduce_only": notice.order.reduce_only, "position": int(notice.position)}

    def state(self) -> dict[str, Any]:
        """See VenueDialect. Money as decimal text."""
        exchange, account = self.exchange, self.exchange.account[0]
        names = exchange.instruments
        return {
            "wallet": money(exchange.wallet()),
            "realised": money(int(account["realised"])),
            "fees": money(int(account["fees"])),
            "funding": money(int(account["funding"])),
            "insurance": money(int(account["insurance"])),
            "liquidations": exchange.clearing.liquidations,
            # what all accounts are worth plus the fees paid: it never changes
            "total": money(exchange.clearing.total()),
            "positions": {
                item.symbol: {
                    "size": format_units(exchange.position(item.index), item.size_exp),
                    "cost": money(exchange.cost(item.index)),
                    "unrealised": money(exchange.unrealised(item.index)),
                    "realised": money(exchange.contract_realised(item.index)),
                }
                for item in names
            },
            "open_orders": [order_answer(order, names[order.symbol]) for order in exchange.open.values()],
            "fills": [fill_answer(fill, names[fill.symbol]) for fill in list(exchange.fills)[-1000:]],
        }
