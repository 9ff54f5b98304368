"""Recordings of other formats into a capture: the same bytes in the same order at the same times.

Two passes, each a stream: the first finds instruments and connections, the second writes. Of a session log all files
that lie beside it are taken, merged by time of receipt; a connection that is opened again in its file is a loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from engine.ingest.kernel import is_snapshot_body
from engine.instruments import Instrument
from procs.capture.layout import NO_CONNECTION, NO_SYMBOL, Captured
from procs.capture.manifest import Manifest, new_capture_id
from procs.capture.writer import CaptureWriter
from procs.captures import CaptureError, capture_lines, snapshot_symbol
from procs.recordings import depth_symbol, read_instruments, session_lines_of
from procs.session_logs import Direction, is_session_log
from procs.venues.frame_symbols import symbol_of

_KINDS = {
    Direction.OPENED: Captured.OPENED, Direction.SENT: Captured.SENT, Direction.RECEIVED: Captured.FRAME,
    Direction.REST: Captured.REST, Direction.CONFIGURATION: Captured.NOTE,
}


class _Item(NamedTuple):
    """An entry to be."""

    kind: Captured
    ts_ns: int
    data: bytes
    symbol: str = ""
    url: str = ""


def _of_capture(path: Path, instruments: tuple[Instrument, ...]) -> Iterator[_Item]:
    """The lines of a `RECEIVE_TIME FRAME` file."""
    dialect = instruments[0].dialect
    for _, ts_ns, frame in capture_lines(path):
        if is_snapshot_body(frame):
            only = instruments[0].symbol if len(instruments) == 1 else ""
            yield _Item(Captured.REST, ts_ns, frame, only or snapshot_symbol(frame))
        else:
            yield _Item(Captured.FRAME, ts_ns, frame, symbol_of(frame, dialect))


def _of_session_log(path: Path, instruments: tuple[Instrument, ...]) -> Iterator[_Item]:
    """The lines of all files of a session log."""
    dialect = instruments[0].dialect
    opened: set[tuple[int, str]] = set()
    for file, line in session_lines_of(path):
        kind, symbol = _KINDS[line.direction], ""
        if kind == Captured.OPENED:
            if (file, line.connection) in opened:
                yield _Item(Captured.LOST, line.ts_ns, b"", url=line.connection)
            opened.add((file, line.connection))
        elif kind == Captured.FRAME:
            symbol = symbol_of(line.data, dialect)
        elif kind == Captured.REST:
            symbol = depth_symbol(line.connection)
        yield _Item(kind, line.ts_ns, line.data, symbol, line.connection)


def _items(path: Path, instruments: tuple[Instrument, ...]) -> Iterator[_Item]:
    return (_of_session_log if is_session_log(path) else _of_capture)(path, instruments)


def _manifest(path: Path, instruments: tuple[Instrument, ...]) -> Manifest:
    """What a pass over a recording tells of it. Raises CaptureError."""
    urls: dict[str, None] = {}
    notes: list[str] = []
    first_ns = None
    for item in _items(path, instruments):
        first_ns = item.ts_ns if first_ns is None else first_ns
        if item.kind == Captured.OPENED:
            urls[item.url] = None
        elif item.kind == Captured.NOTE:
            notes.append(item.data.decode(errors="replace"))
    subscription: dict[str, Any] = {"configurations": notes} if notes else {}
    return Manifest(
        capture=new_capture_id(), instruments=instruments, connections=tuple(urls), started_ns=first_ns or 0,
        subscription=subscription, source={"made_by": "data convert", "file": path.name},
    )


def convert(path: Path, folder: Path) -> int:
    """Write a capture of a recording into a folder that is empty or not there; the number of entries.

    Raises CaptureError.
    """
    if not path.is_file():
        raise CaptureError(f"{path}: is no file; a recording of another format is one")
    instruments = read_instruments(path)
    manifest = _manifest(path, instruments)
    places = {name: place for place, name in enumerate(manifest.symbols)}
    connections = {url: place for place, url in enumerate(manifest.connections)}
    writer = CaptureWriter.create(folder, manifest)
    try:
        for item in _items(path, instruments):
            writer.append(
                item.kind, item.ts_ns, item.data,
                connection=NO_CONNECTION if item.kind == Captured.REST else connections.get(item.url, NO_CONNECTION),
                symbol=places.get(item.symbol, NO_SYMBOL),
                key=item.url if item.kind in (Captured.REST, Captured.OPENED) else "",
            )
    finally:
        writer.close()
    return writer.ordinal
