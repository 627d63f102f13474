"""Servers that load is sent to: one that is started for it, or one that runs already."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from rich.console import Console

from shitu_bench.load.measurements import Target
from shitu_bench.serving.processes import ServerProcesses
from shitu_bench.serving.server import BenchServer, ServerOptions
from shitu_bench.serving.workload import WorkloadOptions, drawn_requests, prepared
from shitu_client.progress import progress_bar


@contextmanager
def started_target(server: ServerOptions, workload: WorkloadOptions, console: Console) -> Iterator[Target]:
    """Start a server with a gallery and pictures for it; it is stopped when this is left.

    Raises:
        BenchError: it does not start.
    """
    with ExitStack() as stack:
        with console.status("starting the server"):
            running = stack.enter_context(BenchServer(server))
        yield target_of(running, workload, console)


def target_of(running: BenchServer, workload: WorkloadOptions, console: Console) -> Target:
    """Fill a gallery of a server that was started here, and draw pictures for it."""
    with progress_bar(console, "pictures") as progress:
        task = progress.add_task("drawing", total=None)
        requests = prepared(running.address, workload, lambda: progress.advance(task))
    return Target(running.address, requests, running.processes, running.processes.triton_address())


def foreign_target(address: str, workload: WorkloadOptions, console: Console) -> Target:
    """Draw pictures for the gallery of a server that runs already; what they cost it is seen where it runs on this host."""
    with progress_bar(console, "pictures") as progress:
        task = progress.add_task("drawing", total=None)
        requests = drawn_requests(workload, advance=lambda: progress.advance(task))
    host, _, port = address.rpartition(":")
    is_here = host in {"127.0.0.1", "localhost", "[::1]"} and port.isdecimal()
    processes = ServerProcesses.listening_on(int(port)) if is_here else None
    return Target(address, requests, processes, "" if processes is None else processes.triton_address())
