"""What a recording says of listings: a body of REST, or a frame of a channel that tells of them, as terms that changed.

The recorder and whoever replays its capture ask the same questions in the same order, so they get the same answers: a
replay has the INSTRUMENT and STATUS records that a live session would have had. At the start the terms are those of the
instruments in the manifest. Units: as procs/venues/terms.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from engine.instruments import Instrument
from engine.records import Status
from procs.venues.binance_usdm.endpoints import VenueUnreachable
from procs.venues.market import Market
from procs.venues.terms import Terms, terms_after

Changes = list[tuple[int, Terms]]  # by the instrument's place


class Listings:
    """The terms that hold, and how they change."""

    def __init__(self, market: Market, instruments: Sequence[Instrument]) -> None:
        self._market = market
        self._instruments = tuple(instruments)
        self._symbols = [item.symbol for item in instruments]
        self._held = [Terms(item.tick_size, item.lot_size, item.min_notional, int(item.status)) for item in instruments]

    def is_listing(self, path: str) -> bool:
        """Whether the path of a REST answer is that of the listing."""
        return path.endswith(self._market.listing_path)

    def body(self, body: bytes) -> Changes:
        """What a body of the listing changes; nothing, where it cannot be understood."""
        try:
            listed = self._market.parse_listing(body, self._symbols)
        except VenueUnreachable:
            return []
        return self._take({symbol: listed.get(symbol) for symbol in self._symbols})

    def frame(self, frame: bytes) -> Changes:
        """What a frame changes, of whatever channel."""
        return self._take(self._market.news(frame, self._symbols))

    def _take(self, news: Mapping[str, Instrument | Status | None]) -> Changes:
        changes: Changes = []
        for place, item in enumerate(self._instruments):
            if item.symbol in news:
                terms = terms_after(item, self._held[place], news[item.symbol])
                if terms != self._held[place]:
                    self._held[place] = terms
                    changes.append((place, terms))
        return changes
