"""A connection to a server: the channel, what is called again, how long anything is waited for, whose errors come out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from itertools import cycle
from types import TracebackType
from typing import Any, Final, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from typing_extensions import Self

from shitu.v1 import gallery_pb2, gallery_pb2_grpc, recognition_pb2_grpc
from shitu_client.call_endings import CallEnding
from shitu_client.errors import DeadlineExceededError, UnsupportedError, error_of_call, older_server

T = TypeVar("T")

_END: Final = grpc.aio.EOF  # type: ignore[attr-defined]  # the stubs lack it

DEFAULT_SERVER: Final = "127.0.0.1:8200"
DEFAULT_TIMEOUT_S: Final = 30.0
DEFAULT_STALL_TIMEOUT_S: Final = 120.0

MOST_CONNECTIONS: Final = 64
MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
_RETRY_BUFFER_BYTES: Final = 32 * 1024 * 1024
"""What is larger is not repeated. gRPC's own limit is 256 KiB, which one photo exceeds; `items.chunked` makes requests of 16 MiB."""
_FINISH_STALLS: Final = 10
"""How many times longer than between two messages the one reply to an upload is waited for: the server works on all of it, and
has no way to tell how far it is."""
_REPEATABLE: Final = {
    "shitu.v1.RecognitionService": ("Recognize", "BatchRecognize", "Detect", "Embed", "ListEncoders"),
    "shitu.v1.GalleryService": (
        # Reads. Of the stream of Snapshot gRPC repeats only a call that brought nothing yet.
        *("GetGallery", "ListGalleries", "ListItems", "GetItem", "Search", "GetCapabilities", "Snapshot"),
        # Writes that say what shall be, not what shall change: done twice they leave and answer the same.
        *("AddItems", "UpdateItems", "SetAlias"),
    ),
}
"""Methods that may be called again after UNAVAILABLE, when the first call may have been done and only its reply been lost.

Not the others: to create or restore a gallery again fails because it is there, to delete or remove again answers that nothing is
there, Reembed is refused when it is done, and Rollback undoes itself."""
_RETRY_TOKENS: Final = 200
"""Each failed attempt takes one, each success gives a tenth back, and with half of them gone nothing is repeated. A hundred are enough
for all that is in flight when a gateway is started again; a server that stays in trouble gets a tenth more calls, not four times as
many."""
_RETRIES: Final = json.dumps(
    {
        "retryThrottling": {"maxTokens": _RETRY_TOKENS, "tokenRatio": 0.1},
        "methodConfig": [
            {
                "name": [
                    {"service": service, "method": method}
                    for service, methods in _REPEATABLE.items()
                    for method in methods
                ],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.2s",
                    "maxBackoff": "2s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
    }
)


def _channel(server: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(
        server,
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.service_config", _RETRIES),
            ("grpc.per_rpc_retry_buffer_size", _RETRY_BUFFER_BYTES),
            ("grpc.keepalive_time_ms", 30_000),
            # Channels to the same server would share one connection.
            ("grpc.use_local_subchannel_pool", 1),
        ],
    )


class Connection:
    """What all calls of a client share; for use in one event loop."""

    def __init__(
        self,
        server: str = DEFAULT_SERVER,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        stall_timeout_s: float = DEFAULT_STALL_TIMEOUT_S,
        connections: int = 1,
    ) -> None:
        """Connect at the first call.

        Args:
            server: host:port.
            timeout_s: of each request.
            stall_timeout_s: between two messages of a stream.
            connections: calls take them in turn, 1 to 64. All calls of one connection go to the same one of a server's gateway
                processes: a program that keeps several of them busy needs more than one.
        """
        if not 1 <= connections <= MOST_CONNECTIONS:
            raise ValueError(f"expected 1 to {MOST_CONNECTIONS} connections, got {connections}")
        self._server = server
        self._timeout_s = timeout_s
        self._stall_timeout_s = stall_timeout_s
        self._channels = [_channel(server) for _ in range(connections)]
        self._health: Any = health_pb2_grpc.HealthStub(self._channels[0])
        self._recognition_stubs = cycle([recognition_pb2_grpc.RecognitionServiceStub(one) for one in self._channels])
        self._gallery_stubs = cycle([gallery_pb2_grpc.GalleryServiceStub(one) for one in self._channels])
        self._asking = asyncio.Lock()
        self._is_new_server = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        await asyncio.gather(*(channel.close(grace=None) for channel in self._channels))

    @property
    def _recognition(self) -> Any:
        """The stub of the connection whose turn it is."""
        return next(self._recognition_stubs)

    @property
    def _galleries(self) -> Any:
        return next(self._gallery_stubs)

    async def is_serving(self) -> bool:
        """Return whether the server says SERVING on grpc.health.v1. Raises UnavailableError where nobody answers."""
        reply = await self._call(self._health.Check, health_pb2.HealthCheckRequest())
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    async def _call(self, method: Callable[..., Awaitable[Any]], request: Any) -> Any:
        try:
            return await method(request, timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise error_of_call(error, self._server) from error

    async def _require(self, features: Mapping[str, object]) -> None:
        """Refuse what an older server would pass over in silence, for it knows no such fields of requests.

        Those servers have no GetCapabilities. One that has it is asked once.

        Args:
            features: what is wished, by its name; a false value is no wish.

        Raises:
            UnsupportedError: the server is older.
        """
        wished = next((feature for feature, value in features.items() if value), None)
        if wished is None:
            return
        async with self._asking:
            if self._is_new_server:
                return
            try:
                await self._call(self._galleries.GetCapabilities, gallery_pb2.GetCapabilitiesRequest())
            except UnsupportedError as error:
                raise older_server(self._server, wished) from error
            self._is_new_server = True

    async def _download(self, method: Callable[..., Any], request: Any) -> AsyncGenerator[Any, None]:
        """Yield what a call streams; it lasts as long as messages come, and is cancelled when nobody reads on."""
        call = method(request)
        try:
            while (response := await self._within(self._stall_timeout_s, call.read())) is not _END:
                yield response
        except grpc.RpcError as error:
            raise error_of_call(error, self._server) from error
        finally:
            call.cancel()

    async def _upload(self, method: Callable[..., Any], requests: AsyncGenerator[Any, None]) -> Any:
        """Stream to a call and return its reply; a call whose requests fail is cancelled."""
        call = method()
        ending = CallEnding(call)
        try:
            await self._send_all(call, requests)
            return await self._within(_FINISH_STALLS * self._stall_timeout_s, call)
        except grpc.RpcError as error:
            raise error_of_call(await ending.of(error), self._server) from error
        finally:
            call.cancel()

    async def _send_all(self, call: Any, requests: AsyncGenerator[Any, None]) -> None:
        # The server may end the call before: then the call tells why.
        with suppress(asyncio.InvalidStateError, grpc.RpcError):
            async with aclosing(requests):
                async for request in requests:
                    await self._within(self._stall_timeout_s, call.write(request))
            await call.done_writing()

    async def _within(self, limit_s: float, waited_for: Awaitable[T]) -> T:
        try:
            return await asyncio.wait_for(waited_for, limit_s)
        except asyncio.TimeoutError as error:
            raise DeadlineExceededError(
                f"{self._server}: no progress for {limit_s:g} s, so the call was given up"
            ) from error
