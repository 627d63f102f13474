"""Pronounceable invented words, each of which belongs to exactly one split."""

from __future__ import annotations

import hashlib

import numpy as np

_ONSETS = (
    "b",
    "br",
    "c",
    "ch",
    "d",
    "f",
    "fl",
    "g",
    "gr",
    "h",
    "j",
    "k",
    "l",
    "m",
    "n",
    "p",
    "pr",
    "r",
    "s",
    "st",
    "t",
    "tr",
    "v",
    "z",
)
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "oo", "y")
_CODAS = ("", "", "", "n", "r", "l", "x", "s", "m", "ck", "nt")
SPLITS: tuple[str, ...] = ("train", "val", "demo")
# Out of eight hash buckets: how many words each split owns.
_BUCKET_OWNER = ("demo", "demo", "val", "train", "train", "train", "train", "train")


def owner_of(word: str) -> str:
    """The one split that may use `word`, found by its hash, so that splits can never share a word."""
    return _BUCKET_OWNER[hashlib.sha256(word.lower().encode()).digest()[0] % len(_BUCKET_OWNER)]


def invent_word(rng: np.random.Generator, split: str, syllables: int) -> str:
    """A capitalised invented word of `split`.

    Raises:
        ValueError: `split` is not one of SPLITS.
    """
    if split not in SPLITS:
        raise ValueError(f"expected a split out of {SPLITS}, got {split!r}")
    while True:
        parts = []
        for _ in range(syllables):
            parts += [_ONSETS[rng.integers(len(_ONSETS))], _VOWELS[rng.integers(len(_VOWELS))]]
        word = ("".join(parts) + _CODAS[rng.integers(len(_CODAS))]).capitalize()
        if owner_of(word) == split:
            return word
