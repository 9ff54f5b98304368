"""A venue whose clock is ahead of ours: lags are negative, are told as they are, and break nothing."""

from __future__ import annotations

import numpy as np
import orjson
import pytest

from engine.config import Settings
from engine.ingest.dialects import make_state
from engine.instruments import MAX_INSTRUMENTS
from engine.records import Kind
from engine.validation.state import make_validation_state
from engine.validation.step import VALIDATION
from procs.decoding import Decoder, replay_inputs
from procs.journal.layout import Entry
from procs.metrics import METRICS, as_plain
from procs.ports import record_latency
from procs.replay import open_source
from procs.venue_lag import LAG_WORDS, least_lag_ns, note_lag
from shm.histogram import HISTOGRAM_WORDS, summary
from tests.market_records import make_instrument, run_stage
from tests.recordings import require_capture

SECOND = 1_000_000_000


@pytest.mark.recordings
def test_recorded_stamps_of_the_future_are_estimated_and_change_nothing() -> None:
    """The clock of this recording is about 1.27 s behind the venue's."""
    source = open_source(require_capture("ws/binance-usdm/btcusdt_20240808.raw.gz"), Settings())
    decoder = Decoder(make_state(source.instruments), source.instruments)
    state = make_validation_state(Settings().validation, source.instruments)
    words, histogram = np.zeros(LAG_WORDS, np.int64), np.zeros(HISTOGRAM_WORDS, np.int64)
    now = invalid = 0
    ahead: list[int] = []
    for number, entry in enumerate(source.inputs()):
        if number == 8_000:
            break
        (count,) = replay_inputs(decoder, iter([entry]))
        now = entry.ts_ns
        if entry.kind == Entry.FRAME:
            if count:
                note_lag(words, decoder.records["exch_ts_ns"][count - 1], now)
            data = orjson.loads(entry.payload)
            stamp = data.get("data", data).get("E", 0)
            ahead.append(now - stamp * 1_000_000)
            record_latency(histogram, ahead[-1])
        out = run_stage(VALIDATION, state, decoder.records[:count])
        invalid += int((out["kind"] == Kind.BOOK_INVALID).sum())
    least = least_lag_ns(words, now + 2 * SECOND, 100.0)
    assert -1.6 * SECOND < least < -1.0 * SECOND, "as the README of the recordings says"
    assert least <= min(ahead) + 20_000_000, "of the transaction time, which is that of the event or a little before"
    assert invalid == 0 and state["quarantined"].sum() == 0 and state["processed"][0] > 8_000
    counted = summary(histogram)
    assert (counted["count"], counted["negative"]) == (0, len(ahead)), "negative latencies are counted apart"


def test_the_metrics_tell_a_negative_lag_and_that_none_is_known() -> None:
    row = np.zeros(1, METRICS)
    item = make_instrument()
    assert as_plain(row[0], (item,))["feed"]["venue_lag_ms"] is None
    row["feed"]["venue_lag_known"], row["feed"]["venue_lag_ns"] = 1, -1_270_000_000
    row["feed"]["duplicates"] = 7
    plain = as_plain(row[0], (item,))["feed"]
    assert plain["venue_lag_ms"] == -1270.0 and plain["duplicates"] == 7


def test_the_metrics_tell_how_long_books_were_valid_and_how_often_they_were_lost() -> None:
    row, item = np.zeros(1, METRICS), make_instrument(MAX_INSTRUMENTS - 1)
    book = row["instruments"][0, item.index]
    assert as_plain(row[0], (item,))["instruments"][item.symbol]["book"]["lost_per_hour"] == 0.0
    book["book_ns"], book["book_valid_ns"], book["books_lost"] = 1800 * SECOND, 1350 * SECOND, 3
    book["audits_agreed"], book["audits_disagreed"] = 99, 1
    book["rest_audits_agreed"], book["rest_audits_disagreed"], book["rest_audits_without_verdict"] = 7, 2, 3
    assert as_plain(row[0], (item,))["instruments"][item.symbol]["book"] == {
        "valid_ratio": 0.75, "lost": 3, "lost_per_hour": 6.0, "audits_agreed": 99, "audits_disagreed": 1,
        "rest_audits_agreed": 7, "rest_audits_disagreed": 2, "rest_audits_without_verdict": 3,
    }
