"""What the feed of each market lets us detect: the table that the integrity drill (procs/integrity/) asserts exactly.

A row says of one fault, as the wire player orders it (procs/wire_player/faults.py), and of the part that it meets, what
must come of a book that was valid. `bot4` prints no more of it than docs/detectability.md shows; that page is made from
here (tools/docs/detectability.py).

    SAID      BOOK_INVALID comes within `messages` further messages of that book (0: with the one that was harmed), or,
              where it is time that tells, within `within_ms`, or with the last of `audits` audits by REST in a row
              through which the same level stays wrong. With `after_ms` only messages count whose venue time is
              that much later. Unless: when nothing need be said, since the book is right all the same.
    HARMLESS  nothing is said, and the book is right.
    UNSEEN    nothing in the feed can show it. A valid book may be wrong, beyond its best `blind_beyond` levels, until
              the level is told again or the book begins anew. (SAID has `blind_beyond` too: what is deeper of the same
              message.)
    LATE      nothing is said; the book is right, and as old as the connection was silent.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from engine.ingest.dialects import has_rest_snapshots
from engine.instruments import Dialect
from engine.validation.settings import ValidationSettings

# After the last fault every book that can be valid is valid and right again within so long.
RECOVERY_MS = 12_000
AUDITS = 2  # by REST that disagree, as validation.rest_audit_disagreements has it by default
# A silent connection is given up: heard of nothing for 5 s, looked at once a second.
SILENCE_MS = 6_000
# A ticker that has been ahead of its book for validation.stalled_book_ms makes it wrong; it comes now and then.
STALLED_BOOK_MS = ValidationSettings().stalled_book_ms
_TICKER_MS = 700


class Verdict(StrEnum):
    """What comes of a fault; see the module."""

    SAID = "said"
    HARMLESS = "harmless"
    UNSEEN = "not detectable"
    LATE = "late"


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    fault: str  # of procs/wire_player/faults.py; "late": what reorder and delay bring behind newer messages
    part: str  # what of the feed it meets
    verdict: Verdict
    by: str  # which rule shows it; or why nothing can
    then: str  # what the engine does
    messages: int = 0
    after_ms: int = 0
    within_ms: int = 0
    audits: int = 0
    unless: str = ""
    blind_beyond: int = 0
    unless_unseen: bool = False  # what `unless` says leaves a wrong book that nothing shows

    @property
    def key(self) -> tuple[str, str]:
        """Fault and part."""
        return self.fault, self.part

    @property
    def bound(self) -> str:
        """The bound in words; empty where nothing is said."""
        if self.verdict is not Verdict.SAID:
            return ""
        if self.audits:
            return f"{self.audits} audits in a row"
        if self.within_ms:
            return f"{self.within_ms / 1000:g} s"
        if self.messages == 0:
            return "at once"
        text = f"{self.messages} message" + ("s" if self.messages > 1 else "")
        return text + (f" more than {self.after_ms / 1000:g} s later" if self.after_ms else "")


_SAID, _HARMLESS, _UNSEEN, _LATE = Verdict.SAID, Verdict.HARMLESS, Verdict.UNSEEN, Verdict.LATE
_REST = "invalid; the update waits for a snapshot of REST"
_SOCKET = "invalid; the book is left and subscribed anew"
_KEPT = "kept; the book stays valid"

_CONNECTION = (
    Row("stall", "shorter than the silence", _LATE, "nothing tells a stalled connection from a quiet one", _KEPT),
    Row("stall", "longer than the silence", _SAID, "silence of the connection",
        "closed and opened again, every book begins anew", within_ms=SILENCE_MS),
    Row("disconnect", "connection", _SAID, "the socket", "every book is invalid at once and begins anew"),
)  # fmt: skip


def _unheard(part: str) -> Row:
    """A stream of a book that is silent alone, and that nothing tells from a quiet one."""
    return Row("mute", part, _LATE, "nothing tells a silent stream from a quiet book", _KEPT)


def _of_binance(dialect: Dialect) -> tuple[Row, ...]:
    rule = "U is not the last u + 1" if dialect == Dialect.BINANCE_SPOT else "pu is not the last u"
    tie = "U" if dialect == Dialect.BINANCE_SPOT else "pu"
    rows = [
        Row("drop", "update", _SAID, rule, _REST, messages=1),
        Row("duplicate", "update", _HARMLESS, "u is not above the last u", "dropped as DUPLICATE"),
        Row("reorder", "update", _SAID, rule, _REST, messages=1),
        Row("delay", "update", _SAID, rule, _REST, messages=1, unless="it comes before the next one"),
        Row("corrupt", "unreadable", _SAID, rule, "refused and quarantined; then as if dropped", messages=1),
        Row("corrupt", tie, _SAID, rule, _REST, unless="it is the first update after a snapshot"),
        Row("corrupt", "u", _SAID, f"{rule}; ids that stand still while the venue's time goes on", _REST, messages=1,
            after_ms=1_000, unless_unseen=True, unless="it is the first update after a snapshot and older than that; "
            "or the stream reaches that id sooner: nothing shows it"),
        Row("corrupt", "price or size", _UNSEEN, "no checksum; unless the book is crossed or locked by it", _KEPT),
        Row("corrupt", "anything else", _HARMLESS, "times and names that no book needs", _KEPT),
        *_CONNECTION,
        _unheard("shorter than the bound"),
        Row("mute", "longer than the bound", _SAID, "a ticker beyond the last u, with another touch, and no update for "
            f"{STALLED_BOOK_MS / 1000:g} s", _REST, within_ms=STALLED_BOOK_MS + _TICKER_MS,
            unless="the touch stands still: the ticker says nothing against the book"),
        Row("stale", "snapshot", _SAID, "older than the book or the waiting updates; else the next update",
            "refused as SNAPSHOT_TOO_OLD and fetched again; else invalid", messages=1, unless="it was refused"),
        Row("429", "snapshot", _HARMLESS, "the answer itself", "the book stays invalid; asked again, later each time"),
    ]  # fmt: skip
    if dialect != Dialect.BINANCE_SPOT:
        rows.insert(6, Row("corrupt", "U", _HARMLESS, "only pu and u are needed", _KEPT))
    return tuple(rows)


def _of_kraken_spot(snapshot_checksum: bool) -> tuple[Row, ...]:
    rule = "checksum of the ten best levels"
    undone = "the next update undoes it"
    until = "no sequence, and the checksum ends at ten levels"
    return (
        Row("drop", "ten best", _SAID, rule, _SOCKET, messages=1, unless=undone, blind_beyond=10),
        Row("drop", "deeper", _UNSEEN, until, _KEPT, blind_beyond=10),
        Row("duplicate", "update", _HARMLESS, "sizes are absolute", _KEPT),
        Row("reorder", "ten best", _SAID, rule, _SOCKET, messages=1, unless=undone, blind_beyond=10),
        Row("reorder", "deeper", _UNSEEN, until, _KEPT, blind_beyond=10),
        Row("delay", "ten best", _SAID, rule, _SOCKET, messages=1, unless=f"it comes before the next one, or {undone}",
            blind_beyond=10),
        Row("delay", "deeper", _UNSEEN, until, _KEPT, blind_beyond=10),
        Row("late", "ten best", _SAID, rule, _SOCKET, messages=1, unless=undone, blind_beyond=10),
        Row("late", "deeper", _UNSEEN, until, _KEPT, blind_beyond=10),
        Row("corrupt", "unreadable, ten best", _SAID, rule, "refused and quarantined; then as if dropped", messages=1,
            unless=undone, blind_beyond=10),
        Row("corrupt", "unreadable, deeper", _UNSEEN, until, "refused and quarantined; then as if dropped",
            blind_beyond=10),
        Row("corrupt", "checksum", _SAID, rule, _SOCKET),
        Row("corrupt", "price or size, ten best", _SAID, rule, _SOCKET, blind_beyond=10),
        Row("corrupt", "price or size, deeper", _UNSEEN, until, _KEPT, blind_beyond=10),
        Row("corrupt", "anything else", _HARMLESS, "times and names that no book needs", _KEPT),
        Row("corrupt", "snapshot, ten best", _SAID, rule, _SOCKET, messages=0 if snapshot_checksum else 1,
            unless="" if snapshot_checksum else undone,
            blind_beyond=10),
        Row("corrupt", "snapshot, deeper", _UNSEEN, until, _KEPT, blind_beyond=10),
        *_CONNECTION,
        _unheard("book"),
    )  # fmt: skip


def _unverified_kraken_spot() -> tuple[Row, ...]:
    """Without checksums: only audits are left, of the ten best levels and no sooner than one follows another."""
    rule = "snapshots of REST, held against the ten best levels"
    until = "the audit ends at ten levels; once the level is among them, as one of the ten best"
    again = "the level is told again before, which makes it right, or leaves the ten best"
    unread = "refused and quarantined; then as if dropped"
    shown = [(fault, "ten best", "deeper", _SOCKET, _KEPT) for fault in ("drop", "reorder", "delay", "late")]
    shown += [
        ("corrupt", "unreadable, ten best", "unreadable, deeper", unread, unread),
        ("corrupt", "price or size, ten best", "price or size, deeper", _SOCKET, _KEPT),
        ("corrupt", "snapshot, ten best", "snapshot, deeper", _SOCKET, _KEPT),
    ]
    rows = [
        row for fault, best, deeper, then, kept in shown for row in (
            Row(fault, best, _SAID, rule, then, audits=AUDITS, unless=again, blind_beyond=10),
            Row(fault, deeper, _UNSEEN, until, kept),
        )
    ]
    return (
        *rows,
        Row("duplicate", "update", _HARMLESS, "sizes are absolute", _KEPT),
        Row("corrupt", "checksum", _HARMLESS, "nobody looks at it", _KEPT),
        Row("corrupt", "anything else", _HARMLESS, "times and names that no book needs", _KEPT),
        *_CONNECTION,
        _unheard("book"),
    )


def _of_kraken_futures() -> tuple[Row, ...]:
    rule = "seq is not the last + 1"
    return (
        Row("drop", "update", _SAID, rule, _SOCKET, messages=1),
        Row("duplicate", "update", _HARMLESS, "seq is not above the last", "dropped as DUPLICATE"),
        Row("reorder", "update", _SAID, rule, _SOCKET, messages=1),
        Row("delay", "update", _SAID, rule, _SOCKET, messages=1, unless="it comes before the next one"),
        Row("corrupt", "unreadable", _SAID, rule, "refused and quarantined; then as if dropped", messages=1),
        Row("corrupt", "seq", _SAID, rule, _SOCKET, messages=1),
        Row("corrupt", "price or size", _UNSEEN, "no checksum; unless the book is crossed or locked by it", _KEPT),
        Row("corrupt", "anything else", _HARMLESS, "times and names that no book needs", _KEPT),
        Row("corrupt", "snapshot, price or size", _UNSEEN, "no checksum; unless the book is crossed or locked by it",
            _KEPT),
        Row("corrupt", "snapshot, seq", _SAID, f"{rule}; a seq that stands still while the venue's time goes on",
            _SOCKET, messages=1, after_ms=1_000, unless="the stream reaches that seq sooner: nothing shows it",
            unless_unseen=True),
        *_CONNECTION,
        _unheard("book"),
    )  # fmt: skip


def tape_rows_of(dialect: int) -> tuple[Row, ...]:
    """What comes of trades: HARMLESS, the true ones are taken, each once; UNSEEN, one is missing, false or there twice,
    and nothing is said. Books are not concerned."""
    numbered = dialect != Dialect.KRAKEN_SPOT_V1
    unlooked = "ids are not held against one another for holes" if numbered else "trades have no id"
    twice = "the id is not above the last" if numbered else "trades have no id"
    late = "dropped as DUPLICATE" if numbered else "kept"
    silenced = "; an id too high makes those of the second after it DUPLICATE" if numbered else ""
    return (
        Row("drop", "trade", _UNSEEN, unlooked, "missed"),
        Row("duplicate", "trade", _HARMLESS if numbered else _UNSEEN, twice, late),
        Row("reorder", "trade", _UNSEEN if numbered else _HARMLESS, twice, late),
        Row("corrupt", "trade", _UNSEEN, "no checksum; unless it is unreadable, off the tick, or far from other prices",
            f"kept; what is refused is quarantined and missed{silenced}"),
    )  # fmt: skip


def rows_of(dialect: int) -> tuple[Row, ...]:
    """The table of a market. Raises ValueError for a dialect that has none."""
    if has_rest_snapshots(dialect):
        return _of_binance(Dialect(dialect))
    if dialect in (Dialect.KRAKEN_SPOT_V1, Dialect.KRAKEN_SPOT_V2):
        return _of_kraken_spot(dialect == Dialect.KRAKEN_SPOT_V2)
    if dialect == Dialect.KRAKEN_FUTURES:
        return _of_kraken_futures()
    raise ValueError(f"there is no detectability table of dialect {dialect}")


def unverified_rows_of(dialect: int) -> tuple[Row, ...]:
    """The table of a market whose books nothing proves as it is configured: Kraken spot without checksums.

    Raises ValueError for a dialect whose books are always proven.
    """
    if dialect != Dialect.KRAKEN_SPOT_V2:
        raise ValueError(f"books of dialect {dialect} are proven, or not to be had live")
    return _unverified_kraken_spot()
