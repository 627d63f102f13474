"""Filters in a real Milvus let through what plain Python does, whatever stands in labels, ids and values."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import sys

import numpy as np
import pytest
from tests.contract.test_gallery import holds
from tests.milvus_server import MilvusServer

from shitu_server.filters import And, Eq, FieldType, Filter, In, Not, Or, Range, check_filter
from shitu_server.gallery.milvus.gallery import MilvusGallery
from shitu_server.types import GalleryOptions, Metadata, NewItem, SearchOptions

pytestmark = pytest.mark.milvus

ENCODER = "encoder-1"
FIELDS = {"text": FieldType.STRING, "n": FieldType.NUMBER, "flag": FieldType.BOOLEAN}
TEXTS = [
    *(
        "",
        " ",
        "a",
        "A",
        "a b",
        'a"b',
        "a'b",
        "a\\b",
        'a\\"b',
        "\\",
        "\\\\",
        '"',
        "'",
        '" or true or "',
        "') or (1 == 1",
        "\\u0061",
    ),
    *(
        "a\nb",
        "a\r\nb",
        "a\tb",
        "\x00",
        "a\x00b",
        "\x7f",
        "\x1b[0m",
        "ü",
        "u\u0308",
        "日本",
        "😀",
        "👩‍👩‍👧",
        "\u2028",
        "\u202e",
        "\ufeff",
    ),
    *(
        "%",
        "_",
        "a%b",
        "{x}",
        "{{x}}",
        "$x",
        "null",
        "true",
        "1",
        "1.0",
        "[1]",
        "//",
        "/*",
        "--",
        "#",
        ";",
        "x" * 200,
        "字" * 200,
    ),
]
NUMBERS = [
    *(
        0,
        1,
        3,
        3.0,
        -0.0,
        0.1,
        1 / 3,
        -7,
        2**53,
        2**53 + 1,
        2**63,
        -(2**63),
        2**64,
        10**20,
        1e20,
        1e-7,
        1e16,
        123456789.123,
    ),
    *(5e-324, sys.float_info.max, -sys.float_info.max),
]


def drawn_items(rng: random.Random) -> list[NewItem]:
    rows = np.random.default_rng(0).standard_normal((200, 8), dtype=np.float32)
    items = []
    for i, row in enumerate(rows):
        metadata: dict = {"text": rng.choice(TEXTS), "n": rng.choice(NUMBERS), "flag": rng.random() < 0.5}
        metadata = {name: value for name, value in metadata.items() if rng.random() < 0.7}
        metadata["other"] = {"text": "a", "n": 10**400}  # which is JSON, though Milvus does not take it for that
        items.append(NewItem(f"{i}{TEXTS[i % len(TEXTS)]}", rng.choice(TEXTS) or "label", row, metadata))
    return items


def as_float64(metadata: Metadata) -> Metadata:
    return {name: float(value) if name == "n" else value for name, value in metadata.items()}


def drawn_filter(rng: random.Random, items: list[NewItem], depth: int = 0) -> Filter:
    kind = rng.random() if depth < 4 else 1.0
    if kind < 0.15:
        return Not(drawn_filter(rng, items, depth + 1))
    if kind < 0.45:
        operands = tuple(drawn_filter(rng, items, depth + 1) for _ in range(rng.randint(1, 3)))
        return And(operands) if rng.random() < 0.5 else Or(operands)
    field = rng.choice(["text", "n", "flag", "label", "id"])
    if field == "n" and rng.random() < 0.6:
        names = rng.sample(["at_least", "above", "at_most", "below"], rng.randint(1, 2))
        return Range(
            "n", **{name: rng.choice([*map(float, NUMBERS), 2.5, float("inf"), float("-inf")]) for name in names}
        )
    values = {
        "text": TEXTS,
        "label": TEXTS,
        "id": [item.id for item in items],
        "n": [*map(float, NUMBERS), 0.5, float("nan")],
        "flag": [True, False],
    }[field]
    if rng.random() < 0.5:
        return Eq(field, rng.choice(values))
    return In(field, tuple(rng.choice(values) for _ in range(rng.randint(1, 5))))


async def test_drawn_filters_let_through_what_python_does(milvus: MilvusServer):
    rng = random.Random(1)
    items = drawn_items(rng)
    compared = [dataclasses.replace(item, metadata=as_float64(item.metadata)) for item in items]
    gallery = MilvusGallery(milvus.address, token=milvus.token)
    try:
        for left in (await gallery.list_galleries(1000, "")).entries:
            await gallery.delete(left.name)
        await gallery.create("drinks", ENCODER, 8, GalleryOptions(fields=FIELDS))
        await gallery.add("drinks", items, ENCODER)
        for item in items:
            assert (await gallery.get_item("drinks", item.id)).metadata == item.metadata

        async def check(where: Filter) -> int:
            check_filter(where, FIELDS)
            options = SearchOptions(256, where=where)
            found = await gallery.search("drinks", np.ones((1, 8), np.float32), ENCODER, options)
            allowed = {item.id for item in compared if holds(where, item)}
            assert {hit.item_id for hit in found.hits[0]} == allowed, where
            return len(allowed)

        simple = [Eq(field, text) for field in ("text", "label") for text in TEXTS]
        drawn = [drawn_filter(rng, items) for _ in range(400)]
        counts = []
        for begin in range(0, 500, 10):
            counts += await asyncio.gather(*map(check, [*simple, *drawn][begin : begin + 10]))
        assert sum(0 < count < len(items) for count in counts) > 200
    finally:
        await gallery.close()
