"""Mutated frames against Kraken's kernels, in a loop with a seed: tests/test_kraken_fuzz.py runs it.

`python -m tests.kraken_fuzz SEED COUNT` prints one JSON object: for each dialect, answers by reason (0: accepted). In
the checked build (NUMBA_BOUNDSCHECK=1) a read outside the frame or an array raises, and the run fails.
"""

from __future__ import annotations

import json
import sys
from collections import Counter

from engine.ingest.kraken_state import KRAKEN_DIALECTS, KRAKEN_RECORDS_PER_FRAME
from engine.instruments import Dialect
from engine.kernel import checked_mode
from procs.embedded.mix import Draws
from tests import test_kraken_futures, test_kraken_spot, test_kraken_spot_v2
from tests.kraken_oracle import Session
from tools.soak.accidents import mutated

CORPORA = {
    Dialect.KRAKEN_SPOT_V1: test_kraken_spot.CORPUS,
    Dialect.KRAKEN_SPOT_V2: test_kraken_spot_v2.CORPUS,
    Dialect.KRAKEN_FUTURES: test_kraken_futures.CORPUS,
}
INSTRUMENTS = {
    Dialect.KRAKEN_SPOT_V1: test_kraken_spot.BITCOIN,
    Dialect.KRAKEN_SPOT_V2: test_kraken_spot_v2.BITCOIN,
    Dialect.KRAKEN_FUTURES: test_kraken_futures.BITCOIN,
}


def run(dialect: Dialect, seed: int, count: int) -> Counter[int]:
    """Feed mutated frames to one session. Raises what the kernels raise."""
    draws, corpus = Draws(seed, 0), CORPORA[dialect]
    session = Session(list(INSTRUMENTS[dialect].values()), dialect)
    answers: Counter[int] = Counter()
    for number in range(1, count + 1):
        frame = mutated(draws.choice(corpus), corpus, draws)
        n = session.frame(frame, number)
        if n > KRAKEN_RECORDS_PER_FRAME or not session.balances():
            raise AssertionError(f"{n} records for {frame!r}")
        answers[min(n, 0)] += 1
        if number % 500 == 0:
            session.lost(-1, 0, number)
    return answers


if __name__ == "__main__":
    found = {dialect.name: run(dialect, int(sys.argv[1]), int(sys.argv[2])) for dialect in KRAKEN_DIALECTS}
    print(json.dumps({"checked": checked_mode(), "answers": found}))
