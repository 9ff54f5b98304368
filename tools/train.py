"""`bot4 train`: make the model again, measure it on generated and on recorded data, write it, its card and its page."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from engine.config import Settings
from models.card import card_path, read_card, write_model
from models.dataset import rows_of
from models.inference import DEFAULT_MODEL
from models.train import Plan, TrainingError, load_libraries, train
from procs.captures import CaptureError
from procs.market_series import observe
from procs.replay import open_source
from tools.model_page import PAGE, page
from tools.usage import UsageError

# Of one instrument each, with a snapshot at the beginning: what the figures on recordings are made of.
RECORDINGS = (
    "ws/binance-usdm/btcusdt_20230404.raw.gz",
    "ws/binance-usdm/btcusdt_20240808.raw.gz",
    "ws/binance-usdm/ethusdt_20240808.raw.gz",
    "ws/binance-spot/btcusdt_20240808.raw.gz",
)


def recorded_rows(path: Path) -> np.ndarray:
    """The rows (ROW) of a recording of one instrument. Raises CaptureError."""
    source = open_source(path, Settings())
    return rows_of(observe(source.inputs(), source.instruments, source.settings)[1])


def _recordings(folder: Path | None) -> dict[str, list[np.ndarray]]:
    """Rows by the name of the recording. Raises UsageError for a folder that lacks one."""
    if folder is None:
        named = os.environ.get("BOT4_RECORDINGS", "")
        folder = Path(named) if named else None
    if folder is None:
        return {}
    missing = [name for name in RECORDINGS if not (folder / name).is_file()]
    if missing:
        raise UsageError(f"--recordings {folder}: {missing[0]} is not in it")
    return {name: [recorded_rows(folder / name)] for name in RECORDINGS}


def train_command(options: argparse.Namespace) -> int:
    """Train and write. Exit code 0, 1 for a model that must not be written, 2 for bad numbers or a missing extra."""
    given = {name: getattr(options, name) for name in ("seed", "sessions", "seconds", "epochs")}
    out = options.out or DEFAULT_MODEL
    try:
        plan = Plan(**{name: value for name, value in given.items() if value is not None})
    except ValueError as error:
        raise UsageError(str(error)) from None
    show = sys.stderr.isatty()

    def progress(text: str) -> None:
        if show:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)

    try:
        load_libraries()
    except ModuleNotFoundError as error:
        print(f"bot4: {error.name} is missing: training needs the extra, pip install '.[train]'", file=sys.stderr)
        return 2
    try:
        content, card = train(plan, _recordings(options.recordings), progress)
    except (TrainingError, CaptureError) as error:
        print(f"bot4: {error}", file=sys.stderr)
        return 1
    progress("")
    write_model(out, content, card)
    if out == DEFAULT_MODEL:
        PAGE.write_text(page(read_card(out)))
    if options.json:
        sys.stdout.buffer.write(orjson.dumps(card) + b"\n")
    else:
        print(table(card))
        parity = card["onnx_parity"]
        print(
            f"ONNX against {parity['peer']}: {parity['max_abs_difference_bps']:.3g} bps apart at the most, allowed "
            f"{parity['allowed_bps']:g}"
        )
        print(f"{out}: {len(content)} bytes; card {card_path(out)}")
    return 0


def table(card: dict[str, Any]) -> str:
    """The figures of a card for people."""
    lines = [f"{'return of the next second':52}{'R2':>9}{'interval':>20}{'corr':>8}{'sign':>8}  model's gain"]
    measured = {**card["figures"]["by_symbol"], **card["recordings"]}
    for source, figures in measured.items():
        lines.append(f"{source}: {figures['rows']} rows, {figures['blocks']} blocks of 10 s")
        for name, scores in figures["return_1s"].items():
            lines.append(
                f"{'  ' + name:52}{scores['r2']:9.4f}{_span(scores.get('r2_interval')):>20}{scores['correlation']:8.3f}"
                f"{scores['sign_accuracy']:8.3f}  {_span(scores.get('gain_of_model_interval'))}"
            )
    return "\n".join(lines)


def _span(limits: list[float] | None) -> str:
    return f"{limits[0]:.4f} .. {limits[1]:.4f}" if limits else ""
