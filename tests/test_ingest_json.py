"""The pull parser: numbers against Decimal, skipped values against orjson, any bytes without a crash."""

from __future__ import annotations

from decimal import Context, Decimal, InvalidOperation

import numba
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.ingest import json_scan
from engine.ingest.json_scan import BAD_JSON, BAD_NUMBER, MAX_DEPTH, Name, pack_name
from engine.units import INT64_MAX


@numba.njit
def parse_units(text: bytes, position: int, exp: int) -> tuple[int, int]:
    return json_scan.parse_units(json_scan.text_of(text), position, exp)


@numba.njit
def skip_value(text: bytes, position: int) -> int:
    return json_scan.skip_value(json_scan.text_of(text), position)


@numba.njit
def skip_space(text: bytes, position: int) -> int:
    return json_scan.skip_space(json_scan.text_of(text), position)


@numba.njit
def read_name(text: bytes, position: int) -> Name:
    return json_scan.read_name(json_scan.text_of(text), position)


def expected_units(text: str, exp: int) -> int | None:
    """Units by Decimal, or None where the number cannot be exact in int64."""
    value = Context(prec=200).scaleb(Decimal(text), exp)
    if value != value.to_integral_value() or abs(value) > INT64_MAX:
        return None
    return int(value)


digits = st.text("0123456789", min_size=1, max_size=24)
zeros_or_digits = st.one_of(digits, st.text("0", min_size=1, max_size=30), st.sampled_from(["1", "10", "00120"]))
numbers = st.builds(
    lambda sign, whole, point, power: sign + whole + point + power,
    st.sampled_from(["", "-"]),
    zeros_or_digits,
    st.one_of(st.just(""), zeros_or_digits.map(lambda text: "." + text)),
    st.one_of(
        st.just(""),
        st.builds(lambda e, sign, n: f"{e}{sign}{n}", st.sampled_from("eE"), st.sampled_from(["", "+", "-"]),
                  st.integers(0, 40)),
    ),
)  # fmt: skip


@settings(max_examples=600)
@given(text=numbers, exp=st.integers(0, 12), quoted=st.booleans(), ending=st.sampled_from(",]} \n"))
@example("9223372036854775807", 0, True, ",")
@example("9223372036854775808", 0, True, ",")
@example("92233720368547758081", 0, True, ",")
@example("92233720368547758091", 0, False, ",")
@example("92233720368547758.07", 2, False, "]")
@example("92233720368547758.08", 2, False, "]")
@example("999999999999999999", 0, True, ",")
@example("1.500000000000000000000000000", 1, True, ",")
@example("0.000000000000000000000000001", 12, True, ",")
@example("1e18", 0, False, "}")
@example("1e19", 0, False, "}")
@example("1e-5", 5, False, "}")
@example("0e99999999999", 0, False, "}")
@example("-0", 0, False, "}")
def test_numbers_equal_decimal_or_are_refused(text: str, exp: int, quoted: bool, ending: str) -> None:
    wire = (f'"{text}"' if quoted else text).encode()
    expected = expected_units(text, exp)
    value, position = parse_units(wire + ending.encode(), 0, exp)
    if expected is None:
        assert (value, position) == (0, BAD_NUMBER)
    else:
        assert (value, position) == (expected, len(wire))


@pytest.mark.parametrize(
    "wire",
    ['""', '"-"', '"."', '".5"', '"5."', '"+5"', '"1e"', '"1e+"', '"e5"', '"1 "', '" 1"', '"1.2.3"', '"0x10"',
     '"NaN"', '"Infinity"', '"--1"', '"1,0"', "null", "true", "[1]", "{}", "-", "1.", "1x", '"1', '"1.5', "1e5x"],
)  # fmt: skip
def test_what_is_no_number_is_refused(wire: str) -> None:
    for ending in ("", ",", '"', "]"):
        if wire + ending in ('"1"', '"1.5"'):
            continue
        whole = (wire + ending).encode()
        for exp in (0, 8):
            assert parse_units(whole, 0, exp)[1] in (BAD_NUMBER, BAD_JSON)
            assert parse_units(whole + b",", 0, exp)[1] == BAD_NUMBER


def test_a_bare_number_needs_an_end() -> None:
    assert parse_units(b"12", 0, 0)[1] == BAD_JSON
    assert parse_units(b"12}", 0, 0) == (12, 2)
    assert parse_units(b'"12"', 0, 0) == (12, 4)


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63), st.floats(allow_nan=False), st.text(max_size=12)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=4)),
    max_leaves=20,
)


@settings(max_examples=300)
@given(value=json_values, indent=st.booleans(), ending=st.sampled_from([b",1", b"]", b"}", b" ,", b"\n"]))
def test_skip_value_ends_where_the_value_ends(value: object, indent: bool, ending: bytes) -> None:
    try:
        wire = orjson.dumps(value, option=orjson.OPT_INDENT_2 if indent else None)
    except orjson.JSONEncodeError:  # integers beyond 64 bits and lone surrogates
        return
    assert skip_value(wire + ending, 0) == len(wire)
    if wire[:1] in b'"[{':
        for cut in range(1, len(wire), max(1, len(wire) // 8)):
            assert skip_value(wire[:cut], 0) == BAD_JSON


@pytest.mark.parametrize(
    "wire", [b"", b",", b"]", b"[}", b"{]", b"[[1]", b'"abc', b'"a\\"', b'["a]', b"[1}", b"tr[ue,"]
)
def test_broken_values_are_refused(wire: bytes) -> None:
    assert skip_value(wire, 0) == BAD_JSON


def test_nesting_is_bounded() -> None:
    deep = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert skip_value(deep, 0) == len(deep)
    assert skip_value(b"[" + deep + b"]", 0) == BAD_JSON


@settings(max_examples=400)
@given(wire=st.one_of(st.binary(max_size=60), st.text('"[]{},:\\0123456789.eE+- \n', max_size=60).map(str.encode)))
def test_any_bytes_end_in_an_answer_inside_them(wire: bytes) -> None:
    for position in range(len(wire) + 2):
        end = skip_value(wire, position)
        assert end == BAD_JSON or position < end <= len(wire)
        value, end = parse_units(wire, position, 3)
        if end < 0:
            assert value == 0 and end in (BAD_NUMBER, BAD_JSON)
        else:
            text = wire[position:end].strip(b'"').decode()
            assert position < end <= len(wire) and Decimal(text).scaleb(3) == value
        assert skip_space(wire, position) >= position


@settings(max_examples=300)
@given(name=st.text(max_size=20))
def test_names_pack_without_collisions(name: str) -> None:
    wire = orjson.dumps(name)
    packed = read_name(wire, 0)
    if b"\\" in wire or len(wire) - 2 > 16:
        assert packed == Name(-1, -1)
    else:
        assert packed == pack_name(name)
        low, high = (int(half) & (2**64 - 1) for half in packed)
        assert (low | high << 64).to_bytes(16, "little").rstrip(b"\0") == name.encode().rstrip(b"\0")
    assert read_name(wire[:-1], 0) == Name(-1, -1)


def test_a_name_that_is_too_long_cannot_be_a_constant() -> None:
    with pytest.raises(ValueError, match="17"):
        pack_name("x" * 16 + "17")


def test_the_oracle_knows_what_it_refuses() -> None:
    assert expected_units("1.005", 2) is None
    with pytest.raises(InvalidOperation):
        expected_units("one", 2)
