"""`python -m tools.soak --hours 1`: the long suites in turn until the time is over; what they did adds up in a tally.

Exit code 0 when everything held, 1 when something was violated, 2 for bad usage. `--report` shows the tally.
`--suite NAME` runs pieces of that suite only; `--suite NAME --seed N` runs one piece again and leaves the tally alone.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from engine.kernel import kernel_digest
from shm.clock import python_monotonic_ns
from shm.lease import Lease, LeaseHeld
from tools.soak.suites import BY_NAME, SUITES, Suite
from tools.soak.tally import Piece, Tally, TallyError

_GOALS = {suite.name: suite.goals for suite in SUITES}


def _say(text: str) -> None:
    print(text, flush=True)


def _again(suite: Suite, piece: Piece) -> str:
    return f"python -m tools.soak --suite {suite.name} --seed {piece.seed} --hours {piece.seconds / 3600:.3g}"


def run_piece(suite: Suite, seed: int, seconds: float, folder: Path) -> tuple[Piece, float]:
    """One piece of a suite, and how many seconds it took. Whatever it raises is a violation."""
    piece = Piece(seed, seconds, folder / f"{suite.name}-{seed}")
    shutil.rmtree(piece.folder, ignore_errors=True)
    piece.folder.mkdir(parents=True)
    _say(f"{suite.name}, seed {seed}")
    began = python_monotonic_ns()
    try:
        suite.run(piece)
    except Exception as error:  # the seed is what counts: the next suite has its turn all the same
        piece.hold(False, f"{type(error).__name__}: {error}")
    took = (python_monotonic_ns() - began) / 1e9
    for text in piece.notes:
        _say(f"    {text}")
    counts = ", ".join(f"{what} {number:,.10g}" for what, number in piece.counts.items())
    _say(f"    {took:.0f} s: {counts}")
    for violation in piece.violations:
        _say(f"    VIOLATION, seed {seed}: {violation.what}\n        again: {violation.again or _again(suite, piece)}")
    if piece.violations:
        _say(f"    what it left: {piece.folder}")
    else:
        shutil.rmtree(piece.folder)
    return piece, took


def run_for(hours: float, folder: Path, tally: Tally, suites: Sequence[Suite]) -> int:
    """Pieces of these suites in turn until none has enough time left; how many violations there were."""
    end = python_monotonic_ns() + int(hours * 3600e9)
    code = kernel_digest()[:12]
    violations = 0
    done: set[str] = set()
    names = [suite.name for suite in suites]
    at = names.index(tally.last) + 1 if tally.last in names else 0
    passed_over = 0
    while passed_over < len(suites):
        suite = suites[at % len(suites)]
        at += 1
        left = (end - python_monotonic_ns()) / 1e9
        if left < suite.least_s or (suite.once and suite.name in done):
            passed_over += 1
            continue
        passed_over = 0
        done.add(suite.name)
        record = tally.of(suite.name)
        # A suite that takes what there is leaves half of it to the others.
        share = left / 2 if len(suites) > 1 else left
        piece, took = run_piece(suite, record.pieces, max(suite.least_s, share), folder)
        record.add(piece, took, code, _again(suite, piece))
        tally.last = suite.name
        tally.save()
        violations += len(piece.violations)
    return violations


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m tools.soak", description="The long suites; their tallies add up.")
    parser.add_argument("--hours", type=float, default=1.0, help="how long; 0 only shows the tally")
    parser.add_argument("--suite", choices=sorted(BY_NAME), help="only this one")
    parser.add_argument("--seed", type=int, help="one piece of that suite, which is not counted")
    parser.add_argument("--report", action="store_true", help="only show the tally")
    parser.add_argument("--folder", type=Path, default=Path("var/soak"), help="where the tally lies")
    options = parser.parse_args()
    if options.seed is not None and options.suite is None:
        parser.error("a seed is of a suite: --suite is missing")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # engines and venues end with whoever started them
    if options.seed is not None:
        piece, _ = run_piece(BY_NAME[options.suite], options.seed, options.hours * 3600, options.folder)
        return 1 if piece.violations else 0
    try:
        tally = Tally(options.folder / "tally.json")
        if options.report or options.hours <= 0:
            violations = tally.violations
        else:
            with Lease.acquire(options.folder / "lock"):
                suites = SUITES if options.suite is None else [BY_NAME[options.suite]]
                violations = run_for(options.hours, options.folder, tally, suites)
    except (LeaseHeld, TallyError) as error:
        print(f"soak: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        _say("stopped; the piece in hand leaves no trace in the tally")
        return 1
    for line in tally.report(_GOALS):
        _say(line)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
