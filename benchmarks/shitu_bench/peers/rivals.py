"""PaddleX and shitu as rivals: the same pictures, each by its own protocol, to a gallery of the same items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from shitu.v1 import recognition_pb2
from shitu_bench.load.measurements import Target, measured
from shitu_bench.load.plans import LoadPlan, LoadRequest, Progress
from shitu_bench.peers.agreement import Finding
from shitu_bench.peers.http import HttpPlan, run_http_load
from shitu_bench.peers.paddlex import INFER_PATH, PeerServer
from shitu_bench.peers.pictures import Pictures
from shitu_bench.peers.slices import Slice, SlicePlan
from shitu_bench.serving.processes import ServerProcesses
from shitu_bench.serving.server import BenchServer
from shitu_bench.serving.workload import RECOGNIZE
from shitu_client import Client

EVERY_MATCH = -1.0
TOP_K = 5
_TIMEOUT_S = 120.0


@dataclass
class PaddlexRival:
    """A PaddleX that serves, and one of its galleries."""

    server: PeerServer
    pictures: Pictures
    index_key: str | None
    """None: the gallery that was read at the start."""

    def findings(self) -> list[list[Finding]]:
        """Return what it finds on each picture."""
        return [[_finding(found) for found in self.server.infer(file, self.index_key)] for file in self.pictures.files]

    def measured(self, plan: SlicePlan, progress: Progress) -> Slice:
        """Put it under load."""
        costs = _Costs(self.server)
        bodies = [self.server.body(file, self.index_key) for file in self.pictures.files]
        sent = HttpPlan(
            path=INFER_PATH,
            bodies=bodies,
            ports=self.server.ports,
            duration_s=plan.duration_s,
            warm_up_s=plan.warm_up_s,
            concurrency=plan.concurrency,
            deadline_s=plan.deadline_s,
        )
        outcome = run_http_load(sent, progress, costs)
        return Slice(
            duration_s=outcome.duration_s,
            codes=outcome.codes,
            latencies_ms=outcome.latencies_ms,
            object_count=outcome.object_count,
            cpu_s=costs.cpu_s,
            client_cpu_s=outcome.client_cpu_s,
            memory_bytes=costs.memory_bytes,
        )

    def cpu_s(self) -> float:
        """Return the CPU time of its processes since they started."""
        return self.server.cpu_s()


@dataclass
class _Costs:
    """Reads the servers' clocks when what counts begins and ends, and their memory while requests are in flight."""

    server: PeerServer
    cpu_s: float = 0.0
    memory_bytes: int = 0
    _before_s: float = field(default=0.0, repr=False)

    def begin(self) -> None:
        """Note what was used before."""
        self._before_s = self.server.cpu_s()

    def end(self) -> None:
        """Note what was used since."""
        self.cpu_s = self.server.cpu_s() - self._before_s
        self.memory_bytes = self.server.memory_bytes()


def _finding(found: dict[str, object]) -> Finding:
    box, score, results = found["bbox"], found["score"], found["recResults"]
    assert isinstance(box, list)
    assert isinstance(score, int | float)
    assert isinstance(results, list)
    x1, y1, x2, y2 = map(float, box)
    return Finding((x1, y1, x2, y2), float(score), {one["label"]: float(one["score"]) for one in results})


@dataclass
class ShituRival:
    """Our server, and one of its galleries."""

    server: BenchServer
    pictures: Pictures
    gallery: str

    def findings(self) -> list[list[Finding]]:
        """Return what it finds on each picture."""
        with Client(self.server.address, timeout_s=_TIMEOUT_S) as client:
            found = [
                client.recognize(
                    file,
                    self.gallery,
                    detection_threshold=self.pictures.threshold,
                    match_threshold=EVERY_MATCH,
                    top_k=TOP_K,
                )
                for file in self.pictures.files
            ]
        return [
            [
                Finding(one.box, one.detection_score, {match.label: match.score for match in one.matches})
                for one in picture.objects
            ]
            for picture in found
        ]

    def measured(self, plan: SlicePlan, progress: Progress) -> Slice:
        """Put it under load."""
        sent = LoadPlan(
            duration_s=plan.duration_s,
            warm_up_s=plan.warm_up_s,
            concurrency=plan.concurrency,
            deadline_s=plan.deadline_s,
        )
        result = measured(Target(self.server.address, self.requests(), self._processes), sent, progress)
        outcome = result.outcome
        return Slice(
            duration_s=outcome.duration_s,
            codes=outcome.codes,
            latencies_ms=outcome.latencies_ms,
            object_count=outcome.object_count,
            cpu_s=sum(result.cpu_s.values()),
            client_cpu_s=outcome.client_cpu_s,
            memory_bytes=result.memory_bytes,
        )

    def cpu_s(self) -> float:
        """Return the CPU time of its processes since they started."""
        return sum(self._processes.cpu_s().values())

    def requests(self) -> Sequence[LoadRequest]:
        """Return the requests for all pictures as they are sent."""
        options = recognition_pb2.RecognizeOptions(
            detection_threshold=self.pictures.threshold, match_threshold=EVERY_MATCH, top_k=TOP_K
        )
        messages = [
            recognition_pb2.RecognizeRequest(image=file, gallery=self.gallery, options=options)
            for file in self.pictures.files
        ]
        return [LoadRequest(RECOGNIZE, message.SerializeToString()) for message in messages]

    @property
    def _processes(self) -> ServerProcesses:
        return self.server.processes
