"""What ingestion asks the venue for now and then over REST: the listing, and kinds of data that no socket tells.

Each request is made in a thread of its own and paid for from the rate budget as an ordinary call, so neither sockets
nor orders wait for it; the answers are handed over in the event loop's thread. Intervals are jittered. A request that
fails is made again later, further apart each time, and its fault is said once; until then what was known goes on to
hold. What a socket tells of a listing has the listing read soon after: an answer that was asked for before does not
count.
Known limit: reading Kraken's listing holds the interpreter for some milliseconds, in which no frame is taken;
Binance's, which is large, is not read whole.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import requests

from engine.ingest.settings import FeedSettings
from engine.instruments import Instrument
from engine.records import Status
from procs.back_off import back_off_s
from procs.budget import Budget
from procs.refusals import Refusals
from procs.venues.binance_usdm.endpoints import VenueUnreachable
from procs.venues.binance_usdm.paying import paying_session
from procs.venues.market import Market

T = TypeVar("T")
_HALTED_REFRESH_S = 15.0  # a halt ends unannounced, so the listing is read more often as long as there is one
_AFTER_NEWS_S = 5.0  # from half of that to the whole
_LASTING = (Status.TRADING, Status.CLOSED)
_LADDER_S = (1.0, 5.0, 15.0, 30.0, 60.0)  # after failures


class RestPolls:
    """See the module. `tasks` ask for as long as they run.

    on_listed(index, the instrument as it is listed now, None where it is not); on_frame(index, URL, the body of an
    answer that is decoded as a frame); on_listing(URL, body): of a listing, before `on_listed`.
    """

    def __init__(
        self, market: Market, budget: Budget, rest_url: str, instruments: Sequence[Instrument], feed: FeedSettings,
        on_listed: Callable[[int, Instrument | None], None], on_frame: Callable[[int, str, bytes], None],
        say: Callable[[str], None], on_listing: Callable[[str, bytes], None] = lambda url, body: None,
    ) -> None:
        self._market = market
        self._budget = budget
        self._rest_url = rest_url
        self._instruments = tuple(instruments)
        self._feed = feed
        self._on_listed = on_listed
        self._on_frame = on_frame
        self.refusals = Refusals(say)
        self._on_listing = on_listing
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="polls")
        self._news = asyncio.Event()
        self.refreshes = 0  # listings that were read

    def heard(self) -> None:
        """A socket has told of a listing. Call in the event loop's thread."""
        self._news.set()

    def tasks(self) -> set[asyncio.Task[None]]:
        """Start asking; the tasks, for the caller to cancel."""
        tasks = set()
        if self._feed.listing_refresh_s > 0:
            tasks.add(asyncio.create_task(self._keep_listing()))
        symbols = self._feed.brings("open_interest", [item.symbol for item in self._instruments])
        if symbols and "open_interest" in self._market.polled:
            polled = [item for item in self._instruments if item.symbol in symbols]
            tasks.add(asyncio.create_task(self._keep_open_interest(polled)))
        return tasks

    def close(self) -> None:
        """Wait for the request under way, which ends by its timeout."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    async def _wait(self, interval_s: float, news: asyncio.Event | None) -> None:
        """Two to four thirds of an interval, or until soon after there is news."""
        wait_s = back_off_s(0, (4 / 3 * interval_s,))
        if news is None:
            await asyncio.sleep(wait_s)
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(news.wait(), wait_s)
            await asyncio.sleep(min(back_off_s(0, (_AFTER_NEWS_S,)), wait_s))

    async def _ask(
        self, name: str, interval_s: float, ask: Callable[[requests.Session], T], news: asyncio.Event | None = None
    ) -> tuple[T, str, bytes]:
        """(the answer, URL, body) of a request that is made an interval from now, or later when it fails."""
        failures = 0
        await self._wait(interval_s, news)

        def once() -> tuple[T, str, bytes]:
            heard: list[requests.Response] = []
            with paying_session(self._budget) as session:
                session.hooks["response"].append(lambda answer, **_: heard.append(answer))
                found = ask(session)
            return found, heard[-1].url, heard[-1].content

        while True:
            if news is not None:
                news.clear()
            try:
                answer = await asyncio.get_running_loop().run_in_executor(self._pool, once)
                self.refusals.answered(name)
                return answer
            except VenueUnreachable as error:
                failures += 1
                self.refusals.refused(name, error)
                await asyncio.sleep(back_off_s(failures - 1, _LADDER_S))

    async def _keep_listing(self) -> None:
        symbols = [item.symbol for item in self._instruments]
        halted = any(item.status not in _LASTING for item in self._instruments)
        while True:
            usual_s = self._feed.listing_refresh_s
            listed, url, body = await self._ask(
                "listing", min(usual_s, _HALTED_REFRESH_S) if halted else usual_s,
                lambda session: self._market.list_again(session, self._rest_url, symbols), self._news,
            )
            self.refreshes += 1
            if self._news.is_set():  # it was told of while the answer was under way, which may be older
                continue
            self._on_listing(url, body)
            for item in self._instruments:
                self._on_listed(item.index, listed.get(item.symbol))
            halted = any(item.status not in _LASTING for item in listed.values())

    async def _keep_open_interest(self, polled: Sequence[Instrument]) -> None:
        interval_s = self._feed.open_interest_interval_s / len(polled)
        while True:
            for item in polled:
                _, url, body = await self._ask(
                    "open interest", interval_s,
                    lambda session, symbol=item.symbol: self._market.fetch_open_interest(  # type: ignore[misc]
                        session, self._rest_url, symbol
                    ),
                )
                self._on_frame(item.index, url, body)
