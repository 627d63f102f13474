"""Conversions between the values of `types`, the errors of `errors` and protobuf messages; both ends of a socket use them."""
