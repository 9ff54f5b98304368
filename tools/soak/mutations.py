"""What a guided fuzzer does to an input beside its own changes: accidents, and other words, numbers, values and frames.

Bytes that are changed anywhere end nearly every input at its first bracket. These leave most of it well formed, so that
what follows is reached: a word becomes another of the format, a number is written in another way, a value becomes
another value, a session has another frame.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from procs.embedded.mix import Draws
from tools.soak.accidents import PIECES, mutated
from tools.soak.decoder_targets import BETWEEN, Target

_WORD = re.compile(rb'"[^"\\]*"|true|false|null')
_BARE = (b"true", b"false", b"null")
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?[0-9][-+.0-9eE]*|true|false|null|[\[\]{}]')
_VALUES = (
    b"0", b"1", b"-1", b"-0", b"00", b"1.", b"1.50", b"0.00000001", b"1e3", b"2E-8", b"1e+0", b"1000",
    b"123456789012345678", b"9223372036854775807", b"9223372036854775808", b"1700000000000", b"null", b"true", b'""',
    b"[]", b"{}", b"[[]]",
)  # fmt: skip
_NUMBER = re.compile(rb"(-?)([0-9]+)(?:(\.)([0-9]*))?(?:([eE])([-+]?)([0-9]*))?")
_MARKS: dict[int, tuple[bytes, ...]] = {0: (b"", b"-"), 2: (b"", b"."), 4: (b"", b"e", b"E"), 5: (b"", b"+", b"-")}


def dictionary(words: Iterable[str]) -> str:
    """Words of a format, quoted and bare, and the marks of JSON, as libFuzzer reads a dictionary."""
    entries = [*PIECES, BETWEEN, *_VALUES, b"e-8", b"e+"]
    for word in words:
        entries += [word.encode(), f'"{word}"'.encode(), f'"{word}":'.encode()]
    lines = ("".join(f"\\x{byte:02x}" for byte in entry) for entry in dict.fromkeys(entries) if entry)
    return "".join(f'"{line}"\n' for line in lines)


def other_word(data: bytes, words: Sequence[str], draws: Draws) -> bytes:
    """The input with one of its strings, or true, false or null, become another of the format: still well formed."""
    found = list(_WORD.finditer(data))
    if not found or not words:
        return data
    old = draws.choice(found)
    new = draws.choice(_BARE) if old[0] in _BARE else f'"{draws.choice(words)}"'.encode()
    return data[: old.start()] + new + data[old.end() :]


def other_number(data: bytes, draws: Draws) -> bytes:
    """The input with one number written otherwise: digits more, less or others, another sign, point or exponent."""
    found = list(_NUMBER.finditer(data))
    if not found:
        return data
    old = draws.choice(found)
    parts = [part or b"" for part in old.groups()]
    which = draws.whole(0, len(parts) - 1)
    if which in _MARKS:
        parts[which] = draws.choice(_MARKS[which])
    else:
        digits = parts[which]
        at = draws.whole(0, len(digits))
        new = b"%d" % draws.whole(0, 9) if draws.whole(0, 2) else b"0"
        parts[which] = digits[:at] + draws.choice((new, new, new * 3, b"")) + digits[at + draws.whole(0, 1) :]
    return data[: old.start()] + b"".join(parts) + data[old.end() :]


def values_in(data: bytes) -> list[tuple[int, int]]:
    """Where values of JSON begin and end in any bytes: scalars, keys, and what brackets enclose."""
    found: list[tuple[int, int]] = []
    opened: list[int] = []
    for token in _TOKEN.finditer(data):
        if token[0] in b"[{":
            opened.append(token.start())
        elif token[0] not in b"]}":
            found.append(token.span())
        elif opened:
            found.append((opened.pop(), token.end()))
    return found


def other_value(data: bytes, others: Sequence[bytes], draws: Draws) -> bytes:
    """The input with one value become another one, come twice, or gone; others: inputs to take a value from."""
    values = values_in(data)
    if not values:
        return data
    start, end = draws.choice(values)
    match draws.whole(0, 5):
        case 0:
            new = data[start:end] + b"," + data[start:end]
        case 1:
            new = b""
            if data[end : end + 1] == b",":
                end += 1
            elif data[start - 1 : start] == b",":
                start -= 1
        case 2:
            donor = draws.choice(others)
            places = values_in(donor)
            new = donor[slice(*draws.choice(places))] if places else b"0"
        case 3:
            new = data[slice(*draws.choice(values))]
        case _:
            new = draws.choice(_VALUES)
            if data[start : start + 1] == b'"' and new[:1].isdigit():
                new = b'"' + new + b'"'
    return data[:start] + new + data[end:]


def other_frames(data: bytes, others: Sequence[bytes], draws: Draws) -> bytes:
    """A session with a frame more, a frame less, or two that changed places; others: sessions to take one from."""
    frames = data.split(BETWEEN)
    at = draws.whole(0, len(frames) - 1)
    match draws.whole(0, 3):
        case 0 if len(frames) > 1:
            del frames[at]
        case 1:
            other = draws.whole(0, len(frames) - 1)
            frames[at], frames[other] = frames[other], frames[at]
        case 2:
            frames.insert(at, draws.choice(draws.choice(others).split(BETWEEN)))
        case _:
            frames.insert(draws.whole(0, len(frames)), frames[at])
    return BETWEEN.join(frames)


def changed(data: bytes, target: Target, draws: Draws) -> bytes | None:
    """The input after one such change, drawn, which may leave it as it is; None where the fuzzer is to make its own."""
    match draws.whole(0, 19):
        case 0 | 1 | 2:
            return mutated(data, target.seeds, draws, 1)  # the fuzzer makes several changes one after another
        case 3 | 4 | 5:
            return other_word(data, target.names, draws)
        case 6 | 7 | 8 | 9:
            return other_number(data, draws)
        case 10 | 11 | 12 | 13:
            return other_value(data, target.seeds, draws)
        case 14 | 15 if target.of_frames:
            return other_frames(data, target.seeds, draws)
        case _:
            return None
