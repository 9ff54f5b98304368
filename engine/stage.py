"""What a stage is: a compiled function over arrays, and the table entry that the runner needs to place it.

A step takes a batch of input records and the stage's state and writes output records to a linear outbox. It
knows nothing of rings, clocks, sockets or processes. The same function is called by the runner of a live
process, by the fused runner, by replay and by the tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import types

from engine.reasons import REASON_COUNT

BYTES = types.Array(types.uint8, 1, "C")

# step(state, source, inbox, count, outbox, routes) -> number of output records
#   state   uint8[::1]  one record of the stage's state dtype
#   source  int64       SOURCE_MAIN, or which other input the batch came from
#   inbox   uint8[::1]  at least `count` whole input records
#   count   int64       how many to take; a step always takes them all
#   outbox  uint8[::1]  room for count * max_out output records
#   routes  uint8[::1]  out: for each output record the index of the ring that it goes to
STEP_SIGNATURE = types.int64(BYTES, types.int64, BYTES, types.int64, BYTES, BYTES)
STEP = types.FunctionType(STEP_SIGNATURE)

# Every state dtype opens with these fields; whoever may read the state may read the counters.
STATE_HEAD: list[tuple] = [
    ("now_ns", "<i8"),  # the largest receive time seen: the only clock of a kernel
    ("last_ingest_id", "<i8"),  # the last ingest id seen
    ("records_in", "<i8"),
    ("processed", "<i8"),
    ("out", "<i8"),
    ("spare_head", "<i8", (3,)),
    ("quarantined", "<i8", (REASON_COUNT,)),
    ("dropped", "<i8", (REASON_COUNT,)),
]


@dataclass(frozen=True)
class Stage:
    """One entry of the table of kernel stages."""

    name: str
    step: Any  # a kernel of STEP_SIGNATURE
    state_dtype: np.dtype
    in_dtypes: tuple[np.dtype, ...]  # by source
    out_dtype: np.dtype
    max_out: int  # most output records that one input record can cause


def as_bytes(array: np.ndarray) -> np.ndarray:
    """A uint8 view of a contiguous structured array (no copy)."""
    return array.reshape(-1).view(np.uint8)
