"""Limits of a gallery process."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GalleryLimits:
    """Each is the greatest value that is taken."""

    gallery_count: int = 1000
    items_per_gallery: int = 2_000_000
    """An item of 512 numbers takes about 2.5 KB of memory."""
    items_per_call: int = 256
    ids_per_call: int = 1000
    queries_per_call: int = 64
    hits_per_call: int = 6400
    """Queries of a search, times its top_k."""
    hits_metadata_characters: int = 16 * 1024 * 1024
    """JSON of all hits of a call. As Struct it takes up to three times as much, which a reply of 64 MiB can hold."""
    id_characters: int = 256
    label_characters: int = 256
    fingerprint_characters: int = 256
    metadata_bytes: int = 16 * 1024
    """As UTF-8 JSON."""
    thumbnail_bytes: int = 256 * 1024
    dimension: int = 4096
    fields: int = 32
    """Declared ones of a gallery."""
    aliases: int = 1000
    """Of all galleries together."""
    top_k: int = 1000
    page_size: int = 1000
    default_page_size: int = 100
    """Where 0 are asked for."""
    calls_in_flight: int = 1024
    """Of any kind at the process, health among them; gRPC itself refuses what is over it."""
    read_queue_calls: int = 256
    """Lists and single items that may wait."""
    write_queue_calls: int = 256
    write_queue_bytes: int = 256 * 1024 * 1024
    search_queue_queries: int = 1024
    snapshots_in_flight: int = 2
    """Each reads in a thread of its own, and keeps SQLite's log from being emptied."""
    hold_s: float = 10.0
    """How long writes may be held back for a generation to be published."""


@dataclass(frozen=True)
class IndexOptions:
    """When the search of a gallery is built, and with how many processors.

    Below `flat_rows` an AUTO gallery compares every vector, which is exact; from there on IVF answers many times as many queries. Not
    HNSW: of a million products (shitu_bench.galleries.gallery_search) with the same recall it was built in 666 s against 79 s, and answered
    158 queries a second against 2,687.
    """

    flat_rows: int = 200_000
    """Where AUTO changes to IVF."""
    least_delta_rows: int = 8192
    """Rows outside the graph or the lists are compared one by one; with more than this and `delta_share` of those inside, they are
    taken in, in the background."""
    delta_share: float = 0.05
    dead_share: float = 0.2
    """With more removed rows inside than this, the graph or the lists are built anew."""
    build_threads: int = 1
    """Of the building; searches go on beside it."""
    on_gpu: bool = False
    """Rows of flat galleries are copied to a GPU, from `least_delta_rows` on, and compared there."""


@dataclass(frozen=True)
class BatchingOptions:
    """How queries of several calls are searched together."""

    batch_queries: int = 64
    thread_count: int = 1
    """Threads of one search; the environment must name as many (`environment.search_environment`)."""
