"""A server under the same load for long: whether it keeps more and more memory, descriptors or shared memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from rich.console import Console

from shitu_bench.errors import BenchError
from shitu_bench.load.live import live_bar
from shitu_bench.load.measurements import Measurement, Target, answered, measured
from shitu_bench.load.plans import LoadPlan, Progress
from shitu_bench.load.runs import PACKAGES, watched
from shitu_bench.load.tallies import OK
from shitu_bench.load.targets import started_target
from shitu_bench.records import record
from shitu_bench.serving.batch_sizes import run_every_batch_size
from shitu_bench.serving.processes import ServerProcesses
from shitu_bench.serving.server import ServerOptions
from shitu_bench.serving.workload import WorkloadOptions
from shitu_bench.soak.figures import LEAST_SAMPLES, Sample, growth_figures, growth_percent, kept_samples

_PEAK_WARM_UP_S: Final = 3.0
_SAMPLES_PER_LINE: Final = 12
"""Where the output goes to a file, in which a bar would be of no use."""
_MIB: Final = 1 << 20


@dataclass(frozen=True)
class SoakOptions:
    """How long and how hard."""

    plan: LoadPlan
    """Of the long run, save its rate; the concurrency is that of the peak. No samples are taken in its warm-up."""
    load: float = 0.8
    """Of the peak."""
    interval_s: float = 10.0
    """Between samples."""
    peak_s: float = 20.0
    """How long the peak is measured."""


def soak_results(
    server: ServerOptions, workload: WorkloadOptions, options: SoakOptions, console: Console
) -> dict[str, Any]:
    """Measure, and return it as results.

    Raises:
        BenchError: the server does not start or ends, or the time is too short for the interval.
    """
    if options.plan.duration_s < (LEAST_SAMPLES + 1) * options.interval_s:
        raise BenchError(
            f"{options.plan.duration_s:g} s are too short for samples each {options.interval_s:g} s; expected at least "
            f"{LEAST_SAMPLES + 1} of them"
        )
    with started_target(server, workload, console) as target:
        # ONNX Runtime keeps memory for each size of batch that came yet. By chance one comes first after half an hour: a step that looks
        # like a leak and is none.
        with console.status("batches of every size"):
            run_every_batch_size(target.triton_address, (server.detector, server.encoder))
        peak_plan = replace(options.plan, duration_s=options.peak_s, warm_up_s=_PEAK_WARM_UP_S)
        peak = answered(watched(target, peak_plan, console, "peak"), "at the peak")
        peak_per_s = peak.outcome.rate_per_s
        plan = replace(options.plan, rate_per_s=options.load * peak_per_s)
        sampler = _Sampler(target, plan, options.interval_s)
        measurement = _soaked(target, plan, sampler, console)
    errors = sum(count for code, count in measurement.outcome.codes.items() if code != OK)
    figures = {
        "server": server.described(),
        "workload": workload.described(),
        "load_of_peak": options.load,
        "peak_per_s": round(peak_per_s, 3),
        "verdict": growth_figures(sampler.samples, errors),
        "run": measurement.described(),
        "samples": kept_samples(sampler.samples),
    }
    return record(figures, seed=workload.seed, packages=PACKAGES)


class _Sampler:
    """Looks at the server now and then, on the progress of the load."""

    def __init__(self, target: Target, plan: LoadPlan, interval_s: float) -> None:
        assert isinstance(target.processes, ServerProcesses)
        self._processes = target.processes
        self._warm_up_s = plan.warm_up_s
        self._end_s = plan.duration_s
        self._interval_s = interval_s
        self.samples: list[Sample] = []

    def look(self, elapsed_s: float, answered: int, failed: int) -> bool:
        """Take a sample where it is time for one; returns whether it was.

        Args:
            elapsed_s: since the begin of the load, the warm-up included.
            answered: OK answers until now.
            failed: other answers.
        """
        counted_s = elapsed_s - self._warm_up_s
        if not len(self.samples) * self._interval_s <= counted_s <= self._end_s:
            return False
        use, shared = self._processes.use(), self._processes.shared_memory()
        self.samples.append(Sample(counted_s, use, shared, answered, failed))
        return True

    def note(self) -> str:
        """Return the last sample in a few words."""
        last = self.samples[-1]
        grown = (
            growth_percent(self.samples, lambda sample: sample.pss_bytes) if len(self.samples) > LEAST_SAMPLES else 0
        )
        return (
            f"{last.pss_bytes / _MIB:.0f} MiB ({grown:+.2f} %), {last.descriptor_count} descriptors, "
            f"{last.answered_count} OK, {last.failed_count} not"
        )


def _soaked(target: Target, plan: LoadPlan, sampler: _Sampler, console: Console) -> Measurement:
    with live_bar(console) as bar:
        task = bar.add_task("soak", total=plan.warm_up_s + plan.duration_s, note="")

        def look(elapsed_s: float, answered: int, failed: int) -> None:
            bar.update(task, completed=max(0.0, elapsed_s))
            if sampler.look(elapsed_s, answered, failed):
                bar.update(task, note=sampler.note())
                if not console.is_terminal and len(sampler.samples) % _SAMPLES_PER_LINE == 0:
                    console.print(f"{(elapsed_s - plan.warm_up_s) / 60:.0f} min: {sampler.note()}", soft_wrap=True)

        progress: Progress = look
        return measured(target, plan, progress)
