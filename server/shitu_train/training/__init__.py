"""Training loops of the encoder and the detector."""
