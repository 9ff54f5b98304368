"""Numbers whose printed form matters: exact units with the decimals that the venue printed, and rounded ones.

A checksum over a book is taken over the text of its numbers. Since a venue prints all prices of an instrument with the
same decimals, and all sizes too, the integer and the number of decimals say as much as the text did.

Cost: about 1 ns a byte. Known limits: a number in exponent notation counts as printed with `exp` decimals, a negative
one with none; no venue that sends checksums prints one in a book.
"""

from __future__ import annotations

from engine.ingest.json_scan import (
    BAD_JSON,
    BAD_NUMBER,
    FAST_DIGITS,
    LOWER_E,
    MAX_EXPONENT,
    MINUS,
    PLUS,
    POINT,
    QUOTE,
    UPPER_E,
    ZERO,
    Text,
    byte_at,
    ends_scalar,
    parse_units,
)
from engine.kernel import kernel
from engine.units import INT64_MAX

NS_PER_DAY, NS_PER_SECOND = 86_400_000_000_000, 1_000_000_000
DASH, COLON, LETTER_T, LETTER_Z = ord("-"), ord(":"), ord("T"), ord("Z")
FIRST_YEAR, LAST_YEAR = 1970, 2200  # of times in ns that fit int64


@kernel()
def parse_printed(text: Text, position: int, exp: int) -> tuple[int, int, int]:
    """The number at `position`: (int64 units of 10^-exp, printed decimals, position after it).

    (0, 0, -Reason) where parse_units refuses it.
    """
    size = text.size
    at = position
    if at < size and byte_at(text, at) == QUOTE:
        at += 1
    value, digits, decimals = 0, 0, 0
    after_point = False
    while at < size:
        byte = byte_at(text, at)
        if byte >= ZERO and byte <= ZERO + 9:
            value = value * 10 + (byte - ZERO)
            digits += 1
            if after_point:
                decimals += 1
        elif byte == POINT and digits > 0 and not after_point:
            after_point = True
        else:
            break
        at += 1
    plain = digits > 0 and (decimals > 0 or not after_point) and at < size
    if plain and digits <= FAST_DIGITS and exp <= decimals:
        quoted = at > position and byte_at(text, position) == QUOTE
        if (quoted and byte_at(text, at) == QUOTE) or (not quoted and ends_scalar(byte_at(text, at))):
            for _ in range(decimals - exp):
                if value % 10 != 0:
                    return 0, 0, BAD_NUMBER
                value //= 10
            return value, decimals, at + 1 if quoted else at
    units, end = parse_units(text, position, exp)
    if end < 0:
        return 0, 0, end
    byte = byte_at(text, at)
    return units, exp if byte == LOWER_E or byte == UPPER_E else decimals, end


@kernel()
def parse_rounded(text: Text, position: int, exp: int) -> tuple[int, int]:
    """The number at `position` as (nearest int64 of 10^-exp, halves away from zero, position after it).

    For what a venue computes and prints with more digits than anybody needs: funding rates, mark prices. Digits beyond
    the first 18 that are not leading zeros are left out: a result of 18 digits is cut, not rounded, and shorter ones
    notice nothing. (0, -Reason) as parse_units.
    """
    size = text.size
    at = position
    quoted = at < size and byte_at(text, at) == QUOTE
    if quoted:
        at += 1
    negative = at < size and byte_at(text, at) == MINUS
    if negative:
        at += 1
    value, kept, digits, decimals, power = 0, 0, 0, 0, 0
    after_point = False
    while at < size:
        byte = byte_at(text, at)
        if byte >= ZERO and byte <= ZERO + 9:
            digits += 1
            decimals += 1 if after_point else 0
            if kept < FAST_DIGITS:
                value = value * 10 + (byte - ZERO)
                kept += 1 if value > 0 else 0
                power -= 1 if after_point else 0
            elif not after_point:
                power += 1
        elif byte == POINT and digits > 0 and not after_point:
            after_point = True
        else:
            break
        at += 1
    if at >= size:
        return 0, BAD_JSON
    if digits == 0 or (after_point and decimals == 0):
        return 0, BAD_NUMBER
    if byte_at(text, at) == LOWER_E or byte_at(text, at) == UPPER_E:
        at += 1
        sign = 1
        if at < size and (byte_at(text, at) == MINUS or byte_at(text, at) == PLUS):
            sign = -1 if byte_at(text, at) == MINUS else 1
            at += 1
        first, exponent = at, 0
        while at < size and byte_at(text, at) >= ZERO and byte_at(text, at) <= ZERO + 9:
            exponent = min(exponent * 10 + byte_at(text, at) - ZERO, MAX_EXPONENT)
            at += 1
        if at >= size:
            return 0, BAD_JSON
        if at == first:
            return 0, BAD_NUMBER
        power += sign * exponent
    if quoted:
        if byte_at(text, at) != QUOTE:
            return 0, BAD_NUMBER
        at += 1
    elif not ends_scalar(byte_at(text, at)):
        return 0, BAD_NUMBER
    places = power + exp
    while places > 0 and value > 0:
        if value > INT64_MAX // 10:
            return 0, BAD_NUMBER
        value *= 10
        places -= 1
    last = 0
    while places < 0 and (value > 0 or last > 0):
        last = value % 10
        value //= 10
        places += 1
    if last >= 5 and places == 0:
        value += 1
    return (-value if negative else value), at


@kernel(inline=True)
def _digits(text: Text, position: int, count: int) -> int:
    """The number made of `count` digits at `position`, or BAD_NUMBER; the caller knows that they lie in the frame."""
    value = 0
    for at in range(position, position + count):
        byte = byte_at(text, at)
        if byte < ZERO or byte > ZERO + 9:
            return BAD_NUMBER
        value = value * 10 + byte - ZERO
    return value


@kernel()
def parse_iso_time(text: Text, position: int) -> tuple[int, int]:
    """The string "2023-10-06T17:35:55.440295Z" at `position` as (ns since the epoch, 1), or (0, BAD_NUMBER).

    The fraction has none to nine digits. Seconds run to 60; the days of a month are 1 to 31 in every month.
    Source: RFC 3339; the day count is the usual one of the proleptic Gregorian calendar.
    """
    if position + 21 >= text.size or byte_at(text, position) != QUOTE:
        return 0, BAD_NUMBER
    at = position + 1
    year, month, day = _digits(text, at, 4), _digits(text, at + 5, 2), _digits(text, at + 8, 2)
    hour, minute, second = _digits(text, at + 11, 2), _digits(text, at + 14, 2), _digits(text, at + 17, 2)
    if (
        byte_at(text, at + 4) != DASH or byte_at(text, at + 7) != DASH or byte_at(text, at + 10) != LETTER_T
        or byte_at(text, at + 13) != COLON or byte_at(text, at + 16) != COLON
    ):  # fmt: skip
        return 0, BAD_NUMBER
    if year < FIRST_YEAR or year > LAST_YEAR or month < 1 or month > 12 or day < 1 or day > 31:
        return 0, BAD_NUMBER
    if hour < 0 or hour > 23 or minute < 0 or minute > 59 or second < 0 or second > 60:
        return 0, BAD_NUMBER
    at += 19
    fraction, places = 0, 0
    if byte_at(text, at) == POINT:
        at += 1
        while at < text.size and places < 9 and byte_at(text, at) >= ZERO and byte_at(text, at) <= ZERO + 9:
            fraction = fraction * 10 + byte_at(text, at) - ZERO
            places += 1
            at += 1
        if places == 0:
            return 0, BAD_NUMBER
    if at + 1 >= text.size or byte_at(text, at) != LETTER_Z or byte_at(text, at + 1) != QUOTE:
        return 0, BAD_NUMBER
    while places < 9:
        fraction *= 10
        places += 1
    shifted = year - 1 if month <= 2 else year  # a year that begins in March, so that February is its end
    day_of_year = (153 * (month + (9 if month <= 2 else -3)) + 2) // 5 + day - 1
    days = shifted * 365 + shifted // 4 - shifted // 100 + shifted // 400 + day_of_year - 719_468
    return days * NS_PER_DAY + (hour * 3600 + minute * 60 + second) * NS_PER_SECOND + fraction, 1
