"""Exact units against Python's own integers and Decimal."""

from __future__ import annotations

from decimal import Context, Decimal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.units import INT64_MAX, format_units, mul_div, notional, parse_units

INT64_MIN = -INT64_MAX - 1
int64 = st.integers(INT64_MIN, INT64_MAX)
# Half of the values near a power of two, where carries and normalisation go wrong.
edgy = st.one_of(
    int64,
    st.builds(
        lambda bit, offset, sign: max(min(sign * ((1 << bit) + offset), INT64_MAX), INT64_MIN),
        st.integers(0, 63), st.integers(-2, 2), st.sampled_from((-1, 1)),
    ),
)


def exact_quotient(a: int, b: int, divisor: int) -> int:
    """a * b / divisor truncated towards zero, in Python integers."""
    quotient = abs(a) * abs(b) // abs(divisor)
    return -quotient if (a < 0) ^ (b < 0) ^ (divisor < 0) else quotient


@settings(max_examples=2_000)
@given(a=edgy, b=edgy, divisor=edgy)
@example(a=INT64_MAX, b=INT64_MAX, divisor=INT64_MAX)
@example(a=INT64_MIN, b=INT64_MAX, divisor=INT64_MIN)
@example(a=6_000_000, b=20_000_00000000, divisor=1)
@example(a=1, b=INT64_MIN, divisor=1)
def test_mul_div_equals_python_integers(a: int, b: int, divisor: int) -> None:
    if divisor == 0:
        with pytest.raises(ZeroDivisionError):
            mul_div(a, b, divisor)
        return
    expected = exact_quotient(a, b, divisor)
    if abs(expected) > INT64_MAX:
        with pytest.raises(OverflowError):
            mul_div(a, b, divisor)
    else:
        assert mul_div(a, b, divisor) == expected


@settings(max_examples=1_000)
@given(
    a=st.integers(-(2**62), 2**62), divisor=st.integers(1, INT64_MAX), share=st.floats(0.0, 1.0),
)
def test_part_of_a_cost_never_exceeds_it(a: int, divisor: int, share: float) -> None:
    part = min(int(divisor * share), divisor)
    assert mul_div(a, part, divisor) == exact_quotient(a, part, divisor)
    assert abs(mul_div(a, part, divisor)) <= abs(a)


@settings(max_examples=1_000)
@given(
    price=st.integers(0, 10**13), size=st.integers(-(10**14), 10**14), unit_exp=st.integers(0, 16),
)
def test_notional_equals_decimal(price: int, size: int, unit_exp: int) -> None:
    exact = Decimal(price) * Decimal(size)
    truncated = int((exact * Decimal(10) ** (8 - unit_exp)).to_integral_value("ROUND_DOWN"))
    if abs(truncated) > INT64_MAX or (unit_exp < 8 and abs(price * size) > INT64_MAX):
        with pytest.raises(OverflowError):
            notional(price, size, unit_exp)
    else:
        assert notional(price, size, unit_exp) == truncated


def test_the_product_that_overflows_64_bits_is_exact() -> None:
    assert notional(60_000_00, 20_000_00000000, 10) == 1_200_000_000_00000000


@settings(max_examples=500)
@given(value=int64.filter(lambda v: v != INT64_MIN), exp=st.integers(0, 18))
def test_text_round_trip(value: int, exp: int) -> None:
    text = format_units(value, exp)
    assert Decimal(text) == Decimal(value).scaleb(-exp)
    assert ("." in text) == (exp > 0)
    assert parse_units(text, exp) == value


@settings(max_examples=500)
@given(
    number=st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**9), max_value=10**9),
    exp=st.integers(0, 9),
)
def test_parse_takes_whole_units_only(number: Decimal, exp: int) -> None:
    scaled = number.scaleb(exp)
    if scaled == scaled.to_integral_value():
        assert parse_units(str(number), exp) == int(scaled)
    else:
        with pytest.raises(ValueError, match="whole number"):
            parse_units(str(number), exp)


@settings(max_examples=800)
@given(
    sign=st.sampled_from(("", "-", "+")), whole=st.text("0123456789", max_size=14),
    fraction=st.one_of(st.none(), st.text("0123456789", max_size=14)),
    power=st.one_of(st.just(""), st.builds("{}{}{}".format, st.sampled_from("eE"), st.sampled_from(("", "+", "-")),
                                           st.integers(0, 30))),
    exp=st.integers(0, 12),
)
@example(sign="", whole="1", fraction=None, power="e-8", exp=8)
@example(sign="", whole="1", fraction=None, power="E+3", exp=0)
@example(sign="", whole="1", fraction="0", power="e-08", exp=7)
def test_any_spelling_equals_decimal_or_is_refused(
    sign: str, whole: str, fraction: str | None, power: str, exp: int
) -> None:
    text = sign + whole + ("" if fraction is None else "." + fraction) + power
    if not whole and not fraction:
        with pytest.raises(ValueError, match="not a number"):
            parse_units(text, exp)
        return
    scaled = Context(prec=200).scaleb(Decimal(text), exp)
    if scaled != scaled.to_integral_value():
        with pytest.raises(ValueError, match="whole number"):
            parse_units(text, exp)
    elif abs(scaled) > INT64_MAX:
        with pytest.raises(ValueError, match="64 bits"):
            parse_units(text, exp)
    else:
        assert parse_units(text, exp) == int(scaled)


@pytest.mark.parametrize("text", ["", "abc", "NaN", "Infinity", "-inf", "1.2.3", "0x10", "1e400"])
def test_parse_refuses_what_is_no_number(text: str) -> None:
    with pytest.raises(ValueError, match=r"number|64 bits"):
        parse_units(text, 2)


def test_parse_refuses_what_does_not_fit() -> None:
    assert parse_units("92233720368547758.07", 2) == INT64_MAX
    with pytest.raises(ValueError, match="64 bits"):
        parse_units("92233720368547758.08", 2)


def test_exponent_notation_and_trailing_zeros_are_numbers() -> None:
    assert parse_units("1e-08", 8) == 1
    assert parse_units("1.50000", 2) == 150
    assert format_units(-5, 3) == "-0.005"
    assert format_units(0, 2) == "0.00"
