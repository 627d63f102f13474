"""`shitu models ...`: what there is, official weights to a served model, and a look at what is served."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, NoReturn, Optional

import typer
from rich.console import Console
from rich.markup import escape

from shitu_models.cards import CardError
from shitu_models.downloads.archive import ArchiveError
from shitu_models.downloads.remote_file import DownloadError
from shitu_models.downloads.sources import SourceKind
from shitu_models.repository import RepositoryError, find_repository
from shitu_models.specs import OFFICIAL_SPECS, Precision
from shitu_train.conversion.options import ConversionOptions, Graph
from shitu_train.errors import ConversionError, TrainError
from shitu_train.extras import paddle_module
from shitu_train.models import tables
from shitu_train.models.places import writable_repository
from shitu_train.models.pulls import provisional, pull_options, pulled, remote_of
from shitu_train.models.verification import verified

commands = typer.Typer(no_args_is_help=True, help="Official and own models: download, convert, check, describe.")

_CONVERTER = "shitu_train.conversion.converter"
_PRECISION = "shitu_train.conversion.precision"
_OF_DOWNLOADS: Final = ("source", "mirror", "proxy", "downloads")
"""Options of `pull` that say nothing to a file that is here already."""
_out, _err = Console(), Console(stderr=True)

RepositoryOption = Annotated[
    Optional[Path],
    typer.Option("--model-repository", envvar="SHITU_MODEL_REPOSITORY", help="Folder of the models."),
]
PrecisionOption = Annotated[
    Precision, typer.Option(help="What the model computes in; all but fp32 are gated by their drift.")
]
GraphOption = Annotated[
    Graph,
    typer.Option(
        help="fused: ONNX Runtime's operators for attention and GELU; plain: ONNX alone, for TensorRT and OpenVINO."
    ),
]
NameOption = Annotated[str, typer.Option(help="Name in the repository; the architecture's where unset.")]
Mirror = Annotated[Optional[str], typer.Option(envvar="SHITU_MIRROR", help="Base URL that holds the same paths.")]
Proxy = Annotated[Optional[str], typer.Option(help="http://host:port; the environment's HTTP(S)_PROXY where unset.")]
Lock = Annotated[Optional[Path], typer.Option(help="File of the digests that were seen first.")]
Downloads = Annotated[Optional[Path], typer.Option(help="Folder that downloads are kept in.")]


def register(app: typer.Typer) -> None:
    """Add the commands as `shitu models`."""
    app.add_typer(commands, name="models")


@commands.command("list")
def list_models(repository: RepositoryOption = None) -> None:
    """List PaddleX's models and those in the repository."""
    with _errors_in_plain_words():
        tables.print_models(_out, find_repository(repository))


@commands.command()
def pull(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(help="Of PaddleX's models (see `list`), or `all`.")],
    repository: RepositoryOption = None,
    *,
    from_file: Annotated[
        Optional[Path],
        typer.Option(
            help="Official file that is here already, under its official name, instead of a download; one model."
        ),
    ] = None,
    source: Annotated[
        SourceKind, typer.Option(help="Checkpoint, PaddleX's exported directory, or PaddleClas' older one.")
    ] = SourceKind.CHECKPOINT,
    download_only: Annotated[bool, typer.Option(help="Do not convert.")] = False,
    mirror: Mirror = None,
    proxy: Proxy = None,
    lock: Lock = None,
    downloads: Downloads = None,
    precision: PrecisionOption = Precision.FP32,
    graph: GraphOption = Graph.FUSED,
) -> None:
    """Download official weights, convert them, compare them with Paddle, and place them for `shitu serve`."""
    wanted = [spec.name for spec in OFFICIAL_SPECS] if names == ["all"] else names
    with _errors_in_plain_words():
        if not download_only:
            paddle_module(_PRECISION).check_provider(precision)  # before minutes of download
        if from_file is not None:
            _check_alone(context, wanted)
        options = pull_options(downloads, lock, mirror=mirror, proxy=proxy, source=source, from_file=from_file)
        remotes = [(name, remote_of(name, options)) for name in wanted]  # all, before the first one is downloaded
        for name, remote in remotes:
            with provisional(remote, options.lock):
                file = pulled(remote, options, _err)
                if download_only:
                    _out.print(f"{name}: {file}", highlight=False, soft_wrap=True)
                else:
                    _convert(file, "", name, repository, precision, graph)


@commands.command()
def convert(
    source: Annotated[
        Path,
        typer.Argument(
            help="A .pdparams checkpoint, an exported directory of PaddleX, PaddleClas or PaddleDetection, or its .tar."
        ),
    ],
    repository: RepositoryOption = None,
    *,
    name: NameOption = "",
    architecture: Annotated[
        str, typer.Option(help="Of the registry (see `list`); found out by the parameters or the yml where unset.")
    ] = "",
    precision: PrecisionOption = Precision.FP32,
    graph: GraphOption = Graph.FUSED,
) -> None:
    """Convert a model to ONNX, compare it with Paddle, and place it as a new version."""
    with _errors_in_plain_words():
        _convert(source, name, architecture, repository, precision, graph)


@commands.command()
def export(
    source: Annotated[Path, typer.Argument(help="A .pdparams checkpoint, or one of `shitu train`.")],
    out: Annotated[Path, typer.Argument(help="A new folder.")],
    *,
    architecture: Annotated[str, typer.Option(help="Found out by the parameters where unset.")] = "",
) -> None:
    """Write a model as PaddleX exports it: inference.json, .pdiparams and .yml, with NMS inside a detector."""
    with _errors_in_plain_words():
        folder = paddle_module(_CONVERTER).export_directory(source, out, architecture)
        _out.print(f"{folder}: for PaddleX", highlight=False, soft_wrap=True)


@commands.command()
def verify(
    name: Annotated[str, typer.Argument(help="Of a model in the repository.")],
    repository: RepositoryOption = None,
    *,
    source: Annotated[
        Optional[Path], typer.Option(help="What it was converted from: it is compared with Paddle anew.")
    ] = None,
) -> None:
    """Check a placed model: digest, card, tensors, batches; with --source also Paddle against the placed graph."""
    with _errors_in_plain_words():
        for line in verified(find_repository(repository), name, source):
            _out.print(f"[green]ok[/] {escape(line)}", highlight=False, soft_wrap=True)


@commands.command()
def info(name: Annotated[str, typer.Argument(help="Of a model.")], repository: RepositoryOption = None) -> None:
    """Describe a model: what it takes, what it was converted from, and how exactly."""
    with _errors_in_plain_words():
        tables.print_model(_out, find_repository(repository), name)


def _check_alone(context: typer.Context, names: list[str]) -> None:
    """Refuse what a file that is here already would make of no effect; what the environment says is for other runs too."""
    if len(names) != 1:
        raise ConversionError(f"--from-file: expected one model, got {len(names)}")
    sources = ((name, context.get_parameter_source(name)) for name in _OF_DOWNLOADS)
    given = [f"--{name}" for name, source in sources if source is not None and source.name == "COMMANDLINE"]
    if given:
        raise ConversionError(
            f"--from-file: nothing is downloaded, and the file's name says which one it is; expected no {' and no '.join(given)} "
            f"beside it; leave out one or the other"
        )


def _convert(
    source: Path, name: str, architecture: str, repository: Path | None, precision: Precision, graph: Graph
) -> None:
    converter = paddle_module(_CONVERTER)
    options = ConversionOptions(writable_repository(repository), name, architecture, precision, graph)
    with _err.status("converting") as status:
        conversion = converter.convert(source, options, lambda step: status.update(escape(step)))
    tables.print_conversion(_out, conversion.folder, conversion.card)


@contextmanager
def _errors_in_plain_words() -> Iterator[None]:
    try:
        yield
    except (TrainError, RepositoryError, CardError, DownloadError, ArchiveError, OSError) as error:
        _fail(str(error), error)


def _fail(message: str, error: Exception) -> NoReturn:
    _err.print(f"[red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)
    raise SystemExit(1) from error
