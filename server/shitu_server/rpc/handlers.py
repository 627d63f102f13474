"""Wrapping the handlers of methods, whatever they stream."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

Context = Any
"""grpc.aio.ServicerContext; the stubs do not agree on its type parameters."""
Answer = Callable[[Any, Context], Awaitable[Any]]
"""Takes a request, or an iterator of them, and returns one response."""
Answers = Callable[[Any, Context], AsyncIterator[Any]]
"""Takes a request, or an iterator of them, and yields responses."""


def wrapped(handler: Any, one: Callable[[Answer], Answer], many: Callable[[Answers], Answers]) -> Any:
    """Return a handler whose method goes through `one`, where it returns one response, or else through `many`."""
    codecs = (handler.request_deserializer, handler.response_serializer)
    if handler.unary_unary:
        return grpc.unary_unary_rpc_method_handler(one(handler.unary_unary), *codecs)
    if handler.stream_unary:
        return grpc.stream_unary_rpc_method_handler(one(handler.stream_unary), *codecs)
    if handler.unary_stream and not inspect.isasyncgenfunction(handler.unary_stream):
        return handler  # it writes its responses itself, as the health service does
    if handler.unary_stream:
        return grpc.unary_stream_rpc_method_handler(many(handler.unary_stream), *codecs)
    return grpc.stream_stream_rpc_method_handler(many(handler.stream_stream), *codecs)
