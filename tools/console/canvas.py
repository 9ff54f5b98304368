"""Lines of styled text, columns and short numbers: what panes are made of.

What the console says itself is printable ASCII, so that it looks the same in every locale and font; names, reasons and
logs keep the signs of their script, each as wide as a terminal draws it. Nothing is said by colour alone: a sign or a
word always says it too. Blue and orange are told apart by nearly everybody.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntFlag

_UNITS = ((1e3, "us"), (1e6, "ms"))
_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0
_LARGE = "kMGTPE"
_GOES_ON = "    "
_NO_PLACE = ("Mn", "Me")  # categories of marks that stand on the sign before them
_WIDE = ("W", "F")


class Style(IntFlag):
    """How a piece of text looks; a terminal without colours shows the first four alone."""

    PLAIN = 0
    BOLD = 1
    REVERSE = 2
    DIM = 4
    UNDERLINE = 8
    BLUE = 16
    ORANGE = 32


TITLE = Style.BOLD | Style.UNDERLINE
GOOD = Style.BLUE
BAD = Style.ORANGE | Style.BOLD
BUY = Style.BLUE
SELL = Style.ORANGE

Span = tuple[str, Style]
Line = tuple[Span, ...]


@dataclass(frozen=True)
class Drawn:
    """A pane as it was drawn: its lines, and how one may move through what there was no room for."""

    lines: list[Line]
    most: int = 0  # rows that can be scrolled, at the most; 0: everything is shown
    page: int = 1  # rows that are shown at once of what scrolls


def shown(text: str) -> str:
    """The text as it is drawn: composed, and with '?' for every sign that has no place of its own, such as controls."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        sign if sign.isprintable() and unicodedata.category(sign) not in _NO_PLACE else "?"
        for sign in unicodedata.normalize("NFC", text)
    )


def text_width(text: str) -> int:
    """Columns of a text that can be drawn: signs of East Asia and pictures have two."""
    return len(text) if text.isascii() else sum(1 + (unicodedata.east_asian_width(sign) in _WIDE) for sign in text)


def _beginning(text: str, width: int) -> str:
    """As many signs as there is room for in so many columns."""
    if text.isascii():
        return text[: max(width, 0)]
    for place, sign in enumerate(text):
        width -= text_width(sign)
        if width < 0:
            return text[:place]
    return text


def _cut_off(text: str, width: int) -> str:
    """A text that is too wide, in so many columns or one less, with the mark."""
    return _beginning(text, width - 1) + "~" if width > 0 else ""


def fit(text: str, width: int, right: bool = False) -> str:
    """The text in exactly so many columns; '~' where it had to be cut."""
    text = shown(text)
    if text_width(text) > width:
        text = _cut_off(text, width)
    space = " " * (width - text_width(text))
    return space + text if right else text + space


def line(text: str, style: Style = Style.PLAIN) -> Line:
    """A line of one style."""
    return ((text, style),)


@functools.lru_cache(maxsize=2048)  # a log is drawn again and again
def wrapped(text: str, width: int) -> tuple[str, ...]:
    """A text in as many rows as it needs, parted between words unless one is long; what goes on is indented."""
    text = shown(text)
    rows, room, indent = [], width, ""
    while text_width(text) > room:
        most = max(len(_beginning(text, room)), 1)
        end = text.rfind(" ", most // 2, most + 1)
        at = end if end > 0 else most
        rows.append(indent + text[:at])
        text = text[at + 1 :] if end > 0 else text[at:]
        room, indent = width - len(_GOES_ON), _GOES_ON
    return (*rows, indent + text)


def lines_of(text: str, width: int, style: Style = Style.PLAIN) -> list[Line]:
    """A text as lines of one style, as many as it needs."""
    return [line(row, style) for row in wrapped(text, width)]


def columns(cells: Sequence[str], widths: Sequence[int], style: Style = Style.PLAIN, gap: int = 1) -> Line:
    """Cells under each other: a width below 0 is aligned to the right."""
    spans = [fit(cell, abs(width), width < 0) for cell, width in zip(cells, widths, strict=True)]
    return line((" " * gap).join(spans), style)


def width_of(content: Line) -> int:
    """Columns of a line."""
    return sum(text_width(text) for text, _ in content)


def cut(content: Line, width: int) -> Line:
    """A line in exactly so many columns, as it can be drawn."""
    spans: list[Span] = []
    left = width
    for text, style in content:
        piece = shown(text)
        too_wide = text_width(piece) > left
        if too_wide:
            piece = _cut_off(piece, left)
        if piece:
            spans.append((piece, style))
        left -= text_width(piece)
        if too_wide:
            break
    if left:
        spans.append((" " * left, Style.PLAIN))
    return tuple(spans)


def beside(left: Sequence[Line], right: Sequence[Line], left_width: int, gap: int = 2) -> list[Line]:
    """Two blocks side by side, the left one in so many columns."""
    lines = []
    for number in range(max(len(left), len(right))):
        first = cut(left[number] if number < len(left) else (), left_width)
        second = right[number] if number < len(right) else ()
        lines.append((*first, (" " * gap, Style.PLAIN), *second))
    return lines


def plain_text(lines: Iterable[Line]) -> str:
    """Lines without their styles, as a terminal without any would show them."""
    return "\n".join("".join(text for text, _ in content).rstrip() for content in lines)


def count(value: float) -> str:
    """A number in at most 6 columns (7 with its sign): 12, 99999, 123k, 4.57M."""
    sign, value = "-" if value < 0 else "", abs(value)
    if value < 99_999.5:
        return sign + (f"{value:.0f}" if float(value).is_integer() or value >= 100 else f"{value:.1f}")
    for power, letter in enumerate(_LARGE, 1):
        scaled = value / 1000.0**power
        if scaled < 999.5 or letter == _LARGE[-1]:
            digits = 0 if scaled >= 99.95 else 1 if scaled >= 9.995 else 2
            return f"{sign}{scaled:.{digits}f}{letter}"
    raise AssertionError("unreachable")


def duration(ns: float | None) -> str:
    """A time in at most 6 columns (7 with its sign): 850ns, 3.2us, 45.1ms, 12.0s, 5m03s, 27h, 12d; - for None."""
    if ns is None:
        return "-"
    sign, ns = "-" if ns < 0 else "", abs(ns)
    if ns < 1000:
        return f"{sign}{ns:.0f}ns"
    for unit, name in _UNITS:
        scaled = ns / unit
        if scaled < 999.5:
            return f"{sign}{scaled:.1f}{name}" if scaled < 99.95 else f"{sign}{scaled:.0f}{name}"
    seconds = ns / 1e9
    if seconds < 59.95:
        return f"{sign}{seconds:.1f}s"
    if seconds < _HOUR:
        return f"{sign}{seconds // _MINUTE:.0f}m{seconds % _MINUTE // 1:02.0f}s"
    if seconds < 4 * _DAY:
        return f"{sign}{seconds / _HOUR:.0f}h"
    return f"{sign}{min(seconds / _DAY, 99999):.0f}d"


def bar(part: float, width: int) -> str:
    """A part of a whole as [###...]; the smallest part above nothing has one mark."""
    inside = max(width - 2, 0)
    marks = min(max(round(part * inside), 1 if part > 0 else 0), inside)
    return "[" + "#" * marks + "." * (inside - marks) + "]"


def clock(ns: int, digits: int = 0) -> str:
    """Time of day in UTC of ns since the epoch: 12:03:44, with digits 12:03:44.123."""
    seconds, rest = divmod(max(ns, 0), 1_000_000_000)
    text = f"{seconds // 3600 % 24:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    return f"{text}.{rest // 10 ** (9 - digits):0{digits}d}" if digits else text
