"""Load over gRPC: requests, when they are sent, what came back."""
