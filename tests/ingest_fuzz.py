"""Mutated frames against the kernels, in a loop with a seed: run by tests/test_ingest_fuzz.py in the checked build.

`python -m tests.ingest_fuzz SEED COUNT` prints one JSON object: answers by reason (0: accepted). In the checked build
(NUMBA_BOUNDSCHECK=1) a read outside the frame or an array raises, and the run fails.
"""

from __future__ import annotations

import json
import sys
from collections import Counter

from engine.ingest.kernel import MAX_RECORDS_PER_FRAME
from engine.kernel import checked_mode
from procs.embedded.mix import Draws
from tests.ingest_oracle import Session, btcusdt
from tests.test_ingest_frames import EVENTS, SNAPSHOT, dumps
from tools.soak.accidents import mutated

CORPUS = (
    [dumps(event) for event in EVENTS.values()]
    + [dumps({"stream": "btcusdt@any", "data": event}) for event in EVENTS.values()]
    + [dumps(SNAPSHOT), b'{"result":null,"id":1}']
)


def run(seed: int, count: int) -> Counter[int]:
    """Feed mutated frames to one session as frames and as snapshot bodies. Raises what the kernels raise."""
    draws = Draws(seed, 0)
    session = Session([btcusdt(), btcusdt(15, "ETHUSDT")])
    session.start(1)
    answers: Counter[int] = Counter()
    for number in range(1, count + 1):
        frame = mutated(draws.choice(CORPUS), CORPUS, draws)
        session.written.clear()
        if draws.uniform() < 0.2:
            n = session.snapshot(0, frame, number, number)
        else:
            n = session.frame(frame, number, number)
        if n > MAX_RECORDS_PER_FRAME or not session.balances():
            raise AssertionError(f"{n} records for {frame!r}")
        answers[min(n, 0)] += 1
        if number % 500 == 0:
            session.lost(-1, 0, number)
    return answers


if __name__ == "__main__":
    print(json.dumps({"checked": checked_mode(), "answers": run(int(sys.argv[1]), int(sys.argv[2]))}))
