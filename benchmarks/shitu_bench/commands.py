"""`shitu bench ...`: measure a model, a server, a gallery; `shitu tune`."""

from __future__ import annotations

import typer

from shitu_bench.ceiling.command import ceiling
from shitu_bench.galleries.quality_command import quality
from shitu_bench.galleries.search_command import search
from shitu_bench.load.command import load
from shitu_bench.models.latency_command import latency
from shitu_bench.overload.command import overload
from shitu_bench.peers.command import peers
from shitu_bench.refusals import saying_what_is_missing
from shitu_bench.scaling.command import scaling
from shitu_bench.soak.command import soak
from shitu_bench.tuning.command import tune


def register(app: typer.Typer) -> None:
    """Add the commands that measure."""
    app.command()(saying_what_is_missing(tune))
    bench = typer.Typer(help="Measure models, servers and galleries.", no_args_is_help=True)
    app.add_typer(bench, name="bench")
    for command in (ceiling, latency, quality, search, load, overload, scaling, soak, peers):
        bench.command()(saying_what_is_missing(command))
