"""From a checkpoint or an exported directory to a served model: read, put into our architecture, export, compare, place."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

import onnx
import paddle

from shitu_models.cards import ModelCard, Source
from shitu_models.fingerprint import weights_digest
from shitu_models.specs import SPECS, ModelSpec, Precision, Task
from shitu_train import parity
from shitu_train.architectures.catalogue import ARCHITECTURES
from shitu_train.conversion.export import exported_graph
from shitu_train.conversion.exported_program import ExportedProgram, read_program
from shitu_train.conversion.fusion import fuse
from shitu_train.conversion.graph import complete_encoder, complete_single_detector
from shitu_train.conversion.inference_directory import InferenceDirectory
from shitu_train.conversion.loading import architecture_of, load_state
from shitu_train.conversion.paddle2onnx_process import export_program
from shitu_train.conversion.pdparams import read_pdparams
from shitu_train.conversion.placement import check_fits, place
from shitu_train.conversion.precision import reduced
from shitu_train.conversion.recovery import recovered_layer
from shitu_train.errors import ConversionError, ParityError
from shitu_train.records import tool_versions


class Graph(str, Enum):
    """Which operators the graph is made of."""

    FUSED = "fused"
    """ONNX Runtime's own for attention and GELU; for its CPU and CUDA providers."""
    PLAIN = "plain"
    """ONNX alone; for TensorRT and OpenVINO, which fuse by themselves."""


@dataclass(frozen=True)
class ConversionOptions:
    """What becomes of a model."""

    repository: Path
    name: str = ""
    """In the repository; the architecture's, with the precision behind it where that is reduced, where empty."""
    architecture: str = ""
    """Of the registry; found out where empty."""
    precision: Precision = Precision.FP32
    graph: Graph = Graph.FUSED


@dataclass(frozen=True)
class Conversion:
    """A model that passed its gate and was placed."""

    folder: Path
    card: ModelCard


@dataclass(frozen=True)
class _Read:
    """A source that was read: its graph before precision and placing, and how it compared."""

    spec: ModelSpec
    architecture: str
    model: onnx.ModelProto
    check: Callable[[bytes], parity.Parity]
    source: Source


def convert(source: Path, options: ConversionOptions, say: Callable[[str], None] = lambda _: None) -> Conversion:
    """Convert a `.pdparams` file or an exported directory, and place it; a failed gate leaves nothing behind.

    Args:
        source: the file or the directory.
        options: what becomes of it.
        say: is told what is done next.

    Raises:
        ConversionError: the source cannot be read or converted.
        ParityError: the graph computes something else than Paddle.
        DriftError: the reduced precision moves vectors or boxes too far.
    """
    say(f"reading {source}")
    read = _directory(source, options) if source.is_dir() else _checkpoint(source, options)
    name = options.name or _default_name(read.architecture, options.precision)
    spec = replace(read.spec, name=name)
    check_fits(options.repository, spec)
    say("comparing Paddle and ONNX Runtime")
    if options.graph is Graph.FUSED:
        fuse(read.model)
    content = bytes(read.model.SerializeToString())
    compared = read.check(content)
    if options.precision is not Precision.FP32:
        say(f"measuring what {options.precision.value} changes")
    content, drift = reduced(content, spec, options.precision)
    card = ModelCard(
        spec=spec,
        architecture=read.architecture,
        precision=options.precision,
        weights_sha256=hashlib.sha256(content).hexdigest(),
        source=read.source,
        max_abs_difference=compared.max_abs_difference,
        min_cosine=compared.min_cosine,
        drift=drift,
        versions=tool_versions(),
    )
    return Conversion(place(options.repository, content, card), card)


def _default_name(architecture: str, precision: Precision) -> str:
    return architecture if precision is Precision.FP32 else f"{architecture}_{precision.value}"


def _checkpoint(path: Path, options: ConversionOptions) -> _Read:
    state = read_pdparams(path)
    name = options.architecture or architecture_of(state)
    spec, architecture = SPECS[name], ARCHITECTURES[name]
    layer = architecture.build(spec.input_size)
    load_state(layer, state, architecture.training_only)
    source = Source("checkpoint", {path.name: weights_digest(path)})
    return _from_layer(architecture.served(layer), spec, name, source)


def _from_layer(layer: paddle.nn.Layer, spec: ModelSpec, architecture: str, source: Source) -> _Read:
    model = exported_graph(layer, spec)
    return _Read(spec, architecture, model, lambda content: parity.check_parity(layer, content, spec), source)


def _directory(folder: Path, options: ConversionOptions) -> _Read:
    directory = InferenceDirectory.open(folder)
    name = options.architecture or directory.model_name()
    if name not in ARCHITECTURES:
        raise ConversionError(
            f"{folder}: expected a yml with Global.model_name, or --architecture, of {', '.join(ARCHITECTURES)}; got {name or 'neither'}"
        )
    spec = directory.spec(SPECS[name])
    pictures = parity.fixed_pictures(spec)
    program = read_program(directory.program, parity.network_input(pictures, spec))
    source = Source("inference", directory.digests())
    try:
        layer = recovered_layer(program, ARCHITECTURES[name], spec)
        parity.check_recovery(layer, program.outputs, spec)
    except (ConversionError, ParityError) as error:
        return _as_exported(directory, program, spec, name, replace(source, note=_note(spec, error)))
    return _from_layer(layer, spec, name, source)


def _note(spec: ModelSpec, error: Exception) -> str:
    batch = "; it is served at batch 1, with the suppression that was exported" if spec.task is Task.DETECTOR else ""
    return f"The exported graph is served as it is, since its weights do not fit our architecture ({error}){batch}."


def _as_exported(
    directory: InferenceDirectory, program: ExportedProgram, spec: ModelSpec, architecture: str, source: Source
) -> _Read:
    """The program converted as it is: an encoder with any batch, a detector at batch 1, which its suppression is fixed to."""
    plain = export_program(directory.program)
    if spec.task is Task.DETECTOR:
        spec = replace(spec, max_batch=1)
        model = complete_single_detector(plain, spec)
    else:
        model = complete_encoder(plain, spec)
    return _Read(
        spec, architecture, model, lambda content: parity.check_program(program.outputs, content, spec), source
    )
