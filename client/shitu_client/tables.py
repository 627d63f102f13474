"""Results as tables and lines for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from shitu_client.builds import BuildOutcome
from shitu_client.exports import ExportOutcome
from shitu_client.gallery_results import GalleryInfo, ItemPage
from shitu_client.items import AddOutcome
from shitu_client.paddlex_transfers import ImportOutcome
from shitu_client.results import EncoderInfo, Match, RecognizedObject
from shitu_client.runs import RunOutcome

_MAX_PICTURES: Final = 25
_MAX_FAILURES: Final = 20


def print_line(console: Console, text: str) -> None:
    """Print a line as it is."""
    console.print(escape(text), highlight=False, soft_wrap=True)


def print_galleries(console: Console, galleries: Sequence[GalleryInfo]) -> None:
    """Print one line for each gallery."""
    table = Table(
        Column("gallery", overflow="fold"), Column("aliases", overflow="fold"), "items", "index", "encoder", "written"
    )
    for info in galleries:
        table.add_row(
            escape(info.name),
            escape(", ".join(info.aliases)),
            str(info.item_count),
            info.index.kind,
            escape(info.encoder_fingerprint),
            f"{info.generation}/{info.sequence}",
        )
    console.print(table if galleries else "no galleries yet; `shitu gallery build NAME FOLDER` makes one")


def print_gallery(console: Console, info: GalleryInfo) -> None:
    """Print all that is known of one gallery."""
    table = Table("gallery", Column(escape(info.name), overflow="fold"))
    for name, value in _facts(info).items():
        if value:
            table.add_row(name, escape(value))
    console.print(table)


def print_encoders(console: Console, encoders: Sequence[EncoderInfo]) -> None:
    """Print two lines for each version of each encoder: at 80 columns all of it can be read."""
    table = Table(Column("encoder", overflow="fold"), Column("fingerprint", no_wrap=True), "vectors", "threshold")
    for info in encoders:
        name = f"{info.name} (default)" if info.is_default else info.name
        table.add_row(
            f"{escape(name)}\nversion {info.version}",
            info.fingerprint,
            f"{info.dimension}, {info.precision}\n{info.profile}",
            f"{info.default_match_threshold:g}",
        )
    console.print(table)


def print_items(console: Console, page: ItemPage) -> None:
    """Print one line for each item."""
    table = Table(Column("id", overflow="fold"), Column("label", overflow="fold"), Column("metadata", overflow="fold"))
    for item in page.items:
        table.add_row(escape(item.id), escape(item.label), escape(_metadata_text(item.metadata)))
    console.print(table)
    if page.next_page_token:
        console.print(f"the first {len(page.items)} items; --limit shows more")


def print_matches(console: Console, matches: Sequence[Match]) -> None:
    """Print one line for each match, best first."""
    if not matches:
        console.print("nothing was found")
        return
    table = Table(
        Column("score", no_wrap=True),
        Column("label", overflow="fold"),
        Column("item", overflow="fold"),
        Column("metadata", overflow="fold"),
    )
    for match in matches:
        metadata = escape(_metadata_text(match.metadata))
        table.add_row(f"{match.score:.4f}", escape(match.label), escape(match.item_id), metadata)
    console.print(table)


def print_added(console: Console, outcome: AddOutcome) -> None:
    """Print what became of some items."""
    skipped = outcome.skipped
    count = outcome.stored_count + len(skipped) + len(outcome.failures)
    for one in skipped:
        print_line(console, f"left out {one.id}: the picture is that of {one.of_id}")
    stored = [one for one in outcome.duplicates if not one.skipped]
    for one in stored:
        print_line(console, f"note: the picture of {one.id} is that of {one.of_id} too")
    print_line(console, f"added {outcome.stored_count} of {count}")


def print_build(console: Console, info: GalleryInfo, outcome: BuildOutcome, *, saved_to: Path | None = None) -> None:
    """Print what a build did."""
    _print_failures(console, outcome.failures, f"; {_where_all_are(saved_to)}")
    rate = outcome.added_count / max(outcome.elapsed_s, 1e-9)
    also = {
        "were there already": outcome.present_count,
        "left out as duplicates": outcome.duplicate_count,
    }
    added = f"added {outcome.added_count} pictures in {outcome.elapsed_s:.1f} s ({rate:.1f} images/s)"
    parts = [added, *(f"{count} {what}" for what, count in also.items() if count), f"{len(outcome.failures)} failed"]
    print_line(console, f"gallery {info.name}: {', '.join(parts)}; it holds {info.item_count} items")
    _print_stopped(console, outcome.stopped, outcome.unsent_count)


def print_import(console: Console, outcome: ImportOutcome) -> None:
    """Print what an import did."""
    _print_failures(console, outcome.failures)
    print_line(
        console,
        f"gallery {outcome.gallery.name}: {outcome.stored_count} items of PaddleX, {len(outcome.failures)} failed",
    )
    _print_stopped(console, outcome.stopped, 0)


def print_export(console: Console, outcome: ExportOutcome, file: Path, pictures: Path | None) -> None:
    """Print what was written where."""
    _print_failures(console, outcome.failures)
    for label in sorted(outcome.renamed_labels)[:_MAX_FAILURES]:
        print_line(console, f"note: no folder can be called {label!r}; the label file has it right")
    to = f" and their pictures to {pictures}" if pictures is not None else ""
    print_line(console, f"wrote {outcome.item_count} items to {file}{to}, {len(outcome.failures)} failed")


def print_recognitions(console: Console, outcome: RunOutcome, *, labelled: bool) -> None:
    """Print the objects of the first pictures, then the totals."""
    if outcome.results and not labelled:
        console.print(_objects_table(outcome))
    _print_failures(console, {path.as_posix(): message for path, message in outcome.failures.items()})
    if labelled:
        console.print(f"recall@1 [bold]{outcome.recall_at_1:.4f}[/] on {len(outcome.truth)} pictures", highlight=False)
    console.print(
        f"{len(outcome.results)} pictures in {outcome.elapsed_s:.1f} s: {outcome.images_per_s:.1f} images/s, "
        f"{len(outcome.failures)} failed",
        highlight=False,
    )
    if outcome.saved_to is not None:
        print_line(console, f"annotated pictures and JSON: {outcome.saved_to}")


def save_failures(file: Path, failures: Mapping[str, str]) -> None:
    """Write a line `path<tab>reason` for each; a file without a line where nothing failed."""
    lines = (f"{_printable(name)}\t{_printable(' '.join(reason.split()))}\n" for name, reason in failures.items())
    file.write_text("".join(lines), encoding="utf-8")


def as_json(info: GalleryInfo, page: ItemPage) -> str:
    """Return a gallery and a page of its items for programs."""
    items = [
        {
            "id": item.id,
            "label": item.label,
            "metadata": dict(item.metadata),
            "image_digest": item.image_digest.hex(),
            "sequence": item.sequence,
            "update_time": _time_text(item.update_time),
        }
        for item in page.items
    ]
    gallery = {**asdict(info), "create_time": _time_text(info.create_time)}
    more = bool(page.next_page_token)
    return json.dumps({"gallery": gallery, "items": items, "has_more_items": more}, indent=2, ensure_ascii=False)


def _facts(info: GalleryInfo) -> dict[str, str]:
    held = "" if info.index.kind == "flat" else f" of {info.index.indexed_count} items"
    building = ", another is being built" if info.index.building else ""
    previous = f", before it {info.previous_generation}" if info.previous_generation else ""
    return {
        "aliases": ", ".join(info.aliases),
        "items": str(info.item_count),
        "encoder": f"{info.encoder_fingerprint}, vectors of {info.dimension}",
        "metric": info.metric,
        "index": f"{info.index_kind}, now {info.index.kind}{held}{building}",
        "fields": ", ".join(f"{name} ({kind})" for name, kind in info.fields.items()),
        "generation": f"{info.generation}{previous}",
        "last write": str(info.sequence),
        "created": _time_text(info.create_time),
    }


def _time_text(moment: datetime | None) -> str:
    return "" if moment is None else moment.isoformat(timespec="seconds")


def _metadata_text(metadata: Mapping[str, Any]) -> str:
    # The wire has no order of keys.
    return json.dumps(dict(metadata), ensure_ascii=False, sort_keys=True)[1:-1] if metadata else ""


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


def _print_failures(console: Console, failures: Mapping[str, str], hint: str = "") -> None:
    for name, message in list(failures.items())[:_MAX_FAILURES]:
        console.print(
            f"[red]failed[/] {escape(_printable(name))}: {escape(_printable(message))}", highlight=False, soft_wrap=True
        )
    if len(failures) > _MAX_FAILURES:
        print_line(console, f"... and {len(failures) - _MAX_FAILURES} more{hint}")


def _where_all_are(saved_to: Path | None) -> str:
    return f"all of them are in {saved_to}" if saved_to is not None else "--errors FILE saves all of them"


def _print_stopped(console: Console, stopped: str, unsent_count: int) -> None:
    if stopped:
        unsent = f"; {unsent_count} pictures were not sent" if unsent_count else ""
        console.print(f"[red]stopped[/]: {escape(stopped)}{unsent}. The same command again goes on.", highlight=False)


def _printable(text: str) -> str:
    """Return text that can be printed: names of files may hold bytes that are no characters."""
    return text.encode(errors="backslashreplace").decode()
