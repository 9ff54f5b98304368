"""A trained network as an ONNX graph: Gemm, Tanh, Gemm, Tanh, Gemm, Max; float32, one input, one output.

The scaling of inputs and targets is folded into the first and the last Gemm, in float64, so that the graph takes
raw features and gives basis points. Where the input scale of a feature is zero its column of the first weight
matrix is exactly zero: the feature cannot reach the output. Max keeps the second output, an expected size, at or
above zero. Tanh bounds the outputs whatever the input is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.records import FEATURE_COUNT, OUTPUT_COUNT

INPUT_NAME = "features"
OUTPUT_NAME = "outputs"
OPSET = 17
IR_VERSION = 8
OUTPUT_FLOOR = np.array([-np.inf, 0.0])


@dataclass(frozen=True)
class Scaling:
    """(value - centre) * factor, column by column; float64 arrays."""

    centre: np.ndarray
    factor: np.ndarray

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Into the network's units."""
        return (values - self.centre) * self.factor

    def undo(self, scaled: np.ndarray) -> np.ndarray:
        """Back. Needs factors that are not zero."""
        return scaled / self.factor + self.centre


def to_onnx(
    weights: Sequence[np.ndarray], biases: Sequence[np.ndarray], inputs: Scaling, targets: Scaling
) -> bytes:
    """The bytes of the model; equal arguments give equal bytes.

    weights: one matrix (from, to) a layer, biases: one vector a layer, as scikit-learn keeps them; tanh between.
    """
    from onnx import TensorProto, helper, numpy_helper

    folded_weights = [matrix.astype(np.float64) for matrix in weights]
    folded_biases = [vector.astype(np.float64) for vector in biases]
    folded_weights[0] = folded_weights[0] * inputs.factor[:, None]
    folded_biases[0] = folded_biases[0] - inputs.centre @ folded_weights[0]
    folded_weights[-1] = folded_weights[-1] / targets.factor
    folded_biases[-1] = folded_biases[-1] / targets.factor + targets.centre

    nodes, constants = [], []
    value = INPUT_NAME
    last = len(folded_weights) - 1
    for layer, (matrix, vector) in enumerate(zip(folded_weights, folded_biases, strict=True)):
        names = [f"weight_{layer}", f"bias_{layer}"]
        for name, array in zip(names, (matrix, vector), strict=True):
            constants.append(numpy_helper.from_array(array.astype(np.float32), name))
        nodes.append(helper.make_node("Gemm", [value, *names], [f"sum_{layer}"]))
        value = f"sum_{layer}"
        if layer < last:
            nodes.append(helper.make_node("Tanh", [value], [f"layer_{layer}"]))
            value = f"layer_{layer}"
    constants.append(numpy_helper.from_array(OUTPUT_FLOOR.astype(np.float32), "floor"))
    nodes.append(helper.make_node("Max", [value, "floor"], [OUTPUT_NAME]))
    graph = helper.make_graph(
        nodes,
        "short_return",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, ["rows", FEATURE_COUNT])],
        [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["rows", OUTPUT_COUNT])],
        constants,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="bot4"
    )
    return bytes(model.SerializeToString(deterministic=True))
