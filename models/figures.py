"""How good forecasts are: out-of-sample figures beside those of the baselines.

R2 of the return is against the zero forecast (1 - sum of squared errors / sum of squared returns), so the zero
forecast has 0 by definition and a negative value is worse than saying nothing. R2 of the absolute return is against
its mean over the training rows. Sign accuracy counts the rows whose mid moved; a forecast of 0 is wrong there.
Rows overlap in time, so their number is no measure of evidence. Two things are: how many sessions agree, and intervals
from a block bootstrap: sessions are cut into blocks of BLOCK_NS, ten times the horizon, and blocks are drawn again with
replacement, whole. Blocks of one session still share its regime, so the intervals are rather too narrow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.features.vector import IMBALANCE_1, SHORT_RETURN_BPS
from engine.matching.generator import scattered

RETURN, SIZE = 0, 1  # the outputs: return of the next second and its absolute value, bps
BLOCK_NS = 10_000_000_000
DRAWS = 1_000  # of the bootstrap


def r2(truth: np.ndarray, forecast: np.ndarray, base: float = 0.0) -> float:
    """1 - squared error / squared error of the constant `base`; 0 where that never errs."""
    total = float(np.sum((truth - base) ** 2))
    return 1.0 - float(np.sum((truth - forecast) ** 2)) / total if total > 0 else 0.0


def correlation(truth: np.ndarray, forecast: np.ndarray) -> float:
    """Pearson's; 0 where one of them does not vary."""
    if np.ptp(truth) == 0 or np.ptp(forecast) == 0:
        return 0.0
    return float(np.corrcoef(truth, forecast)[0, 1])


def sign_accuracy(truth: np.ndarray, forecast: np.ndarray) -> float:
    """Share of right signs where the truth is not 0."""
    moved = truth != 0
    return float(np.mean(np.sign(truth[moved]) == np.sign(forecast[moved]))) if moved.any() else 0.0


@dataclass(frozen=True)
class Baselines:
    """The plain forecasts that a model has to beat, fitted on the training rows."""

    imbalance_slope: float  # return in bps for each unit of imbalance_1
    last_slope: float  # return in bps for each bps of short_return_bps
    slopes: np.ndarray  # the same for every feature together; no constant, so the mid is left out
    mean_size: float  # bps

    def returns(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Forecasts of the return by name of the baseline, for ROW records."""
        vectors = rows["vector"]
        return {
            "zero": np.zeros(len(rows)),
            "last_return": vectors[:, SHORT_RETURN_BPS].astype(np.float64),
            "linear_last_return": self.last_slope * vectors[:, SHORT_RETURN_BPS],
            "linear_imbalance_1": self.imbalance_slope * vectors[:, IMBALANCE_1],
            "linear_signed_features": vectors @ self.slopes,
        }


def fit_baselines(rows: np.ndarray, signed_features: Sequence[int]) -> Baselines:
    """Least squares through the origin: on imbalance_1, on the last return, and on the signed features together."""
    vectors, returns = rows["vector"], rows["target"][:, RETURN]
    imbalance, last = vectors[:, IMBALANCE_1], vectors[:, SHORT_RETURN_BPS]
    slopes = np.zeros(vectors.shape[1])
    slopes[list(signed_features)] = np.linalg.lstsq(vectors[:, list(signed_features)], returns, rcond=None)[0]
    return Baselines(
        float(imbalance @ returns / (imbalance @ imbalance)), float(last @ returns / (last @ last)), slopes,
        float(rows["target"][:, SIZE].mean()),
    )


def block_errors(times: np.ndarray, truth: np.ndarray, forecast: np.ndarray) -> np.ndarray:
    """Of one session: for each block (squared error, squared truth), shape (blocks, 2); empty blocks are left out."""
    if not len(times):
        return np.zeros((0, 2))
    place = (times - times[0]) // BLOCK_NS
    sums = [np.bincount(place, weights=values**2) for values in (truth - forecast, truth)]
    return np.stack(sums, axis=1)[np.bincount(place) > 0]


def interval(blocks: np.ndarray, others: np.ndarray | None = None) -> list[float] | None:
    """95 % bootstrap interval of R2, or of the gain in R2 over the forecast of other blocks; None below five blocks.

    Draws come from a counter, so the same blocks give the same interval.
    """
    count = len(blocks)
    if count < 5:
        return None
    found = []
    for number in range(DRAWS):
        drawn = np.array([scattered(number * count + place) % count for place in range(count)])
        total = blocks[drawn, 1].sum()
        if total > 0:
            less = total if others is None else others[drawn, 0].sum()
            found.append((less - blocks[drawn, 0].sum()) / total)
    return [round(float(limit), 4) for limit in np.quantile(found, (0.025, 0.975))] if found else None


def _scores(truths: Sequence[np.ndarray], forecasts: Sequence[np.ndarray]) -> dict[str, Any]:
    """Scores of one forecast of the return, over all sessions and in the worst of them."""
    truth, forecast = np.concatenate(truths)[:, RETURN], np.concatenate(forecasts)
    return {
        "r2": round(r2(truth, forecast), 4),
        "correlation": round(correlation(truth, forecast), 4),
        "sign_accuracy": round(sign_accuracy(truth, forecast), 4),
        "worst_session_r2": round(
            min(r2(one[:, RETURN], own) for one, own in zip(truths, forecasts, strict=True)), 4
        ),
    }


def symbol_figures(
    sessions: Sequence[np.ndarray], outputs: Sequence[np.ndarray], instrument: int, baselines: Baselines
) -> dict[str, Any]:
    """Figures of one instrument over sessions that the model has not seen.

    sessions: ROW arrays; outputs: the model's, shape (rows, OUTPUT_COUNT), one array a session.
    """
    truths: list[np.ndarray] = []
    times: list[np.ndarray] = []
    sizes: list[np.ndarray] = []
    forecasts: dict[str, list[np.ndarray]] = {}
    for session, output in zip(sessions, outputs, strict=True):
        own = session["instrument"] == instrument
        truths.append(session["target"][own])
        times.append(session["recv_ts_ns"][own])
        sizes.append(output[own, SIZE].astype(np.float64))
        named = {"model": output[own, RETURN].astype(np.float64), **baselines.returns(session[own])}
        for name, forecast in named.items():
            forecasts.setdefault(name, []).append(forecast)
    truth = np.concatenate(truths)
    returns = {name: _scores(truths, items) for name, items in forecasts.items()}
    blocks = {
        name: np.concatenate([
            block_errors(when, one[:, RETURN], forecast)
            for when, one, forecast in zip(times, truths, items, strict=True)
        ])
        for name, items in forecasts.items()
    }
    returns["model"]["r2_interval"] = interval(blocks["model"])
    for name, items in forecasts.items():
        if name != "model":
            returns[name]["gain_of_model_interval"] = interval(blocks["model"], blocks[name])
            returns[name]["sessions_where_model_is_better"] = sum(
                r2(one[:, RETURN], model) > r2(one[:, RETURN], forecast)
                for one, model, forecast in zip(truths, forecasts["model"], items, strict=True)
            )
    size = np.concatenate(sizes)
    return {
        "rows": len(truth),
        "sessions": len(sessions),
        "blocks": len(blocks["model"]),
        "std_return_bps": round(float(truth[:, RETURN].std()), 4),
        "share_of_rows_with_a_move": round(float(np.mean(truth[:, RETURN] != 0)), 4),
        "return_1s": returns,
        "absolute_return_1s": {
            "model": {
                "r2": round(r2(truth[:, SIZE], size, baselines.mean_size), 4),
                "correlation": round(correlation(truth[:, SIZE], size), 4),
            },
            "training_mean": {"r2": 0.0, "correlation": 0.0},
        },
    }
