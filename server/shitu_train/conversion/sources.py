"""What a model is converted from: a checkpoint, an exported directory, or its tar; read, and put into our architecture."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import onnx
import paddle

from shitu_models.cards import Source
from shitu_models.downloads.archive import extract
from shitu_models.fingerprint import weights_digest
from shitu_models.specs import SPECS, ModelSpec, Task
from shitu_train.architectures.catalogue import ARCHITECTURES
from shitu_train.conversion import parity
from shitu_train.conversion.export import exported_graph
from shitu_train.conversion.exported_program import ExportedProgram, read_program
from shitu_train.conversion.graph import complete_encoder, complete_single_detector
from shitu_train.conversion.inference_directory import InferenceDirectory
from shitu_train.conversion.loading import architecture_of, load_state
from shitu_train.conversion.paddle2onnx_process import export_program
from shitu_train.conversion.pdparams import read_pdparams
from shitu_train.conversion.recovery import recovered_layer
from shitu_train.errors import ConversionError, ParityError

_TAR_ENDINGS: Final = frozenset({".tar", ".tgz", ".gz"})


@dataclass(frozen=True)
class ReadModel:
    """A source that was read; nothing is placed yet."""

    spec: ModelSpec
    """As it is served, but for the name, which is the architecture's."""
    source: Source
    graph: Callable[[], onnx.ModelProto]
    """Makes the served graph."""
    check: Callable[[bytes], parity.Parity]
    """Compares a served graph with Paddle; raises ParityError."""
    layer: paddle.nn.Layer | None
    """As it is exported; None where the exported program is served as it is."""

    @property
    def architecture(self) -> str:
        """Name of the entry in the registry."""
        return self.spec.name


@contextmanager
def opened(source: Path, architecture: str = "") -> Iterator[ReadModel]:
    """Read a `.pdparams` file, an exported directory or its tar; the directory of a tar is there while the body runs.

    Args:
        source: the file or the directory.
        architecture: of the registry; found out where empty.

    Raises:
        ConversionError: it cannot be read, or is of no architecture that is known.
        ArchiveError: the tar is unsafe or damaged.
    """
    if architecture and architecture not in ARCHITECTURES:
        raise ConversionError(f"unknown architecture {architecture!r}; known: {', '.join(ARCHITECTURES)}")
    if not source.exists():
        raise ConversionError(f"{source} is not there; give a .pdparams file, an exported directory or its .tar")
    if source.is_dir():
        yield _directory(source, architecture)
    elif source.suffix in _TAR_ENDINGS:
        with tempfile.TemporaryDirectory(prefix="shitu-tar-") as folder:
            yield _directory(extract(source, Path(folder) / "model"), architecture)
    else:
        yield _checkpoint(source, architecture)


def _checkpoint(path: Path, architecture: str) -> ReadModel:
    state = read_pdparams(path)
    name = architecture or architecture_of(state)
    spec, known = SPECS[name], ARCHITECTURES[name]
    layer = known.build(spec.input_size)
    try:
        load_state(layer, state, known.training_only)
    except ConversionError as error:
        raise ConversionError(
            f"{path} does not hold the weights of {name}: {error}; give the file or architecture that fits"
        ) from error
    return _from_layer(known.served(layer), spec, Source("checkpoint", {path.name: weights_digest(path)}))


def _from_layer(layer: paddle.nn.Layer, spec: ModelSpec, source: Source) -> ReadModel:
    layer.eval()
    return ReadModel(
        spec,
        source,
        graph=lambda: exported_graph(layer, spec),
        check=lambda content: parity.check_parity(layer, content, spec),
        layer=layer,
    )


def _directory(folder: Path, architecture: str) -> ReadModel:
    directory = InferenceDirectory.open(folder)
    name = architecture or directory.model_name()
    if name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ConversionError(
            f"{folder}: expected an inference.yml with Global.model_name of {known}, got {name or 'none'}; say it with --architecture"
        )
    spec = directory.spec(SPECS[name])
    program = read_program(directory.program, parity.network_input(parity.fixed_pictures(spec), spec))
    _check_outputs(folder, program, spec)
    source = Source("inference", directory.digests())
    try:
        layer = recovered_layer(program, ARCHITECTURES[name], spec)
        parity.check_recovery(layer, program.outputs, spec)
    except (ConversionError, ParityError) as error:
        return _as_exported(directory, program, spec, source, error)
    return _from_layer(layer, spec, source)


def _check_outputs(folder: Path, program: ExportedProgram, spec: ModelSpec) -> None:
    """Raise ConversionError where a program gives something else than vectors, or rows of class, score and box."""
    shapes = [list(output.shape) for output in program.outputs[0]]
    wanted = "vectors [1, d]" if spec.task is Task.ENCODER else "rows [m, 6] and their number"
    fits = len(shapes) == 1 and len(shapes[0]) == 2 and shapes[0][0] == 1
    if spec.task is Task.DETECTOR:
        fits = len(shapes) == 2 and shapes[0][-1:] == [6]
    if not fits:
        raise ConversionError(f"{folder}: expected a program that gives {wanted}, as {spec.name} does, got {shapes}")


def _as_exported(
    directory: InferenceDirectory, program: ExportedProgram, spec: ModelSpec, source: Source, error: Exception
) -> ReadModel:
    """The program converted as it is: an encoder with any batch, a detector at batch 1, which its suppression is fixed to."""
    note = f"The exported graph is served as it is, since its weights do not fit our architecture ({error})"
    if spec.task is Task.DETECTOR:
        note += "; it runs at batch 1, with the suppression that was exported"
        spec = replace(spec, max_batch=1)
    else:
        spec = replace(spec, embedding_dimension=int(program.outputs[0][0].shape[-1]))
    complete = complete_encoder if spec.task is Task.ENCODER else complete_single_detector
    return ReadModel(
        spec,
        replace(source, note=note),
        graph=lambda: complete(export_program(directory.program), spec),
        check=lambda content: parity.check_program(program.outputs, content, spec),
        layer=None,
    )
