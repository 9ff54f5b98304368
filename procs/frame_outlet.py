"""The outlet of ingestion: what is done with every frame that was decoded, in one call.

Its stamps, the venue's lag, its records and the time that it took: as calls of their own they cost more than decoding.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numba import types

from engine.direct import direct
from engine.kernel import kernel
from engine.records import MARKET
from engine.stage import BYTES
from procs.instance import STAMPS, ProcessContext
from procs.ports import Outlet, offer_records
from procs.pump import INT32S, INT64S
from procs.venue_lag import note_lag
from shm.clock import session_ns
from shm.doorbell import ring_bell
from shm.histogram import record


@kernel(
    types.boolean(
        INT64S, INT64S, BYTES, INT32S, types.int64, INT64S, INT64S, INT64S, INT64S, types.int64, BYTES, types.int64,
        types.int64, types.boolean, types.int64, types.int64, types.boolean,
    )
)
def _pass_on(
    control: np.ndarray, local: np.ndarray, slots: np.ndarray, bells: np.ndarray, bell: int, stamps: np.ndarray,
    passed: np.ndarray, lags: np.ndarray, hop: np.ndarray, clock_offset: int, outbox: np.ndarray, count: int,
    reserve: int, wake: bool, ingest_id: int, in_hand_ns: int, is_live: bool,
) -> bool:
    place = ingest_id & np.int64(stamps.size - 1)
    stamps[place] = in_hand_ns
    passed[place] = session_ns(clock_offset)
    given = True
    if count > 0:
        if is_live:
            note_lag(lags, outbox.view(MARKET)[count - 1].exch_ts_ns, in_hand_ns)
        given = offer_records(control, local, slots, bells, bell, outbox, count, reserve, wake)
    elif wake:
        ring_bell(bells, bell)
    if is_live:
        record(hop, session_ns(clock_offset) - in_hand_ns)
    return given


class FrameOutlet(Outlet):
    """The producing end of the market ring."""

    def __init__(self, context: ProcessContext) -> None:
        super().__init__(context, "market")
        role, self._stamps = context.role, context.stamps()
        self._pass_on = partial(
            direct(_pass_on), *self._cursors, self._slots, *self._bell, self._stamps, context.passed(role),
            context.lags(), context.histogram(role, "hop"), context.clock_offset,
        )

    def pass_on(
        self, outbox: np.ndarray, count: int, reserve: int, wake: bool, ingest_id: int, in_hand_ns: int, is_live: bool
    ) -> bool:
        """As `offer`, with any count, of what was decoded of a frame. is_live: it is news of a socket, so that its last
        record tells when the venue sent it; what REST answers was true at some other time."""
        return bool(self._pass_on(outbox, count, reserve, wake, ingest_id, in_hand_ns, is_live))

    def forget(self, ingest_id: int) -> None:
        """Of this frame no stamps are known: those in its place are of an older one."""
        self._stamps[ingest_id & (STAMPS - 1)] = 0
