"""From a source to a served model: read, put into our architecture, export, compare, place."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from shitu_models.cards import ModelCard
from shitu_models.specs import SPECS, ModelSpec, Precision
from shitu_train.conversion.fusion import fuse
from shitu_train.conversion.options import ConversionOptions, Graph
from shitu_train.conversion.paddlex_directory import write_inference_directory
from shitu_train.conversion.parity import Parity
from shitu_train.conversion.placement import check_fits, place
from shitu_train.conversion.precision import check_provider, reduced
from shitu_train.conversion.sources import ReadModel, opened
from shitu_train.errors import ConversionError, ParityError
from shitu_train.records import tool_versions


@dataclass(frozen=True)
class Conversion:
    """A model that passed its gates and was placed."""

    folder: Path
    """Of the version."""
    card: ModelCard


def convert(source: Path, options: ConversionOptions, say: Callable[[str], None] = lambda _: None) -> Conversion:
    """Convert a `.pdparams` file, an exported directory or its tar, and place it; a failed gate leaves nothing behind.

    Args:
        source: the file or the directory.
        options: what becomes of it.
        say: is told what is done next.

    Raises:
        ConversionError: the source cannot be read or converted, or the model cannot be placed.
        ArchiveError: the tar is unsafe or damaged.
        ParityError: the graph computes something else than Paddle.
        DriftError: the reduced precision moves vectors or boxes too far.
    """
    check_provider(options.precision)
    say(f"reading {source}")
    with opened(source, options.architecture) as read:
        spec = _named(read, options)
        check_fits(options.repository, spec, options.precision)
        say("converting to ONNX")
        graph = read.graph()
        fused = options.graph is Graph.FUSED and fuse(graph)
        content = bytes(graph.SerializeToString())
        del graph  # a large model's takes a gigabyte
        say("comparing Paddle and ONNX Runtime")
        parity = _compared(read, content, fused=fused)
    if options.precision is not Precision.FP32:
        say(f"measuring what {options.precision.value} changes")
    content, drift = reduced(content, spec, options.precision)
    card = ModelCard(
        spec=spec,
        architecture=read.architecture,
        precision=options.precision,
        weights_sha256=hashlib.sha256(content).hexdigest(),
        source=read.source,
        max_abs_difference=parity.max_abs_difference,
        min_cosine=parity.min_cosine,
        drift=drift,
        versions=tool_versions(),
    )
    return Conversion(place(options.repository, content, card), card)


def parity_of(source: Path, placed: Path, architecture: str = "") -> Parity:
    """Compare a placed graph with the source that it was converted from. Raises as `convert`."""
    with opened(source, architecture) as read:
        return read.check(placed.read_bytes())


def export_directory(source: Path, folder: Path, architecture: str = "") -> Path:
    """Write a source as PaddleX exports it. Raises as `convert`."""
    with opened(source, architecture) as read:
        if read.layer is None:
            raise ConversionError(f"{source}: {read.source.note}; there is nothing to export but what is there")
        return write_inference_directory(read.layer, read.spec, folder)


def _compared(read: ReadModel, content: bytes, *, fused: bool) -> Parity:
    try:
        return read.check(content)
    except ParityError as error:
        hint = "; --graph plain leaves attention and GELU as they were exported" if fused else ""
        raise ParityError(f"{error}{hint}") from error


def _named(read: ReadModel, options: ConversionOptions) -> ModelSpec:
    if options.name in SPECS and options.name != read.architecture:
        raise ConversionError(
            f"--name: {options.name} is the name of another model, and this one is a {read.architecture}; choose a name of your own"
        )
    behind = "" if options.precision is Precision.FP32 else f"_{options.precision.value}"
    try:
        return replace(read.spec, name=options.name or f"{read.architecture}{behind}")
    except ValueError as error:
        raise ConversionError(f"--name: {error}") from error
