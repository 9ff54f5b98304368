"""Inference with an ONNX model: one vector a call, one thread, float32, buffers bound once.

The adapter of the ml stage: FEATURE records in, PREDICTION records out, control records carried on in order. Pure: the
same vector gives the same bits whatever the batch. A vector or an output that is not finite gives zeros, which a
strategy reads as "no opinion", and is counted.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
from numba import types

from engine.kernel import kernel
from engine.records import FEATURE, FEATURE_COUNT, OUTPUT_COUNT, PREDICTION, Kind
from engine.stage import BYTES, STATE_HEAD, as_bytes
from models.card import ModelError, load_card, load_verified

__all__ = ["DEFAULT_MODEL", "INFERENCE_STATE", "InferenceStage", "Model", "ModelError", "load_card"]

DEFAULT_MODEL = Path(__file__).parent / "short_return.onnx"

# Counters of the ml stage, in shared memory for whoever watches: a state without a kernel.
INFERENCE_STATE = np.dtype(
    [*STATE_HEAD, ("predictions", "<i8"), ("not_finite", "<i8"), ("model_version", "<i8"), ("spare", "<i8", (5,))],
    align=True,
)

_INT64S = types.Array(types.int64, 1, "C")
_FEATURE_SIZE = FEATURE.itemsize
_PREDICTION_SIZE = PREDICTION.itemsize
_VECTOR = int(Kind.VECTOR)
_AS_PREDICTION = int(Kind.PREDICTION)


@kernel(types.int64(BYTES, types.int64, BYTES, _INT64S, types.int64))
def carry_features(inbox: np.ndarray, count: int, outbox: np.ndarray, vectors: np.ndarray, model_version: int) -> int:
    """Copy FEATURE records into PREDICTION records with zero outputs, vectors renamed to predictions.

    vectors: int64[count], out: the indexes of the vectors. Returns how many there are.
    """
    found = 0
    records = inbox.view(FEATURE)
    targets = outbox.view(PREDICTION)
    for index in range(count):
        start = index * _PREDICTION_SIZE
        outbox[start : start + _FEATURE_SIZE] = inbox[index * _FEATURE_SIZE : (index + 1) * _FEATURE_SIZE]
        outbox[start + _FEATURE_SIZE : start + _PREDICTION_SIZE] = 0
        if records[index].kind == _VECTOR:
            targets[index].kind = _AS_PREDICTION
            targets[index].model_version = model_version
            vectors[found] = index
            found += 1
    return found


def open_session(content: bytes) -> ort.InferenceSession:
    """A session on the CPU with one thread that does not spin, from the bytes of a model."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


class Model:
    """One loaded model. `predict_into` is the only call on the hot path."""

    def __init__(self, path: Path = DEFAULT_MODEL) -> None:
        """Raises ModelError."""
        self.card, content = load_verified(path)
        try:
            session = open_session(content)
        except Exception as error:  # onnxruntime raises types of its own that share no public base
            raise ModelError(f"{path}: {type(error).__name__}: not a model that can be loaded") from None
        inputs, outputs = session.get_inputs(), session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1 or inputs[0].type != "tensor(float)":
            raise ModelError(f"{path}: one float input and one output are needed")
        self.version = int(self.card["version"])
        self._session = session
        self._input = np.zeros((1, FEATURE_COUNT), np.float32)
        self._output = np.zeros((1, OUTPUT_COUNT), np.float32)
        binding = session.io_binding()
        # An OrtValue over a numpy array aliases it: write in place, run, read in place.
        self._values = (
            ort.OrtValue.ortvalue_from_numpy(self._input), ort.OrtValue.ortvalue_from_numpy(self._output)
        )
        binding.bind_ortvalue_input(inputs[0].name, self._values[0])
        binding.bind_ortvalue_output(outputs[0].name, self._values[1])
        self._binding = binding

    def predict_into(self, vector: np.ndarray, output: np.ndarray) -> bool:
        """Run one feature vector (float64[FEATURE_COUNT]) into `output` (float32[OUTPUT_COUNT]).

        Returns False, with zeros written, when anything is not finite.
        """
        self._input[0] = vector
        if not np.isfinite(self._input).all():
            output[:] = 0.0
            return False
        self._session.run_with_iobinding(self._binding)
        if not np.isfinite(self._output).all():
            output[:] = 0.0
            return False
        output[:] = self._output[0]
        return True


class InferenceStage:
    """The ml stage as an adapter: `step` has the meaning of a kernel stage's step."""

    def __init__(self, model: Model, state: np.ndarray, batch: int) -> None:
        """state: shape (1,) of INFERENCE_STATE, possibly shared memory; batch: most records a step."""
        self._model = model
        self._state = state
        self._state["model_version"] = model.version
        self.records = np.zeros(batch, PREDICTION)
        self.outbox = as_bytes(self.records)
        self._vectors = np.zeros(batch, np.int64)

    def resize(self, batch: int) -> None:
        """Make room for steps of `batch` records."""
        if batch > len(self.records):
            self.records = np.zeros(2 * batch, PREDICTION)
            self.outbox = as_bytes(self.records)
            self._vectors = np.zeros(2 * batch, np.int64)

    def step(self, inbox: np.ndarray, count: int) -> int:
        """Take `count` FEATURE records (uint8[::1]); the same number of PREDICTION records is in `outbox` then."""
        found = carry_features(inbox, count, self.outbox, self._vectors, self._model.version)
        state = self._state
        for place in range(found):
            record = self.records[self._vectors[place]]
            if not self._model.predict_into(record["vector"], record["output"]):
                state["not_finite"] += 1
        state["predictions"] += found
        state["records_in"] += count
        state["processed"] += count
        state["out"] += count
        if count:
            last = self.records[count - 1]
            state["now_ns"] = max(int(state["now_ns"][0]), int(last["recv_ts_ns"]))
            state["last_ingest_id"] = last["ingest_id"]
        return count
