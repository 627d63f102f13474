"""Models as tables for people."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from shitu_models.cards import CARD_FILE, Drift, ModelCard, read_card
from shitu_models.downloads.sources import OFFICIAL
from shitu_models.fingerprint import fingerprint_of, weights_digest
from shitu_models.repository import (
    RepositoryError,
    find_repository,
    placed_any,
    placed_names,
    version_folder,
    versions_of,
    weights_path,
)
from shitu_models.specs import DEMO_DET, DEMO_REC, SPECS, ModelSpec, Precision, Profile, Task, with_profile

_ACCELERATORS: Final = {Precision.BF16: " --accelerator openvino", Precision.FP16: " --accelerator cuda"}
"""What a precision needs of `shitu serve`."""
_PARTNERS: Final = {Task.ENCODER: DEMO_DET.name, Task.DETECTOR: DEMO_REC.name}
"""What `shitu serve` takes beside a model where nothing is said."""
_NEEDS: Final = {
    Task.ENCODER: "; it needs a detector in that repository, too: shitu models pull PP-ShiTuV2_det, then --detector",
    Task.DETECTOR: "; it needs an encoder in that repository, too: shitu models pull PP-ShiTuV2_rec, then --encoder",
}


def print_models(console: Console, repository: Path) -> None:
    """Print PaddleX's models and those in a repository."""
    rest = [Column(title, overflow="fold") for title in ("task", "input", "vector", "precision", "versions")]
    table = Table(
        Column("model", no_wrap=True), *rest, box=box.SIMPLE, pad_edge=False, collapse_padding=True
    )  # all of it in 80 columns
    placed = placed_names(repository)
    for name in [*placed, *(name for name in SPECS if name not in placed)]:
        table.add_row(escape(name), *_row(repository, name, is_placed=name in placed))
    console.print(table)
    missing = [name for name in OFFICIAL if name not in placed]
    hint = "; `shitu models pull NAME` brings what has no version yet" if missing else ""
    console.print(f"in {repository}{hint}", highlight=False, soft_wrap=True)


def _row(repository: Path, name: str, *, is_placed: bool) -> tuple[str, ...]:
    if not is_placed:
        return (SPECS[name].task.value, *_sizes(SPECS[name]), "", "-")
    versions = ", ".join(map(str, versions_of(repository, name)))
    try:
        model = placed_any(repository, name)
    except RepositoryError as error:  # one damaged model does not hide the others
        return ("?", "", "", "", f"{versions}: {escape(str(error))}")
    return (model.spec.task.value, *_sizes(model.spec), model.precision.value, versions)


def print_model(console: Console, repository: Path, name: str) -> None:
    """Print what is known of a model: its newest version where it is placed, else what the registry and the sources say.

    Raises:
        RepositoryError: nobody knows it.
        CardError: its card is damaged.
    """
    if not versions_of(repository, name) and name in SPECS:
        table = _properties(SPECS[name])
        files = OFFICIAL[name].files if name in OFFICIAL else {}
        for kind, file in files.items():
            table.add_row(f"--source {kind.value}", file.url())
        console.print(table)
        return
    model = placed_any(repository, name)
    table = _properties(model.spec)
    digest = weights_digest(weights_path(repository, model.spec, model.version))
    table.add_row("versions", ", ".join(map(str, versions_of(repository, name))))
    table.add_row("weights sha256", digest)
    if model.spec.task is Task.ENCODER:
        for profile in Profile:
            served = with_profile(model.spec, profile)
            table.add_row(f"fingerprint ({profile.value})", fingerprint_of(served, digest, model.precision))
    card = version_folder(repository, name, model.version) / CARD_FILE
    if card.exists():
        _add_card(table, read_card(card))
    console.print(table)


def print_conversion(console: Console, folder: Path, card: ModelCard) -> None:
    """Print what a conversion came to, and how the model is served."""
    table = _two_columns()
    table.add_row("model", f"{card.spec.name}, version {folder.name}")
    _add_card(table, card)
    table.add_row("folder", str(folder))
    console.print(table)
    option = "--encoder" if card.spec.task is Task.ENCODER else "--detector"
    accelerator = _ACCELERATORS.get(card.precision, "")
    repository = folder.parents[1]
    elsewhere = "" if repository == find_repository() else f" --model-repository {repository}"
    missing = "" if versions_of(repository, _PARTNERS[card.spec.task]) else _NEEDS[card.spec.task]
    command = f"shitu serve {option} {card.spec.name}{elsewhere}{accelerator}"
    console.print(f"serve it with: {command}{missing}", highlight=False, soft_wrap=True)


def _two_columns() -> Table:
    return Table(Column(), Column(overflow="fold"), show_header=False)


def _properties(spec: ModelSpec) -> Table:
    table = _two_columns()
    size, dimension = _sizes(spec)
    table.add_row("model", f"{escape(spec.name)}, {spec.task.value}")
    table.add_row("input", f"{size}, {spec.interpolation.value}, mean {spec.mean}, deviation {spec.std}")
    if dimension:
        table.add_row("vector", dimension)
    table.add_row("largest batch", str(spec.max_batch))
    table.add_row("default threshold", f"{spec.default_threshold:g}")
    return table


def _sizes(spec: ModelSpec) -> tuple[str, str]:
    return f"{spec.input_size}x{spec.input_size}", str(spec.embedding_dimension or "")


def _add_card(table: Table, card: ModelCard) -> None:
    table.add_row("architecture", card.architecture)
    table.add_row("converted from", f"{card.source.kind}: {', '.join(card.source.files)}")
    if card.source.note:
        table.add_row("note", escape(card.source.note))
    table.add_row("Paddle against ONNX", f"difference {card.max_abs_difference:.1e}, cosine {card.min_cosine:.9f}")
    table.add_row("precision", card.precision.value)
    if card.drift is not None:
        table.add_row("drift from fp32", _drift(card.drift))


def _drift(drift: Drift) -> str:
    return (
        f"agreement mean {drift.mean_cosine:.5f}, least {drift.min_cosine:.5f}; recall {drift.recall_change:+.4f} "
        f"({drift.pictures} drawn pictures)"
    )
