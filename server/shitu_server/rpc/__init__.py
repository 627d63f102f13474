"""Thin gRPC servicers: convert, call one layer down, convert back."""
