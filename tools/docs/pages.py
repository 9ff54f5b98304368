"""Which pages are made from the source, and by whom. One line adds another; the test of all pages follows.

A page is its whole text, ending in a newline. Making one raises MissingText when something has no text in the source.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tools.docs import commands, configuration, detectability, metrics, processes, reasons, records, venues

PAGES: dict[str, Callable[[], str]] = {
    "docs/reference/configuration.md": configuration.page,
    "docs/reference/commands.md": commands.page,
    "docs/reference/reasons.md": reasons.page,
    "docs/reference/metrics.md": metrics.page,
    "docs/reference/records.md": records.page,
    "docs/reference/processes.md": processes.page,
    "docs/detectability.md": detectability.page,
    "docs/venues.md": venues.page,
}
_MADE = "\n*Made by `python -m tools.docs`; do not edit.*\n"


def text_of(name: str) -> str:
    """What a page should be now."""
    text = PAGES[name]()
    if not name.startswith("docs/reference/"):
        return text
    title, _, rest = text.partition("\n")
    return f"{title}\n{_MADE}{rest}"


def stale_pages(root: Path) -> dict[str, str]:
    """Pages that are not what the source says, or not there: by name what each should be. root: the project."""
    wanted = {name: text_of(name) for name in PAGES}
    return {
        name: text for name, text in wanted.items()
        if not (root / name).exists() or (root / name).read_text(encoding="utf-8") != text
    }  # fmt: skip
