"""capture.json: what a capture is of, written once, before its first entry.

Invariants: `symbols` are those of the instruments, in their order; an entry's symbol is a place among them, its
connection a place among `connections`. The file carries a CRC-32 of its own content. Folder and file must be ours:
what others could have written is not believed.
"""

from __future__ import annotations

import stat
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from engine.instruments import Dialect, Instrument, instruments_by_index
from procs import VERSION as ENGINE_VERSION
from procs.captures import CaptureError
from procs.identity import new_key
from procs.trusted import OTHERS_MAY_WRITE, NotOurs, check_ours, replace_file

VERSION = 1
FILE = "capture.json"


def new_capture_id() -> str:
    """16 hex digits that tie segments to their capture.json."""
    return new_key(8).hex()


@dataclass(frozen=True)
class Manifest:
    """What a capture is of."""

    capture: str  # its id
    instruments: tuple[Instrument, ...]  # as listed at the start, by index; at least one, all of one dialect
    connections: tuple[str, ...]  # URLs at the start; what OPENED says holds from there on
    started_ns: int  # Unix time
    subscription: dict[str, Any] = field(default_factory=dict)  # how it was asked for
    source: dict[str, Any] = field(default_factory=dict)  # who made it, from what

    @property
    def symbols(self) -> tuple[str, ...]:
        """The venue's names of the instruments."""
        return tuple(item.symbol for item in self.instruments)

    @property
    def market(self) -> str:
        """The wire format, as named in Dialect."""
        return Dialect(self.instruments[0].dialect).name

    @property
    def venue(self) -> str:
        """Whose market it is, such as "binance"."""
        return self.market.partition("_")[0].lower()

    def to_json(self) -> bytes:
        """The content of capture.json."""
        content = {
            "version": VERSION, "engine_version": ENGINE_VERSION, "capture": self.capture, "venue": self.venue,
            "market": self.market, "symbols": list(self.symbols),
            "instruments": [item.as_dict() for item in self.instruments], "connections": list(self.connections),
            "started_ns": self.started_ns, "subscription": self.subscription, "source": self.source,
        }
        return orjson.dumps(content | {"crc32": _crc(content)}, option=orjson.OPT_INDENT_2)


def _crc(content: dict[str, Any]) -> int:
    return zlib.crc32(orjson.dumps(content, option=orjson.OPT_SORT_KEYS))


def is_capture(folder: Path) -> bool:
    """Whether a folder says it is a capture. Raises CaptureError where we may not look into it."""
    try:
        return (folder / FILE).is_file()
    except OSError as error:
        raise CaptureError(f"{folder}: {error.strerror}") from None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write capture.json. Raises OSError or NotOurs."""
    replace_file(folder / FILE, manifest.to_json())


def read_manifest(folder: Path) -> Manifest:
    """What the capture in a folder is of.

    Raises CaptureError: no capture, of another version, changed since it was written, or somebody else's.
    """
    path = folder / FILE
    try:
        if not check_ours(folder, stat.S_IFDIR, OTHERS_MAY_WRITE):
            raise CaptureError(f"{folder}: there is no such folder")
        if not check_ours(path, forbidden=OTHERS_MAY_WRITE):
            raise CaptureError(f"{folder}: not a capture (no {FILE})")
        content = orjson.loads(path.read_bytes())
        version = content["version"]
        if version != VERSION:
            raise CaptureError(f"{path}: of version {version!r} of the format; this engine reads {VERSION}")
        if content.pop("crc32") != _crc(content):
            raise CaptureError(f"{path}: changed since it was written")
        instruments = tuple(Instrument(**entry) for entry in content["instruments"])
        if not instruments_by_index(instruments) or content["market"] != Dialect(instruments[0].dialect).name:
            raise CaptureError(f"{path}: names no instrument, or another market than that of its instruments")
        return Manifest(
            capture=content["capture"], instruments=instruments,
            connections=tuple(content["connections"]), started_ns=content["started_ns"],
            subscription=content["subscription"], source=content["source"],
        )
    except NotOurs as error:
        raise CaptureError(str(error)) from None
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError) as error:
        raise CaptureError(f"{path}: no description of a capture ({type(error).__name__})") from None
    except OSError as error:
        raise CaptureError(f"{path}: {error.strerror}") from None
