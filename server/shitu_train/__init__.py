"""Training side of shitu: drawn data, Paddle architectures, training, conversion to ONNX and evaluation."""
