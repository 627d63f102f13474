"""Training data: drawn crops and scenes, and real product photos."""
