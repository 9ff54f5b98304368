"""docs/venues.md is written by hand, but for its table of markets, which is what `bot4 venues` says."""

from __future__ import annotations

from engine.kernel import PROJECT_ROOT
from tools.docs.source_text import MissingText
from tools.venues import capability_table

_BEGIN, _END = "<!-- markets: python -m tools.docs -->\n", "<!-- end of markets -->\n"


def page() -> str:
    """The whole page, with the table of now. Raises MissingText where the two marks around it are gone."""
    text = (PROJECT_ROOT / "docs" / "venues.md").read_text(encoding="utf-8")
    before, begun, rest = text.partition(_BEGIN)
    _, ended, after = rest.partition(_END)
    if not begun or not ended:
        raise MissingText(f"docs/venues.md: no {_BEGIN.strip()} or no {_END.strip()}")
    return f"{before}{_BEGIN}\n{capability_table()}\n\n{_END}{after}"
