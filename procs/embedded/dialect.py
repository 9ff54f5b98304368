"""What the markets of the embedded venue differ in: one seam for account rules, REST, streams and ground truth.

The venue (venue.py) has time, faults, the log and the sockets' listeners, and one dialect: USD-M futures (usdm.py) or
spot (spot.py). How market data look belongs to the feed below (engine/matching/frames.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from engine.matching.desk import OrderDesk
from engine.matching.market import SimulatedMarket
from engine.matching.wire import MarketFeed
from procs.embedded.fanout import Fanout, SocketAnswer
from procs.embedded.rest import RestApi


@dataclass(frozen=True)
class Wiring:
    """What a venue gives to its dialect. Clocks in ms; shown_ms: as clients are shown it, which a fault may put off."""

    start_ns: int
    hub: Fanout
    clock_ms: Callable[[], int]
    shown_ms: Callable[[], int]
    skew_ms: Callable[[], int]
    on_market: Callable[[int, np.ndarray], None]
    on_notice: Callable[[Any], None]
    key: str
    secret: str = field(repr=False)
    listen_key: str = field(repr=False)


class VenueDialect(ABC):
    """One market. Makers raise ValueError for settings that make none."""

    api_root: ClassVar[str]  # where the paths of its API begin
    cancel_all_path: ClassVar[str]  # a DELETE there cancels all orders of a contract
    ping_interval_s: ClassVar[float]  # of its sockets
    market: SimulatedMarket
    exchange: OrderDesk
    feed: MarketFeed
    rest: RestApi
    socket_api: SocketAnswer | None = None  # what answers requests over the market's WebSocket API; None: it has none

    @abstractmethod
    def turn(self, now_ns: int) -> None:
        """What is due besides the market."""

    @abstractmethod
    def requested(self, now_ms: int) -> None:
        """A request has been carried out."""

    @abstractmethod
    def tell(self, notice: Any) -> None:
        """Say on the streams what happened to an order of the client."""

    @abstractmethod
    def log_entry(self, notice: Any) -> dict[str, Any]:
        """What the log says of an acceptance or a fill besides what it says in every market."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """The ground truth of account, orders and fills."""
