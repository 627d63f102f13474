"""The whole server beside its models alone."""
