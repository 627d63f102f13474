"""`shitu serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console
from rich.markup import escape

from shitu_models.specs import Profile
from shitu_models.triton_config import Accelerator
from shitu_server.errors import ConfigurationError
from shitu_server.roles import begin_logging, run_role
from shitu_server.settings import LogLevel, Role, load_settings


def register(app: typer.Typer) -> None:
    """Add the server's commands."""
    app.command()(serve)


def serve(
    *,
    role: Annotated[
        Role, typer.Option(help="all: everything on this host; gateway, gallery: one part, as in a pod.")
    ] = Role.ALL,
    host: Annotated[Optional[str], typer.Option(help="Address to listen on; 127.0.0.1 by default.")] = None,
    port: Annotated[
        Optional[int], typer.Option(help="Port of the gateways; 8200 by default, 0 for a free one.")
    ] = None,
    workers: Annotated[Optional[int], typer.Option(help="Gateway processes on the port.")] = None,
    data_dir: Annotated[Optional[Path], typer.Option(help="Where the galleries are kept.")] = None,
    model_repository: Annotated[Optional[Path], typer.Option(help="Folder of the models.")] = None,
    detector: Annotated[Optional[str], typer.Option(help="Model that finds the objects.")] = None,
    encoder: Annotated[
        Optional[list[str]],
        typer.Option(help="Model that makes the vectors; may be given again for more, the first is the default."),
    ] = None,
    profile: Annotated[
        Optional[Profile], typer.Option(help="Preprocess as the encoders were trained, or as PaddleX serves them.")
    ] = None,
    instances: Annotated[
        Optional[int], typer.Option(help="Instances of each model in the embedded Triton; 1 by default.")
    ] = None,
    threads: Annotated[
        Optional[int], typer.Option(help="Threads of an instance on the CPU; by default all processors, shared.")
    ] = None,
    accelerator: Annotated[
        Optional[Accelerator], typer.Option(help="What the embedded Triton runs the models with; none by default.")
    ] = None,
    gallery_address: Annotated[
        Optional[str], typer.Option(help="unix:/path or host:port of the gallery process.")
    ] = None,
    snapshot: Annotated[
        Optional[list[Path]],
        typer.Option(help="Snapshot whose gallery a gallery process serves, read-only; may be given again for more."),
    ] = None,
    milvus_address: Annotated[
        Optional[str], typer.Option(help="http://host:port of a Milvus that keeps the galleries instead.")
    ] = None,
    triton_address: Annotated[Optional[str], typer.Option(help="host:port of a Triton that runs elsewhere.")] = None,
    settings: Annotated[
        Optional[Path], typer.Option(help="File of lines SHITU_NAME=value; options and the environment win over it.")
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say more: log_level INFO, in all processes.")
    ] = False,
) -> None:
    """Serve recognition over gRPC. Every option, and more, is a variable SHITU_* too. SIGHUP takes up new versions of models."""
    overrides = {
        name: value for name, value in locals().items() if name not in {"role", "verbose", "snapshot", "settings"}
    }
    overrides["encoder"] = ",".join(encoder) if encoder else None
    overrides["snapshots"] = ",".join(map(str, snapshot)) if snapshot else None
    try:
        loaded = load_settings({**overrides, "log_level": LogLevel.INFO if verbose else None}, settings)
        begin_logging(role, loaded)
        run_role(role, loaded)
    except ConfigurationError as error:
        Console(stderr=True).print(f"[red]error:[/] {escape(error.message)}", highlight=False, soft_wrap=True)
        raise SystemExit(1) from error
