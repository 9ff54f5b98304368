"""Reading a capture: as a stream, block by block, and of those only what may hold what is wanted.

Memory: one block and the index of one segment, however long the capture is. A torn tail of the last segment ends the
stream and is counted; whatever else does not fit is an error that names the file, the place and the entries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from operator import or_
from pathlib import Path

from procs.capture.blocks import Block, entries_of, indexed_headers, never_begun, open_segment, unpack, walk
from procs.capture.layout import (
    NO_SYMBOL,
    SEGMENT_HEADER,
    CaptureEntry,
    first_ordinal_of,
    segment_path,
    symbol_bit,
)
from procs.capture.manifest import read_manifest
from procs.captures import CaptureError

EARLIEST_NS = -(1 << 63)
LATEST_NS = (1 << 63) - 1


@dataclass(frozen=True)
class Selection:
    """Which part of a source is wanted: times from_ns <= time < to_ns, and symbols, none for all.

    What belongs to no symbol in particular is always wanted.
    """

    from_ns: int = EARLIEST_NS
    to_ns: int = LATEST_NS
    symbols: tuple[str, ...] = ()

    @property
    def everything(self) -> bool:
        """Whether nothing is left out."""
        return self == EVERYTHING

    def places(self, symbols: tuple[str, ...], where: Path) -> tuple[int, ...]:
        """The places of the wanted symbols among those that a source has. Raises CaptureError for one it lacks."""
        if missing := [name for name in self.symbols if name not in symbols]:
            raise CaptureError(f"{where}: holds no {', '.join(missing)}; it holds {', '.join(symbols) or 'no symbols'}")
        return tuple(place for place, name in enumerate(symbols) if not self.symbols or name in self.symbols)


EVERYTHING = Selection()


class CaptureReader:
    """A capture on disk; it may be being written."""

    def __init__(self, folder: Path) -> None:
        """Raises CaptureError."""
        self.folder = folder.resolve()
        self.manifest = read_manifest(self.folder)
        self.torn_bytes = 0  # at the end of the last segment, known once it was read to there
        self.blocks_unpacked = 0

    def segments(self) -> list[Path]:
        """The segments in order. Raises CaptureError when one is missing in between."""
        numbers = sorted(int(path.stem.partition("-")[2]) for path in self.folder.glob("segment-[0-9]*.capture"))
        for expected, number in enumerate(numbers):
            if number != expected:
                raise CaptureError(f"{segment_path(self.folder, expected)} is missing")
        return [segment_path(self.folder, number) for number in numbers]

    def blocks(self) -> Iterator[Block]:
        """Every whole block in order; only headers are read. Raises CaptureError."""
        segments, ordinal = self.segments(), 1
        for number, path in enumerate(segments):
            is_last = number == len(segments) - 1
            with open_segment(path) as file:
                head = file.read(SEGMENT_HEADER.size)
                size = path.stat().st_size
                if is_last and never_begun(file):
                    self.torn_bytes = size
                    return
                first = first_ordinal_of(path, head, self.manifest.capture, number)
                if first != ordinal:
                    raise CaptureError(f"{path}: begins with entry {first}, but entry {ordinal} is next")
                end = SEGMENT_HEADER.size
                for block in walk(path, file, ordinal, indexed_headers(path)):
                    yield block
                    end, ordinal = block.end, ordinal + block.header.entries
            if end < size:
                if not is_last:
                    raise CaptureError(f"{path}: ends within the block at byte {end} (entries from {ordinal} on)")
                self.torn_bytes = size - end

    def find_torn(self) -> int:
        """`torn_bytes`, from the headers alone. Raises CaptureError."""
        for _ in self.blocks():
            pass
        return self.torn_bytes

    def entries(self, selection: Selection = EVERYTHING) -> Iterator[CaptureEntry]:
        """The entries of a selection, in order. Raises CaptureError."""
        places = {NO_SYMBOL, *selection.places(self.manifest.symbols, self.folder)}
        mask = reduce(or_, map(symbol_bit, places))
        first, end = selection.from_ns, selection.to_ns
        opened: Path | None = None
        file = None
        try:
            for block in self.blocks():
                header = block.header
                if header.last_ns < first or header.first_ns >= end or not header.symbols & mask:
                    continue
                if opened != block.path:
                    if file is not None:
                        file.close()
                    file, opened = open_segment(block.path), block.path
                assert file is not None
                self.blocks_unpacked += 1
                for entry in entries_of(block, unpack(block, file)):
                    if first <= entry.ts_ns < end and entry.symbol in places:
                        yield entry
        finally:
            if file is not None:
                file.close()
