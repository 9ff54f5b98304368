"""docs/detectability.md, made from the table that the integrity drill asserts (tools/docs/pages.py)."""

from __future__ import annotations

from engine.instruments import Dialect
from procs.venues.detectability import RECOVERY_MS, Row, Verdict, rows_of, tape_rows_of, unverified_rows_of

_NAMES = {
    Dialect.BINANCE_SPOT: "Binance spot", Dialect.BINANCE_USDM: "Binance USD-M futures",
    Dialect.BINANCE_COINM: "Binance COIN-M futures", Dialect.KRAKEN_SPOT_V1: "Kraken spot v1",
    Dialect.KRAKEN_SPOT_V2: "Kraken spot v2", Dialect.KRAKEN_FUTURES: "Kraken Futures",
}
_COLUMNS = ("fault", "what it meets", "what comes of a valid book", "within", "by", "then", "unless")
_HEAD = f"""# What the feeds let us detect

Made by `python -m tools.docs` from `procs/venues/detectability.py`; a test holds this page to it. The
integrity drill (`procs/integrity/`, `make soak SUITE=integrity`) asserts exactly these tables: what is detectable is
said within its bound, what is harmless is never said, and a wrong book is called valid only where a table says that
nothing can show it.

* A message is one of the same book, counted after the one that was harmed; "at once" is with that one.
* "Not detectable" stays so until the level is told again or the book begins anew. Binance and Kraken Futures send no
  checksum: a number that was altered on its way is one that the venue might have sent. TLS is what guards it.
* Faults that TCP and TLS rule out on a healthy connection (reorder, delay of one message, corrupt, duplicate) are
  what a broken proxy, a merged feed or a bug of the venue's may do.
* Snapshots of Binance's REST are cut by its limit (1,000 levels a side), and updates tell only what changes. A book
  whose touch is worse than where its snapshot ended is BOOK_INVALID (BEYOND_SNAPSHOT) with the update that brings it
  there, and begins anew: its venue may have a better level that nobody told of. Levels behind the touch may lie beyond
  that end while the book is valid; untold ones among them are not detectable, so what reads N levels is exact as far as
  the snapshot went. Books of Kraken Futures are told whole, those of Kraken spot are kept to their depth by the venue.
* A stream of a book that dies alone (`mute`) shows where ticker and book count in the same ids (Binance), and only once
  the touch has moved. Kraken's tickers have no such ids; a heartbeat says that the connection lives, not the stream.
* A venue that says nothing is not told from one that has nothing to say: books may be late by as long as that.
* After the last fault every book that can be valid is valid and right again within {RECOVERY_MS / 1000:g} s.
"""


_UNVERIFIED = """\
With `validation.checksums = false` nothing proves a book: it is unverified, and held against snapshots of REST every
`feed.unverified_audit_s` (decision 9), besides the ticker. Two audits in a row are such through which the same level
stays wrong; the second comes some seconds after the first that disagrees. The drill asserts this table too, for levels
among the seven best, which are among the ten of an answer of any moment of its window.
"""


def _cells(row: Row) -> tuple[str, ...]:
    said = {Verdict.SAID: "BOOK_INVALID", Verdict.HARMLESS: "right, and stays valid", Verdict.LATE: "late, stays valid"}
    text = said.get(row.verdict, "not detectable")
    if row.blind_beyond and row.verdict is Verdict.UNSEEN:
        text += f" beyond level {row.blind_beyond}"
    return row.fault, row.part, text, row.bound or "-", row.by, row.then, row.unless or "-"


def page() -> str:
    """The whole page."""
    parts = [_HEAD]
    for dialect, name in _NAMES.items():
        parts.append(f"\n## {name}\n\n{_table(rows_of(dialect))}")
        if dialect == Dialect.KRAKEN_SPOT_V2:
            parts.append(f"\n### {name} without checksums\n\n{_UNVERIFIED}\n{_table(unverified_rows_of(dialect))}")
        parts.append("\n" + "".join(f"* {_tape(row)}\n" for row in tape_rows_of(dialect)))
    return "".join(parts)


def _table(rows: tuple[Row, ...]) -> str:
    lines = [_COLUMNS, tuple("---" for _ in _COLUMNS), *map(_cells, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _tape(row: Row) -> str:
    """A line on trades."""
    come = "harmless" if row.verdict is Verdict.HARMLESS else "not detected"
    return f"A trade that meets `{row.fault}`: {come} ({row.by}); {row.then}."
