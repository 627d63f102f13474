"""A server under load for long."""
