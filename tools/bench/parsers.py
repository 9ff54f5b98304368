"""Other libraries' own parsers of Binance USD-M depth, as peers of `bench decode`: bytes in hand to a book.

Each gets the venue's REST snapshot first, then every depth frame of the recording in turn, through the code that its
users' frames go through: parse, check the update ids where it does, keep the book. Nothing is subscribed and no
socket is open.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from decimal import Decimal
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import orjson

from tools.bench.report import BenchError


class Parser(ABC):
    """One library's parser of one contract."""

    package: str

    @property
    def version(self) -> str:
        """Version of the package. Raises BenchError where it is not installed."""
        try:
            return version(self.package)
        except PackageNotFoundError:
            raise BenchError(f"{self.package} is not installed; the extra `parsers` does it") from None

    @abstractmethod
    def begin(self, symbol: str, snapshot: bytes) -> None:
        """Stand on a REST snapshot."""

    @abstractmethod
    def take(self, frames: Sequence[bytes]) -> None:
        """Take depth frames of combined streams, one by one."""

    @property
    @abstractmethod
    def touch(self) -> tuple[Decimal, Decimal]:
        """Best bid and best ask of its book."""


class CryptofeedParser(Parser):
    """cryptofeed: `BinanceFutures.message_handler`, with a callback that does nothing."""

    package = "cryptofeed"

    def begin(self, symbol: str, snapshot: bytes) -> None:
        """See Parser."""
        from cryptofeed.defines import BINANCE_FUTURES, L2_BOOK
        from cryptofeed.exchanges import BinanceFutures
        from cryptofeed.symbols import Symbols
        from cryptofeed.types import OrderBook

        async def ignore(book: Any, received: float) -> None:
            return

        base = symbol.removesuffix("USDT")
        self._name = f"{base}-USDT-PERP"
        Symbols.set(BINANCE_FUTURES, {self._name: symbol}, {})  # instead of asking the venue for its list
        self._feed = BinanceFutures(symbols=[self._name], channels=[L2_BOOK], callbacks={L2_BOOK: ignore})
        answer = orjson.loads(snapshot)
        sides = {
            key: {Decimal(price): Decimal(size) for price, size in answer[key]} for key in ("bids", "asks")
        }
        self._feed._l2_book[self._name] = OrderBook(self._feed.id, self._name, **sides)
        self._feed.last_update_id[self._name] = answer["lastUpdateId"]

    def take(self, frames: Sequence[bytes]) -> None:
        """See Parser."""
        handle = self._feed.message_handler
        for frame in frames:
            try:
                handle(frame.decode(), None, 0.0).send(None)
            except StopIteration:
                continue
            raise BenchError("cryptofeed waits for something that is not there")

    @property
    def touch(self) -> tuple[Decimal, Decimal]:
        """See Parser."""
        book = self._feed._l2_book[self._name].book
        return book.bids.index(0)[0], book.asks.index(0)[0]


class CcxtParser(Parser):
    """ccxt.pro: `binanceusdm.handle_order_book_message` on its own incremental order book."""

    package = "ccxt"

    def begin(self, symbol: str, snapshot: bytes) -> None:
        """See Parser."""
        import ccxt.pro

        self._exchange = ccxt.pro.binanceusdm()
        answer = orjson.loads(snapshot)
        self._book = self._exchange.order_book({}, 1000)
        whole = self._exchange.parse_order_book(answer, symbol, None, "bids", "asks")
        self._book.reset(whole | {"nonce": answer["lastUpdateId"]})

    def take(self, frames: Sequence[bytes]) -> None:
        """See Parser."""
        exchange, book = self._exchange, self._book
        for frame in frames:
            exchange.handle_order_book_message(None, orjson.loads(frame)["data"], book)

    @property
    def touch(self) -> tuple[Decimal, Decimal]:
        """See Parser."""
        best = (self._book["bids"][0][0], self._book["asks"][0][0])
        return Decimal(str(best[0])), Decimal(str(best[1]))


PARSERS: tuple[type[Parser], ...] = (CryptofeedParser, CcxtParser)
