"""Galleries in a Milvus server, for more vectors than one machine holds."""
