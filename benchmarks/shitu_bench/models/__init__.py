"""Models alone."""
