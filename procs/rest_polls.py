"""What ingestion asks the venue for now and then over REST: the listing, and kinds of data that no socket tells.

Each request is made in a thread of its own and paid for from the rate budget as an ordinary call, so neither sockets
nor orders wait for it; the answers are handed over in the event loop's thread. Intervals are jittered. A request that
fails is made again later, further apart each time, and its fault is said once; until then what was known goes on to
hold.
Known limit: reading Kraken's listing holds the interpreter for some milliseconds, in which no frame is taken;
Binance's, which is large, is not read whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import requests

from engine.ingest.settings import FeedSettings
from engine.instruments import Instrument
from engine.records import Status
from procs.back_off import back_off_s
from procs.budget import Budget
from procs.venues.binance_usdm.endpoints import VenueUnreachable
from procs.venues.binance_usdm.paying import paying_session
from procs.venues.market import Market

T = TypeVar("T")
_HALTED_REFRESH_S = 15.0  # a halt ends unannounced, so the listing is read more often as long as there is one
_LASTING = (Status.TRADING, Status.CLOSED)
_LADDER_S = (1.0, 5.0, 15.0, 30.0, 60.0)  # after failures


class RestPolls:
    """See the module. `tasks` ask for as long as they run.

    on_listed(index, the instrument as it is listed now, None where it is not); on_frame(the body of an answer).
    """

    def __init__(
        self, market: Market, budget: Budget, rest_url: str, instruments: Sequence[Instrument], feed: FeedSettings,
        on_listed: Callable[[int, Instrument | None], None], on_frame: Callable[[bytes], None],
        say: Callable[[str], None],
    ) -> None:
        self._market = market
        self._budget = budget
        self._rest_url = rest_url
        self._instruments = tuple(instruments)
        self._feed = feed
        self._on_listed = on_listed
        self._on_frame = on_frame
        self._say = say
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="polls")
        self.refreshes = 0  # listings that were read
        self.failures = 0

    def tasks(self) -> set[asyncio.Task[None]]:
        """Start asking; the tasks, for the caller to cancel."""
        tasks = set()
        if self._feed.listing_refresh_s > 0:
            tasks.add(asyncio.create_task(self._keep_listing()))
        if "open_interest" in self._feed.kinds and "open_interest" in self._market.polled:
            tasks.add(asyncio.create_task(self._keep_open_interest()))
        return tasks

    def close(self) -> None:
        """Wait for the request under way, which ends by its timeout."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    async def _ask(self, name: str, interval_s: float, ask: Callable[[requests.Session], T]) -> T:
        """The answer to a request that is made an interval from now, or later when it fails."""
        failures, told = 0, ""
        await asyncio.sleep(back_off_s(0, (4 / 3 * interval_s,)))  # from two to four thirds of it

        def once() -> T:
            with paying_session(self._budget) as session:
                return ask(session)

        while True:
            try:
                return await asyncio.get_running_loop().run_in_executor(self._pool, once)
            except VenueUnreachable as error:
                failures += 1
                self.failures += 1
                if not told:
                    told = f"{name}: {error}"
                    self._say(told)
                await asyncio.sleep(back_off_s(failures - 1, _LADDER_S))

    async def _keep_listing(self) -> None:
        symbols = [item.symbol for item in self._instruments]
        halted = any(item.status not in _LASTING for item in self._instruments)
        while True:
            usual_s = self._feed.listing_refresh_s
            listed = await self._ask(
                "listing", min(usual_s, _HALTED_REFRESH_S) if halted else usual_s,
                lambda session: self._market.list_again(session, self._rest_url, symbols),
            )
            self.refreshes += 1
            for item in self._instruments:
                self._on_listed(item.index, listed.get(item.symbol))
            halted = any(item.status not in _LASTING for item in listed.values())

    async def _keep_open_interest(self) -> None:
        interval_s = self._feed.open_interest_interval_s / len(self._instruments)
        while True:
            for item in self._instruments:
                self._on_frame(await self._ask(
                    "open interest", interval_s,
                    lambda session, symbol=item.symbol: self._market.fetch_open_interest(  # type: ignore[misc]
                        session, self._rest_url, symbol
                    ),
                ))
