"""Paddle to ONNX: export, canonical names, preprocessing and post-processing in the graph, parity gate."""
