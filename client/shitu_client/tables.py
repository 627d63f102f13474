"""Results as tables for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from shitu_client.builds import BuildOutcome
from shitu_client.results import EncoderInfo, GalleryInfo, ItemPage, RecognizedObject
from shitu_client.runs import RunOutcome

_MAX_PICTURES: Final = 25
_MAX_FAILURES: Final = 20


def print_galleries(console: Console, galleries: Sequence[GalleryInfo]) -> None:
    """Print one line for each gallery."""
    table = Table("gallery", "items", "dimension", "encoder", "generation", "sequence")
    for info in galleries:
        numbers = (str(info.item_count), str(info.dimension))
        table.add_row(info.name, *numbers, info.encoder_fingerprint, str(info.generation), str(info.sequence))
    console.print(table if galleries else "no galleries yet; `shitu gallery build NAME FOLDER` makes one")


def print_encoders(console: Console, encoders: Sequence[EncoderInfo]) -> None:
    """Print one line for each version of each encoder."""
    table = Table(
        Column("encoder", no_wrap=True),
        "version",
        Column("fingerprint", no_wrap=True),
        "dimension",
        "precision",
        "profile",
        "threshold",
        "",
    )
    for info in encoders:
        numbers = (str(info.version), info.fingerprint, str(info.dimension))
        default = "default" if info.is_default else ""
        threshold = f"{info.default_match_threshold:g}"
        table.add_row(escape(info.name), *numbers, info.precision, info.profile, threshold, default)
    console.print(table)


def print_items(console: Console, page: ItemPage) -> None:
    """Print one line for each item."""
    table = Table("id", "label", "metadata")
    for item in page.items:
        table.add_row(escape(item.id), escape(item.label), escape(str(dict(item.metadata) or "")))
    console.print(table)
    if page.next_page_token:
        console.print(f"the first {len(page.items)} items; --limit shows more")


def print_build(console: Console, info: GalleryInfo, outcome: BuildOutcome) -> None:
    """Print what a build did."""
    _print_failures(console, outcome.failures)
    rate = outcome.added_count / max(outcome.elapsed_s, 1e-9)
    console.print(
        f"gallery {info.name}: added {outcome.added_count} pictures in {outcome.elapsed_s:.1f} s ({rate:.1f} images/s), "
        f"{len(outcome.failures)} failed; it holds {info.item_count} items",
        highlight=False,
    )


def print_recognitions(console: Console, outcome: RunOutcome, *, labelled: bool) -> None:
    """Print the objects of the first pictures, then the totals."""
    if outcome.results and not labelled:
        console.print(_objects_table(outcome))
    _print_failures(console, {str(path): message for path, message in outcome.failures.items()})
    if labelled:
        console.print(f"recall@1 [bold]{outcome.recall_at_1:.4f}[/] on {len(outcome.truth)} pictures", highlight=False)
    console.print(
        f"{len(outcome.results)} pictures in {outcome.elapsed_s:.1f} s: {outcome.images_per_s:.1f} images/s, "
        f"{len(outcome.failures)} failed",
        highlight=False,
    )
    if outcome.saved_to is not None:
        console.print(f"annotated pictures and JSON: {outcome.saved_to}", highlight=False)


def _objects_table(outcome: RunOutcome) -> Table:
    table = Table("picture", "label", "score", "detected", "box")
    for path in list(outcome.truth)[:_MAX_PICTURES]:
        result = outcome.results.get(path)
        for index, found in enumerate(result.objects if result else ()):
            table.add_row(escape(path.name) if index == 0 else "", *_cells(found))
        table.add_section()
    if len(outcome.truth) > _MAX_PICTURES:
        table.caption = f"the first {_MAX_PICTURES} of {len(outcome.truth)} pictures"
    return table


def _cells(found: RecognizedObject) -> tuple[str, str, str, str]:
    best = found.best_candidate
    label = f"[green]{escape(found.label)}[/]" if found.label else "[dim]unknown[/]"
    score = f"{best.score:.2f}" if best else "-"
    detected = f"{found.detection_score:.2f}" if found.source == "detected" else found.source
    return label, score, detected, ",".join(f"{value:.0f}" for value in found.box)


def _print_failures(console: Console, failures: dict[str, str]) -> None:
    for name, message in list(failures.items())[:_MAX_FAILURES]:
        console.print(
            f"[red]failed[/] {escape(Path(name).as_posix())}: {escape(message)}", highlight=False, soft_wrap=True
        )
    if len(failures) > _MAX_FAILURES:
        console.print(f"... and {len(failures) - _MAX_FAILURES} more", highlight=False)
