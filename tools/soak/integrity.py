"""The integrity drill: seeded fault runs of every market in virtual time, held to the detectability table.

A piece runs so many seeds of each market whose recording is there; what was seen of each row of the table is counted.
"""

from __future__ import annotations

from engine.instruments import Dialect
from procs.captures import CaptureError
from procs.integrity.damage import counted
from procs.integrity.drill import run_drill
from procs.integrity.script import RECORDINGS, script_of
from tools.soak.fuzz import recordings_root
from tools.soak.tally import Piece

RUNS = 1_000  # wanted of each market
A_PIECE = 25
MARKETS = tuple(dialect.name for dialect in RECORDINGS)


def again(dialect: Dialect, seed: int) -> str:
    """The command that shows one run again."""
    return (
        f"python -c 'from tools.soak.integrity import *; "
        f'print(run_drill(script_of(recordings_root(), Dialect.{dialect.name}), {seed}))\''
    )


def run_integrity(piece: Piece) -> None:
    """So many runs of each market, with seeds of their own."""
    for dialect, (name, _) in RECORDINGS.items():
        try:
            script = script_of(recordings_root(), dialect)
        except CaptureError as error:
            piece.note(f"{dialect.name}: left out, {name}: {error} (set BOT4_RECORDINGS)")
            continue
        for seed in range(piece.seed * A_PIECE, (piece.seed + 1) * A_PIECE):
            outcome = run_drill(script, seed)
            if outcome.violations:
                text = f"{dialect.name}, run {seed}, {outcome.order}: {outcome.violations[0]}"
                if len(outcome.violations) > 1:
                    text += f", and {len(outcome.violations) - 1} more"
                piece.hold(False, text, again(dialect, seed))
            piece.count(dialect.name)
            piece.count("valid books compared", outcome.compared)
            piece.count("wrong and valid, as the table allows", outcome.wrong)
            piece.measure(f"recovery ms {dialect.name}", outcome.recovery_ms)
            for what, number in counted(outcome.found).items():
                piece.count(f"{dialect.name} {what}", number)
