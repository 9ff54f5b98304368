"""Any bytes: Kraken's kernels answer, never read outside the frame, and what they accept is right or nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from decimal import InvalidOperation

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.ingest.kraken_state import KRAKEN_DIALECTS
from engine.instruments import Dialect
from engine.reasons import Reason
from procs.embedded.mix import Draws
from procs.venues.kraken_futures.instruments import instruments_from_rest
from procs.venues.kraken_spot.instruments import instruments_from_asset_pairs
from tests.kraken_fuzz import CORPORA, INSTRUMENTS, run
from tests.kraken_oracle import (
    FUTURES_CAPTURE,
    FUTURES_LISTING,
    ORACLES,
    PRODUCTS,
    V1_CAPTURES,
    V1_LISTING,
    V1_PAIRS,
    Session,
    received,
    rest_body,
    rows_of,
)
from tests.recordings import PROJECT_ROOT
from tools.soak.accidents import mutated

COUNTERS = {"frames", "records_in", "quarantined", "value_at", "inner_at"}
NO_ANSWER = (KeyError, TypeError, ValueError, InvalidOperation, OverflowError, AttributeError, IndexError)
DIALECTS = st.sampled_from(KRAKEN_DIALECTS)


def check(session: Session, frame: bytes) -> int:
    """Give one frame to a session whose books stand; where the oracle has an answer too, both must be equal.

    A refused frame has changed nothing but counters. The session is put back as it was.
    """
    before, passed_on = session.state.copy(), session.passed_on
    n = session.frame(frame, 5)
    if n < 0:
        assert -n in list(Reason)
        for name in set(session.state.dtype.names or ()) - COUNTERS:
            np.testing.assert_array_equal(session.state[name], before[name], name)
    elif session.row["records_dropped"].sum() == before[0]["records_dropped"].sum():
        by_symbol = {item.symbol: item for item in session.instruments}
        try:
            expected = ORACLES[session.instruments[0].dialect](frame, by_symbol)
        except NO_ANSWER:
            expected = None
        if expected is not None:
            assert rows_of(session.outbox[:n]) == expected
    assert session.balances()
    session.state[:], session.passed_on = before, passed_on
    return n


def standing(dialect: Dialect) -> Session:
    """A session whose book stands on the snapshot of the corpus."""
    session = Session(list(INSTRUMENTS[dialect].values()), dialect)
    session.frame(CORPORA[dialect][0])
    assert not session.row["snapshot_wanted"][0]
    return session


@settings(max_examples=400)
@given(
    dialect=DIALECTS,
    frame=st.one_of(
        st.binary(max_size=80), st.text('{}[]":,\\abcdefuprstm0123456789.-+ ', max_size=80).map(str.encode)
    ),
)
def test_any_bytes_get_an_answer(dialect: Dialect, frame: bytes) -> None:
    assert check(standing(dialect), frame) <= 0


@pytest.mark.parametrize(
    ("dialect", "frame"),
    [
        (Dialect.KRAKEN_SPOT_V1, b'{"event":"systemStatus","status":"onliline","version":"8.8.3"}'),
        (Dialect.KRAKEN_SPOT_V2, b'{"channel":"status","type":"update","data":[{"system":"onliline"}]}'),
    ],
)
def test_a_word_that_nobody_knows_is_a_halt_of_everything(dialect: Dialect, frame: bytes) -> None:
    session = standing(dialect)
    assert check(session, frame) == len(session.instruments)


@settings(max_examples=800)
@given(dialect=DIALECTS, which=st.integers(0, 10), seed=st.integers(0, 2**32))
def test_mutated_frames_are_refused_or_right(dialect: Dialect, which: int, seed: int) -> None:
    corpus = CORPORA[dialect]
    check(standing(dialect), mutated(corpus[which % len(corpus)], corpus, Draws(seed, 0)))


@pytest.mark.parametrize("dialect", KRAKEN_DIALECTS)
def test_every_truncation_is_refused(dialect: Dialect) -> None:
    session = standing(dialect)
    for frame in CORPORA[dialect]:
        for cut in range(len(frame)):
            assert session.frame(frame[:cut]) in (-Reason.BAD_JSON, -Reason.UNKNOWN_STREAM)


@pytest.mark.parametrize("dialect", [Dialect.KRAKEN_SPOT_V1, Dialect.KRAKEN_FUTURES])
def test_truncated_and_mutated_recorded_frames(dialect: Dialect) -> None:
    """Every kind of recorded frame, mutated: refused, or what the oracle says of the mutated text."""
    if dialect == Dialect.KRAKEN_SPOT_V1:
        items = instruments_from_asset_pairs(rest_body(V1_LISTING), V1_PAIRS)
        frames = [frame for capture in V1_CAPTURES for _, frame in received(capture)]
    else:
        items = instruments_from_rest(rest_body(FUTURES_LISTING), PRODUCTS)
        frames = [frame for _, frame in received(FUTURES_CAPTURE)]
    session = Session(items, dialect)
    longest = max(frames, key=len)
    for cut in range(0, len(longest), 97):
        assert session.frame(longest[:cut]) == -Reason.BAD_JSON
    for frame in frames:
        session.frame(frame)
    draws = Draws(11, 0)
    short = [frame for frame in frames if len(frame) < 2000]
    answers = [check(session, mutated(draws.choice(short), short, draws)) for _ in range(3000)]
    assert 100 < sum(answer >= 0 for answer in answers) < 2900


@pytest.mark.parametrize("dialect", KRAKEN_DIALECTS)
def test_the_fuzz_loop_reaches_answers_of_every_kind(dialect: Dialect) -> None:
    answers = run(dialect, 3, 6_000)
    assert answers[0] > 100
    for reason in (Reason.BAD_JSON, Reason.BAD_NUMBER, Reason.UNKNOWN_STREAM, Reason.UNKNOWN_SYMBOL):
        assert answers[-reason] > 20, reason


@pytest.mark.timeout(1200)  # the checked build is compiled first: two minutes, more on a busy machine
def test_the_checked_build_reads_nothing_outside() -> None:
    """The same loop with bounds checks: a read outside the frame or an array raises in the child."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.kraken_fuzz", "3", "6000"],
        cwd=PROJECT_ROOT, env={**os.environ, "NUMBA_BOUNDSCHECK": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["checked"] is True
    for dialect in KRAKEN_DIALECTS:
        assert {int(code): n for code, n in report["answers"][dialect.name].items()} == dict(run(dialect, 3, 6_000))


def test_the_oracle_comparison_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ORACLES, Dialect.KRAKEN_SPOT_V1, lambda frame, instruments: [])
    with pytest.raises(AssertionError):
        check(standing(Dialect.KRAKEN_SPOT_V1), CORPORA[Dialect.KRAKEN_SPOT_V1][1])
