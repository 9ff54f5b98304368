"""docs/model_card.md, made of the shipped card: `bot4 train` writes it, `python -m tools.model_page` prints it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.card import read_card
from models.inference import DEFAULT_MODEL

PAGE = Path(__file__).resolve().parent.parent / "docs" / "model_card.md"

_NAMES = {
    "model": "**the model**", "zero": "zero", "last_return": "the last return, as it is",
    "linear_last_return": "linear on the last return", "linear_imbalance_1": "linear on `imbalance_1`",
    "linear_signed_features": "linear on all signed features",
}


def page(card: dict[str, Any]) -> str:
    """The whole page."""
    data, parity = card["data"], card["onnx_parity"]
    arguments = " ".join(f"--{name} {value}" for name, value in card["arguments"].items())
    lines = [
        f"# Model card: {card['name']}, version {card['version']}",
        "",
        "Made from `models/short_return.json` by `bot4 train`; a test holds this page to it.",
        "",
        f"**Use.** {card['use']}",
        "",
        f"**Limits.** {card['limits']}",
        "",
        f"**Made by** `{card['script']} {arguments}`, the same bytes again on one machine and these versions: "
        + ", ".join(f"{name} {version}" for name, version in card["library_versions"].items()) + ".",
        "",
        "## What it takes and gives",
        "",
        f"* Input `{card['inputs']['name']}`: {', '.join(f'`{name}`' for name in card['features'])} (definitions: "
        "`engine/features/vector.py`). " + f"{card['inputs']['ignored'].capitalize()}.",
        *(f"* Output `{item['name']}`, {item['unit']}: {item['meaning']}." for item in card["outputs"]),
        f"* Layers {' - '.join(map(str, card['architecture']['layers']))}, {card['architecture']['activation']}, "
        f"{card['architecture']['weights']}, {card['architecture']['bytes']} bytes of ONNX (opset "
        f"{card['architecture']['opset']}).",
        f"* ONNX against {parity['peer']} on all test rows: at the most {parity['max_abs_difference_bps']:.3g} bps "
        f"apart; `bot4 train` writes no model beyond {parity['allowed_bps']:g}.",
        f"* Bound to its features by `schema_hash` {card['schema_hash'][:16]}... and to its file by `sha256` "
        f"{card['sha256'][:16]}...: an engine that finds another of either does not start.",
        "",
        "## Data",
        "",
        data["description"],
        "",
        f"* Sessions: {', '.join(f'{len(seeds)} {purpose}' for purpose, seeds in data['sessions'].items())}, of "
        f"{card['arguments']['seconds']} s each; rows: "
        f"{', '.join(f'{count} {purpose}' for purpose, count in data['rows'].items())}.",
        f"* Split {data['split']}. Purge: {data['purge']}.",
        f"* The epoch was chosen on the {card['training']['epoch_chosen_on']}; nothing was fitted on test sessions or "
        "recordings.",
        "",
        "## Figures that it was not fitted on",
        "",
        "R2 is against the zero forecast: below 0 is worse than saying nothing. Intervals: "
        f"{card['figures']['interval']}. The last column is the model's R2 less that of the line: where its interval "
        "holds 0 the model is not shown to be better.",
    ]
    for symbol, figures in card["figures"]["by_symbol"].items():
        lines += _section(f"{symbol}, generated, {figures['sessions']} test sessions", figures)
    for name, figures in card["recordings"].items():
        lines += _section(f"Recording `{name}`", figures)
    if not card["recordings"]:
        lines += ["", "It was not measured on recordings."]
    return "\n".join(lines) + "\n"


def _section(title: str, figures: dict[str, Any]) -> list[str]:
    size = figures["absolute_return_1s"]["model"]
    lines = [
        "",
        f"### {title}",
        "",
        f"{figures['rows']} rows, {figures['blocks']} blocks; the mid moved in "
        f"{figures['share_of_rows_with_a_move']:.0%} of them; "
        f"returns of one second have a standard deviation of {figures['std_return_bps']} bps.",
        "",
        "| forecast of the return | R2 | interval | correlation | right sign | model's gain |",
        "|---|---|---|---|---|---|",
    ]
    for name, scores in figures["return_1s"].items():
        lines.append(
            f"| {_NAMES[name]} | {scores['r2']:.4f} | {_span(scores.get('r2_interval'))} | "
            f"{scores['correlation']:.3f} | {scores['sign_accuracy']:.1%} | "
            f"{_span(scores.get('gain_of_model_interval'))} |"
        )
    lines += [
        "",
        f"Size of the move: R2 {size['r2']:.4f} against the mean of the training rows, correlation "
        f"{size['correlation']:.3f}.",
    ]
    return lines


def _span(limits: list[float] | None) -> str:
    return f"{limits[0]:.4f} to {limits[1]:.4f}" if limits else ""


if __name__ == "__main__":
    print(page(read_card(DEFAULT_MODEL)), end="")
