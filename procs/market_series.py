"""Recorded or generated inputs through decoding, validation and features, for whoever wants to look at the data.

The same kernels as in a live engine. What is held grows with the length of the data: this is for minutes and hours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from engine.config import Settings
from engine.features.step import FEATURES
from engine.instruments import Instrument
from engine.matching.settings import VenueSettings
from engine.records import FEATURE, MARKET, SOURCE_MAIN, Kind
from engine.stage import as_bytes
from engine.validation.step import VALIDATION
from models.dataset import generated_frames
from procs.decoding import Decoder, replay_inputs
from procs.journal.layout import Entry
from procs.journal.reader import JournalEntry
from procs.states import initial_states
from procs.table import Role

# What statistics are made of; quotes, funding and the clock's ticks are many and say nothing here.
_KEPT = (Kind.LEVEL, Kind.TRADE, Kind.BOOK_VALID, Kind.BOOK_INVALID, Kind.GAP)
_BATCH = 4096


def observe(
    inputs: Iterator[JournalEntry], instruments: Sequence[Instrument], settings: Settings
) -> tuple[np.ndarray, np.ndarray]:
    """All MARKET records that validation lets pass (levels, trades, state of the books), and all FEATURE records."""
    states = initial_states(settings, instruments, open_loop=True)
    decoder = Decoder(states[Role.INGESTION], instruments)
    validation, features = as_bytes(states[Role.VALIDATION]), as_bytes(states[Role.FEATURES])
    valid = np.zeros(_BATCH * VALIDATION.max_out, MARKET)
    vectors = np.zeros(len(valid) * FEATURES.max_out, FEATURE)
    routes = np.zeros(len(vectors), np.uint8)
    market_parts, feature_parts = [np.zeros(0, MARKET)], [np.zeros(0, FEATURE)]
    for decoded in replay_inputs(decoder, inputs):
        for first in range(0, decoded, _BATCH):
            part = as_bytes(decoder.records[first : min(first + _BATCH, decoded)])
            count = VALIDATION.step(
                validation, SOURCE_MAIN, part, len(part) // MARKET.itemsize, as_bytes(valid), routes
            )
            found = FEATURES.step(features, SOURCE_MAIN, as_bytes(valid), count, as_bytes(vectors), routes)
            market_parts.append(valid[:count][np.isin(valid["kind"][:count], _KEPT)])
            feature_parts.append(vectors[:found].copy())
    return np.concatenate(market_parts), np.concatenate(feature_parts)


def generated_inputs(venue: VenueSettings, seed: int, seconds: float) -> Iterator[JournalEntry]:
    """One session of the embedded exchange's market as the inputs of ingestion."""
    names = {item.symbol.lower(): index for index, item in enumerate(venue.listed())}
    for number, (ts_ns, stream, payload) in enumerate(generated_frames(seed, seconds, venue)):
        if number == 0:
            yield JournalEntry(Entry.START, 0, ts_ns, 0, 1, b"")
        name, _, kind = stream.partition("@")
        if kind == "snapshot":
            yield JournalEntry(Entry.SNAPSHOT, number, ts_ns, names[name], 1, payload)
        else:
            yield JournalEntry(Entry.FRAME, number, ts_ns, 0, 1, payload)
