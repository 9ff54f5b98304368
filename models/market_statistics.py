"""What a market looks like, in numbers: one set of functions for recorded and for generated data.

Input is what the engine itself makes of frames: MARKET records behind validation, FEATURE records. Every number is
computed from those alone, so that two sources differ only where their markets do.

    returns    of the mid on a grid of one second (`mid_grid`), bps
    spread     in ticks, weighted with the time for which it stood
    levels     a price with a size, seen on a grid of 100 ms within NEAR_BPS of the mid at its first sight: finer than
               that the slowest recorded streams cannot tell. How long it stood is estimated by Kaplan and Meier, since
               some still stand at the end; those of a snapshot, of unknown birth, are left out
    takers     fills of one side in the same venue millisecond count as one order that takes
    branching  1 - sqrt(mean / variance) of the takers counted in windows: the branching ratio of a Hawkes process whose
               kernel is short beside the window. Source: Hardiman and Bouchaud, "Branching-ratio approximation for the
               self-exciting Hawkes process" (2014)
    regimes    windows of ten seconds: volatile where the realised variance is above VOLATILE times the median one, else
               trending where the move is above TRENDING times the square root of it, else ranging

Known limits: a few minutes hold few windows; a number that cannot be had is None.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from engine.records import Flag, Kind

SECOND_NS = 1_000_000_000
LEVEL_GRID_NS = 100_000_000
NEAR_BPS = 5.0
WINDOW_SECONDS = 10
BRANCHING_WINDOW_NS = 5 * SECOND_NS
VOLATILE, TRENDING = 2.5, 1.5
LAGS = (1, 2, 5, 10)
LEVEL_CAP_S = 60.0  # quantiles of lifetimes beyond this are not told: too few are seen to their end


class Series(NamedTuple):
    """What was seen of one instrument, in the order of receipt; times in ns."""

    first_ns: int
    last_ns: int
    touch_ns: np.ndarray  # receive times of the touches
    bid: np.ndarray  # price units, int64
    ask: np.ndarray
    taker_ns: np.ndarray  # venue times of the orders that took
    taker_side: np.ndarray  # +1 bought, -1 sold
    taker_size: np.ndarray  # size units
    level_life: np.ndarray  # (rows, 3): grid cell of birth, of the end, 1 where the end was seen
    level_bps: np.ndarray  # distance of each from the mid at its birth
    tick: int  # price units


def series_of(market: np.ndarray, features: np.ndarray, instrument: int, tick: int) -> Series:
    """The series of one instrument out of MARKET and FEATURE records in order. Raises ValueError without a book."""
    own = market[market["instrument"] == instrument]
    vectors = features[(features["instrument"] == instrument) & (features["kind"] == Kind.VECTOR)]
    if len(vectors) < 2:
        raise ValueError("no valid book")
    touch_ns, bid, ask = (vectors[name].astype(np.int64) for name in ("recv_ts_ns", "bid_price", "ask_price"))
    trades = own[own["kind"] == Kind.TRADE]
    taker_ns, side, size = takers(
        trades["exch_ts_ns"].astype(np.int64), trades["side"].astype(np.int64), trades["size"].astype(np.int64)
    )
    life, price = level_lives(own[np.isin(own["kind"], (Kind.LEVEL, Kind.BOOK_INVALID, Kind.GAP))])
    place = np.searchsorted(touch_ns, life[:, 0] * LEVEL_GRID_NS, side="right") - 1
    middle = (bid[place] + ask[place]) / 2
    distance = 1e4 * np.abs(price - middle) / middle
    near = (place >= 0) & (distance <= NEAR_BPS)
    return Series(
        int(touch_ns[0]), int(touch_ns[-1]), touch_ns, bid, ask, taker_ns, side, size, life[near], distance[near], tick
    )


def takers(times: np.ndarray, sides: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fills of one time and side, one after the other, put together: times, sides, sizes."""
    if not len(times):
        return times, sides, sizes
    starts = np.flatnonzero(np.r_[True, (times[1:] != times[:-1]) | (sides[1:] != sides[:-1])])
    return times[starts], sides[starts], np.add.reduceat(sizes, starts)


def level_lives(records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lives of levels on the grid: rows (birth cell, end cell, 1 where the end was seen), and the price of each.

    records: LEVEL, BOOK_INVALID and GAP records of one instrument. Of several changes of a level within a cell the last
    counts; what a snapshot brought has no birth, and what stood when the book was lost has no end.
    """
    opens = Flag.SNAPSHOT | Flag.FIRST
    anew = (records["kind"] != Kind.LEVEL) | (records["flags"] & opens == opens)
    book = np.cumsum(anew)  # each loss or snapshot begins another one
    cells = -(-records["recv_ts_ns"].astype(np.int64) // LEVEL_GRID_NS)
    lasts = {int(number): int(cells[book == number].max()) for number in np.unique(book)}
    kept = records["kind"] == Kind.LEVEL
    columns = (
        book[kept], records["side"][kept].astype(np.int64), records["price"][kept], cells[kept],
        (records["size"][kept] > 0), (records["flags"][kept] & Flag.SNAPSHOT > 0),
    )
    order = np.lexsort((np.arange(int(kept.sum())), columns[3], columns[2], columns[1], columns[0]))
    number, side, price, cell, stands, snapshot = (column[order] for column in columns)
    same = (number[1:] == number[:-1]) & (side[1:] == side[:-1]) & (price[1:] == price[:-1])
    last = np.r_[~(same & (cell[1:] == cell[:-1])), True] if len(cell) else np.zeros(0, bool)
    number, side, price, cell, stands, snapshot = (
        column[last] for column in (number, side, price, cell, stands, snapshot)
    )
    same = (number[1:] == number[:-1]) & (side[1:] == side[:-1]) & (price[1:] == price[:-1])
    follows = np.r_[False, same] if len(cell) else np.zeros(0, bool)
    before = np.r_[False, stands[:-1]] & follows if len(cell) else follows
    births = np.flatnonzero(stands & ~before & ~snapshot)
    ends = np.flatnonzero(~stands & before)
    following = np.searchsorted(ends, births)
    end = ends[np.minimum(following, len(ends) - 1)] if len(ends) else births
    seen = (
        (following < len(ends)) & (number[end] == number[births]) & (side[end] == side[births])
        & (price[end] == price[births])
    )
    final = np.array([lasts[int(one)] for one in number[births]], np.int64)
    lives = np.stack([cell[births], np.where(seen, cell[end], final), seen.astype(np.int64)], axis=1)
    return lives.reshape(-1, 3), price[births]


# --- plain statistics


def autocorrelation(values: np.ndarray, lag: int) -> float | None:
    """Of a series at a lag, about its mean; None where the series is too short or does not vary."""
    centred = values - values.mean() if len(values) else values
    total = float(centred @ centred)
    if len(values) <= lag + 1 or total == 0.0:
        return None
    return float(centred[lag:] @ centred[:-lag]) / total


def excess_kurtosis(values: np.ndarray) -> float | None:
    """Fourth central moment over the squared second, less 3; None where nothing varies."""
    centred = values - values.mean() if len(values) else values
    second = float(np.mean(centred**2)) if len(values) else 0.0
    return float(np.mean(centred**4)) / second**2 - 3.0 if second > 0.0 else None


def weighted_quantile(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    """The smallest value at or below which at least this share of the weight lies."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    place = int(np.searchsorted(reached, share * reached[-1]))
    return float(values[order][min(place, len(values) - 1)])


def survival(durations: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kaplan and Meier: times at which an end was seen, and the share that lives longer than each."""
    times, place = np.unique(durations, return_inverse=True)
    gone = np.bincount(place, weights=seen, minlength=len(times))
    left = np.bincount(place, minlength=len(times))
    at_risk = np.cumsum(left[::-1])[::-1]
    alive = np.cumprod(1.0 - gone / at_risk)
    return times[gone > 0], alive[gone > 0]


def survival_quantile(durations: np.ndarray, seen: np.ndarray, share: float) -> float | None:
    """The time that this share does not outlive; None where too few ends were seen."""
    times, alive = survival(durations, seen)
    reached = np.flatnonzero(alive <= 1.0 - share + 1e-12)
    return float(times[reached[0]]) if len(reached) else None


def branching_ratio(times: np.ndarray, window_ns: int = BRANCHING_WINDOW_NS) -> float | None:
    """Estimate for point times in ns; 0 where counts vary less than those of a Poisson process."""
    if len(times) < 2:
        return None
    windows = int((times[-1] - times[0]) // window_ns)
    if windows < 10:
        return None
    counts = np.bincount(((times - times[0]) // window_ns)[(times - times[0]) < windows * window_ns], minlength=windows)
    variance = float(counts.var(ddof=1))
    return max(0.0, 1.0 - float(np.sqrt(counts.mean() / variance))) if variance > 0.0 else 0.0


def regime_shares(returns: np.ndarray) -> dict[str, float] | None:
    """Shares of windows of returns by what they look like; None for less than five windows."""
    windows = len(returns) // WINDOW_SECONDS
    if windows < 5:
        return None
    parts = returns[: windows * WINDOW_SECONDS].reshape(windows, WINDOW_SECONDS)
    variance = np.sum(parts**2, axis=1)
    volatile = variance > VOLATILE * np.median(variance)
    trending = ~volatile & (np.abs(parts.sum(axis=1)) > TRENDING * np.sqrt(variance))
    return {
        "ranging": float(np.mean(~volatile & ~trending)), "trending": float(np.mean(trending)),
        "volatile": float(np.mean(volatile)),
    }


def mid_grid(series: Series) -> np.ndarray:
    """The mid, price units, as it last stood at each second from the first touch on."""
    grid = np.arange(series.first_ns, series.last_ns + 1, SECOND_NS)
    place = np.searchsorted(series.touch_ns, grid, side="right") - 1
    return (series.bid[place] + series.ask[place]) / 2


def describe(series: Series) -> dict[str, Any]:
    """All statistics of a series; plain numbers, None where one cannot be had."""
    seconds = (series.last_ns - series.first_ns) / SECOND_NS
    middle = mid_grid(series)
    returns = 1e4 * np.diff(np.log(middle))
    spread = (series.ask - series.bid) / series.tick
    stood = np.diff(series.touch_ns, append=series.last_ns)
    gaps = np.diff(series.taker_ns) / SECOND_NS
    life = (series.level_life[:, 1] - series.level_life[:, 0]) * (LEVEL_GRID_NS / SECOND_NS)
    seen = series.level_life[:, 2]
    return {
        "seconds": seconds,
        "returns_1s": {
            "count": len(returns),
            "std_bps": float(returns.std()) if len(returns) else None,
            "excess_kurtosis": excess_kurtosis(returns),
            "autocorrelation": _by_lag(returns, LAGS),
            "autocorrelation_of_size": _by_lag(np.abs(returns), LAGS),
        },
        "spread_ticks": {
            "mean": float(np.average(spread, weights=stood)),
            **{f"p{share}": weighted_quantile(spread, stood, share / 100) for share in (50, 90, 99)},
        },
        "levels": {
            "per_second": len(life) / seconds,
            "p50_bps": float(np.median(series.level_bps)) if len(life) else None,
            **{f"life_p{share}_s": _capped(survival_quantile(life, seen, share / 100)) for share in (25, 50, 75, 90)},
            "share_not_ended": float(np.mean(seen == 0)) if len(life) else None,
        },
        "takers": {
            "per_second": len(series.taker_ns) / seconds,
            "gap_variation": float(gaps.std() / gaps.mean()) if len(gaps) and gaps.mean() > 0 else None,
            "gap_autocorrelation": _by_lag(gaps, (1, 5)),
            "sign_autocorrelation": _by_lag(series.taker_side.astype(np.float64), LAGS),
            "branching_ratio": branching_ratio(series.taker_ns),
            "moved_later_bps": markout(series, 5),
        },
        "regimes": regime_shares(returns),
    }


def markout(series: Series, seconds: int) -> float | None:
    """How far the mid goes the taker's way within some seconds of an order, on average, bps: what makers lose."""
    stays = (series.taker_ns >= series.first_ns) & (series.taker_ns + seconds * SECOND_NS <= series.last_ns)
    if not stays.any():
        return None
    times, sides = series.taker_ns[stays], series.taker_side[stays]
    middle = (series.bid + series.ask) / 2
    before = middle[np.maximum(np.searchsorted(series.touch_ns, times, side="left") - 1, 0)]
    after = middle[np.searchsorted(series.touch_ns, times + seconds * SECOND_NS, side="right") - 1]
    return float(np.mean(1e4 * sides * (after / before - 1.0)))


def _by_lag(values: np.ndarray, lags: Sequence[int]) -> dict[str, float | None]:
    return {str(lag): autocorrelation(values, lag) for lag in lags}


def _capped(seconds: float | None) -> float | None:
    """None for what is longer than can be told of some minutes."""
    return None if seconds is None or seconds > LEVEL_CAP_S else seconds
