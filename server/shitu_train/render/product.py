"""What a drawn product is: a frozen description that determines its looks entirely."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, replace

import numpy as np

from shitu_train.render.words import SPLITS, invent_word

KINDS: tuple[str, ...] = ("can", "bottle", "carton", "pouch")
PATTERNS: tuple[str, ...] = (
    "plain",
    "stripes",
    "bars",
    "diagonal",
    "dots",
    "waves",
    "top",
    "bottom",
    "split",
    "chevron",
    "disc",
    "rays",
    "checks",
)
EMBLEMS: tuple[str, ...] = (
    "star",
    "disc",
    "leaf",
    "drop",
    "heart",
    "sun",
    "diamond",
    "ring",
    "hills",
    "cross",
    "fruit",
    "bolt",
)
Colour = tuple[int, int, int]
# Width / height of the outline, lowest and highest.
_ASPECTS = {"can": (0.46, 0.66), "bottle": (0.28, 0.40), "carton": (0.50, 0.95), "pouch": (0.62, 0.95)}


@dataclass(frozen=True)
class Product:
    """A product, fully determined by its fields.

    Colours are RGB, 0 to 255. `aspect` is width / height of the front. `lettering` and `layout` pick the type face and the
    arrangement of the label; `art_seed` seeds the details of the pattern, which all variants of one brand share.
    """

    split: str
    brand: str
    variant: str
    kind: str
    aspect: float
    base: Colour
    accent: Colour
    ink: Colour
    pattern: str
    emblem: str
    lettering: int
    layout: int
    art_seed: int

    @property
    def label(self) -> str:
        """The name that galleries use: brand and variant."""
        return f"{self.brand} {self.variant}"


def make_products(seed: int, count: int, split: str) -> tuple[Product, ...]:
    """`count` products of `split`, in families of two to four variants that differ in a colour, an emblem and a word.

    Word marks of different splits never coincide (each word belongs to one split by its hash), and each split draws from its own seed
    space.

    Raises:
        ValueError: `split` is not one of SPLITS, or `count` is not positive.
    """
    if split not in SPLITS:
        raise ValueError(f"expected a split out of {SPLITS}, got {split!r}")
    if count < 1:
        raise ValueError(f"expected at least 1 product, got {count}")
    rng = np.random.default_rng([SPLITS.index(split), seed])
    products: list[Product] = []
    taken: set[str] = set()
    while len(products) < count:
        head = _family_head(rng, split)
        if head.brand in taken:
            continue
        taken.add(head.brand)
        products += _family(rng, head, min(int(rng.integers(2, 5)), count - len(products)))
    return tuple(products)


def _family_head(rng: np.random.Generator, split: str) -> Product:
    kind = KINDS[rng.integers(len(KINDS))]
    base, accent, ink = _colours(rng)
    return Product(
        split=split,
        brand=invent_word(rng, split, int(rng.integers(2, 4))),
        variant=invent_word(rng, split, 2),
        kind=kind,
        aspect=float(rng.uniform(*_ASPECTS[kind])),
        base=base,
        accent=accent,
        ink=ink,
        pattern=PATTERNS[rng.integers(len(PATTERNS))],
        emblem=EMBLEMS[rng.integers(len(EMBLEMS))],
        lettering=int(rng.integers(6)),
        layout=int(rng.integers(4)),
        art_seed=int(rng.integers(2**31)),
    )


def _family(rng: np.random.Generator, head: Product, count: int) -> list[Product]:
    """Variants of one brand: either the ground colour or only the accent turns, and emblem and second word always change."""
    turn_base = bool(rng.random() < 0.5) and _saturation(head.base) > 0.3
    step = float(rng.uniform(0.11, 0.24)) * (1 if rng.random() < 0.5 else -1)
    emblems = rng.permutation(len(EMBLEMS))
    members = []
    for i in range(count):
        base = _turn(head.base, step * i) if turn_base else head.base
        members.append(
            replace(
                head,
                variant=invent_word(rng, head.split, 2),
                base=base,
                accent=head.accent if turn_base else _turn(head.accent, step * i),
                ink=_ink_for(base, head.ink),
                emblem=EMBLEMS[emblems[i]],
            )
        )
    return members


def _colours(rng: np.random.Generator) -> tuple[Colour, Colour, Colour]:
    hue = float(rng.random())
    if rng.random() < 0.25:
        base = ((244, 242, 236), (28, 28, 34), (236, 222, 190), (188, 192, 198))[rng.integers(4)]
    else:
        base = _rgb(hue, float(rng.uniform(0.45, 0.95)), float(rng.uniform(0.35, 0.95)))
    accent_value = float(rng.uniform(0.75, 1.0)) if _luma(base) < 128 else float(rng.uniform(0.35, 0.75))
    accent = _rgb(hue + float(rng.uniform(0.2, 0.8)), float(rng.uniform(0.55, 0.95)), accent_value)
    inks = ((255, 255, 255), (20, 20, 24), _rgb(hue + 0.5, 0.9, 0.35), _rgb(hue + 0.5, 0.35, 1.0))
    return base, accent, _ink_for(base, inks[rng.integers(4)])


def _ink_for(base: Colour, wished: Colour) -> Colour:
    """`wished`, or white or black where it could not be read on `base`."""
    if abs(_luma(base) - _luma(wished)) >= 80:
        return wished
    return (255, 255, 255) if _luma(base) < 140 else (20, 20, 24)


def _rgb(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _turn(colour: Colour, by: float) -> Colour:
    """The colour with its hue turned by `by` (1.0 is the whole circle)."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(c / 255 for c in colour))
    return _rgb(hue + by, saturation, value)


def _saturation(colour: Colour) -> float:
    return colorsys.rgb_to_hsv(*(c / 255 for c in colour))[1]


def _luma(colour: Colour) -> float:
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
