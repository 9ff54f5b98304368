"""`bench decode`, `book`, `features`, `inference`: single parts of the path over a recorded session.

Rates are of the median of PAIRS passes from fresh state, on one core.
"""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import orjson

from engine.book.book import book_best, make_books
from engine.book.layout import WINDOW_TICKS
from engine.config import Settings
from engine.features.step import FEATURES
from engine.ingest.kernel import INGEST_OUTBOX_RECORDS, make_ingest_state
from engine.records import MARKET, SOURCE_MAIN, Kind
from engine.stage import Stage, as_bytes
from engine.units import format_units
from engine.validation.step import VALIDATION
from models.inference import InferenceStage, Model, load_verified, open_session
from procs.decoding import Decoder
from procs.inference import model_path
from procs.journal.layout import Entry
from procs.states import initial_states
from procs.table import Role
from shm.clock import python_monotonic_ns
from tools.bench.frames import RECORDED, RECORDED_MORE, Frames, load, numbers_of
from tools.bench.machine import quiet, recording
from tools.bench.parsers import PARSERS, Parser
from tools.bench.report import PAIRS, BenchError, Ratio, Report, median_ratio, rate, times
from tools.bench.stage_kernels import decode_each, update_each

_BATCH = 64  # records a step, as in the processes
CALLS = 20_000  # of the model, a pass
# The tick of the last one is so small that most of the market lies outside of the windows, which move often.
BOOKS = {
    "book": RECORDED, "book_eth": RECORDED_MORE, "book_coinm": "ws/binance-coinm/btcusd_perp_20240808.raw.gz",
    "book_spot": "ws/binance-spot/btcusdt_20240808.raw.gz",
}
_KINDS = {"depth": b'"depthUpdate"', "trade": b'"trade"', "book_ticker": b'"bookTicker"'}
_PARSER = "orjson+float"
PARSER_GATES = {"cryptofeed": 10.0}  # ours to theirs, at the least


def _frames(settings: Settings, full: bool) -> Frames:
    return load(recording(RECORDED), settings, None if full else 40_000)


def decode(report: Report, settings: Settings, full: bool) -> None:
    """Bytes to records, in kernel, by kind of frame, beside orjson and float()."""
    frames = _frames(settings, full)
    room = as_bytes(np.zeros(INGEST_OUTBOX_RECORDS, MARKET))
    for kind, mark in _KINDS.items():
        chosen = [one.payload for one in frames.entries if one.kind == Entry.FRAME and mark in one.payload[:80]]
        blob, ends = b"".join(chosen), np.cumsum([len(frame) for frame in chosen])
        state = as_bytes(make_ingest_state(frames.source.instruments))
        ours, theirs, count = [], [], 0
        with quiet():
            for _ in range(PAIRS):
                started = python_monotonic_ns()
                count = int(decode_each(state, blob, ends, room))
                ours.append(python_monotonic_ns() - started)
                started = python_monotonic_ns()
                for frame in chosen:
                    for text in numbers_of(orjson.loads(frame)):
                        float(text)
                theirs.append(python_monotonic_ns() - started)
        if count < 0:
            raise BenchError(f"a {kind} frame of the recording was refused")
        name, unit = f"decode_binance_usdm_{kind}", "level updates/s" if kind == "depth" else "records/s"
        report.results += [rate(name, None, count, ours, unit), rate(name, _PARSER, count, theirs, unit)]
        ratio = median_ratio([1 / ns for ns in ours], [1 / ns for ns in theirs])
        report.ratios.append(Ratio(name, _PARSER, ratio, None))
    for parser in PARSERS:
        _beside(report, frames, parser())


def _beside(report: Report, frames: Frames, parser: Parser) -> None:
    """Bytes to a book, a call from Python a frame: decode, sequence and book beside a library's own parser."""
    try:
        report.versions[parser.package] = parser.version
    except BenchError as error:
        report.notes.append(str(error))
        return
    source = frames.source
    snapshot = next(entry for entry in frames.entries if entry.kind == Entry.SNAPSHOT)
    chosen = [entry for place, entry in enumerate(frames.entries) if frames.depth[place]]  # the first ones may be stale
    payloads = [entry.payload for entry in chosen]
    levels = sum(len(numbers_of(orjson.loads(payload))) // 2 for payload in payloads)
    ours, theirs = [], []
    books = make_books(1)
    for _ in range(PAIRS):
        decoder = Decoder(make_ingest_state(source.instruments), source.instruments)
        books = make_books(1)
        books["tick"] = source.instruments[0].tick_size
        book = as_bytes(books)
        update_each(book, decoder.outbox, decoder.apply(snapshot))
        parser.begin(source.instruments[0].symbol, snapshot.payload)
        with quiet():
            started = python_monotonic_ns()
            for entry in chosen:
                update_each(book, decoder.outbox, decoder.frame(entry.payload, entry.ts_ns))
            ours.append(python_monotonic_ns() - started)
            started = python_monotonic_ns()
            parser.take(payloads)
            theirs.append(python_monotonic_ns() - started)
    best = tuple(format_units(int(book_best(books, 0, side)[0]), source.instruments[0].price_exp) for side in (1, -1))
    if tuple(map(Decimal, best)) != parser.touch:
        report.findings.append(f"{parser.package}: its book ends at {parser.touch}, ours at {best}")
    name, unit = "depth_to_book", "level updates/s"
    report.results += [rate(name, None, levels, ours, unit), rate(name, parser.package, levels, theirs, unit)]
    ratio = median_ratio([1 / ns for ns in ours], [1 / ns for ns in theirs])
    report.ratios.append(Ratio(name, parser.package, ratio, PARSER_GATES.get(parser.package)))


def decoder(report: Report, settings: Settings, full: bool) -> None:
    """Bytes to records with sequence rules and clock, one call from Python a frame: a part of what ingestion does."""
    frames = _frames(settings, full)
    passes, single = [], np.zeros(0, np.int64)
    for _ in range(PAIRS):
        decode = Decoder(make_ingest_state(frames.source.instruments), frames.source.instruments)
        ns = [0] * len(frames.entries)
        with quiet():
            began = python_monotonic_ns()
            for index, entry in enumerate(frames.entries):
                started = python_monotonic_ns()
                decode.apply(entry)
                ns[index] = python_monotonic_ns() - started
            passes.append(python_monotonic_ns() - began)
        single = np.concatenate([single, np.array(ns)])
    report.results.append(rate("ingest_decoder", None, len(frames.entries), passes, "frames/s"))
    report.results.append(times("ingest_decoder_frame", None, single, "us"))


def _step(stage: Stage, state: np.ndarray, records: np.ndarray) -> tuple[np.ndarray, int]:
    """Step a stage through all records in batches; (its output, ns)."""
    inbox, count = as_bytes(records), len(records)
    outbox = np.zeros(count * stage.max_out, stage.out_dtype)
    room, routes, state_bytes = as_bytes(outbox), np.zeros(_BATCH * stage.max_out, np.uint8), as_bytes(state)
    size_in, size_out = records.itemsize, outbox.itemsize
    written = 0
    with quiet():
        started = python_monotonic_ns()
        for first in range(0, count, _BATCH):
            batch = inbox[first * size_in : (first + _BATCH) * size_in]
            now = min(_BATCH, count - first)
            written += stage.step(state_bytes, SOURCE_MAIN, batch, now, room[written * size_out :], routes)
        took = python_monotonic_ns() - started
    return outbox[:written], took


def _decoded(frames: Frames) -> np.ndarray:
    """Every MARKET record of the recording."""
    decoder = Decoder(make_ingest_state(frames.source.instruments), frames.source.instruments)
    return np.concatenate([decoder.records[: decoder.apply(entry)].copy() for entry in frames.entries])


def book(report: Report, settings: Settings, full: bool) -> None:
    """Level updates of recorded markets, snapshot first, applied to one book, in kernel."""
    for name, relative in BOOKS.items():
        apply_levels(report, name, load(recording(relative), settings))
    report.notes.append("goal: 50 M level updates/s, far levels and moved windows included")


def apply_levels(report: Report, name: str, frames: Frames) -> None:
    """The passes over one recording; a book that is not that of a dict in the end is a finding."""
    records = _decoded(frames)
    levels = records[records["kind"] == Kind.LEVEL]
    passes = []
    books = make_books(1)
    for _ in range(PAIRS):
        books = make_books(1)
        books["tick"] = frames.source.instruments[0].tick_size
        with quiet():
            started = python_monotonic_ns()
            update_each(as_bytes(books), as_bytes(levels), len(levels))
            passes.append(python_monotonic_ns() - started)
    expected: dict[int, dict[int, int]] = {1: {}, -1: {}}
    for side, price, size in zip(*(levels[field].tolist() for field in ("side", "price", "size")), strict=True):
        expected[side][price] = size
    plain = [{price: size for price, size in expected[side].items() if size} for side in (1, -1)]
    made = books[0]
    if made["faults"] or book_levels(made) != plain:
        report.findings.append(f"{name}: the book is not that of the recording")
    report.results.append(rate(name, None, len(levels), passes, "level updates/s"))
    report.notes.append(
        f"{name}: {frames.source.path.name}, {made['moves']} moves of a window; in the end {made['near_count'].sum()} "
        f"levels in the windows and {made['far_count'].sum()} far ones, all as in a dict"
    )


def book_levels(book: np.void) -> list[dict[int, int]]:
    """[bids, asks] of a BOOK record as price -> size, read off its arrays."""
    sides: list[dict[int, int]] = []
    for number, sign in enumerate((1, -1)):
        ranks = int(book["base"][number]) + np.arange(WINDOW_TICKS) * int(book["tick"])
        levels = zip(
            np.concatenate((ranks, book["far_ranks"][number])).tolist(),
            np.concatenate((book["sizes"][number], book["far_sizes"][number])).tolist(), strict=True,
        )
        sides.append({sign * rank: size for rank, size in levels if size})
    return sides


def features(report: Report, settings: Settings, full: bool) -> None:
    """Validation, and books with features, over all records of the recording."""
    frames = _frames(settings, full)
    records = _decoded(frames)
    checked, stepped, vectors, valid = [], [], 0, records
    for _ in range(PAIRS):
        states = initial_states(frames.source.settings, frames.source.instruments, open_loop=True)
        valid, ns = _step(VALIDATION, states[Role.VALIDATION], records)
        checked.append(ns)
        given, ns = _step(FEATURES, states[Role.FEATURES], valid)
        stepped.append(ns)
        vectors = int((given["kind"] == Kind.VECTOR).sum())
    report.results.append(rate("validation", None, len(records), checked, "records/s"))
    report.results.append(rate("features", None, len(valid), stepped, "records/s"))
    report.results.append(rate("features_vector", None, vectors, stepped, "vectors/s"))
    report.notes.append("features_vector: vectors a second of the stage as a whole, its book updates included")


def inference(report: Report, settings: Settings, full: bool) -> None:
    """One vector a call through the ml stage, beside session.run of the same model."""
    count = 5 * CALLS if full else CALLS
    frames = load(recording(RECORDED), settings, 10_000)
    states = initial_states(settings, frames.source.instruments, open_loop=True)
    valid, _ = _step(VALIDATION, states[Role.VALIDATION], _decoded(frames))
    given, _ = _step(FEATURES, states[Role.FEATURES], valid)
    vectors = given[given["kind"] == Kind.VECTOR]
    path = model_path(settings.model.path)
    stage = InferenceStage(Model(path, settings.features), states[Role.ML], 1)
    session = open_session(load_verified(path, settings.features)[1])
    name = session.get_inputs()[0].name
    inboxes = [as_bytes(vectors[index : index + 1]) for index in range(len(vectors))]
    feeds = [{name: vectors["vector"][index : index + 1].astype(np.float32)} for index in range(len(vectors))]
    ours, theirs = [], []
    for _ in range(PAIRS):
        mine, other = [0] * count, [0] * count
        with quiet():
            for index in range(count):
                started = python_monotonic_ns()
                stage.step(inboxes[index % len(inboxes)], 1)
                mine[index] = python_monotonic_ns() - started
            for index in range(count):
                started = python_monotonic_ns()
                session.run(None, feeds[index % len(feeds)])
                other[index] = python_monotonic_ns() - started
        ours.append(np.array(mine))
        theirs.append(np.array(other))
    report.results.append(times("inference", None, np.concatenate(ours), "us"))
    report.results.append(times("inference", "session.run", np.concatenate(theirs), "us"))
    ratio = median_ratio([float(np.median(one)) for one in ours], [float(np.median(one)) for one in theirs])
    report.ratios.append(Ratio("inference p50", "session.run", ratio, None, at_most=True))
