"""Mistakes put into a copy of a decoder, to see that guidance finds what the same changes made blindly do not.

Each mistake is one that a made frame does not show, behind several bytes that must all be changed: each of them alone
reaches a way that was not taken before. Blind means the same fuzzer with the same changes and first inputs, which is
told nothing of what an input reached.

    python -m tools.soak.planted [NAME ...]    after how many executions each was found, by seed
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tools.soak import guided
from tools.soak.decoder_targets import Target
from tools.soak.forks import Fork
from tools.soak.interpreted import Interpreter
from tools.soak.mutations import dictionary
from tools.soak.target_table import make_target

EXECUTIONS, SEEDS = 30_000, 3
_LIMIT_S = 600.0
_FOUND = "found after"


class Plant(NamedTuple):
    """A mistake: what stands once in a module, and what is put there."""

    target: str
    module: str
    old: str
    new: str


_EXPONENT = "        if exponent_negative:\n            exponent = -exponent\n"
_GAPS = "    state.gaps += 1\n"


def _chain(indent: int, tests: Sequence[str], statement: str) -> str:
    """Tests one within the other, and what is done behind the last."""
    lines = [f"{'    ' * (indent + depth)}if {test}:" for depth, test in enumerate(tests)]
    return "\n".join([*lines, "    " * (indent + len(tests)) + statement]) + "\n"


PLANTED = {
    # as '"-1.5e+03"'
    "an exponent with a sign and two digits": Plant(
        "NUMBERS", "engine.ingest.json_scan", _EXPONENT,
        _EXPONENT + _chain(2, (
            "decimals > 0", "quoted", "negative", "byte_at(text, first - 1) == PLUS", "position - first > 1",
        ), "exponent += 1"),
    ),
    "the fourth gap of a session": Plant(
        "BINANCE_USDM", "engine.ingest.entry", _GAPS, _GAPS + "    if state.gaps == 4:\n        state.gaps += 1\n"
    ),
}


def planted(name: str) -> Target:
    """The target whose interpreted kernels have that mistake. Raises KeyError for a name that is none."""
    plant = PLANTED[name]
    return make_target(plant.target, Interpreter({plant.module: (plant.old, plant.new)}))


class Hunted(Target):
    """A target that tells after how many inputs it raised.

    A blind one tells of the first inputs alone what they reached: they are changed, and nothing is built on.
    """

    def __init__(self, target: Target, *, blind: bool) -> None:
        super().__init__(target.name, target.seeds, target.names)
        self.of_frames = target.of_frames
        self._target = target
        self._blind = blind
        self._inputs = 0

    @property
    def ways(self) -> int:
        """See Target."""
        return self._target.ways + len(self.seeds) + 1  # the fuzzer begins with an empty input

    def take_ways(self) -> dict[int, int]:
        """See Target."""
        if not self._blind:
            return self._target.take_ways()
        return {self._inputs: 1} if self._inputs <= len(self.seeds) else {}

    def run(self, data: bytes) -> None:
        """See Target."""
        self._inputs += 1
        try:
            self._target.run(data)
        except Exception:
            os.write(1, f"\n{_FOUND} {self._inputs}\n".encode())
            raise


def hunt(name: str, seed: int, executions: int, folder: Path, *, blind: bool) -> int | None:
    """How many executions it took to find a mistake; None where so many did not. Needs atheris.

    In a fork of this process, which must have no other threads: the fuzzer's end would wait for them.

    folder: an empty one, for what the fuzzer writes. Raises RuntimeError when it ends in another way.
    """
    target = Hunted(planted(name), blind=blind)
    guided.write_seeds(target, folder / "begin", with_recorded=False)
    (folder / "words").write_text(dictionary(target.names))
    (folder / "corpus").mkdir()
    log = folder / "log"

    def child() -> int:
        with log.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        options = guided.options_of(folder / "words", folder, seed, executions, _LIMIT_S)
        guided.fuzz(target, [str(folder / "corpus"), str(folder / "begin"), *options])
        return 1

    status = Fork(child).join(_LIMIT_S)
    said = log.read_text(errors="replace")
    found = re.search(rf"^{_FOUND} (\d+)$", said, re.MULTILINE)
    if found is None and (status != 0 or f"Done {executions} runs" not in said):
        raise RuntimeError(f"the fuzzer ended with {status}: {said[-800:]}")
    return int(found[1]) if found else None


def main() -> int:
    """The table of the named ones, or of all. Exit code 1 when guidance missed one."""
    missed = 0
    for name in sys.argv[1:] or PLANTED:
        for blind in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                found = []
                for seed in range(1, SEEDS + 1):
                    place = Path(folder, str(seed))
                    place.mkdir()
                    found.append(hunt(name, seed, EXECUTIONS, place, blind=blind))
            missed += 0 if blind else found.count(None)
            told = " / ".join("-" if count is None else f"{count:,}" for count in found)
            print(f"{name}, {'blind' if blind else 'guided'}: {told}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
