"""The learning floor: data without look-ahead, training against its own reference, inference."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import orjson
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from engine.features.settings import FeatureSettings
from engine.features.vector import MID
from engine.matching.settings import VenueSettings
from engine.records import CONTROL_KINDS, FEATURE, FEATURE_COUNT, OUTPUT_COUNT, PREDICTION, Kind
from engine.stage import as_bytes
from models.card import card_path, write_model
from models.dataset import HORIZON_NS, feature_records, generated_frames, rows_of, session_rows
from models.export import INPUT_NAME
from models.figures import BLOCK_NS, RETURN, SIZE, block_errors, interval
from models.inference import DEFAULT_MODEL, INFERENCE_STATE, InferenceStage, Model, ModelError, load_card
from models.train import (
    PARITY_BPS,
    Plan,
    TrainingError,
    fit,
    forecasts_of,
    parity_of,
    train,
)
from tools.cli import main
from tools.model_page import PAGE, page

SECONDS = 12
INSTRUMENTS = [item.instrument(index) for index, item in enumerate(VenueSettings().listed())]
HEAD_AND_TOUCH = [name for name in FEATURE.names or () if name not in ("kind", "vector")]


@pytest.fixture(scope="module")
def session_frames() -> list[tuple[int, str, bytes]]:
    return list(generated_frames(3, SECONDS))


@pytest.fixture(scope="module")
def session_records(session_frames: list[tuple[int, str, bytes]]) -> np.ndarray:
    return feature_records(session_frames, INSTRUMENTS)


@pytest.fixture(scope="module")
def model() -> Model:
    return Model()


# --- data


def test_targets_equal_a_search_by_hand(session_records: np.ndarray) -> None:
    """Every row of the data set from the records, one by one, with whole numbers for the mids."""
    rows = rows_of(session_records)
    end_ns = int(session_records["recv_ts_ns"][-1])
    expected = []
    for instrument in range(len(INSTRUMENTS)):
        vectors = [
            (int(record["recv_ts_ns"]), int(record["bid_price"] + record["ask_price"]), record["vector"])
            for record in session_records
            if record["kind"] == Kind.VECTOR and record["instrument"] == instrument
        ]
        last = 0
        for position, (then, mid, vector) in enumerate(vectors):
            if then + HORIZON_NS >= end_ns:
                break
            last = max(last, position)
            while last + 1 < len(vectors) and vectors[last + 1][0] <= then + HORIZON_NS:
                last += 1
            expected.append((then, instrument, vector, 10_000 * (vectors[last][1] - mid) / mid))
    assert len(rows) == len(expected) > 1000
    assert {0, 1} == set(rows["instrument"].tolist())
    for row, (then, instrument, vector, answer) in zip(rows, expected, strict=True):
        assert (row["recv_ts_ns"], row["instrument"]) == (then, instrument)
        assert row["vector"].tobytes() == vector.tobytes()
        assert row["target"].tolist() == pytest.approx([answer, abs(answer)], abs=1e-9)
    assert np.mean(rows["target"][:, RETURN] != 0) > 0.5


def test_rows_do_not_see_later_frames(session_frames: list[tuple[int, str, bytes]]) -> None:
    """With another future, vectors before it and targets that end before it stay the same, bit for bit."""
    changed_ns = session_frames[0][0] + 7_000_000_000
    changed = [
        # Other sizes in the books and other takers; what is removed stays removed, or the sides would cross.
        (when, stream, re.sub(rb'(?<!"0\.00)0"\],\["', b'7"],["', payload).replace(b'"m":true', b'"m":false'))
        if when >= changed_ns else (when, stream, payload)
        for when, stream, payload in session_frames
    ]
    one, other = (rows_of(feature_records(frames, INSTRUMENTS)) for frames in (session_frames, changed))
    for instrument in range(len(INSTRUMENTS)):
        before, after = (
            rows[(rows["instrument"] == instrument) & (rows["recv_ts_ns"] < changed_ns)] for rows in (one, other)
        )
        assert before["vector"].tobytes() == after["vector"].tobytes()
        settled = before["recv_ts_ns"] + HORIZON_NS < changed_ns
        assert before[settled].tobytes() == after[settled].tobytes()
        assert 0 < settled.sum() < len(before)
    late = [rows[rows["recv_ts_ns"] > changed_ns + HORIZON_NS] for rows in (one, other)]
    assert late[0].tobytes() != late[1].tobytes()  # the change was one


def test_a_shorter_session_gives_a_prefix_of_the_rows(session_frames: list[tuple[int, str, bytes]]) -> None:
    whole = rows_of(feature_records(session_frames, INSTRUMENTS))
    cut = rows_of(feature_records(session_frames[: len(session_frames) // 2], INSTRUMENTS))
    for instrument in range(len(INSTRUMENTS)):
        short, long = (rows[rows["instrument"] == instrument] for rows in (cut, whole))
        assert 0 < len(short) < len(long)
        assert short.tobytes() == long[: len(short)].tobytes()


@pytest.mark.parametrize("kind", [Kind.BOOK_INVALID, Kind.BOOK_VALID, Kind.GAP])
def test_no_target_reaches_over_a_break_of_the_book(session_records: np.ndarray, kind: Kind) -> None:
    middle = len(session_records) // 2
    lost = np.zeros(1, FEATURE)
    lost["kind"], lost["instrument"] = kind, 1
    lost["recv_ts_ns"] = lost_ns = session_records["recv_ts_ns"][middle]
    rows = rows_of(np.concatenate([session_records[:middle], lost, session_records[middle:]]))
    plain = rows_of(session_records)
    times = rows["recv_ts_ns"][rows["instrument"] == 1]
    assert not np.any((times + HORIZON_NS >= lost_ns) & (times < lost_ns))
    assert rows[rows["instrument"] == 0].tobytes() == plain[plain["instrument"] == 0].tobytes()
    assert len(times) < np.sum(plain["instrument"] == 1)


def test_sessions_repeat_by_seed_and_differ_between_seeds() -> None:
    one, again, other = session_rows(5, 4), session_rows(5, 4), session_rows(6, 4)
    assert len(one) > 100
    assert one.tobytes() == again.tobytes()
    assert one.tobytes() != other.tobytes()


def test_a_frame_that_ingestion_refuses_is_an_error() -> None:
    frames = [(10**18, "btcusdt@trade", b'{"e":"trade"')]
    with pytest.raises(ValueError, match="refused a generated frame of btcusdt@trade"):
        feature_records(frames, INSTRUMENTS)
    assert len(feature_records([], INSTRUMENTS)) == 0
    assert len(rows_of(np.zeros(0, FEATURE))) == 0


def test_no_two_plans_share_a_session() -> None:
    seen: set[int] = set()
    for seed in range(4):
        for numbers in Plan(seed=seed, sessions=10_000).seeds().values():
            assert seen.isdisjoint(numbers)
            seen.update(numbers)
    with pytest.raises(ValueError, match="sessions = 0"):
        Plan(sessions=0)


# --- training


def test_a_small_training_run_exports_what_it_fitted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX against scikit-learn, the same run twice, and the card on disk."""
    pytest.importorskip("sklearn")
    path = tmp_path / "deep" / "tiny.onnx"
    monkeypatch.delenv("BOT4_RECORDINGS", raising=False)
    page_before = PAGE.read_bytes()
    arguments = ["--sessions", "2", "--seconds", "12", "--epochs", "2", "--seed", "9", "--out", str(path)]
    assert main(["train", *arguments]) == 0
    shown = capsys.readouterr().out
    assert "BTCUSDT: " in shown and "ONNX against scikit-learn" in shown
    assert PAGE.read_bytes() == page_before  # it is that of the shipped model

    plan = Plan(seed=9, sessions=2, seconds=12, epochs=2)
    content, card = train(plan, {})
    assert content == path.read_bytes()
    written = orjson.loads(card_path(path).read_bytes())
    assert {key: written[key] for key in card} == orjson.loads(orjson.dumps(card))
    assert card["onnx_parity"]["max_abs_difference_bps"] < 1e-5 <= PARITY_BPS
    assert card["recordings"] == {}
    assert "It was not measured on recordings." in page(written)
    assert Model(path).version == card["version"]

    training, validation = (
        np.concatenate([session_rows(number, plan.seconds) for number in plan.seeds()[purpose]])
        for purpose in ("training", "validation")
    )
    trained = fit(training, validation, plan, lambda _: None)
    assert trained.to_onnx() == content
    outputs = forecasts_of(content, [validation])[0]
    reference = trained.predict(validation["vector"])
    assert np.abs(outputs - reference).max() < 1e-5
    assert np.std(reference[:, RETURN]) > 1e-3  # the two agree about something
    assert parity_of(trained, [validation], [outputs]) == np.abs(outputs - reference).max()
    for spoilt in (outputs + 2 * PARITY_BPS, outputs * np.nan):
        with pytest.raises(TrainingError, match="the ONNX model differs from scikit-learn's by"):
            parity_of(trained, [validation], [spoilt])
    moved = validation.copy()
    moved["vector"][:, MID] *= 17.0
    assert forecasts_of(content, [moved])[0].tobytes() == outputs.tobytes()


def test_bad_arguments_are_usage_errors(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["train", "--seconds", "1"]) == 2
    assert "seconds = 1: allowed is" in capsys.readouterr().err
    assert main(["train", "--recordings", str(tmp_path)]) == 2
    assert "btcusdt_20230404.raw.gz is not in it" in capsys.readouterr().err


def test_bootstrap_intervals_hold_what_they_should() -> None:
    """Independent blocks of which the true R2 is known: it lies inside nearly always."""
    inside = 0
    generator = np.random.default_rng(4)
    times = np.arange(0, 60 * BLOCK_NS, BLOCK_NS // 50)
    for _ in range(20):
        known = generator.normal(size=len(times))
        truth = known + generator.normal(size=len(times))
        low, high = interval(block_errors(times, truth, known)) or [0.0, 0.0]
        inside += low < 0.5 < high
        assert 0.0 < high - low < 0.15
        # Of a forecast against itself nothing is gained; against none as much as its R2.
        blocks = block_errors(times, truth, known)
        assert interval(blocks, blocks) == [0.0, 0.0]
        assert interval(blocks, block_errors(times, truth, np.zeros(len(times)))) == [low, high]
    assert inside >= 17
    assert interval(np.ones((4, 2))) is None
    # Rows of a block that err together widen it: blocks, not rows, are what is drawn.
    shared = np.repeat(generator.normal(size=60), 50)
    wide = interval(block_errors(times, known + shared, known)) or [0.0, 0.0]
    assert wide[1] - wide[0] > 1.5 * (high - low)


# --- serving


def _copy_model(folder: Path) -> Path:
    path = folder / DEFAULT_MODEL.name
    for source in (DEFAULT_MODEL, card_path(DEFAULT_MODEL)):
        shutil.copy(source, folder)
    return path


def _rewrite_card(path: Path, **changes: Any) -> None:
    card = orjson.loads(card_path(path).read_bytes())
    card_path(path).write_bytes(orjson.dumps({**card, **changes}))


def test_one_changed_byte_is_refused(tmp_path: Path) -> None:
    path = _copy_model(tmp_path)
    assert Model(path).version == load_card(path)["version"]
    content = bytearray(path.read_bytes())
    for place in (0, len(content) // 2, len(content) - 1):
        changed = content.copy()
        changed[place] ^= 1
        path.write_bytes(changed)
        for attempt in (Model, load_card):
            with pytest.raises(ModelError, match=r"short_return\.onnx: sha256 .* of its card"):
                attempt(path)
    path.write_bytes(content)
    Model(path)


def test_an_engine_does_not_start_with_a_model_of_other_features(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a user sees it; before anything is started: no session folder, no venue."""
    path = _copy_model(tmp_path)
    _rewrite_card(path, schema_hash="0" * 64)
    config = tmp_path / "bot4.toml"
    config.write_text(
        f'[engine]\nname = "wrong-hash"\ndata_folder = "{tmp_path}/var"\n[model]\npath = "{path}"\n'
    )
    command = [sys.executable, "-m", "tools.cli", "run", "--config", str(config), "--for", "1s"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1
    assert "trained on feature schema 000000000000, this engine computes" in ended.stderr
    assert "Traceback" not in ended.stderr and "trading" not in ended.stdout
    assert not list((tmp_path / "var").glob("sessions/*"))
    assert main(["check", "--config", str(config)]) == 1
    assert "train it again (bot4 train)" in capsys.readouterr().err


def test_models_that_cannot_be_served_are_refused(tmp_path: Path) -> None:
    path = _copy_model(tmp_path)
    with pytest.raises(ModelError, match="trained on feature schema"):
        Model(path, FeatureSettings(trade_flow_ms=5001))
    Model(path, FeatureSettings())
    for changes, message in (
        ({"schema_hash": "0" * 64}, "trained on feature schema 000000000000"),
        ({"schema_hash": None}, "trained on feature schema"),
        ({"version": 0}, "version = 0"),
        ({"version": "2"}, "version = '2'"),
        ({"sha256": None}, "of its card"),
    ):
        _copy_model(tmp_path)
        _rewrite_card(path, **changes)
        with pytest.raises(ModelError, match=message):
            Model(path)
    card_path(path).write_bytes(b"[]")
    with pytest.raises(ModelError, match="one JSON object"):
        Model(path)
    card_path(path).write_bytes(b"{")
    with pytest.raises(ModelError, match="no readable model card"):
        Model(path)
    card_path(path).unlink()
    with pytest.raises(ModelError, match="no readable model card"):
        Model(path)
    write_model(path, b"no graph", {"version": 1})
    with pytest.raises(ModelError, match="not a model that can be loaded"):
        Model(path)
    path.unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        Model(path)


@pytest.mark.parametrize(("columns", "outputs", "rows", "element"), [
    (FEATURE_COUNT + 1, OUTPUT_COUNT, "rows", 1), (FEATURE_COUNT, OUTPUT_COUNT + 1, "rows", 1),
    (FEATURE_COUNT, OUTPUT_COUNT, 2, 1), (FEATURE_COUNT, OUTPUT_COUNT, "rows", 11),
])
def test_a_model_of_another_shape_is_refused(
    tmp_path: Path, columns: int, outputs: int, rows: int | str, element: int
) -> None:
    helper = pytest.importorskip("onnx.helper")
    path = tmp_path / "other.onnx"
    kind = np.float32 if element == 1 else np.float64
    weight = helper.make_tensor("weight", element, [columns, outputs], np.ones(columns * outputs, kind))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"])], "other",
        [helper.make_tensor_value_info("x", element, [rows, columns])],
        [helper.make_tensor_value_info("y", element, [rows, outputs])], [weight],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    write_model(path, made.SerializeToString(), {"version": 1})
    with pytest.raises(ModelError, match="one float32 input of 8 columns and one output of 2"):
        Model(path)


def test_predictions_equal_a_plain_run(model: Model, session_records: np.ndarray) -> None:
    """One vector at a time through bound buffers against one call with all of them: the same bits."""
    vectors = session_records["vector"][session_records["kind"] == Kind.VECTOR]
    expected = ort.InferenceSession(str(DEFAULT_MODEL), providers=["CPUExecutionProvider"]).run(
        None, {INPUT_NAME: vectors.astype(np.float32)}
    )[0]
    output = np.empty(OUTPUT_COUNT, np.float32)
    for vector, wanted in zip(vectors, expected, strict=True):
        assert model.predict_into(vector, output) is True
        assert output.tobytes() == wanted.tobytes()
    assert len(np.unique(expected, axis=0)) > 100


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39, -1e300])
def test_what_is_not_finite_gives_no_opinion(model: Model, session_records: np.ndarray, bad: float) -> None:
    vector = session_records["vector"][session_records["kind"] == Kind.VECTOR][50].copy()
    sound, output = np.empty(OUTPUT_COUNT, np.float32), np.empty(OUTPUT_COUNT, np.float32)
    assert model.predict_into(vector, sound)
    for place in range(FEATURE_COUNT):
        broken = vector.copy()
        broken[place] = bad
        output[:] = 7.0
        assert model.predict_into(broken, output) is False
        assert output.tolist() == [0.0, 0.0]
        assert model.predict_into(vector, output) is True
        assert output.tobytes() == sound.tobytes()


@hypothesis_settings(max_examples=200)
@given(numbers=st.lists(st.floats(), min_size=FEATURE_COUNT, max_size=FEATURE_COUNT))
def test_outputs_are_always_finite_and_bounded(model: Model, numbers: list[float]) -> None:
    output = np.empty(OUTPUT_COUNT, np.float32)
    said = model.predict_into(np.array(numbers), output)
    assert np.isfinite(output).all()
    assert np.abs(output).max() < 10.0  # bps: tanh bounds what a wild input can say
    assert output[SIZE] >= 0
    assert said or not output.any()


def _mixed_records(session_records: np.ndarray) -> np.ndarray:
    """Vectors, some of them broken, among control records of every kind, with noise in every other field."""
    rng = random.Random(4)
    records = session_records[:900].copy()
    for index in range(0, len(records), 3):
        records[index : index + 1] = np.frombuffer(rng.randbytes(FEATURE.itemsize), FEATURE)
        records["kind"][index] = rng.choice(CONTROL_KINDS)
    vectors = np.flatnonzero(records["kind"] == Kind.VECTOR)
    records["vector"][vectors[5::40], 2] = np.nan
    records["recv_ts_ns"] = np.arange(len(records)) + 10**18
    records["ingest_id"] = np.arange(len(records)) // 2 + 1
    return records


def _run(model: Model, records: np.ndarray, splits: list[int], batch: int) -> tuple[np.ndarray, np.ndarray]:
    """(predictions, state) of a stage whose outbox starts as noise."""
    state = np.zeros(1, INFERENCE_STATE)
    stage = InferenceStage(model, state, batch)
    stage.outbox[:] = 255
    parts, start = [], 0
    for end in [*splits, len(records)]:
        assert stage.step(as_bytes(records[start:end].copy()), end - start) == end - start
        parts.append(stage.records[: end - start].copy())
        start = end
    return np.concatenate(parts), state


def test_predictions_do_not_depend_on_batches(model: Model, session_records: np.ndarray) -> None:
    records = _mixed_records(session_records)
    whole, state = _run(model, records, [], len(records))
    rng = random.Random(11)
    for splits in (
        list(range(1, len(records))), list(range(64, len(records), 64)),
        sorted(rng.choices(range(len(records)), k=40)), sorted(rng.choices(range(len(records)), k=200)),
    ):
        parts, other = _run(model, records, splits, len(records))
        assert parts.tobytes() == whole.tobytes()
        assert other.tobytes() == state.tobytes()


def test_records_are_carried_in_order(model: Model, session_records: np.ndarray) -> None:
    records = _mixed_records(session_records)
    made, state = _run(model, records, [], len(records))
    is_vector = records["kind"] == Kind.VECTOR
    broken = is_vector & ~np.isfinite(records["vector"]).all(axis=1)
    assert made.dtype == PREDICTION
    for name in HEAD_AND_TOUCH:
        assert made[name].tobytes() == records[name].tobytes()
    assert made["vector"].tobytes() == records["vector"].tobytes()
    assert not made["spare_tail"].any()

    control = ~is_vector
    assert set(records["kind"][control]) == {int(kind) for kind in CONTROL_KINDS}
    assert (made["kind"][control] == records["kind"][control]).all()
    assert not made["output"][control].any()
    assert not made["model_version"][control].any()

    assert (made["kind"][is_vector] == Kind.PREDICTION).all()
    assert (made["model_version"][is_vector] == model.version).all()
    assert not made["output"][broken].any()
    output = np.empty(OUTPUT_COUNT, np.float32)
    for index in np.flatnonzero(is_vector & ~broken):
        assert model.predict_into(records["vector"][index].copy(), output)
        assert made["output"][index].tobytes() == output.tobytes()

    (row,) = state
    assert row["records_in"] == row["processed"] == row["out"] == len(records)
    assert row["predictions"] == is_vector.sum() > 100
    assert row["not_finite"] == broken.sum() > 5
    assert row["model_version"] == model.version
    assert row["now_ns"] == records["recv_ts_ns"].max()
    assert row["last_ingest_id"] == records["ingest_id"].max()


def test_a_batch_that_does_not_fit_is_refused(model: Model, session_records: np.ndarray) -> None:
    stage = InferenceStage(model, np.zeros(1, INFERENCE_STATE), 4)
    records = session_records[:5].copy()
    for count in (5, -1):
        with pytest.raises(ValueError, match="room for 4"):
            stage.step(as_bytes(records), count)
    assert stage.step(as_bytes(records), 0) == 0
