"""The model that is shipped: its card tells the truth, and it beats the baselines on sessions that none has seen."""

from __future__ import annotations

import hashlib

import numpy as np
import onnxruntime as ort
import pytest

from engine.features.vector import FEATURE_NAMES, schema_hash
from engine.matching.settings import VenueSettings
from engine.records import FEATURE_COUNT, OUTPUT_COUNT
from models.card import read_card
from models.dataset import rows_digest, session_rows
from models.export import INPUT_NAME, OUTPUT_NAME
from models.figures import RETURN, SIZE, fit_baselines, r2, sign_accuracy
from models.inference import DEFAULT_MODEL, load_card
from models.train import SIGNED_FEATURES, Plan, forecasts_of, recorded_figures
from tests.recordings import require_capture
from tools.model_page import PAGE, page
from tools.train import recorded_rows

FRESH_SESSIONS = (987_654, 987_655, 987_656, 987_657)  # beyond every seed of the card
INSTRUMENTS = [item.instrument(index) for index, item in enumerate(VenueSettings().listed())]


def test_the_shipped_card_tells_the_truth() -> None:
    card = load_card(DEFAULT_MODEL)
    assert card["schema_hash"] == schema_hash()
    assert card["sha256"] == hashlib.sha256(DEFAULT_MODEL.read_bytes()).hexdigest()
    assert card["features"] == list(FEATURE_NAMES)
    plan = Plan(**card["arguments"])
    assert card["data"]["sessions"] == plan.seeds()
    assert DEFAULT_MODEL.stat().st_size == card["architecture"]["bytes"] < 10_000
    seeds = list(card["data"]["sessions"].values())
    assert sum(map(len, seeds)) == len(set().union(*seeds))  # no session serves twice
    assert card["onnx_parity"]["max_abs_difference_bps"] < card["onnx_parity"]["allowed_bps"]
    for figures in card["figures"]["by_symbol"].values():
        scores = figures["return_1s"]
        assert scores["model"]["r2"] > scores["linear_imbalance_1"]["r2"] > 0
        low, high = scores["model"]["r2_interval"]
        assert 0 < low < scores["model"]["r2"] < high
        for name in ("zero", "last_return", "linear_last_return", "linear_imbalance_1"):
            assert scores[name]["gain_of_model_interval"][0] > 0
    assert len(card["recordings"]) == 4


def test_the_page_is_that_of_the_card() -> None:
    assert PAGE.read_text() == page(read_card(DEFAULT_MODEL)), "python -m tools.model_page > docs/model_card.md"


def test_the_figures_on_a_recording_can_be_made_again() -> None:
    card = load_card(DEFAULT_MODEL)
    name = "ws/binance-usdm/btcusdt_20230404.raw.gz"
    rows = recorded_rows(require_capture(name))
    baselines = fit_baselines(session_rows(card["data"]["sessions"]["training"][0], 20), SIGNED_FEATURES)
    found = recorded_figures(DEFAULT_MODEL.read_bytes(), baselines, {name: [rows]})[name]
    written = card["recordings"][name]
    assert (found["rows"], found["blocks"]) == (written["rows"], written["blocks"])
    scores, claimed = found["return_1s"]["model"], written["return_1s"]["model"]
    assert scores.pop("r2_interval") == pytest.approx(claimed.pop("r2_interval"), abs=1e-4)
    assert scores == pytest.approx(claimed, abs=1e-4)
    # And by hand.
    outputs = forecasts_of(DEFAULT_MODEL.read_bytes(), [rows])[0].astype(np.float64)
    assert claimed["r2"] == pytest.approx(r2(rows["target"][:, RETURN], outputs[:, RETURN]), abs=1e-4)


def test_the_card_belongs_to_the_flow_of_this_tree() -> None:
    data = load_card(DEFAULT_MODEL)["data"]
    rows = session_rows(data["sessions"]["test"][0], load_card(DEFAULT_MODEL)["arguments"]["seconds"])
    assert rows_digest(rows) == data["first_test_session_sha256"], (
        "flow, features or data set changed since the model was trained: bot4 train"
    )


def test_the_shipped_model_beats_the_baselines_on_unseen_sessions() -> None:
    card = load_card(DEFAULT_MODEL)
    assert set(FRESH_SESSIONS).isdisjoint(number for numbers in card["data"]["sessions"].values() for number in numbers)
    sessions = [session_rows(number, 45) for number in FRESH_SESSIONS]
    rows = np.concatenate(sessions)
    outputs = np.concatenate(forecasts_of(DEFAULT_MODEL.read_bytes(), sessions)).astype(np.float64)
    baselines = fit_baselines(rows, SIGNED_FEATURES)  # fitted on the answers themselves: the best they can do
    for instrument in range(len(INSTRUMENTS)):
        own = rows["instrument"] == instrument
        truth, forecast = rows["target"][own], outputs[own]
        lines = baselines.returns(rows[own])
        assert r2(truth[:, RETURN], forecast[:, RETURN]) > r2(truth[:, RETURN], lines["linear_imbalance_1"]) > 0
        right = sign_accuracy(truth[:, RETURN], forecast[:, RETURN])
        assert right > sign_accuracy(truth[:, RETURN], lines["linear_imbalance_1"]) > 0.5
        # Sizes have heavy tails and are forecast badly, as the card says: not much worse than by their mean.
        assert r2(truth[:, SIZE], forecast[:, SIZE], card["figures"]["mean_absolute_return_bps"]) > -0.05
        # Shuffled answers: what no skill looks like.
        shuffled = np.random.default_rng(1).permutation(truth[:, RETURN])
        assert r2(shuffled, forecast[:, RETURN]) < 0
    assert outputs[:, SIZE].min() >= 0


def test_the_graph_has_one_float_input_and_one_float_output() -> None:
    session = ort.InferenceSession(str(DEFAULT_MODEL), providers=["CPUExecutionProvider"])
    (source,), (result,) = session.get_inputs(), session.get_outputs()
    assert (source.name, source.type, source.shape[1]) == (INPUT_NAME, "tensor(float)", FEATURE_COUNT)
    assert (result.name, result.type, result.shape[1]) == (OUTPUT_NAME, "tensor(float)", OUTPUT_COUNT)
