"""Any bytes: the kernels answer, never crash, never read outside the frame, and what they accept is right."""

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

from engine.reasons import Reason
from procs.embedded.mix import Draws
from tests.ingest_fuzz import CORPUS, run
from tests.ingest_oracle import Oracle, Refused, Session, btcusdt
from tests.recordings import PROJECT_ROOT, USDM_CAPTURES, open_capture, require_capture
from tests.test_ingest_frames import SNAPSHOT, T0, TRADE, dumps
from tools.soak.accidents import mutated

NO_ANSWER = (Refused, KeyError, TypeError, ValueError, InvalidOperation, OverflowError, AttributeError)


def fresh() -> Session:
    session = Session([btcusdt()])
    session.snapshot(0, dumps(SNAPSHOT), T0, 1)
    session.written.clear()
    return session


def check(frame: bytes) -> int:
    """Give one frame to a fresh session; where the oracle has an answer too, both must be equal."""
    session = fresh()
    before = session.state.copy()
    n = session.frame(frame, T0 + 5, 2)
    assert session.balances()
    if n < 0:
        assert -n in list(Reason)
        assert not session.written
        for name in ("now_ns", "last_ingest_id", "processed", "events", "last_update_id", "last_trade_id", "out"):
            np.testing.assert_array_equal(session.state[name], before[name])
        return n
    oracle = Oracle([btcusdt()])
    oracle.snapshot(0, dumps(SNAPSHOT), T0, 1)
    oracle.out.clear()
    try:
        oracle.frame(frame, T0 + 5, 2)
        expected = oracle.records()
    except NO_ANSWER:
        return n
    np.testing.assert_array_equal(session.records(), expected)
    return n


@settings(max_examples=400)
@given(
    frame=st.one_of(
        st.binary(max_size=80), st.text('{}[]":,\\abBAeEpqstTuU0123456789.-+ ', max_size=80).map(str.encode)
    )
)
def test_any_bytes_get_an_answer(frame: bytes) -> None:
    assert check(frame) <= 0


@settings(max_examples=800)
@given(frame=st.sampled_from(CORPUS), seed=st.integers(0, 2**32))
def test_mutated_frames_are_refused_or_right(frame: bytes, seed: int) -> None:
    check(mutated(frame, CORPUS, Draws(seed, 0)))


@pytest.mark.parametrize("frame", CORPUS, ids=range(len(CORPUS)))
def test_every_truncation_is_refused(frame: bytes) -> None:
    session = fresh()
    for cut in range(len(frame)):
        assert session.frame(frame[:cut], T0, 2) == -Reason.BAD_JSON
    body = dumps(SNAPSHOT)
    for cut in range(len(body)):
        assert session.snapshot(0, body[:cut], T0, 2) == -Reason.BAD_JSON


@pytest.mark.recordings
def test_truncated_and_mutated_recorded_frames() -> None:
    frames = list(open_capture(require_capture(USDM_CAPTURES[0])))
    depth = [frame for _, frame in frames if b"depthUpdate" in frame]
    longest = max(depth, key=len)
    session = fresh()
    for cut in range(len(longest)):
        assert session.frame(longest[:cut], T0, 2) == -Reason.BAD_JSON
    draws = Draws(7, 0)
    accepted = sum(check(mutated(draws.choice(depth[:50]), CORPUS, draws)) >= 0 for _ in range(300))
    assert 0 < accepted < 300


def test_the_fuzz_loop_reaches_answers_of_every_kind() -> None:
    answers = run(3, 6_000)
    assert answers[0] > 100
    for reason in (Reason.BAD_JSON, Reason.BAD_NUMBER, Reason.UNKNOWN_STREAM, Reason.UNKNOWN_SYMBOL):
        assert answers[-reason] > 20, reason


def test_the_checked_build_reads_nothing_outside() -> None:
    """The same loop with bounds checks: a read outside the frame or an array raises in the child."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.ingest_fuzz", "3", "6000"],
        cwd=PROJECT_ROOT, env={**os.environ, "NUMBA_BOUNDSCHECK": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["checked"] is True
    assert {int(code): n for code, n in report["answers"].items()} == dict(run(3, 6_000))


READ_OUTSIDE = """
import numba
from engine.ingest import json_scan
@numba.njit
def read(text, position):
    return json_scan.byte_at(json_scan.text_of(text), position)
assert read(b"abc", 2) == ord("c")
read(b"abc", {position})
"""


@pytest.mark.parametrize("position", [3, -1])
def test_the_checked_build_would_tell(position: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", READ_OUTSIDE.format(position=position)],
        cwd=PROJECT_ROOT, env={**os.environ, "NUMBA_BOUNDSCHECK": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0 and "IndexError" in done.stderr


def test_the_oracle_comparison_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Oracle.__init__, "__defaults__", (lambda text, exp: 0, (2_048, 16_384)))
    with pytest.raises(AssertionError):
        check(dumps(TRADE))
