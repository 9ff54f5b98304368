"""Inference with an ONNX model: one vector a call, one thread, float32, buffers bound once.

The adapter of the ml stage: FEATURE records in, PREDICTION records out, control records carried on in order. Pure: the
same vector gives the same bits whatever the batch. A vector or an output that is not finite in float32 gives zeros,
which a strategy reads as "no opinion", and is counted.
Invariant: records_in = processed = out. Cost: a few us a vector, nearly all of it onnxruntime's call.
onnxruntime is imported by whoever loads a model: everybody else needs the counters alone, and 60 MB less.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numba import types

from engine.direct import direct
from engine.features.settings import FeatureSettings
from engine.kernel import kernel
from engine.records import FEATURE, FEATURE_COUNT, OUTPUT_COUNT, PREDICTION, Kind
from engine.stage import BYTES, STATE_HEAD, as_bytes
from models.card import ModelError, load_card, load_verified

__all__ = [
    "DEFAULT_MODEL", "INFERENCE_STATE", "InferenceStage", "Model", "ModelError", "Scores", "load_card",
    "open_session",
]

DEFAULT_MODEL = Path(__file__).parent / "short_return.onnx"

# Counters of the ml stage, in shared memory for whoever watches.
INFERENCE_STATE = np.dtype(
    [*STATE_HEAD, ("predictions", "<i8"), ("not_finite", "<i8"), ("model_version", "<i8"), ("spare", "<i8", (5,))],
    align=True,
)

_INT64S = types.Array(types.int64, 1, "C")
_FLOAT32S = types.Array(types.float32, 1, "C")
_FLOAT64S = types.Array(types.float64, 1, "C")
_FEATURE_SIZE = FEATURE.itemsize
_PREDICTION_SIZE = PREDICTION.itemsize
_VECTOR = int(Kind.VECTOR)
_AS_PREDICTION = int(Kind.PREDICTION)


@kernel(types.int64(BYTES, BYTES, types.int64, BYTES, _INT64S))
def carry_features(
    state_bytes: np.ndarray, inbox: np.ndarray, count: int, outbox: np.ndarray, vectors: np.ndarray
) -> int:
    """Copy FEATURE records into PREDICTION records with zero outputs, vectors renamed to predictions; count them.

    vectors: int64[count], out: the indexes of the vectors. Returns how many there are.
    """
    state = state_bytes.view(INFERENCE_STATE)[0]
    records = inbox.view(FEATURE)
    targets = outbox.view(PREDICTION)
    found = 0
    for index in range(count):
        start = index * _PREDICTION_SIZE
        outbox[start : start + _FEATURE_SIZE] = inbox[index * _FEATURE_SIZE : (index + 1) * _FEATURE_SIZE]
        outbox[start + _FEATURE_SIZE : start + _PREDICTION_SIZE] = 0
        state.now_ns = max(state.now_ns, records[index].recv_ts_ns)
        state.last_ingest_id = max(state.last_ingest_id, records[index].ingest_id)
        if records[index].kind == _VECTOR:
            targets[index].kind = _AS_PREDICTION
            targets[index].model_version = state.model_version
            vectors[found] = index
            found += 1
    state.predictions += found
    state.records_in += count
    state.processed += count
    state.out += count
    return found


@kernel(inline=True)
def _load(vector: np.ndarray, target: np.ndarray) -> bool:
    """Round a vector to float32 into `target`; False when a number is not finite then."""
    finite = True
    for place in range(FEATURE_COUNT):
        target[place] = np.float32(vector[place])
        finite = finite and np.isfinite(target[place])
    return finite


@kernel(inline=True)
def _store(output: np.ndarray, target: np.ndarray) -> bool:
    """Copy outputs; False, with zeros copied, when one of them is not finite."""
    finite = True
    for place in range(OUTPUT_COUNT):
        finite = finite and np.isfinite(output[place])
    for place in range(OUTPUT_COUNT):
        target[place] = output[place] if finite else np.float32(0.0)
    return finite


@kernel(types.boolean(_FLOAT64S, _FLOAT32S))
def _load_finite(vector: np.ndarray, target: np.ndarray) -> bool:
    return _load(vector, target)


@kernel(types.boolean(_FLOAT32S, _FLOAT32S))
def _store_finite(output: np.ndarray, target: np.ndarray) -> bool:
    return _store(output, target)


@kernel(types.boolean(BYTES, types.int64, _FLOAT32S))
def _load_record(outbox: np.ndarray, index: int, target: np.ndarray) -> bool:
    return _load(outbox.view(PREDICTION)[index].vector, target)


@kernel(types.boolean(_FLOAT32S, BYTES, types.int64))
def _store_record(output: np.ndarray, outbox: np.ndarray, index: int) -> bool:
    return _store(output, outbox.view(PREDICTION)[index].output)


# They are called for every vector.
_carry, _load_from, _store_into = direct(carry_features), direct(_load_record), direct(_store_record)


def open_session(content: bytes) -> Any:
    """An onnxruntime.InferenceSession on the CPU with one thread that does not spin, from the bytes of a model."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _takes_and_gives(session: Any) -> bool:
    """Whether a model maps one float tensor of FEATURE_COUNT columns to one of OUTPUT_COUNT, a single row at least."""
    for values, columns in ((session.get_inputs(), FEATURE_COUNT), (session.get_outputs(), OUTPUT_COUNT)):
        if len(values) != 1 or values[0].type != "tensor(float)":
            return False
        shape = values[0].shape
        # A dimension that is free has a name, or None.
        if len(shape) != 2 or shape[1] != columns or (isinstance(shape[0], int) and shape[0] != 1):
            return False
    return True


class Scores(Protocol):
    """What an InferenceStage asks: `run` takes `input` to `output`, as a Model does."""

    version: int
    input: np.ndarray
    output: np.ndarray

    def run(self) -> None:
        """From `input` to `output`."""


class Model:
    """One loaded model: `run` takes `input`, float32[FEATURE_COUNT], to `output`, float32[OUTPUT_COUNT]."""

    def __init__(self, path: Path = DEFAULT_MODEL, settings: FeatureSettings | None = None) -> None:
        """settings: the features that the engine computes, for None the default ones. Raises ModelError."""
        import onnxruntime as ort

        self.card, content = load_verified(path, settings)
        try:
            session = open_session(content)
        except Exception as error:  # onnxruntime raises types of its own that share no public base
            raise ModelError(f"{path}: {type(error).__name__}: not a model that can be loaded") from None
        if not _takes_and_gives(session):
            raise ModelError(
                f"{path}: one float32 input of {FEATURE_COUNT} columns and one output of {OUTPUT_COUNT} are needed"
            )
        self.version = int(self.card["version"])
        inputs, outputs = np.zeros((1, FEATURE_COUNT), np.float32), np.zeros((1, OUTPUT_COUNT), np.float32)
        self.input, self.output = inputs[0], outputs[0]
        # An OrtValue over a numpy array aliases it: write in place, run, read in place.
        self._values = (ort.OrtValue.ortvalue_from_numpy(inputs), ort.OrtValue.ortvalue_from_numpy(outputs))
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(session.get_inputs()[0].name, self._values[0])
        self._binding.bind_ortvalue_output(session.get_outputs()[0].name, self._values[1])
        self._session = session

    def run(self) -> None:
        """From `input` to `output`."""
        self._session.run_with_iobinding(self._binding)

    def predict_into(self, vector: np.ndarray, output: np.ndarray) -> bool:
        """Run one feature vector (float64[FEATURE_COUNT]) into `output` (float32[OUTPUT_COUNT]).

        Returns False, with zeros written, when anything is not finite.
        """
        if not _load_finite(vector, self.input):
            output[:] = 0.0
            return False
        self.run()
        return bool(_store_finite(self.output, output))


class InferenceStage:
    """The ml stage as an adapter: `step` has the meaning of a kernel stage's step."""

    def __init__(self, model: Scores, state: np.ndarray, batch: int) -> None:
        """state: shape (1,) of INFERENCE_STATE, possibly shared memory; batch: most records a step."""
        self._model = model
        self._state = state
        self._state_bytes = as_bytes(state)
        self._state["model_version"] = model.version
        self.records = np.zeros(batch, PREDICTION)
        self.outbox = as_bytes(self.records)
        self._vectors = np.zeros(batch, np.int64)
        self._places = self._vectors.data  # whose items are plain integers

    def step(self, inbox: np.ndarray, count: int) -> int:
        """Take `count` FEATURE records (uint8[::1]), at most `batch`; as many PREDICTION records are in `outbox` then.

        Raises ValueError for more than `batch`: writing past the outbox would corrupt memory.
        """
        if not 0 <= count <= len(self.records):
            raise ValueError(f"inference: a batch of {count} records, room for {len(self.records)}")
        model, outbox, places = self._model, self.outbox, self._places
        for number in range(_carry(self._state_bytes, inbox, count, outbox, self._vectors)):
            index = places[number]
            finite = _load_from(outbox, index, model.input)
            if finite:
                model.run()
                finite = _store_into(model.output, outbox, index)
            if not finite:  # the outputs are zeros
                self._state["not_finite"] += 1
        return count
