"""exp and log against decimal arithmetic of 40 digits, at their edges, and against bits fixed once."""

from __future__ import annotations

import decimal
import math
import random
from collections.abc import Callable
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.maths import exp, log

CONTEXT = decimal.Context(prec=40, Emin=-10_000, Emax=10_000)
MAX_ULPS = 2.0


def ulps(got: float, exact: Decimal) -> float:
    """Distance in units in the last place of the exact value's nearest double."""
    return float(CONTEXT.divide(CONTEXT.subtract(Decimal(got), exact), Decimal(math.ulp(float(exact)))))


@settings(max_examples=400)
@given(st.floats(-745.0, 709.7))
def test_exp_within_two_ulps(x: float) -> None:
    assert abs(ulps(exp(x), CONTEXT.exp(Decimal(x)))) <= MAX_ULPS


@settings(max_examples=400)
@given(st.floats(min_value=5e-324, max_value=1.7e308, allow_nan=False))
def test_log_within_two_ulps(x: float) -> None:
    assert abs(ulps(log(x), CONTEXT.ln(Decimal(x)))) <= MAX_ULPS


def test_log_near_one_keeps_its_relative_accuracy() -> None:
    rng = random.Random(7)
    for _ in range(300):
        x = 1.0 + rng.choice((-1, 1)) * 10.0 ** rng.uniform(-15, -1)
        if x != 1.0:
            assert abs(ulps(log(x), CONTEXT.ln(Decimal(x)))) <= MAX_ULPS


def test_edges() -> None:
    assert exp(0.0) == 1.0
    assert log(1.0) == 0.0
    assert exp(710.0) == math.inf and exp(math.inf) == math.inf
    assert exp(-746.0) == 0.0 and exp(-math.inf) == 0.0
    assert exp(-745.0) == 5e-324
    assert log(0.0) == -math.inf
    assert log(math.inf) == math.inf
    for bad in (log(-1.0), log(-math.inf), log(math.nan), exp(math.nan)):
        assert math.isnan(bad)


@pytest.mark.parametrize(
    ("function", "x", "bits"),
    [
        (exp, 1.0, "0x1.5bf0a8b14576ap+1"),
        (exp, -0.1, "0x1.cf46d99d52b3ap-1"),
        (exp, -23.456, "0x1.1e0de54daa240p-34"),
        (log, 2.0, "0x1.62e42fefa39efp-1"),
        (log, 1.0001, "0x1.a368d0657fcd4p-14"),
        (log, 61800.25, "0x1.61036178953a8p+3"),
    ],
)
def test_bits_never_change(function: Callable[[float], float], x: float, bits: str) -> None:
    """The hash of every decision rests on these bits; a change here needs a new expected hash everywhere."""
    assert function(x).hex() == bits
