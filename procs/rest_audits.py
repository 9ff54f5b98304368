"""Snapshots of REST that books are held against, one book at a time, in turn.

An audit is two inputs: that it begins, which opens the window in which validation notes what changes, and the body that
came. The request is made one window after the first, so that an answer that is out of date by less falls into it; the
next audit begins one window after the answer at the soonest (engine/validation/rest_audit.py has the rule). Pauses are
jittered, and short after a disagreement, so that a wrong book is soon found. Requests are made in a thread of their own
and paid for from the rate budget as ordinary calls. One that fails is said once, and the next one waits longer.

A book that is not valid is not audited: it is on its way to be made anew. Known limit: as there is one window at a
time, many books take turns at no less than two windows each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from procs.back_off import back_off_s
from procs.budget import Budget
from procs.refusals import Refusals
from procs.venues.binance_usdm.endpoints import VenueUnreachable
from procs.venues.binance_usdm.paying import paying_session
from procs.venues.market import Market

_IN_DOUBT_S = 4.0  # the pause after a disagreement: a connection that stalls is closed before two audits can meet it
_SETTLE_S = 0.05  # some passings of the clock grid, at which windows are judged
_AUDIT = "audit by REST"
_LADDER_S = (1.0, 5.0, 15.0, 30.0, 60.0)  # after failures


class RestAudits:
    """See the module. on_asked(index): whether the audit has begun; on_answer(index, the body).

    period_s: of each book; window_s: see above; is_valid(index), in_doubt(index): what validation says of a book.
    """

    def __init__(
        self, market: Market, budget: Budget, rest_url: str, symbols: Sequence[str], period_s: float, window_s: float,
        on_asked: Callable[[int], bool], on_answer: Callable[[int, bytes], None], is_valid: Callable[[int], bool],
        in_doubt: Callable[[int], bool], say: Callable[[str], None],
    ) -> None:
        self._market = market
        self._budget = budget
        self._rest_url = rest_url
        self._symbols = tuple(symbols)
        self._pause_s = max(0.0, period_s / len(self._symbols) - 2 * window_s)
        self._is_on = period_s > 0
        self._window_s = window_s
        self._on_asked = on_asked
        self._on_answer = on_answer
        self._is_valid = is_valid
        self._in_doubt = in_doubt
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="audits")
        self.refusals = Refusals(say)
        self.answers = 0

    def tasks(self) -> set[asyncio.Task[None]]:
        """Start auditing, where that is wanted; the tasks, for the caller to cancel."""
        return {asyncio.create_task(self._keep())} if self._is_on else set()

    def close(self) -> None:
        """Wait for the request under way, which ends by its timeout."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _fetch(self, index: int) -> bytes:
        """Thread: the body of one book."""
        with paying_session(self._budget) as session:
            return self._market.fetch_audit(session, self._rest_url, self._symbols[index])

    def _next(self, last: int) -> int:
        """Whose turn it is after `last`: a book in doubt first; -1: no book is valid."""
        count = len(self._symbols)
        turns = [index for step in range(1, count + 1) if self._is_valid(index := (last + step) % count)]
        return next((index for index in turns if self._in_doubt(index)), turns[0] if turns else -1)

    async def _keep(self) -> None:
        last, failures = -1, 0
        while True:
            doubted = any(map(self._in_doubt, range(len(self._symbols))))
            pause_s = min(self._pause_s, _IN_DOUBT_S) if doubted else self._pause_s
            await asyncio.sleep(max(back_off_s(0, (4 / 3 * pause_s,)), _SETTLE_S))  # two to four thirds of it
            index = self._next(last)
            if index < 0 or not self._on_asked(index):
                continue
            last = index
            await asyncio.sleep(self._window_s)
            try:
                body = await asyncio.get_running_loop().run_in_executor(self._pool, self._fetch, index)
            except VenueUnreachable as error:
                self.refusals.refused(_AUDIT, error)
                await asyncio.sleep(back_off_s(failures, _LADDER_S))
                failures += 1
                continue
            failures = 0
            self.refusals.answered(_AUDIT)
            self.answers += 1
            self._on_answer(index, body)
            await asyncio.sleep(self._window_s + _SETTLE_S)
