"""How good forecasts are: out-of-sample figures beside those of the baselines.

R2 of the return is against the zero forecast (1 - sum of squared errors / sum of squared returns), so the zero
forecast has 0 by definition and a negative value is worse than saying nothing. R2 of the absolute return is against
the constant mean of the training rows. Sign accuracy counts rows whose mid moved; a forecast of 0 is then wrong.
Rows overlap in time, so their number is no measure of evidence; that is how many sessions agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.features.vector import IMBALANCE_1

RETURN, SIZE = 0, 1  # the outputs


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


def fit_through_origin(rows: np.ndarray) -> float:
    """The coefficient of the baseline: least squares of the return on imbalance_1 alone, without a constant."""
    imbalance, returns = rows["vector"][:, IMBALANCE_1], rows["target"][:, RETURN]
    return float(imbalance @ returns / (imbalance @ imbalance))


def _of_return(truth: np.ndarray, forecast: np.ndarray) -> dict[str, float]:
    return {
        "r2": round(r2(truth, forecast), 4),
        "correlation": round(correlation(truth, forecast), 4),
        "sign_accuracy": round(sign_accuracy(truth, forecast), 4),
    }


def symbol_figures(
    sessions: Sequence[np.ndarray], forecasts: Sequence[np.ndarray], instrument: int, coefficient: float,
    mean_size: float,
) -> dict[str, Any]:
    """Figures of one instrument.

    sessions: ROW arrays; forecasts: shape (rows, OUTPUT_COUNT), one a session; coefficient: of the baseline on
    imbalance_1; mean_size: the baseline of the absolute return, bps.
    """
    chosen = [session["instrument"] == instrument for session in sessions]
    truths = [session["target"][own] for session, own in zip(sessions, chosen, strict=True)]
    outputs = [forecast[own].astype(np.float64) for forecast, own in zip(forecasts, chosen, strict=True)]
    lines = [
        coefficient * session["vector"][own, IMBALANCE_1] for session, own in zip(sessions, chosen, strict=True)
    ]
    scores = [
        (r2(truth[:, RETURN], output[:, RETURN]), r2(truth[:, RETURN], line))
        for truth, output, line in zip(truths, outputs, lines, strict=True)
    ]
    truth, output, line = np.concatenate(truths), np.concatenate(outputs), np.concatenate(lines)
    return {
        "rows": len(truth),
        "sessions": len(sessions),
        "share_of_rows_with_a_move": round(float(np.mean(truth[:, RETURN] != 0)), 4),
        "return_1s": {
            "model": _of_return(truth[:, RETURN], output[:, RETURN]),
            "zero": {"r2": 0.0, "correlation": 0.0, "sign_accuracy": 0.0},
            "linear_imbalance_1": _of_return(truth[:, RETURN], line),
            "sessions_where_model_beats_zero": sum(model > 0 for model, _ in scores),
            "sessions_where_model_beats_linear": sum(model > linear for model, linear in scores),
            "worst_session_r2": round(min(model for model, _ in scores), 4),
        },
        "absolute_return_1s": {
            "model": {
                "r2": round(r2(truth[:, SIZE], output[:, SIZE], mean_size), 4),
                "correlation": round(correlation(truth[:, SIZE], output[:, SIZE]), 4),
            },
            "training_mean": {"r2": 0.0, "correlation": 0.0},
        },
    }
