"""Recorded exchange sessions for the tests: where they are and how to read them.

`from tests.recordings import open_capture, require_capture`. The recordings are looked for in the folder that
the environment variable BOT4_RECORDINGS names, by default `../shared/data` beside the project; a test that
needs one is skipped with a reason where it is absent.

Two text formats, both gzipped, one frame a line:

    A   STAMP FRAME     `*.raw.gz`; STAMP is Unix time in ns (19 digits), us (16) or s
    B   SECONDS: FRAME  `cf_*_ws_*.txt.gz`; connection and client lines are skipped
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

PROJECT_ROOT = Path(__file__).resolve().parent.parent
USDM_CAPTURES = (
    "ws/binance-usdm/btcusdt_20230404.raw.gz",
    "ws/binance-usdm/btcusdt_20240808.raw.gz",
    "ws/binance-usdm/ethusdt_20240808.raw.gz",
)
NANOSECONDS_BY_DIGITS = {19: 1, 16: 1_000, 13: 1_000_000, 10: 1_000_000_000}


def recordings_root() -> Path:
    """The folder of the recordings; it may not exist."""
    return Path(os.environ.get("BOT4_RECORDINGS") or PROJECT_ROOT / ".." / "shared" / "data").resolve()


def require_capture(relative: str) -> Path:
    """The path of one recording. Skips the calling test where it is absent."""
    path = recordings_root() / relative
    if not path.is_file():
        pytest.skip(f"no recording {relative} under {recordings_root()} (set BOT4_RECORDINGS)")
    return path


def stamp_ns(text: str) -> int:
    """Unix nanoseconds of a stamp: an integer whose unit its digits tell, or seconds with a fraction.

    Raises ValueError for an integer with an unknown number of digits.
    """
    if "." in text:
        return int(Decimal(text) * 1_000_000_000)
    if len(text) not in NANOSECONDS_BY_DIGITS:
        raise ValueError(f"stamp {text!r}: {len(text)} digits tell no unit")
    return int(text) * NANOSECONDS_BY_DIGITS[len(text)]


def _split_a(line: bytes) -> tuple[bytes, bytes]:
    stamp, _, frame = line.partition(b" ")
    return stamp, frame


def _split_b(line: bytes) -> tuple[bytes, bytes]:
    stamp, separator, frame = line.partition(b": ")
    return (stamp, frame) if separator and stamp.replace(b".", b"").isdigit() else (b"", b"")


def open_capture(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (recv_ts_ns, frame) of every received frame of a capture of format A or B, in file order."""
    split = _split_a if path.name.endswith(".raw.gz") else _split_b
    with gzip.open(path, "rb") as lines:
        for line in lines:
            stamp, frame = split(line.rstrip(b"\r\n"))
            if frame:
                yield stamp_ns(stamp.decode()), frame


def rest_bodies(path: Path) -> Iterator[tuple[int, str, bytes]]:
    """Yield (recv_ts_ns, url, body) of every REST answer of a session log of format B, in file order."""
    with gzip.open(path, "rb") as lines:
        for line in lines:
            head, separator, body = line.rstrip(b"\r\n").partition(b": ")
            # the URL has "://" but no ": ", so the first ": " ends `URL -> SECONDS`
            url, arrow, stamp = head.partition(b" -> ")
            if separator and arrow:
                yield stamp_ns(stamp.decode()), url.decode(), body
