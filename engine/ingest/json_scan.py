"""A pull parser over the bytes of one JSON text: the caller asks for what it wants, the rest is skipped.

Layout: a position is an index into the frame. Every helper takes the position of the first byte of what it reads
and returns the position after it, or -Reason. Nothing is copied and nothing is allocated.

Invariants: a helper reads only below text.size and moves forward with every turn of its loops, so any bytes end
in an answer. Values that are skipped are checked for closed strings and matching brackets, not for the grammar of
their numbers. Numbers become int64 units of 10^-exp exactly, never a float; what cannot be exact is refused.

Cost: about 1 ns a byte. Known limits: escapes in keys are not decoded (such a key is an unknown one); values nest
to MAX_DEPTH. Source: RFC 8259.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from engine.kernel import checked_mode, kernel
from engine.reasons import Reason
from engine.units import INT64_MAX

BAD_JSON = -int(Reason.BAD_JSON)
BAD_NUMBER = -int(Reason.BAD_NUMBER)

QUOTE = ord('"')
BACKSLASH = ord("\\")
COMMA = ord(",")
COLON = ord(":")
POINT = ord(".")
MINUS = ord("-")
PLUS = ord("+")
ZERO = ord("0")
OPEN_LIST = ord("[")
CLOSE_LIST = ord("]")
OPEN_OBJECT = ord("{")
CLOSE_OBJECT = ord("}")
LOWER_E = ord("e")
UPPER_E = ord("E")

CHECKED = checked_mode()
MAX_DEPTH = 60  # one bit of an int64 for each open bracket
FAST_DIGITS = 18  # any number of so many digits fits int64
MAX_EXPONENT = 10_000  # exponents saturate here, far beyond what a number of int64 can use


class Text(NamedTuple):
    """The bytes of a frame as address and length: plain integers, so that no helper counts references.

    It is good for as long as the entry point that made it holds the frame.
    """

    address: int
    size: int


class Name(NamedTuple):
    """A string of up to 16 bytes packed into two integers, the first byte lowest."""

    low: int
    high: int


NAME_BYTES = 16
NO_NAME = Name(-1, -1)  # no string packs to it: 0xFF is no byte of UTF-8


def pack_name(name: str) -> Name:
    """The packed form of a constant, for same_name. Raises ValueError beyond 16 bytes."""
    data = name.encode()
    if len(data) > NAME_BYTES:
        raise ValueError(f"{name!r} has more than {NAME_BYTES} bytes")
    data = data.ljust(NAME_BYTES, b"\0")
    low, high = (int.from_bytes(half, "little", signed=True) for half in (data[:8], data[8:]))
    return Name(low, high)


@intrinsic
def _address_of(context: Any, frame: Any) -> Any:
    """_address_of(frame) -> int64: where the bytes of a frame begin."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.ptrtoint(data, ir.IntType(64))

    return types.int64(frame), generate


@intrinsic
def _load_byte(context: Any, address: Any) -> Any:
    """_load_byte(address) -> int64: the byte at an address, 0 to 255."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())
        return builder.zext(builder.load(pointer), ir.IntType(64))

    return types.int64(types.int64), generate


@kernel(inline=True)
def text_of(frame: bytes) -> Text:
    """The Text of a frame that the caller holds on to."""
    return Text(_address_of(frame), len(frame))


@kernel(inline=True)
def byte_at(text: Text, position: int) -> int:
    """The byte at `position`, which the caller has compared with text.size.

    Raises IndexError for a position outside the frame in the checked build (NUMBA_BOUNDSCHECK=1).
    """
    if CHECKED and (position < 0 or position >= text.size):
        raise IndexError("json_scan: read outside the frame")
    return _load_byte(text.address + position)


@kernel(inline=True)
def skip_space(text: Text, position: int) -> int:
    """The position of the first byte at or after `position` that is no JSON white space; may be text.size."""
    size = text.size
    while position < size:
        byte = byte_at(text, position)
        if byte > 32 or (byte != 32 and byte != 10 and byte != 13 and byte != 9):
            break
        position += 1
    return position


@kernel(inline=True)
def string_end(text: Text, position: int) -> int:
    """The position of the closing quote of the string that opens at `position`, or BAD_JSON."""
    size = text.size
    position += 1
    while position < size:
        byte = byte_at(text, position)
        if byte == QUOTE:
            return position
        position += 2 if byte == BACKSLASH else 1
    return BAD_JSON


@kernel()
def _skip_container(text: Text, position: int) -> int:
    """The position after the list or object that opens at `position`, or BAD_JSON."""
    size = text.size
    kinds = 0  # one bit for each open bracket, the innermost lowest: 1 for an object
    depth = 0
    while position < size:
        byte = byte_at(text, position)
        if byte == QUOTE:
            position = string_end(text, position)
            if position < 0:
                return BAD_JSON
        elif byte == OPEN_LIST or byte == OPEN_OBJECT:
            if depth == MAX_DEPTH:
                return BAD_JSON
            kinds = kinds * 2 + (1 if byte == OPEN_OBJECT else 0)
            depth += 1
        elif byte == CLOSE_LIST or byte == CLOSE_OBJECT:
            if kinds & 1 != (1 if byte == CLOSE_OBJECT else 0):
                return BAD_JSON
            kinds >>= 1
            depth -= 1
            if depth == 0:
                return position + 1
        position += 1
    return BAD_JSON


@kernel(inline=True)
def ends_scalar(byte: int) -> bool:
    """True for a byte that may follow a number, true, false or null."""
    return (
        byte == COMMA or byte == CLOSE_OBJECT or byte == CLOSE_LIST
        or byte == 32 or byte == 10 or byte == 13 or byte == 9
    )  # fmt: skip


@kernel(inline=True)
def skip_value(text: Text, position: int) -> int:
    """The position after the value that begins at `position`, or BAD_JSON."""
    size = text.size
    if position >= size:
        return BAD_JSON
    byte = byte_at(text, position)
    if byte == QUOTE:
        end = string_end(text, position)
        return end + 1 if end >= 0 else BAD_JSON
    if byte == OPEN_LIST or byte == OPEN_OBJECT:
        return _skip_container(text, position)
    start = position
    while position < size and not ends_scalar(byte_at(text, position)):
        byte = byte_at(text, position)
        if byte == QUOTE or byte == COLON or byte == OPEN_LIST or byte == OPEN_OBJECT:
            return BAD_JSON
        position += 1
    return position if position > start else BAD_JSON


@kernel()
def read_name(text: Text, position: int) -> Name:
    """The string at `position` packed for comparison; NO_NAME for no string, one with escapes or beyond 16 bytes."""
    low, high, length = 0, 0, 0
    if position >= text.size or byte_at(text, position) != QUOTE:
        return NO_NAME
    position += 1
    while position < text.size:
        byte = byte_at(text, position)
        if byte == QUOTE:
            return Name(low, high)
        if byte == BACKSLASH or length == NAME_BYTES:
            return NO_NAME
        if length < 8:
            low |= byte << (8 * length)
        else:
            high |= byte << (8 * (length - 8))
        length += 1
        position += 1
    return NO_NAME


@kernel(inline=True)
def same_name(one: Name, other: Name) -> bool:
    """True when two packed strings are equal."""
    return one.low == other.low and one.high == other.high


@kernel()
def _scale_up(value: int, places: int) -> int:
    """value * 10^places for value >= 0, or -1 where that does not fit int64."""
    if value == 0:
        return 0
    while places > 0:
        if value > INT64_MAX // 10:
            return -1
        value *= 10
        places -= 1
    return value


@kernel()
def _parse_general(text: Text, position: int, exp: int) -> tuple[int, int]:
    """`parse_units` for any spelling: sign, exponent, more or fewer decimals than exp, many zeros.

    The mantissa is kept without its trailing zeros, so that "1.500000000000000000000" is as good as "1.5".
    """
    size = text.size
    quoted = position < size and byte_at(text, position) == QUOTE
    if quoted:
        position += 1
    negative = position < size and byte_at(text, position) == MINUS
    if negative:
        position += 1
    mantissa, zeros, digits, decimals = 0, 0, 0, 0
    after_point = False
    while position < size:
        byte = byte_at(text, position)
        digit = byte - ZERO
        if digit >= 0 and digit <= 9:
            digits += 1
            if after_point:
                decimals += 1
            if digit == 0:
                zeros += 1
            else:
                mantissa = _scale_up(mantissa, zeros + 1)
                if mantissa < 0 or mantissa > INT64_MAX - digit:
                    return 0, BAD_NUMBER
                mantissa += digit
                zeros = 0
        elif byte == POINT and not after_point and digits > 0:
            after_point = True
        else:
            break
        position += 1
    if position >= size:
        return 0, BAD_JSON
    if digits == 0 or (after_point and decimals == 0):
        return 0, BAD_NUMBER
    exponent = 0
    if byte_at(text, position) == LOWER_E or byte_at(text, position) == UPPER_E:
        position += 1
        exponent_negative = False
        if position < size and (byte_at(text, position) == MINUS or byte_at(text, position) == PLUS):
            exponent_negative = byte_at(text, position) == MINUS
            position += 1
        first = position
        while position < size:
            digit = byte_at(text, position) - ZERO
            if digit < 0 or digit > 9:
                break
            exponent = min(exponent * 10 + digit, MAX_EXPONENT)
            position += 1
        if position == first and position < size:
            return 0, BAD_NUMBER
        if exponent_negative:
            exponent = -exponent
    if position >= size:
        return 0, BAD_JSON
    if quoted:
        if byte_at(text, position) != QUOTE:
            return 0, BAD_NUMBER
        position += 1
    elif not ends_scalar(byte_at(text, position)):
        return 0, BAD_NUMBER
    if mantissa == 0:
        return 0, position
    places = exp + exponent + zeros - decimals
    if places < 0:
        return 0, BAD_NUMBER
    value = _scale_up(mantissa, places)
    if value < 0:
        return 0, BAD_NUMBER
    return (-value if negative else value), position


@kernel(inline=True)
def parse_units(text: Text, position: int, exp: int) -> tuple[int, int]:
    """The number at `position`, bare or in quotes, as (int64 units of 10^-exp, position after it).

    (0, BAD_NUMBER) for what is no number, has more non-zero digits than exp, or does not fit int64; (0, BAD_JSON) where
    the frame ends before the number does.
    The short way takes "digits" or "digits.digits" with exactly exp decimals; all else goes the general way.
    """
    size = text.size
    at = position
    quoted = at < size and byte_at(text, at) == QUOTE
    if quoted:
        at += 1
    first = at
    value = 0
    while at < size:
        digit = byte_at(text, at) - ZERO
        if digit < 0 or digit > 9:
            break
        value = value * 10 + digit
        at += 1
    digits = at - first
    decimals = 0
    if digits > 0 and at < size and byte_at(text, at) == POINT:
        at += 1
        first = at
        while at < size:
            digit = byte_at(text, at) - ZERO
            if digit < 0 or digit > 9:
                break
            value = value * 10 + digit
            at += 1
        decimals = at - first
        digits = digits + decimals if decimals > 0 else 0  # a point with nothing behind it: no short way
    if digits > 0 and digits <= FAST_DIGITS and decimals == exp and at < size:
        if quoted:
            if byte_at(text, at) == QUOTE:
                return value, at + 1
        elif ends_scalar(byte_at(text, at)):
            return value, at
    return _parse_general(text, position, exp)
