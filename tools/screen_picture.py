"""A screen of a terminal as a picture: `tmux capture-pane -e -p` in, SVG out.

`python -m tools.screen_picture < screen.txt > docs/console.svg`. Understood of the escape sequences: SGR with bold,
dim, underline, reverse and colours (8 basic ones, 256 by number); all others are left out. Text stays text, one element
a piece of one style, each as wide as its columns whatever font a viewer has.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from xml.sax.saxutils import escape

_CELL, _ROW, _MARGIN, _SIZE = 8.4, 18, 12, 14
_PAPER, _INK = "#11151c", "#d5d9e0"
_BASIC = ("#3b4252", "#e06c75", "#98c379", "#e5b567", "#61afef", "#c678dd", "#56b6c2", "#d5d9e0")
_STEPS = (0, 95, 135, 175, 215, 255)
_SEQUENCE = re.compile(r"\x1b\[([\d;]*)m|\x1b\[[\d;?]*[A-Za-ln-z]|\x1b[()][A-Z0-9]|[\x00-\x08\x0e-\x1f]")
_FONT = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"


@dataclass(frozen=True)
class Look:
    """How text looks at a place of the screen; colours None: those of the terminal."""

    ink: str | None = None
    paper: str | None = None
    bold: bool = False
    dim: bool = False
    underline: bool = False
    reverse: bool = False

    @property
    def colours(self) -> tuple[str, str]:
        """(ink, paper) as they are seen."""
        ink, paper = self.ink or _INK, self.paper or _PAPER
        return (paper, ink) if self.reverse else (ink, paper)


def colour(number: int) -> str:
    """A colour of the 256 as #rrggbb. Raises ValueError outside them."""
    if not 0 <= number < 256:
        raise ValueError(f"colour {number}: 0 to 255 are allowed")
    if number < 16:
        return _BASIC[number % 8]
    if number >= 232:
        return f"#{8 + 10 * (number - 232):02x}" + f"{8 + 10 * (number - 232):02x}" * 2
    number -= 16
    return "#" + "".join(f"{_STEPS[place]:02x}" for place in (number // 36, number // 6 % 6, number % 6))


def look_after(look: Look, codes: str) -> Look:
    """What an SGR sequence makes of a look."""
    given = [int(code or 0) for code in codes.split(";")]
    place = 0
    while place < len(given):
        code = given[place]
        if code in (38, 48) and given[place + 1 : place + 2] == [5] and place + 2 < len(given):
            found = colour(given[place + 2])
            look = replace(look, ink=found) if code == 38 else replace(look, paper=found)
            place += 2
        elif 30 <= code <= 37:
            look = replace(look, ink=_BASIC[code - 30])
        elif 40 <= code <= 47:
            look = replace(look, paper=_BASIC[code - 40])
        else:
            look = _attribute(look, code)
        place += 1
    return look


def _attribute(look: Look, code: int) -> Look:
    changes: dict[int, dict[str, bool | None]] = {
        1: {"bold": True}, 2: {"dim": True}, 4: {"underline": True}, 7: {"reverse": True},
        22: {"bold": False, "dim": False}, 24: {"underline": False}, 27: {"reverse": False},
        39: {"ink": None}, 49: {"paper": None},
    }
    if code == 0:
        return Look()
    return replace(look, **changes.get(code, {}))  # type: ignore[arg-type]


def pieces(text: str, look: Look = Look()) -> tuple[list[tuple[str, Look]], Look]:
    """A line as pieces of one look, and the look at its end, with which the next one begins."""
    found: list[tuple[str, Look]] = []
    end = 0
    for match in _SEQUENCE.finditer(text):
        if match.start() > end:
            found.append((text[end : match.start()], look))
        if match[1] is not None:
            look = look_after(look, match[1])
        end = match.end()
    if end < len(text):
        found.append((text[end:], look))
    return found, look


def _piece(text: str, look: Look, column: int, row: int) -> str:
    """The elements of one piece: what is behind it, and the text."""
    ink, paper = look.colours
    left, width = _MARGIN + column * _CELL, len(text) * _CELL
    parts = []
    if paper != _PAPER:
        parts.append(
            f'<rect x="{left:.1f}" y="{_MARGIN + row * _ROW}" width="{width:.1f}" height="{_ROW}" fill="{paper}"/>'
        )
    if text.strip() or look.underline:
        style = f' fill="{ink}"' if ink != _INK else ""
        style += ' font-weight="bold"' if look.bold else ""
        style += ' opacity="0.65"' if look.dim else ""
        style += ' text-decoration="underline"' if look.underline else ""
        shown = escape(text).replace(" ", "\u00a0")  # spaces at the ends count too
        place = f'x="{left:.1f}" y="{_MARGIN + row * _ROW + _SIZE - 1}" textLength="{width:.1f}"'
        parts.append(f"<text {place}{style}>{shown}</text>")
    return "".join(parts)


def picture(screen: str, title: str = "bot4 console") -> str:
    """A screen as SVG."""
    rows = screen.rstrip("\n").split("\n")
    look, lines, widest = Look(), [], 0
    for row, text in enumerate(rows):
        found, look = pieces(text, look)
        column = 0
        for piece, its_look in found:
            if drawn := _piece(piece, its_look, column, row):
                lines.append(drawn)
            column += len(piece)
        widest = max(widest, column)
    width, height = 2 * _MARGIN + widest * _CELL, 2 * _MARGIN + len(rows) * _ROW
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" aria-label="{escape(title)}" font-family="{_FONT}" font-size="{_SIZE}" '
        f'fill="{_INK}">',
        f"<title>{escape(title)}</title>",
        f'<rect width="100%" height="100%" rx="8" fill="{_PAPER}"/>', *lines, "</svg>", "",
    ])


if __name__ == "__main__":
    sys.stdout.write(picture(sys.stdin.read()))
