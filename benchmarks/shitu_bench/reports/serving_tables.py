"""Tables of docs/performance.md, in Markdown: servers under load, for long and beside others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from shitu_bench.overload.level_cells import level_cells
from shitu_bench.peers.contest import PADDLEX, PADDLEX_AT_START
from shitu_bench.reports.model_tables import commit_of, machine_of
from shitu_bench.soak.figures import MOST_MEMORY_GROWTH_PERCENT, MOST_THREAD_GROWTH
from shitu_bench.summaries import QUANTILES, shown

_MIB: Final = 1 << 20


def load_table(results: Mapping[str, Any]) -> str:
    """Return latency, stages and CPU time by the rate of requests; a run without a rate is a closed loop."""
    runs = results["runs"]
    parts = sorted(runs[0]["cpu_ms_per_answer"], key=lambda part: -float(runs[0]["cpu_ms_per_answer"][part]))
    rows = [
        ("answered/s", *(f"{run['goodput_per_s']:.1f}" for run in runs)),
        ("other answers", *(f"{sum(run['codes'].values()) - run['codes'].get('OK', 0):,}" for run in runs)),
        *(
            (f"p{100 * share:g}, ms", *(f"{run['latency_ms'][name]:.0f}" for run in runs))
            for name, share in QUANTILES.items()
        ),
        *(
            (f"{stage}, p50 / p99, ms", *(_milliseconds(run["stages_us"][stage]) for run in runs))
            for stage in runs[0]["stages_us"]
        ),
        *((f"CPU of {part}, ms", *(f"{run['cpu_ms_per_answer'][part]:.2f}" for run in runs)) for part in parts),
        ("CPU of the generator, ms", *(f"{run['client_cpu_ms_per_request']:.2f}" for run in runs)),
    ]
    return "\n".join(
        [
            (
                f"{machine_of(results)}; {_server(results)}; {runs[0]['duration_s']:g} s each, {runs[0]['connections']} connections; CPU time "
                f"for each answer; commit {commit_of(results)}, seed {results['seed']}."
            ),
            "",
            f"| | {' | '.join(_offered(run) for run in runs)} |",
            "|---" * (1 + len(runs)) + "|",
            *(f"| {' | '.join(row)} |" for row in rows),
        ]
    )


def _offered(run: Mapping[str, Any]) -> str:
    rate = run.get("offered_rate_per_s")
    return f"{rate:g}/s" if rate else f"{run['concurrency']} callers that wait"


def _milliseconds(stage: Mapping[str, float]) -> str:
    return f"{stage['p50'] / 1000:.1f} / {stage['p99'] / 1000:.1f}"


def overload_table(results: Mapping[str, Any]) -> str:
    """Return goodput, refusals and latencies by offered load, and latency beside queueing theory."""
    summary, rounds, expiry = results["summary"], results["rounds"], results["expiry"]
    peak = rounds[0]["peak"]
    rows = [level_cells(level) for level in summary["levels"]]
    lines = [
        (
            f"{machine_of(results)}; {_server(results)}; {len(rounds)} rounds, each of a peak and Poisson arrivals of multiples of it, "
            f"{peak['duration_s']:g} s each; median (least to largest); peak by {peak['concurrency']} callers "
            f"{shown(summary['peak']['goodput_per_s'], 1)}/s. *Adjusted*: as if neither the generator, beyond what it took at the peak, nor the "
            f"refusals ({results['gateway_cpu_ms_per_refusal']:.2f} ms of CPU each) had taken time from the two processors. Commit "
            f"{commit_of(results)}, seed {results['seed']}."
        ),
        "",
        f"| {' | '.join(rows[0])} |",
        "|---" * len(rows[0]) + "|",
        *(f"| {' | '.join(row.values())} |" for row in rows),
    ]
    lines += ["", *(_queue_lines(queue, [of["queue"][0] for of in rounds]) for queue in summary["queue"])]
    lines.append(
        f"With a deadline of {1000 * expiry['deadline_s']:.0f} ms at twice the peak {expiry['codes'].get('OK', 0)} were answered, "
        f"{expiry['codes'].get('RESOURCE_EXHAUSTED', 0)} refused and {expiry['expired_count']} expired; the detector ran "
        f"{expiry['detector_items']} pictures, the encoder {expiry['encoder_items']} crops for the {expiry['objects_in_ok_answers']} "
        "objects in answers."
    )
    return "\n".join(lines)


def _queue_lines(queue: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]]) -> str:
    server = f"M/D/{rounds[0]['servers']}"

    def beside(service: str) -> str:
        fewer = sum(one[service]["is_of_fewer_arrivals"] for one in rounds)
        bound = f" (at most: in {fewer} of {len(rounds)} rounds more arrived than can be predicted)" if fewer else ""
        return (
            f"{shown(queue[f'{service}.service_ms'], 1)} ms, {server} predicts {shown(queue[f'{service}.predicted_ms.p50'], 0)} and "
            f"{shown(queue[f'{service}.predicted_ms.p99'], 0)} ms; p99 is {shown(queue[f'{service}.p99_by_predicted'], 2)} times that{bound}"
        )

    return (
        f"At {queue['factor']:g} of the peak p50 is {shown(queue['measured_ms.p50'], 0)} and p99 {shown(queue['measured_ms.p99'], 0)} ms. With the "
        f"service time of the peak, {beside('of_the_peak')}. With the service time of this load, by the CPU time of a picture, "
        f"{beside('of_the_level')}. Unloaded a picture takes {rounds[0]['unloaded_latency_ms']:.1f} ms. Ratios are of each round.\n"
    )


def scaling_table(results: Mapping[str, Any]) -> str:
    """Return several gateways beside one."""
    one, several, ratio = results["one"], results["several"], results["ratio"]
    quota = f", each limited to {results['quota']:g} of a processor" if results["quota"] else ""
    pinned = ", each on a processor of its own" if results["pinned"] else ""
    lines = [
        (
            f"{machine_of(results)}; gateways{quota}{pinned}; models that compute nothing; {results['pairs']} pairs of runs in turns, median "
            f"(quartiles); commit {commit_of(results)}, seed {results['seed']}."
        ),
        "",
        "| gateways | answers/s | ratio | p99, ms | share of all processors | CPU of a gateway, ms for an answer |",
        "|---" * 6 + "|",
        f"| 1 | {shown(one['rate_per_s'], 1)} | | {shown(one['p99_ms'], 1)} | {shown(one['cpu_share'], 2)} | {_gateways(one)} |",
        (
            f"| {results['workers']} | {shown(several['rate_per_s'], 1)} | {shown(ratio, 2)} | {shown(several['p99_ms'], 1)} "
            f"| {shown(several['cpu_share'], 2)} | {_gateways(several)} |"
        ),
    ]
    return "\n".join(lines)


def soak_table(results: Mapping[str, Any]) -> str:
    """Return what each part of a server holds at the begin and at the end of a long run."""
    run, verdict = results["run"], results["verdict"]
    latency = run["latency_ms"]
    lines = [
        (
            f"{machine_of(results)}; {results['workload']['kind']} pictures, Poisson arrivals for {run['duration_s'] / 60:g} minutes at "
            f"{results['load_of_peak']:.0%} of the peak of {results['peak_per_s']:.1f}/s; {run['codes'].get('OK', 0):,} answered, "
            f"{verdict['error_count']:,} not; p50 {latency['p50']:.0f} ms, p99 {latency['p99']:.0f} ms. Medians of the first and of the last quarter of "
            f"{verdict['sample_count']} samples; commit {commit_of(results)}, seed {results['seed']}."
        ),
        "",
        "| part | memory at first, MiB | at last, MiB | grown | descriptors | threads |",
        "|---" * 6 + "|",
    ]
    for part, held in sorted(verdict["parts"].items()):
        memory, descriptors, threads = held["uss_bytes"], held["descriptor_count"], held["thread_count"]
        cells = (
            part,
            f"{memory['first'] / _MIB:.1f}",
            f"{memory['last'] / _MIB:.1f}",
            f"{held['memory_growth_percent']:+.2f}%",
            f"{descriptors['first']:.0f} to {descriptors['last']:.0f}",
            f"{threads['first']:.0f} to {threads['last']:.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        (
            f"All parts with what they share: {verdict['memory_growth_percent']:+.2f}% (a line through the last three quarters: "
            f"{verdict['memory_growth_fitted_percent']:+.2f}% in the whole time); descriptors {verdict['descriptor_growth']:+g}, threads "
            f"{verdict['thread_growth']:+g}, files of shared memory {verdict['shared_memory_file_growth']:+g} "
            f"({verdict['shared_memory_growth_bytes']:+g} bytes). {'Passed' if verdict['passed'] else 'Not passed'}: memory is to grow by less than "
            f"{MOST_MEMORY_GROWTH_PERCENT:g}%, threads by at most {MOST_THREAD_GROWTH}, descriptors and shared memory not at all, and all "
            "are to be answered."
        ),
    ]
    return "\n".join(lines)


def peers_table(results: Mapping[str, Any]) -> str:
    """Return other servers of the same models beside ours."""
    pictures, versions = results["pictures"], results["paddlex"]["versions"]
    width, height = pictures["size_px"]
    instances, threads = results["shitu"]["instances"], results["shitu"]["threads"]
    of_threads = f" and {threads} thread(s) of each" if threads else ""
    lines = [
        (
            f"{machine_of(results)}; {results['clients']} clients, each with one request in flight; {width}x{height} JPEG; the same random "
            f"weights (seed {results['weights_seed']}) at both; PaddleX {versions['paddlex']} with PaddlePaddle {versions['paddlepaddle']}; "
            f"slices in turns, median (quartiles; of two, halfway to each); p99 of all answers; "
            f"shitu with {instances} instance(s) of each model{of_threads}; commit {commit_of(results)}, seed {results['seed']}."
        ),
        "",
        (
            "| encoder | gallery | server | slices | answers | pictures/s | p50, s | p99, s | CPU, s for a picture | memory, GB | shitu's throughput by it "
            "| its p99 by shitu's | same boxes | same best labels |"
        ),
        "|---" * 14 + "|",
    ]
    for encoder, figures in results["encoders"].items():
        for size, gallery in figures["galleries"].items():
            lines += [_rival_row(encoder, int(size), gallery, name) for name in gallery["rivals"]]
    lines += ["", *_index_lines(results["encoders"])]
    lines += [
        f"Of PaddleX's configurations with {encoder} the fastest was taken: {figures['paddlex']['configuration']}."
        for encoder, figures in results["encoders"].items()
    ]
    return "\n".join(lines)


def _index_lines(encoders: Mapping[str, Any]) -> list[str]:
    """Return what it costs PaddleX to read an index for every request, where that was measured."""
    costs = [
        (encoder, int(size), *(gallery["rivals"][name]["cpu_s_per_picture"] for name in (PADDLEX, PADDLEX_AT_START)))
        for encoder, figures in encoders.items()
        for size, gallery in figures["galleries"].items()
        if PADDLEX_AT_START in gallery["rivals"]
    ]
    return [
        f"With {encoder}, {size:,} items: to read the index takes PaddleX {each - at_start:.2f} s of CPU for a picture, all else {at_start:.2f}."
        for encoder, size, each, at_start in costs
    ]


def _rival_row(encoder: str, size: int, gallery: Mapping[str, Any], name: str) -> str:
    rival, factors, agreement = gallery["rivals"][name], gallery["factors"].get(name), gallery["agreement"].get(name)
    latency = rival["latency_ms"]
    cells = (
        encoder,
        f"{size:,}",
        name,
        str(rival["rate_per_s"]["count"]),
        f"{rival['latency_count']:,}",
        shown(rival["rate_per_s"], 2),
        f"{latency['p50'] / 1000:.2f}",
        f"{latency['p99'] / 1000:.2f}",
        f"{rival['cpu_s_per_picture']:.2f}",
        f"{rival['memory_bytes'] / 1e9:.1f}",
        shown(factors["throughput"], 2) if factors else "",
        shown(factors["p99"], 2) if factors else "",
        f"{agreement['same_boxes']} of {agreement['their_objects']}" if agreement else "",
        f"{agreement['same_labels']} of {agreement['same_boxes']}" if agreement else "",
    )
    return f"| {' | '.join(cells)} |"


def _gateways(side: Mapping[str, Any]) -> str:
    costs: Sequence[float] = [
        cost["median"] for part, cost in side["cpu_ms_per_answer"].items() if part.startswith("gateway")
    ]
    return f"{sum(costs):.2f}"


def _server(results: Mapping[str, Any]) -> str:
    server = results["server"]
    return f"{server['detector']} and {server['encoder']}, {server['workers']} gateway(s), 640x480 JPEG with 3 objects"
