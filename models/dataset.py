"""Training data: generated flow through the engine's own stages, and what the price did next.

A session is a simulated market in virtual time. Its frames, byte for byte those that the embedded exchange sends,
go through ingestion, validation and features, the kernels that run live; each feature vector becomes one row.

Targets: output 0 is the return of the mid over the second after the row, output 1 its absolute value, both in
basis points. Time is record time: the mid one second later is that of the last vector received not later than
that. A row's features are made of records up to it, its targets of later ones only. Rows whose second is not over
when the session, or the validity of the book, ends are dropped.

Limits: what is generated is one kind of market. A model trained on it predicts that one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from engine.features.settings import FeatureSettings
from engine.features.state import make_features_state
from engine.features.step import FEATURES
from engine.features.vector import MID
from engine.ingest.kernel import (
    INGEST_OUTBOX_RECORDS,
    ingest_frame,
    ingest_snapshot,
    ingest_start,
    make_ingest_state,
    make_outbox,
)
from engine.instruments import Instrument
from engine.matching.market import SimulatedMarket
from engine.matching.settings import VenueSettings
from engine.matching.wire import render_session
from engine.records import FEATURE, FEATURE_COUNT, OUTPUT_COUNT, Kind
from engine.stage import as_bytes
from engine.validation.settings import ValidationSettings
from engine.validation.state import make_validation_state
from engine.validation.step import VALIDATION

HORIZON_NS = 1_000_000_000  # how far ahead the targets look
BPS = 10_000.0
STREAMS = ("depth@0ms", "trade")  # the streams that vectors are made of
OPENING_NS = 1_700_000_000_000_000_000
# The flow's generator steps by one for each draw and a seed says where it begins: sessions begin far apart.
SEED_SPACING = 2**32
# What the data are, for model cards; the date is that of this description.
DATA_SPEC = (
    "Sessions of the embedded exchange's order flow in virtual time, depth@0ms and trade frames through ingestion, "
    "validation and features with default settings; one row a feature vector, target the return of the mid over the "
    "next second of record time and its absolute value, bps. The flow of session n has seed n * 2^32."
)
DATA_SPEC_DATE = "2026-11-22"

# One row: what the model may see, and what it should have said.
ROW = np.dtype(
    [
        ("recv_ts_ns", "<i8"),  # receive time of the record that caused the vector
        ("instrument", "<i8"),
        ("vector", "<f8", (FEATURE_COUNT,)),  # engine/features/vector.py
        ("target", "<f8", (OUTPUT_COUNT,)),  # return of the next second and its absolute value, bps
    ],
    align=True,
)

Frame = tuple[int, str, bytes]  # receive time ns, stream name, bare event or snapshot body


def generated_frames(seed: int, seconds: float, venue: VenueSettings | None = None) -> Iterator[Frame]:
    """The frames of one session of the simulated market; the same arguments give the same bytes.

    seed: number of the session, from 1; seconds: its length.
    """
    market = SimulatedMarket(venue or VenueSettings(), seed * SEED_SPACING, OPENING_NS)
    return render_session(market, OPENING_NS + int(seconds * 1e9), STREAMS)


class Chain:
    """Ingestion, validation and features in one place, fed with frames."""

    def __init__(self, instruments: Sequence[Instrument], settings: FeatureSettings | None = None) -> None:
        self._by_name = {item.symbol.lower(): item.index for item in instruments}
        self._ingestion = as_bytes(make_ingest_state(instruments))
        self._validation = as_bytes(make_validation_state(ValidationSettings(), instruments))
        self._features = as_bytes(make_features_state(settings or FeatureSettings(), instruments))
        self._market = as_bytes(make_outbox())
        valid = INGEST_OUTBOX_RECORDS * VALIDATION.max_out
        self._valid = as_bytes(np.zeros(valid, VALIDATION.out_dtype))
        self._out = np.zeros(valid * FEATURES.max_out, FEATURE)
        self._out_bytes = as_bytes(self._out)
        self._routes = np.zeros(len(self._out), np.uint8)
        self._frames = 0

    def start(self, recv_ts_ns: int) -> np.ndarray:
        """Announce the instruments; the FEATURE records that come of it."""
        return self._pass_on(ingest_start(self._ingestion, recv_ts_ns, self._market))

    def feed(self, frame: Frame) -> np.ndarray:
        """Take one frame; the FEATURE records that come of it, a copy.

        Raises ValueError for a frame that ingestion refuses: what we generate must be sound.
        """
        recv_ts_ns, stream, payload = frame
        self._frames += 1
        name, _, kind = stream.partition("@")
        if kind == "snapshot":
            instrument = self._by_name[name]
            count = ingest_snapshot(
                self._ingestion, instrument, payload, recv_ts_ns, self._frames, self._market
            )
        else:
            count = ingest_frame(self._ingestion, payload, recv_ts_ns, self._frames, self._market)
        if count < 0:
            raise ValueError(f"ingestion refused a generated frame of {stream}: reason {-count}")
        return self._pass_on(count)

    def _pass_on(self, count: int) -> np.ndarray:
        count = VALIDATION.step(self._validation, 0, self._market, count, self._valid, self._routes)
        count = FEATURES.step(self._features, 0, self._valid, count, self._out_bytes, self._routes)
        return self._out[:count].copy()


def feature_records(
    frames: Iterable[Frame], instruments: Sequence[Instrument], settings: FeatureSettings | None = None
) -> np.ndarray:
    """All FEATURE records of a session, in order. Raises ValueError for a frame that ingestion refuses."""
    chain = Chain(instruments, settings)
    batches: list[np.ndarray] = []
    for frame in frames:
        if not batches:
            batches.append(chain.start(frame[0]))
        batches.append(chain.feed(frame))
    return np.concatenate(batches) if batches else np.zeros(0, FEATURE)


def rows_of(records: np.ndarray) -> np.ndarray:
    """The rows (ROW) of a session's FEATURE records, instrument by instrument, each in order."""
    parts = [
        _rows_of_span(span, end_ns)
        for instrument in np.unique(records["instrument"][records["kind"] == Kind.VECTOR])
        for span, end_ns in _valid_spans(records, int(instrument))
    ]
    return np.concatenate(parts) if parts else np.zeros(0, ROW)


def _valid_spans(records: np.ndarray, instrument: int) -> Iterator[tuple[np.ndarray, int]]:
    """Vectors of one instrument while its book stood without a break, and the time at which that ended."""
    own = records["instrument"] == instrument
    breaks = np.isin(records["kind"], (Kind.BOOK_VALID, Kind.BOOK_INVALID, Kind.GAP))
    vectors = np.flatnonzero(own & (records["kind"] == Kind.VECTOR))
    start = 0
    for end in [*np.flatnonzero(own & breaks).tolist(), len(records) - 1]:
        first, stop = np.searchsorted(vectors, (start, end + 1))
        if first < stop:
            yield records[vectors[first:stop]], int(records["recv_ts_ns"][end])
        start = end + 1


def _rows_of_span(vectors: np.ndarray, end_ns: int) -> np.ndarray:
    """Rows of vectors in order whose book was whole until end_ns."""
    times = vectors["recv_ts_ns"]
    kept = times + HORIZON_NS < end_ns
    later = np.searchsorted(times, times[kept] + HORIZON_NS, side="right") - 1
    mids = vectors["vector"][:, MID]
    rows = np.zeros(int(kept.sum()), ROW)
    rows["recv_ts_ns"] = times[kept]
    rows["instrument"] = vectors["instrument"][kept]
    rows["vector"] = vectors["vector"][kept]
    returns = BPS * (mids[later] / mids[kept] - 1.0)
    rows["target"][:, 0] = returns
    rows["target"][:, 1] = np.abs(returns)
    return rows


def session_rows(seed: int, seconds: float, venue: VenueSettings | None = None) -> np.ndarray:
    """Rows (ROW) of one generated session."""
    venue = venue or VenueSettings()
    instruments = [item.instrument(index) for index, item in enumerate(venue.listed())]
    return rows_of(feature_records(generated_frames(seed, seconds, venue), instruments))


def rows_digest(rows: np.ndarray) -> str:
    """Hex SHA-256 of rows, by which a card tells whether the data it describes can still be made."""
    return hashlib.sha256(rows.tobytes()).hexdigest()
