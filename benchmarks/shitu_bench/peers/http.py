"""Closed-loop load over HTTP: callers with connections that they keep, each with one request in flight."""

from __future__ import annotations

import http.client
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from shitu_bench.load.plans import Observer, Progress

HOST: Final = "127.0.0.1"
_HEADERS: Final = {"Content-Type": "application/json"}
_POLL_S: Final = 0.1


@dataclass(frozen=True)
class HttpPlan:
    """Which requests are sent, and how long."""

    path: str
    bodies: Sequence[bytes]
    """JSON, made before: each caller sends them in turn, beginning at another one."""
    ports: Sequence[int]
    """Of servers on this machine, which share the callers evenly."""
    duration_s: float
    """What is sent in this time counts."""
    warm_up_s: float
    concurrency: int = 16
    deadline_s: float = 120.0
    """Of each call."""


@dataclass(frozen=True)
class HttpOutcome:
    """What came of what was sent in the time that counts."""

    begin_s: float
    """time.monotonic()."""
    duration_s: float
    codes: dict[str, int]
    """Answers by PaddleX's error code, `0` is none; or by the name of what was raised."""
    latencies_ms: Sequence[float]
    """Of answers without error."""
    object_count: int
    """In those."""
    client_cpu_s: float
    """Of the callers, for all that counts."""

    @property
    def rate_per_s(self) -> float:
        """Answers without error."""
        return len(self.latencies_ms) / self.duration_s


@dataclass
class _Answer:
    sent_s: float
    latency_s: float
    code: str
    object_count: int
    cpu_s: float


@dataclass
class _Course:
    """What the callers share. The list is read while it grows."""

    plan: HttpPlan
    answers: list[_Answer] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    begin_s: float = field(default_factory=time.monotonic)


def run_http_load(plan: HttpPlan, progress: Progress | None = None, observer: Observer | None = None) -> HttpOutcome:
    """Send requests until the plan ends, then wait for the answers that are still due.

    Args:
        plan: what is sent.
        progress: told how far it is, with seconds since the first request.
        observer: told when that begins and ends which counts.
    """
    course = _Course(plan)
    callers = [
        threading.Thread(target=_call, args=(course, number), name=f"caller-{number}", daemon=True)
        for number in range(plan.concurrency)
    ]
    begin_s = course.begin_s + plan.warm_up_s
    try:
        for caller in callers:
            caller.start()
        _follow_until(course, begin_s, progress)
        if observer is not None:
            observer.begin()
        end_s = _follow_until(course, begin_s + plan.duration_s, progress)
        if observer is not None:
            observer.end()
    finally:
        course.ended.set()
    for caller in callers:
        caller.join(plan.deadline_s + 1)
    return _outcome(course.answers, begin_s, end_s)


def _follow_until(course: _Course, time_s: float, progress: Progress | None) -> float:
    """Wait until a time, and return the time then."""
    while (now_s := time.monotonic()) < time_s:
        if progress is not None:
            okay = sum(answer.code == "0" for answer in course.answers)
            progress(now_s - course.begin_s, okay, len(course.answers) - okay)
        time.sleep(min(_POLL_S, time_s - now_s))
    return now_s


def _call(course: _Course, number: int) -> None:
    plan = course.plan
    port = plan.ports[number % len(plan.ports)]
    bodies = itertools.islice(itertools.cycle(plan.bodies), number % len(plan.bodies), None)
    for answer in _answers(course, port, bodies):
        course.answers.append(answer)


def _answers(course: _Course, port: int, bodies: Iterator[bytes]) -> Iterator[_Answer]:
    connection = http.client.HTTPConnection(HOST, port, timeout=course.plan.deadline_s)
    for body in bodies:
        if course.ended.is_set():
            break
        sent_s, cpu_s = time.monotonic(), time.thread_time()
        try:
            reply = exchange(connection, course.plan.path, body)
            code, object_count = str(reply["errorCode"]), len(reply.get("result", {}).get("detectedObjects", ()))
        except (OSError, http.client.HTTPException, ValueError, LookupError) as error:
            code, object_count = type(error).__name__, 0
            connection.close()
            course.ended.wait(_POLL_S)  # a server that is gone is not asked thousands of times a second
        yield _Answer(sent_s, time.monotonic() - sent_s, code, object_count, time.thread_time() - cpu_s)
    connection.close()


def exchange(connection: http.client.HTTPConnection, path: str, body: bytes) -> dict[str, Any]:
    """Send JSON and return the JSON that is answered, whatever the status: PaddleX puts errors into it."""
    connection.request("POST", path, body, _HEADERS)
    reply: dict[str, Any] = json.loads(connection.getresponse().read())
    return reply


def _outcome(answers: Sequence[_Answer], begin_s: float, end_s: float) -> HttpOutcome:
    counted = [answer for answer in answers if begin_s <= answer.sent_s < end_s]
    okay = [answer for answer in counted if answer.code == "0"]
    return HttpOutcome(
        begin_s=begin_s,
        duration_s=end_s - begin_s,
        codes=dict(Counter(answer.code for answer in counted)),
        latencies_ms=[1000 * answer.latency_s for answer in okay],
        object_count=sum(answer.object_count for answer in okay),
        client_cpu_s=float(np.sum([answer.cpu_s for answer in counted])),
    )
