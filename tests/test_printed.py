"""Numbers with their printed decimals, rounded numbers, ISO times: against Decimal and datetime."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal

import numba
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.ingest import json_scan, printed
from engine.reasons import Reason

INT64_MAX = 2**63 - 1


@numba.njit
def parse_printed(frame: bytes, exp: int) -> tuple[int, int, int]:
    return printed.parse_printed(json_scan.text_of(frame), 0, exp)


@numba.njit
def parse_rounded(frame: bytes, exp: int) -> tuple[int, int]:
    return printed.parse_rounded(json_scan.text_of(frame), 0, exp)


@numba.njit
def parse_iso_time(frame: bytes) -> tuple[int, int]:
    return printed.parse_iso_time(json_scan.text_of(frame), 0)


@given(st.integers(0, 10**19), st.integers(0, 12), st.integers(0, 12), st.booleans())
@example(2290, 9, 7, True)
@example(35415000000, 8, 2, False)
@example(INT64_MAX, 8, 8, True)
@example(INT64_MAX + 1, 8, 8, True)
def test_printed_numbers(digits: int, decimals: int, exp: int, quoted: bool) -> None:
    text = f"{Decimal(digits).scaleb(-decimals):f}"
    frame = f'"{text}",'.encode() if quoted else f"{text},".encode()
    scaled = Decimal(text).scaleb(exp)
    value, shown, end = parse_printed(frame, exp)
    if scaled != scaled.to_integral_value() or scaled > INT64_MAX:
        assert (value, shown, end) == (0, 0, -Reason.BAD_NUMBER)
    else:
        assert (value, shown, end) == (int(scaled), decimals, len(frame) - 1)


@pytest.mark.parametrize("text", [b'"1.",', b'".5",', b'"",', b'"1.2.3",', b"1a,", b"null,", b'"1,', b"--1,"])
def test_what_is_no_printed_number(text: bytes) -> None:
    assert parse_printed(text, 2)[2] == -Reason.BAD_NUMBER


@pytest.mark.parametrize("text", [b"1.25", b'"1.25', b'"1.', b""])
def test_a_number_that_the_frame_cuts_off(text: bytes) -> None:
    assert parse_printed(text, 2)[2] == -Reason.BAD_JSON


def test_exponents_and_signs_go_the_general_way() -> None:
    assert parse_printed(b"1e-08,", 8) == (1, 8, 5)
    assert parse_printed(b"-2.5,", 1) == (-25, 0, 4)


@given(
    st.decimals(allow_nan=False, allow_infinity=False, min_value=Decimal("-1e6"), max_value=Decimal("1e6")),
    st.sampled_from([0, 8, 12]),
)
@example(Decimal("-1.380384722222e-6"), 12)
@example(Decimal("0.5"), 0)
@example(Decimal("-0.5"), 0)
@example(Decimal("0.49999999999999999999999"), 0)
@example(Decimal("99999.9999999999999999999999"), 8)
@example(Decimal("4e-13"), 12)
@example(Decimal("5e-13"), 12)
@example(Decimal("5e-14"), 12)
@example(Decimal("-0.0"), 12)
def test_rounded_numbers(number: Decimal, exp: int) -> None:
    expected = int(number.scaleb(exp).to_integral_value(ROUND_HALF_UP))
    for text in (str(number), f"{number:f}", f'"{number}"'):
        frame = f"{text},".encode()
        if abs(expected) >= 10**17:  # a result of 18 digits is cut, not rounded
            continue
        assert parse_rounded(frame, exp) == (expected, len(frame) - 1), text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"1e300,", Reason.BAD_NUMBER),
        (b"x,", Reason.BAD_NUMBER),
        (b"1.,", Reason.BAD_NUMBER),
        (b"1e,", Reason.BAD_NUMBER),
        (b"1e5x", Reason.BAD_NUMBER),
        (b'"1.5,', Reason.BAD_NUMBER),
        (b"1.5", Reason.BAD_JSON),
        (b"1e5", Reason.BAD_JSON),
        (b"-", Reason.BAD_JSON),
    ],
)
def test_what_cannot_be_rounded(text: bytes, reason: Reason) -> None:
    assert parse_rounded(text, 8) == (0, -reason)


def test_tiny_and_long_numbers_round_to_what_they_are() -> None:
    assert parse_rounded(b"1e-9999,", 12)[0] == 0
    assert parse_rounded(b"0." + b"0" * 400 + b"1,", 12)[0] == 0
    assert parse_rounded(b"1" * 30 + b"e-29,", 8)[0] == 111111111


@given(st.datetimes(datetime(1970, 1, 1), datetime(2200, 12, 31)), st.integers(0, 9), st.integers(0, 999_999_999))
@example(datetime(2024, 2, 29, 23, 59, 59), 6, 440295)
@example(datetime(2000, 3, 1), 0, 0)
def test_iso_times(moment: datetime, places: int, fraction: int) -> None:
    moment = moment.replace(microsecond=0)
    fraction %= 10**places
    tail = f".{fraction:0{places}}" if places else ""
    text = f'"{moment:%Y-%m-%dT%H:%M:%S}{tail}Z",'
    seconds = (moment.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
    assert parse_iso_time(text.encode()) == (seconds * 10**9 + fraction * 10 ** (9 - places), 1)


@pytest.mark.parametrize(
    "text",
    [
        "2023-10-06 17:35:55Z", "2023-10-06T17:35:55", "2023-10-06T17:35:55.Z", "2023-10-06T17:35:55.1234567891Z",
        "2023-00-06T17:35:55Z", "2023-10-32T17:35:55Z", "2023-10-06T24:35:55Z", "2023-10-06T17:60:55Z", "2023",
        "1969-10-06T17:35:55Z", "2201-10-06T17:35:55Z", "202x-10-06T17:35:55Z", "",
    ],
)  # fmt: skip
def test_what_is_no_iso_time(text: str) -> None:
    assert parse_iso_time(f'"{text}",'.encode()) == (0, -Reason.BAD_NUMBER)
    assert parse_iso_time(f'"{text}'.encode()) == (0, -Reason.BAD_NUMBER)
