"""What ingestion does with a frame that it has decoded, beside publishing it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine.records import MARKET
from engine.stage import as_bytes
from procs.frame_outlet import FrameOutlet
from procs.instance import ProcessContext
from procs.ports import Inlet
from procs.table import Role
from procs.venue_lag import LAG_SECONDS
from shm.histogram import summary
from tests.instance_memory import small_instance


def test_a_frame_is_stamped_timed_and_published_and_a_body_of_rest_has_no_lag(tmp_path: Path) -> None:
    with small_instance(tmp_path, capacity=16) as plan:
        context = ProcessContext(plan, Role.INGESTION)
        outlet, inlet = FrameOutlet(context), Inlet(ProcessContext(plan, Role.VALIDATION), "market", 16)
        stamps, passed, lags = context.stamps(), context.passed(Role.INGESTION), context.lags()
        hop = context.histogram(Role.INGESTION, "hop")
        records = np.zeros(4, MARKET)
        now = context.now_ns()
        records["exch_ts_ns"] = 7, 8, now - 40_000_000_000, 9
        assert outlet.pass_on(as_bytes(records), 3, 0, True, 5, now, False)
        assert not lags.any() and summary(hop)["count"] == 0, "what REST answers was true at some other time"
        assert stamps[5] == now <= passed[5] <= context.now_ns()
        records["exch_ts_ns"][2] = now - 3_000_000
        assert outlet.pass_on(as_bytes(records), 3, 0, True, 6, now, True)
        assert lags[:LAG_SECONDS].max() == 3_000_000 and summary(hop)["count"] == 1
        assert outlet.pass_on(as_bytes(records), 0, 0, True, 7, now, True), "a frame may give nothing"
        assert stamps[7] == now and summary(hop)["count"] == 2
        assert inlet.take() == 6 and inlet.records["exch_ts_ns"][:6].tolist() == [
            7, 8, now - 40_000_000_000, 7, 8, now - 3_000_000
        ]
        assert not outlet.pass_on(as_bytes(records), 3, 14, True, 8, now, True), "there is no room beside the reserve"
        assert stamps[8] == now and context.ring("market").produced == 6
        outlet.forget(6)
        assert stamps[6] == 0 and context.way_of()(6, now + 10**12) == (0, 0, 0, 0)
