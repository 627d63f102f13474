"""Settings for a machine."""
