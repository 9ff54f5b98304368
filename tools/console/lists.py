"""Lists that are longer than the rows there are for them: rows shared out, and a mark that says how to see the rest.

What is urgent comes first where a list is cut, so that it is seen without scrolling. Pure, as in panes.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from tools.console.canvas import BAD, Drawn, Line, Style, line

Item = TypeVar("Item")


def shares(room: int, lengths: Sequence[int]) -> list[int]:
    """Rows for lists of such lengths, in their order: short ones whole, the others alike."""
    found = [0] * len(lengths)
    shortest_first = sorted(range(len(lengths)), key=lambda place: lengths[place])
    for done, place in enumerate(shortest_first):
        found[place] = min(lengths[place], max(room, 0) // (len(lengths) - done))
        room -= found[place]
    return found


def mark(after: int, before: int, urgent: bool = False, back: str = "above") -> Line:
    """What stands in the last row of a list that was cut: rows after and before those that are shown.

    urgent: so is something of what is not shown; back: what those before are.
    """
    words = [f"{after} more: PgDn"] if after else []
    words += [f"{before} {back}: PgUp"] if before else []
    return line(f"{'!' if urgent else ' '}... {'   '.join(words)}", BAD if urgent else Style.DIM)


class Lists:
    """The lists of one pane. They scroll one after the other: what was cut from the first, then from the next."""

    def __init__(self, scroll: int) -> None:
        """scroll: rows, of all lists together."""
        self._scroll = scroll
        self._most = 0
        self._pages: list[int] = []

    def rows(
        self, items: Sequence[Item], room: int, draw: Callable[[Item], Line], urgent: Callable[[Item], bool],
    ) -> list[Line]:
        """The rows of the next list, at most `room` (2 or more where it is cut), its mark among them."""
        if len(items) <= room:
            return [draw(item) for item in items]
        page = max(room - 1, 1)
        hidden = len(items) - page
        first = min(max(self._scroll - self._most, 0), hidden)
        self._most += hidden
        self._pages.append(page)
        ordered = sorted(items, key=lambda item: not urgent(item))
        unseen = ordered[:first] + ordered[first + page :]
        shown = [draw(item) for item in ordered[first : first + page]]
        return [*shown, mark(hidden - first, first, any(map(urgent, unseen)))]

    def drawn(self, lines: list[Line]) -> Drawn:
        """The pane of these lines."""
        return Drawn(lines, self._most, min(self._pages, default=1))
