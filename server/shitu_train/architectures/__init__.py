"""Paddle architectures, with the parameter names of the official checkpoints."""
