"""What a user may set about the market data that are subscribed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from engine.settings import setting, table
from engine.units import MONEY_EXP

KINDS = ("book", "ticker", "trade", "mark_price", "liquidation", "open_interest", "listing")


@dataclass(frozen=True)
class SymbolFeedSettings:
    """What is subscribed otherwise for one symbol."""

    kinds: tuple[str, ...] = setting(
        (), "As feed.kinds, for this symbol alone; none: as there. 'listing' is of the whole market: named once, it is "
        "there for all."
    )
    book_levels: int = setting(-1, "As feed.book_levels; -1: as there.", minimum=-1, maximum=5000)
    book_interval_ms: int = setting(-1, "As feed.book_interval_ms; -1: as there.", minimum=-1, maximum=1000)


@dataclass(frozen=True)
class FeedSettings:
    """Which data of each instrument, how deep and how often."""

    kinds: tuple[str, ...] = setting(
        KINDS, f"What is subscribed, of {', '.join(KINDS)}, as far as the market has it; the book must be among them. "
        "'listing': changes of tick, lot, filters and status, where a socket tells of them."
    )
    book_levels: int = setting(
        0, "Levels a side of a book, where the venue sends a part of it (Kraken spot); 0: what is usual there.",
        minimum=0, maximum=5000,
    )
    book_interval_ms: int = setting(
        0, "How often a book is told at the most, where that can be chosen (Binance); 0: as often as the market can.",
        minimum=0, maximum=1000,
    )
    connections: int = setting(
        1, "So many connections with the same subscription; the first copy of every frame counts, in the order of the "
        "venue's numbers. More than one not where it has none (Kraken spot).", minimum=1, maximum=3,
    )
    accept_unverified: bool = setting(
        False, "Trade also on books that neither sequence nor checksum proves right, which are audited only."
    )
    unverified_audit_s: float = setting(
        30.0, "How often a book that nothing proves is held against a snapshot of REST (one book at a time, in turn); "
        "0: never.",
        minimum=0.0, maximum=3600.0,
    )
    rest_audit_s: float = setting(
        0.0, "Likewise a book that sequence or checksum proves (Binance, Kraken spot); 0: never.",
        minimum=0.0, maximum=3600.0,
    )
    liquidation_min_usd: float = setting(
        0.0, "A liquidation worth less, in the quote asset (where there are liquidations it is a dollar one), is "
        "counted and not passed on.",
        minimum=0.0, maximum=1e9,
    )
    open_interest_interval_s: float = setting(
        15.0, "How often the open interest of an instrument is asked for where only REST tells it (Binance).",
        minimum=1.0, maximum=3600.0,
    )
    listing_refresh_s: float = setting(
        300.0, "How often the venue is asked anew for tick sizes, filters and status (more often during a halt); 0: "
        "only at the start.",
        minimum=0.0, maximum=86_400.0,
    )
    symbols: dict[str, SymbolFeedSettings] = table("What is subscribed otherwise for a symbol of venue.symbols.")

    def of(self, symbol: str) -> FeedSettings:
        """The settings of one symbol's subscription, as if it were the only one."""
        own = self.symbols.get(symbol, SymbolFeedSettings())
        return replace(
            self, symbols={}, kinds=own.kinds or self.kinds,
            book_levels=self.book_levels if own.book_levels < 0 else own.book_levels,
            book_interval_ms=self.book_interval_ms if own.book_interval_ms < 0 else own.book_interval_ms,
        )

    def brings(self, kind: str, symbols: Sequence[str]) -> list[str]:
        """Those of some symbols for which a kind is subscribed, in their order."""
        return [symbol for symbol in symbols if kind in self.of(symbol).kinds]

    def key(self, symbol: str, name: str) -> str:
        """Where a setting of one symbol's subscription stands, for messages."""
        own = self.symbols.get(symbol, SymbolFeedSettings())
        return f"feed.{name}" if getattr(own, name) in (-1, ()) else f"feed.symbols.{symbol}.{name}"


def liquidation_min(feed: FeedSettings) -> int:
    """The smallest value of a liquidation that is passed on, 1e-8 quote units."""
    return round(feed.liquidation_min_usd * 10**MONEY_EXP)


def check_feed_symbols(feed: FeedSettings, symbols: Sequence[str]) -> None:
    """Raises ValueError for a kind that does not exist, one named twice, no book, and a symbol that is not traded."""
    for symbol in feed.symbols:
        if symbol not in symbols:
            raise ValueError(f"feed.symbols.{symbol}: allowed are those of venue.symbols: {', '.join(symbols)}")
    named = {"feed.kinds": feed.kinds} | {
        f"feed.symbols.{symbol}.kinds": own.kinds for symbol, own in feed.symbols.items() if own.kinds
    }
    for key, kinds in named.items():
        if not set(kinds) <= set(KINDS) or len(set(kinds)) != len(kinds) or "book" not in kinds:
            allowed = ", ".join(KINDS)
            raise ValueError(f"{key} = {list(kinds)!r}: allowed are 'book' and others of {allowed}, each once")
