"""The decoders' readers of numbers and times, each by itself, as one kernel that a fuzzer can call with any bytes.

Layout: `found` is int64[2]: what was read, and with `PRINTED` the decimals that it was printed with. The answer is the
position after it (1 with `ISO_TIME`), or -Reason. Cost: that of the reader.
"""

from __future__ import annotations

import numpy as np
from numba import types

from engine.ingest.json_scan import parse_units, text_of
from engine.ingest.printed import parse_iso_time, parse_printed, parse_rounded
from engine.kernel import kernel

UNITS, PRINTED, ROUNDED, ISO_TIME = range(4)
READERS = 4


@kernel(types.int64(types.Bytes(types.uint8, 1, "C"), types.int64, types.int64, types.Array(types.int64, 1, "C")))
def read_number(frame: bytes, exp: int, reader: int, found: np.ndarray) -> int:
    """Read what stands at the beginning of the frame, with one of the READERS, in units of 10^-exp."""
    text = text_of(frame)
    decimals = 0
    if reader == UNITS:
        value, end = parse_units(text, 0, exp)
    elif reader == PRINTED:
        value, decimals, end = parse_printed(text, 0, exp)
    elif reader == ROUNDED:
        value, end = parse_rounded(text, 0, exp)
    else:
        value, end = parse_iso_time(text, 0)
    found[0] = value
    found[1] = decimals
    return end
