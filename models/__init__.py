"""Learning: data sets, training, model cards, ONNX inference."""
