"""Covering arrays: few rows in which every pair of values of two factors meets at least once.

Greedy and seeded: a row begins with a pair that is still missing, the other factors take the values that bring the most
missing pairs; of a few such rows the best is taken. The same factors and seed give the same rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence

from procs.embedded.mix import Draws

Row = tuple[str, ...]  # a value for each factor, in the order of the factors
Pair = tuple[int, str, int, str]  # factor and value, factor and value; the lower factor first
_TRIES = 12


def _anything(row: Row) -> bool:
    return True


def pairs_of(row: Row) -> set[Pair]:
    """The pairs that a row brings."""
    return {(one, row[one], two, row[two]) for one, two in itertools.combinations(range(len(row)), 2)}


def all_pairs(factors: Mapping[str, Sequence[str]], allowed: Callable[[Row], bool] = _anything) -> set[Pair]:
    """Every pair that some allowed row has."""
    return {pair for row in itertools.product(*factors.values()) if allowed(row) for pair in pairs_of(row)}


def covering_rows(
    factors: Mapping[str, Sequence[str]], seed: int, given: Iterable[Row] = (),
    allowed: Callable[[Row], bool] = _anything,
) -> list[Row]:
    """Rows that cover every pair of values of two factors; the given ones come first.

    allowed: rows that make no sense are not made, and pairs that only they have are not asked for.
    """
    values = list(factors.values())
    rows = list(dict.fromkeys(given))
    missing = all_pairs(factors, allowed)
    for row in rows:
        missing -= pairs_of(row)
    draws = Draws(seed, 0)
    while missing:
        tries = [_row_with(draws.choice(sorted(missing)), values, missing, draws, allowed) for _ in range(_TRIES)]
        best = max(tries, key=lambda row: len(pairs_of(row) & missing))
        rows.append(best)
        missing -= pairs_of(best)
    return rows


def _row_with(
    pair: Pair, values: Sequence[Sequence[str]], missing: set[Pair], draws: Draws, allowed: Callable[[Row], bool]
) -> Row:
    """An allowed row with that pair and as many other missing ones as a greedy choice finds."""
    first, one, second, two = pair
    choices = [[one] if place == first else [two] if place == second else list(of) for place, of in enumerate(values)]
    rows = [row for row in itertools.product(*choices) if allowed(row)]
    gains = [len(pairs_of(row) & missing) for row in rows]
    return draws.choice([row for row, gain in zip(rows, gains, strict=True) if gain == max(gains)])
