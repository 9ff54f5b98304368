"""Fuzz: recorded frames of every venue after small accidents, through the whole market path in the checked build.

A piece gives each dialect so many mutated frames, in a process of its own with bounds checks, so that a read outside a
frame or an array raises, a crash is seen as a death, and a hang as time that is over. What must hold: every stage's
account balances at any time, no feature and no prediction is anything but a finite number, and what was refused is
counted. `python -m tools.soak.fuzz DIALECT SEED COUNT` is one such process; it prints one JSON object.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import numpy as np

from engine.config import Settings
from engine.instruments import Dialect, Instrument
from engine.kernel import PROJECT_ROOT, checked_mode
from engine.records import Kind
from procs.decoding import ALL_INSTRUMENTS
from procs.embedded.mix import Draws
from procs.fused import BATCH, FusedPath
from procs.integrity.script import script_of
from procs.journal.layout import Entry
from procs.journal.reader import JournalEntry
from procs.recordings import read_inputs, read_instruments
from procs.summary import stage_accounts
from procs.table import Role
from procs.wire_player.sequence import What
from tools.soak.accidents import mutated
from tools.soak.tally import Piece

# One recording of each dialect, with a book of every symbol in it. No session of Kraken spot v2 was recorded: its
# frames are made from one of v1, as the integrity drill's are.
RECORDINGS = {
    "BINANCE_SPOT": "ws/binance-spot/cf_20211011_ws_1.txt.gz",
    "BINANCE_USDM": "ws/binance-usdm/btcusdt_20230404.raw.gz",
    "BINANCE_COINM": "ws/binance-coinm/cf_20210721_ws_1.txt.gz",
    "KRAKEN_SPOT_V1": "ws/kraken-spot-v1/cf_20210417_ws_50.txt.gz",
    "KRAKEN_SPOT_V2": "ws/kraken-spot-v1/cf_20210417_ws_50.txt.gz",
    "KRAKEN_FUTURES": "ws/kraken-futures/cf_20210722_ws_1.txt.gz",
}
COUNT = 100_000  # mutated frames of each dialect a piece
_HUNG_S = 900.0  # the first one compiles
_CORPUS = 4_000
_LAP = 1_000  # inputs until everything counts as lost and begins again: an accident to a book ends it for the lap
_WHOLE_SHARE = 0.9  # of the frames are whole: books must stand for accidents to meet them
_LOOK_EVERY = 500
_STEP_NS = 1_000_000


def recordings_root() -> Path:
    """The folder of the recordings; it may not exist."""
    return Path(os.environ.get("BOT4_RECORDINGS") or PROJECT_ROOT / ".." / "shared" / "data").resolve()


class Unsound(AssertionError):
    """Something that must hold and did not."""


def inputs_of(dialect: str) -> tuple[tuple[Instrument, ...], Iterator[JournalEntry]]:
    """Instruments and inputs of a dialect's recording. Raises CaptureError as their readers do."""
    if dialect == Dialect.KRAKEN_SPOT_V2.name:
        made = script_of(recordings_root(), Dialect.KRAKEN_SPOT_V2)
        frames = (item for item in made.items if item.what in (What.FRAME, What.REPLY))
        start = JournalEntry(Entry.START, 0, made.items[0].ts_ns, 0, 1, b"")
        entries = (JournalEntry(Entry.FRAME, item.ordinal, item.ts_ns, 0, 1, item.data) for item in frames)
        return made.instruments, chain([start], entries)
    recording = recordings_root() / RECORDINGS[dialect]
    instruments = read_instruments(recording)
    return instruments, read_inputs(recording, instruments)


class Fuzzed:
    """The market path of one dialect's recording, and what it answers to accidents."""

    def __init__(self, dialect: str, seed: int) -> None:
        instruments, inputs = inputs_of(dialect)
        self._inputs = list(islice(inputs, _CORPUS))
        self._frames = [entry.payload for entry in self._inputs if entry.kind == Entry.FRAME]
        self._path = FusedPath(Settings(), instruments, open_loop=True)
        self._draws = Draws(seed, 0)
        self._now_ns = self._inputs[0].ts_ns
        self.answers: Counter[str] = Counter()
        self.vectors = 0  # that left while accidents happened

    def run(self, count: int) -> None:
        """So many mutated frames, in the order of the recording with whole ones between. Raises Unsound."""
        given = 0
        while given < count:
            self._decide(self._path.decoder.lost(ALL_INSTRUMENTS, self._now_ns))
            for entry in self._inputs[:_LAP]:
                self._now_ns += _STEP_NS
                if entry.kind != Entry.FRAME or self._draws.uniform() < _WHOLE_SHARE:
                    self._decide(self._path.decoder.apply(entry._replace(ts_ns=self._now_ns)))
                    continue
                frame = mutated(entry.payload, self._frames, self._draws)
                quarantined = int(self._path.decoder.state["quarantined"].sum())
                try:
                    self._decide(self._path.decoder.frame(frame, self._now_ns))
                except Exception as error:
                    raise Unsound(f"{type(error).__name__}: {error} for {frame!r}") from error
                refused = int(self._path.decoder.state["quarantined"].sum()) - quarantined
                self.answers["refused" if refused else "taken"] += 1
                given += 1
                if given % _LOOK_EVERY == 0:
                    self._look(frame)
                if given == count:
                    return

    def _decide(self, decoded: int) -> None:
        path = self._path
        for first in range(0, decoded, BATCH):
            found = path.predict(first, min(BATCH, decoded - first))
            predictions = path.predictions[:found]
            self.vectors += int((predictions["kind"] == Kind.PREDICTION).sum())
            if not (np.isfinite(predictions["vector"]).all() and np.isfinite(predictions["output"]).all()):
                raise Unsound("a feature or a prediction that is no finite number")

    def _look(self, frame: bytes) -> None:
        states: dict[Role, np.ndarray] = dict(self._path.states)
        del states[Role.EXECUTION]  # it takes no part
        _, unaccounted = stage_accounts(states, {})
        if unaccounted:
            raise Unsound(f"{unaccounted} records are unaccounted for, at {frame!r}")


def run_fuzz(piece: Piece) -> None:
    """A part of it: COUNT frames of each dialect whose recording is there."""
    for dialect, name in RECORDINGS.items():
        recording = recordings_root() / name
        if not recording.exists():
            piece.note(f"{dialect}: left out, {recording} is not there (set BOT4_RECORDINGS)")
            continue
        command = [sys.executable, "-m", "tools.soak.fuzz", dialect, str(piece.seed), str(COUNT)]
        environment = os.environ | {"NUMBA_BOUNDSCHECK": "1"}
        try:
            done = subprocess.run(
                command, env=environment, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=_HUNG_S, check=False
            )
        except subprocess.TimeoutExpired:
            piece.hold(False, f"{dialect}: not done after {_HUNG_S:.0f} s")
            continue
        if done.returncode:
            piece.hold(False, f"{dialect}: exit code {done.returncode}: {done.stderr[-2000:]}")
            continue
        answers = json.loads(done.stdout)
        piece.hold(answers.pop("checked"), f"{dialect}: not the build with bounds checks")
        piece.note(f"{dialect}: {answers}")
        vectors = answers.pop("vectors")
        piece.hold(vectors >= COUNT // 100, f"{dialect}: {vectors} vectors, books hardly stood")
        piece.count(dialect, sum(answers.values()))


def main() -> int:
    """One process of it."""
    dialect, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    fuzzed = Fuzzed(dialect, seed)
    fuzzed.run(count)
    print(json.dumps({"checked": checked_mode(), "vectors": fuzzed.vectors, **fuzzed.answers}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
