"""What a user may set about validation: the rules, each of which may be switched off, and their bounds."""

from __future__ import annotations

from dataclasses import dataclass

from engine.book.book import MAX_PRICE
from engine.settings import setting

MEDIAN_PLACES = 63  # longest window of the running median
AUDIT_LEVELS = 100  # most levels a side of a REST snapshot that are compared


@dataclass(frozen=True)
class ValidationSettings:
    """Which market data are believed."""

    monotonic_time: bool = setting(True, "data received earlier than data before them are refused")
    unique_trades: bool = setting(True, "a trade whose id was among the last ones is refused")
    tick_grid: bool = setting(
        True, "trades, quotes and liquidations whose price is no multiple of the tick size are refused"
    )
    price_band: bool = setting(
        True, "trades, quotes, liquidations, mark and index prices too far from the running median of the prices are "
        "refused"
    )
    band_fraction: float = setting(
        0.1, "so far, as a part of the median, a price may be from it", minimum=0.0001, maximum=100.0,
    )
    band_confirmations: int = setting(
        8, "so many refused prices in a row that agree with each other begin a new median: the market has moved",
        minimum=1, maximum=1_000_000,
    )
    median_window: int = setting(
        9, "the median is that of so many good trades and quotes; with 1 it is the last one",
        minimum=1, maximum=MEDIAN_PLACES,
    )
    funding_rate_max: float = setting(
        0.1, "largest funding rate of either sign, as a part of the value of a position", minimum=0.0001, maximum=100.0,
    )
    price_max: int = setting(
        MAX_PRICE, "largest price of any record, in price units of its instrument", minimum=1, maximum=MAX_PRICE,
    )
    size_max: int = setting(
        1 << 56, "largest size of any record, in size units of its instrument", minimum=1, maximum=1 << 56,
    )
    crossed_books: bool = setting(True, "a book whose best bid is above its best ask is invalid until it is made anew")
    locked_books: bool = setting(True, "likewise one whose best bid is its best ask")
    snapshot_reach: bool = setting(
        True, "likewise one whose touch is worse than the last level of its snapshot, where the venue's limit cut that"
    )
    ticker_audit: bool = setting(
        True, "a book whose touch is not that of the venue's ticker, again and again, is invalid until made anew"
    )
    audit_disagreements: int = setting(
        3, "so many disagreements in a row are needed for that", minimum=1, maximum=1_000_000,
    )
    stalled_book_ms: int = setting(
        3000, "so long the venue's ticker may be ahead of a book and differ from it before the book is invalid: its "
        "stream has died", minimum=1_000, maximum=600_000,
    )
    audit_band: float = setting(
        0.002, "where ticker and book cannot be tied together they may be so far apart, as a part of the price",
        minimum=0.0, maximum=1.0,
    )
    rest_audit_levels: int = setting(
        10, "so many levels a side of a REST snapshot are held against the book (feed.rest_audit_s)",
        minimum=1, maximum=AUDIT_LEVELS,
    )
    rest_audit_window_ms: int = setting(
        1500, "the moment that a REST snapshot tells of may be so much before the request, and may reach the socket so "
        "much after the answer", minimum=0, maximum=10_000,
    )
    rest_audit_disagreements: int = setting(
        2, "after so many REST snapshots in a row that disagree the book is invalid until made anew",
        minimum=1, maximum=1_000_000,
    )
    checksums: bool = setting(True, "a book that does not agree with the venue's checksum is invalid until made anew")
