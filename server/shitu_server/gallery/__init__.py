"""Galleries: SQLite holds the truth, FAISS searches what is derived from it, one writer orders both."""
