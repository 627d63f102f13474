"""Calls over several connections, and what is noted of each: as little work as can be, for it is done on the server's machine."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable, Sequence
from typing import Any, Final

import grpc
import grpc.aio
import numpy as np
from google.rpc import error_details_pb2, status_pb2

from shitu.v1 import recognition_pb2
from shitu_bench.errors import BenchError
from shitu_bench.load.plans import LoadRequest
from shitu_bench.load.tallies import OK, STAGES, Tally

_MAX_MESSAGE_BYTES: Final = 64 << 20
# No policy of retries: what is refused or lost is counted. gRPC sends again by itself only what no server has seen, such as a call on
# its way while the server ends an old connection.
_CHANNEL_OPTIONS: Final = (
    # A connection of its own for each channel, as different clients have.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
)
_CONNECT_TIMEOUT_S: Final = 10.0
_RECOGNIZE: Final = "/shitu.v1.RecognitionService/Recognize"
_STAGE_FIELDS: Final = tuple(f"{stage}_us" for stage in STAGES)
_DETAILS_KEY: Final = "grpc-status-details-bin"
_REFUSED: Final = grpc.StatusCode.RESOURCE_EXHAUSTED
_LATE: Final = grpc.StatusCode.DEADLINE_EXCEEDED.name


def cpu_s() -> float:
    """Return the CPU time of this process, user and system."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Callers:
    """Sends requests in turn over connections in turn, and counts what comes back. Belongs to one event loop."""

    def __init__(self, address: str, requests: Sequence[LoadRequest], connections: int, deadline_s: float) -> None:
        self._address = address
        self._deadline_s = deadline_s
        self._channels = [grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS) for _ in range(connections)]
        methods = {request.method for request in requests}
        by_method = [_callables(channel, methods) for channel in self._channels]
        self._lanes = [[(of[one.method], one) for one in requests] for of in by_method]
        self._order: list[int] = []
        self._turn = 0
        self._details: list[bytes] = []
        self.tally = Tally()
        self.in_flight = 0
        self.answered_count = 0
        """OK answers of the whole run, for the progress."""
        self.failed_count = 0

    def shuffle(self, seed: tuple[int, ...]) -> None:
        """Choose the order in which requests are sent: each as often as the others."""
        self._order = np.random.default_rng(seed).permutation(len(self._lanes[0])).tolist()

    async def connect(self) -> None:
        """Open all connections.

        Raises:
            BenchError: the server does not take them.
        """
        ready = asyncio.gather(*(channel.channel_ready() for channel in self._channels))
        try:
            await asyncio.wait_for(ready, _CONNECT_TIMEOUT_S)
        except asyncio.TimeoutError as error:
            raise BenchError(
                f"no connection to {self._address} within {_CONNECT_TIMEOUT_S:g} s; start the server, or name another"
            ) from error

    async def close(self) -> None:
        """Close all connections; calls that are still in flight are cancelled."""
        await asyncio.gather(*(channel.close(grace=None) for channel in self._channels))

    async def call(self, due_s: float, now: Callable[[], float], *, counts: bool) -> None:
        """Send the request whose turn it is, and note its answer.

        Args:
            due_s: what its latency counts from, by `now`.
            now: the clock.
            counts: whether it is a part of what is measured.
        """
        turn = self._turn
        self._turn = turn + 1
        lane = self._lanes[turn % len(self._lanes)]
        # One further at each pass: otherwise a connection would send the same few again and again.
        passes = turn // len(self._order)
        method, request = lane[self._order[(turn + passes) % len(self._order)]]
        self.in_flight += 1
        try:
            reply = await method(request.content, timeout=self._deadline_s)
        except grpc.aio.AioRpcError as error:
            self.failed_count += 1
            if counts:
                self._note_error(error, now() - due_s)
        else:
            self.answered_count += 1
            if counts:
                self._note(request.method, reply, now() - due_s)
        finally:
            self.in_flight -= 1

    def _note(self, method: str, reply: bytes, latency_s: float) -> None:
        tally = self.tally
        if latency_s > self._deadline_s:
            tally.codes[_LATE] += 1
            return
        tally.codes[OK] += 1
        tally.latencies_s.append(latency_s)
        if method == _RECOGNIZE:
            recognized = recognition_pb2.RecognizeResponse.FromString(reply)
            timings = recognized.timings
            tally.object_count += len(recognized.objects)
            for stage, name in zip(STAGES, _STAGE_FIELDS, strict=True):
                tally.stages_us[stage].append(getattr(timings, name))

    def _note_error(self, error: grpc.aio.AioRpcError, latency_s: float) -> None:
        code = error.code()
        self.tally.codes[code.name] += 1
        if code is _REFUSED:
            self.tally.refusal_latencies_s.append(latency_s)
            trailing: Any = error.trailing_metadata() or ()
            for key, value in trailing:
                if key == _DETAILS_KEY and isinstance(value, bytes):
                    self._details.append(value)

    def finished(self) -> Tally:
        """Return what was counted; what takes time is done only now, after the run."""
        retry = error_details_pb2.RetryInfo()
        for content in self._details:
            for detail in status_pb2.Status.FromString(content).details:
                if detail.Unpack(retry):
                    self.tally.retry_after_s.append(retry.retry_delay.ToMilliseconds() / 1000)
        self._details.clear()
        return self.tally


def _callables(channel: grpc.aio.Channel, methods: set[str]) -> dict[str, Any]:
    """Return a channel's methods without serializers: bytes go out and come in as they are."""
    untyped: Any = channel
    return {method: untyped.unary_unary(method) for method in methods}
