"""Search, and recall beside speed."""
