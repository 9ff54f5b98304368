"""Which sockets carry which market data.

Since 2026 the venue splits its streams: depth, bookTicker and trade live under /public, mark price and
liquidations under /market. Source: Binance notice "Base URL Split & Migration".
"""

from __future__ import annotations

from collections.abc import Sequence


def market_socket_urls(ws_url: str, symbols: Sequence[str]) -> list[str]:
    """URLs of the combined streams that ingestion listens to, one a socket."""
    names = [symbol.lower() for symbol in symbols]
    public = [f"{name}@{kind}" for name in names for kind in ("depth@0ms", "bookTicker", "trade")]
    market = [f"{name}@markPrice@1s" for name in names]
    return [f"{ws_url}/public/stream?streams={'/'.join(public)}", f"{ws_url}/market/stream?streams={'/'.join(market)}"]
