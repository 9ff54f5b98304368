"""Training of the shipped model, behind `bot4 train`.

A small network learns from generated sessions (models/dataset.py) what the mid does in the next second. Three
disjoint sets of sessions: one to fit, one to choose the epoch, one that no choice looks at, for the figures of the
card. Recordings are looked at last, for figures alone: nothing is fitted on them. The same arguments and library
versions give the same bytes on one machine.

Symmetry: a market turned upside down is as likely, so every row is also shown mirrored, signed features and return
negated. The model then cannot learn the accidental drift of the sessions.
Needs the extra [train].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from typing import Any

import numpy as np

from engine.features.vector import (
    FEATURE_NAMES,
    IMBALANCE_1,
    IMBALANCE_5,
    MICROPRICE_BPS,
    MID,
    SHORT_RETURN_BPS,
    TRADE_FLOW,
)
from engine.matching.settings import VenueSettings
from models.dataset import DATA_SPEC, DATA_SPEC_DATE, rows_digest, session_rows
from models.export import INPUT_NAME, OPSET, OUTPUT_NAME, Scaling, to_onnx
from models.figures import SIZE, Baselines, fit_baselines, symbol_figures
from models.inference import open_session

MODEL_VERSION = 2
PARITY_BPS = 1e-4  # by how much the ONNX model may differ from scikit-learn's own forecasts; more is an error
HIDDEN = (16, 16)
BATCH = 1024
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-3
STRIDE = 4  # neighbouring rows say nearly the same: one in so many is enough to fit
SIGNED_FEATURES = (MICROPRICE_BPS, IMBALANCE_1, IMBALANCE_5, TRADE_FLOW, SHORT_RETURN_BPS)

Progress = Callable[[str], None]


class TrainingError(ValueError):
    """A model that must not be written; the message says why."""


@dataclass(frozen=True)
class Plan:
    """What is trained on what. Raises ValueError for numbers that make no sense."""

    seed: int = 1
    sessions: int = 48  # to fit; a quarter of them more to choose the epoch, three eighths more for the figures
    seconds: int = 60  # of one session
    epochs: int = 16

    def __post_init__(self) -> None:
        for name, least, most in (
            ("seed", 0, 1_000_000), ("sessions", 1, 10_000), ("seconds", 5, 86_400), ("epochs", 1, 10_000),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(f"{name} = {value}: allowed is a whole number from {least} to {most}")

    def seeds(self) -> dict[str, list[int]]:
        """Session seeds by what they are for; no two sessions of any plan seed share one."""
        counts = {
            "training": self.sessions,
            "validation": max(self.sessions // 4, 1),
            "test": max(self.sessions * 3 // 8, 1),
        }
        first = self.seed * 3
        return {
            purpose: [(first + place) * 10_000 + number for number in range(1, count + 1)]
            for place, (purpose, count) in enumerate(counts.items())
        }


@dataclass(frozen=True)
class Trained:
    """A fitted network with its scalings."""

    network: Any  # sklearn.neural_network.MLPRegressor
    inputs: Scaling
    targets: Scaling

    def predict(self, vectors: np.ndarray) -> np.ndarray:
        """Forecasts in bps, shape (rows, OUTPUT_COUNT), by scikit-learn in float64: what the ONNX model must match."""
        outputs = self.targets.undo(self.network.predict(self.inputs.apply(vectors)))
        outputs[:, SIZE] = np.maximum(outputs[:, SIZE], 0.0)
        return outputs

    def to_onnx(self) -> bytes:
        """The ONNX model."""
        return to_onnx(self.network.coefs_, self.network.intercepts_, self.inputs, self.targets)


def load_libraries() -> None:
    """Import what training needs beyond the core, so that what is missing is known before minutes are spent on it.

    Raises ModuleNotFoundError.
    """
    for name in ("onnx", "sklearn", "threadpoolctl"):
        import_module(name)


def input_scaling(vectors: np.ndarray) -> Scaling:
    """Robust scaling: medians and 5 % to 95 % ranges. Signed features keep their zero; the mid gets factor 0."""
    low, centre, high = np.quantile(vectors, (0.05, 0.5, 0.95), axis=0)
    reach = (high - low) / 2
    for index in SIGNED_FEATURES:
        centre[index] = 0.0
        reach[index] = np.quantile(np.abs(vectors[:, index]), 0.9)
    reach[reach == 0] = 1.0
    factor = 1.0 / reach
    # The level of the price says nothing about its next move and would tie the model to the training prices.
    factor[MID] = 0.0
    return Scaling(centre, factor)


def target_scaling(targets: np.ndarray) -> Scaling:
    """Unit spread; returns keep their zero, sizes are centred on their mean."""
    spread = targets.std(axis=0)
    spread[spread == 0] = 1.0
    centre = targets.mean(axis=0)
    centre[:SIZE] = 0.0
    return Scaling(centre, 1.0 / spread)


def mirrored(vectors: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same market upside down."""
    flipped, answers = vectors.copy(), targets.copy()
    flipped[:, SIGNED_FEATURES] *= -1.0
    answers[:, :SIZE] *= -1.0
    return flipped, answers


def fit(training: np.ndarray, validation: np.ndarray, plan: Plan, progress: Progress) -> Trained:
    """Fit on the training rows (ROW), keeping the epoch with the smallest error on the validation rows."""
    from sklearn.neural_network import MLPRegressor
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    rows = training[::STRIDE]
    inputs, targets = input_scaling(rows["vector"]), target_scaling(rows["target"])
    flipped, answers = mirrored(rows["vector"], rows["target"])
    shown = inputs.apply(np.concatenate([rows["vector"], flipped]))
    wanted = targets.apply(np.concatenate([rows["target"], answers]))
    check, truth = inputs.apply(validation["vector"]), targets.apply(validation["target"])
    network = MLPRegressor(
        hidden_layer_sizes=HIDDEN, activation="tanh", alpha=WEIGHT_DECAY, batch_size=min(BATCH, len(shown)),
        learning_rate_init=LEARNING_RATE, random_state=plan.seed,
    )
    best_error = np.inf
    best: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    # With more threads the sums of a matrix product depend on how many there are.
    with threadpool_limits(limits=1):
        for epoch in range(1, plan.epochs + 1):
            network.partial_fit(shown, wanted)
            error = float(np.mean((network.predict(check) - truth) ** 2))
            progress(f"epoch {epoch}/{plan.epochs}: validation error {error:.5f}")
            if error < best_error:
                best_error = error
                best = ([array.copy() for array in network.coefs_], [array.copy() for array in network.intercepts_])
    network.coefs_, network.intercepts_ = best
    return Trained(network, inputs, targets)


def generate(plan: Plan, progress: Progress) -> dict[str, list[np.ndarray]]:
    """Rows (ROW) of each session by purpose."""
    seeds = plan.seeds()
    total = sum(len(numbers) for numbers in seeds.values())
    done = 0
    sessions: dict[str, list[np.ndarray]] = {}
    for purpose, numbers in seeds.items():
        sessions[purpose] = []
        for number in numbers:
            sessions[purpose].append(session_rows(number, plan.seconds))
            done += 1
            progress(f"session {done}/{total} of {plan.seconds} s ({purpose})")
    return sessions


def forecasts_of(content: bytes, sessions: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What the ONNX model says, session by session, float32 of shape (rows, OUTPUT_COUNT)."""
    session = open_session(content)
    return [
        session.run([OUTPUT_NAME], {INPUT_NAME: rows["vector"].astype(np.float32)})[0] for rows in sessions
    ]


def parity_of(trained: Trained, sessions: Sequence[np.ndarray], forecasts: Sequence[np.ndarray]) -> float:
    """The largest difference, bps, between scikit-learn's forecasts and the ONNX model's. Raises TrainingError."""
    parity = max(
        float(np.abs(trained.predict(rows["vector"]) - forecast).max())
        for rows, forecast in zip(sessions, forecasts, strict=True)
    )
    if not parity <= PARITY_BPS:
        raise TrainingError(
            f"the ONNX model differs from scikit-learn's by {parity:.3g} bps; allowed is {PARITY_BPS:g}"
        )
    return parity


def recorded_figures(
    content: bytes, baselines: Baselines, recorded: Mapping[str, Sequence[np.ndarray]]
) -> dict[str, dict[str, Any]]:
    """Figures on recordings by their names; ROW arrays of one instrument each, whose index is 0."""
    return {
        name: symbol_figures(sessions, forecasts_of(content, sessions), 0, baselines)
        for name, sessions in recorded.items()
    }


def describe(
    plan: Plan, trained: Trained, content: bytes, sessions: dict[str, list[np.ndarray]],
    recorded: Mapping[str, Sequence[np.ndarray]],
) -> dict[str, Any]:
    """The card, without the fields that bind it to the file. Raises TrainingError."""
    training = np.concatenate(sessions["training"])
    forecasts = forecasts_of(content, sessions["test"])
    baselines = fit_baselines(training, SIGNED_FEATURES)
    parity = parity_of(trained, sessions["test"], forecasts)
    return {
        "name": "short_return",
        "version": MODEL_VERSION,
        "created": DATA_SPEC_DATE,
        "script": "bot4 train",
        "arguments": {
            "seed": plan.seed, "sessions": plan.sessions, "seconds": plan.seconds, "epochs": plan.epochs,
        },
        "use": "Short-horizon forecasts for the market maker on the embedded exchange.",
        "limits": (
            "Trained on generated flow only: its figures there say how well it knows that flow, not how it would do at "
            "a real venue. Those on recordings, of a few minutes of single days, are the nearest to an answer, "
            "and not wholly unseen: the flow's settings were chosen with an eye on statistics of the same files. The "
            "size of a move is forecast badly. It knows two symbols, one venue's way of publishing books, and "
            "nothing of hours, news, fees or its own orders. Not for trading with money before it is trained and "
            "tested on data of the market that it is to trade."
        ),
        "data": {
            "description": DATA_SPEC,
            "sessions": plan.seeds(),
            "split": "by seed: no two sets share a session, and no session is cut",
            "purge": (
                "the last second of each session makes no row, since its answer would lie beyond the end, so no row "
                "knows anything of another session; the streams of two seeds have nothing in common"
            ),
            "rows": {purpose: sum(map(len, items)) for purpose, items in sessions.items()},
            "first_test_session_sha256": rows_digest(sessions["test"][0]),
            "symbols": list(VenueSettings().symbols),
        },
        "features": list(FEATURE_NAMES),
        "inputs": {
            "name": INPUT_NAME,
            "scaling": "inside the graph: 5 % to 95 % range; signed features are not shifted",
            "ignored": "mid has weight exactly 0: the level of the price cannot reach the outputs",
        },
        "outputs": [
            {"name": "return_1s", "unit": "bps", "meaning": "expected return of the mid over the next second"},
            {"name": "absolute_return_1s", "unit": "bps", "meaning": "expected absolute value of it, at least 0"},
        ],
        "architecture": {
            "layers": [len(FEATURE_NAMES), *HIDDEN, 2], "activation": "tanh", "weights": "float32",
            "opset": OPSET, "bytes": len(content),
        },
        "training": {
            "optimiser": "Adam", "learning_rate": LEARNING_RATE, "weight_decay": WEIGHT_DECAY, "batch": BATCH,
            "one_row_in": STRIDE, "mirrored": True, "epoch_chosen_on": "validation sessions",
        },
        "figures": {
            "sessions": "test",
            "interval": "95 %, block bootstrap, blocks of 10 s",
            "linear_imbalance_1_slope_bps": round(baselines.imbalance_slope, 6),
            "linear_last_return_slope": round(baselines.last_slope, 6),
            "mean_absolute_return_bps": round(baselines.mean_size, 6),
            "by_symbol": {
                name: symbol_figures(sessions["test"], forecasts, index, baselines)
                for index, name in enumerate(VenueSettings().symbols)
            },
        },
        "recordings": recorded_figures(content, baselines, recorded),
        "onnx_parity": {
            "peer": "scikit-learn, float64", "max_abs_difference_bps": float(f"{parity:.3g}"),
            "allowed_bps": PARITY_BPS,
        },
        "library_versions": {
            name: version(name) for name in ("numpy", "numba", "scikit-learn", "onnx", "onnxruntime")
        },
    }


def train(
    plan: Plan, recorded: Mapping[str, Sequence[np.ndarray]], progress: Progress = lambda _: None
) -> tuple[bytes, dict[str, Any]]:
    """Generate, fit, measure; (ONNX bytes, card) for `models.card.write_model`.

    recorded: ROW arrays by the name of a recording, for figures; may be empty. Raises TrainingError.
    """
    sessions = generate(plan, progress)
    trained = fit(np.concatenate(sessions["training"]), np.concatenate(sessions["validation"]), plan, progress)
    content = trained.to_onnx()
    return content, describe(plan, trained, content, sessions, recorded)
