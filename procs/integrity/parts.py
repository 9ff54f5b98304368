"""Which part of the feed a fault has met, in the words of the table: read from the frames, not from the engine."""

from __future__ import annotations

from engine.instruments import Dialect
from procs.integrity.told import Reader, Told
from procs.integrity.truth import TrueBook

_CHECKSUMMED = (Dialect.KRAKEN_SPOT_V1, Dialect.KRAKEN_SPOT_V2)
_BEST = 10  # levels that the checksum is over


def _changes_best(truth: TrueBook | None, one: Told, other: Told | None) -> bool:
    """Whether a book after one message has other best levels than after another (None: after none)."""
    book = truth or TrueBook(0)
    first, second = book.copy(), book.copy()
    first.take(one)
    if other is not None:
        second.take(other)
    return not first.equals(second, _BEST)


def lost_part(dialect: Dialect, truth: TrueBook | None, told: Told) -> str:
    """What an update was of that does not come, or not in its place. truth: the book before it."""
    if dialect not in _CHECKSUMMED:
        return "update"
    return "ten best" if _changes_best(truth, told, None) else "deeper"


def part_of(
    reader: Reader, told: Told, data: bytes, refused: bool, truth: TrueBook | None
) -> tuple[str, Told | None]:
    """(What was harmed in a frame, what it says now). told: what it said; truth: the book before it.

    "form": a snapshot that cannot be read, so that no book begins with it.
    """
    checksummed = reader.dialect in _CHECKSUMMED
    if refused:
        if told.is_snapshot:
            return "form", None
        return "unreadable" + (f", {lost_part(reader.dialect, truth, told)}" if checksummed else ""), None
    of = reader.read(data)
    if of is None or of.instrument != told.instrument or of.is_snapshot != told.is_snapshot:
        return "anything else", None
    prefix = "snapshot, " if told.is_snapshot else ""
    book = truth or TrueBook(0)
    right, wrong = book.copy(), book.copy()
    right.take(told)
    wrong.take(of)
    if not right.equals(wrong):
        if not checksummed:
            return prefix + "price or size", of
        return (prefix or "price or size, ") + ("deeper" if right.equals(wrong, _BEST) else "ten best"), of
    if of.numbers == told.numbers:
        return "anything else", of
    if checksummed:
        return "checksum", of
    if len(told.numbers) == 1:
        return prefix + "seq", of
    names = ("U", "pu", "u")
    return next(name for name, old, new in zip(names, told.numbers, of.numbers, strict=True) if old != new), of
