"""The matrix of trips: mode x trigger x condition, every pair of them, over whole engines; a piece does a part of it.

The seed of a piece says which array it is of and which part, so pieces one after the other come through a whole array
before they begin another one. What must hold after each trip is judged from the venue's own log (tools/trips).
"""

from __future__ import annotations

from procs.embedded.mix import Draws
from tools.soak.tally import Piece
from tools.trips.cells import Cell, Outcome, all_cells, run_cells

PIECES = 18  # that make up one array; a piece has about eight cells, and sessions for them


def cells_of(seed: int) -> list[Cell]:
    """The cells of a piece."""
    array, part = divmod(seed, PIECES)
    cells, draws = all_cells(array), Draws(array, 1)
    shuffled = []
    while cells:
        shuffled.append(cells.pop(draws.whole(0, len(cells) - 1)))
    return shuffled[part::PIECES]


def run_matrix(piece: Piece) -> None:
    """One part of a covering array."""
    for outcome in run_cells(piece.folder, cells_of(piece.seed), piece.seed):
        _count(piece, outcome)


def _count(piece: Piece, outcome: Outcome) -> None:
    cell = outcome.cell
    piece.note(outcome.words)
    if outcome.skipped:
        piece.count(f"not run: {cell.condition}")
        return
    piece.count("trips")
    piece.count(f"trigger {cell.trigger}")
    piece.count(f"condition {cell.condition}")
    piece.count("accepted until gate shut", outcome.verdict.between)
    piece.count("accepted after gate shut", outcome.verdict.after)
    if cell.condition == "idle":
        piece.measure("ms word to gate shut, idle", outcome.shut_ms)
        piece.measure("ms word to stop done, idle", outcome.confirmed_ms)
    for broken in outcome.verdict.broken:
        piece.hold(False, f"{cell}: {broken}")
