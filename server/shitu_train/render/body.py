"""Product bodies: a label wrapped on a can, bottle, carton or pouch, seen from a pose, as a cut-out picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from shitu_train.arrays import float32
from shitu_train.render.artwork import label_art
from shitu_train.render.product import Product

_Float = NDArray[np.float32]


@dataclass(frozen=True)
class Pose:
    """How a product is seen. Angles in radians; `height_px` is its height before rolling; `light` is -1 (left) to 1 (right)."""

    height_px: int
    yaw: float
    pitch: float
    roll: float
    keystone: float
    light: float
    gloss: float


def random_pose(rng: np.random.Generator, height_px: int, freedom: float = 1.0) -> Pose:
    """A pose; `freedom` 0 is frontal and upright, 1 as in scenes."""
    return Pose(
        height_px=max(height_px, 24),
        yaw=float(rng.uniform(-0.55, 0.55)) * freedom,
        pitch=float(rng.uniform(0.05, 0.32)) * (0.4 + 0.6 * freedom),
        roll=float(np.clip(rng.normal(0, 0.05), -0.15, 0.15)) * freedom,
        keystone=float(rng.uniform(-0.07, 0.07)) * freedom,
        light=float(rng.uniform(-0.8, 0.8)),
        gloss=float(rng.uniform(0.05, 0.5)),
    )


def draw_body(product: Product, pose: Pose, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The product cut out: uint8 RGBA [h, w, 4], cropped tight to what is visible."""
    draw = {"can": _round_body, "bottle": _round_body, "carton": _carton, "pouch": _pouch}[product.kind]
    return _tight(_tilt(draw(product, pose, rng), pose))


def _tight(cut_out: NDArray[np.uint8]) -> NDArray[np.uint8]:
    x, y, width, height = cv2.boundingRect((cut_out[..., 3] > 127).astype(np.uint8))
    return np.ascontiguousarray(cut_out[y : y + height, x : x + width])


def _tilt(cut_out: NDArray[np.uint8], pose: Pose) -> NDArray[np.uint8]:
    """Rolls the cut-out and narrows its top or foot (keystone)."""
    height, width = cut_out.shape[:2]
    inset = width * pose.keystone
    quad = float32([[inset, 0], [width - inset, 0], [width + inset, height], [-inset, height]])
    sine, cosine = np.sin(pose.roll), np.cos(pose.roll)
    turned = (quad - (width / 2, height / 2)) @ float32([[cosine, sine], [-sine, cosine]])
    turned -= turned.min(axis=0) - 1
    size = np.ceil(turned.max(axis=0)).astype(int) + 2
    source = float32([[0, 0], [width, 0], [width, height], [0, height]])
    matrix = cv2.getPerspectiveTransform(source, turned.astype(np.float32))
    return np.asarray(
        cv2.warpPerspective(cut_out, matrix, (int(size[0]), int(size[1])), flags=cv2.INTER_LINEAR), np.uint8
    )


def _radius(kind: str, t: _Float) -> _Float:
    """Half width over the largest half width at height t (0 top, 1 foot)."""
    if kind == "can":
        return np.interp(t, (0, 0.05, 0.96, 1), (0.84, 1, 1, 0.88)).astype(np.float32)
    return np.interp(
        t, (0, 0.1, 0.11, 0.2, 0.27, 0.34, 0.4, 0.97, 1), (0.36, 0.36, 0.3, 0.33, 0.55, 0.86, 1, 1, 0.9)
    ).astype(np.float32)


def _label_span(kind: str) -> tuple[float, float]:
    return (0.04, 0.965) if kind == "can" else (0.44, 0.94)


def _shade(theta: _Float, pose: Pose) -> tuple[_Float, _Float]:
    """Diffuse gain and highlight of a round body at surface angle `theta`."""
    diffuse = 0.42 + 0.62 * np.clip(np.cos(theta - pose.light), 0, 1)
    highlight = pose.gloss * np.exp(-(((theta - pose.light * 0.9) / 0.13) ** 2))
    return diffuse.astype(np.float32), highlight.astype(np.float32)


def _round_body(product: Product, pose: Pose, _: np.random.Generator) -> NDArray[np.uint8]:
    height = pose.height_px
    half = height * product.aspect / 2
    sag = half * np.sin(pose.pitch) * 0.6
    rows, cols = int(height + sag) + 2, int(2 * half) + 3
    ys, xs = np.mgrid[0:rows, 0:cols].astype(np.float32)
    x = (xs - cols / 2 + 0.5) / half
    bulge = np.sqrt(np.clip(1 - x * x, 0, 1))
    t = (ys - sag * bulge * 0.9) / height
    radius = _radius(product.kind, np.clip(t, 0, 1))
    theta = np.arcsin(np.clip(x / radius, -1, 1))
    colour = _wrap_label(product, theta + pose.yaw, t)
    diffuse, highlight = _shade(theta, pose)
    colour = colour * diffuse[..., None] + highlight[..., None] * 255
    alpha = _soft(1 - np.abs(x) / radius, half) * _soft(t, height) * _soft(1 - t, height)
    if product.kind == "can":
        alpha = np.maximum(alpha, _can_lid(colour, x, ys, sag, pose))
    return _rgba(colour, alpha)


def _soft(inside: NDArray[Any], pixels: float) -> _Float:
    """Anti-aliased membership from a signed distance given in units of `pixels`."""
    return np.clip(inside * pixels + 0.5, 0, 1).astype(np.float32)


def _wrap_label(product: Product, theta: _Float, t: _Float) -> _Float:
    """The surface colour at angle `theta` and height `t`: the label where it is, the container elsewhere."""
    art = label_art(product)
    top, foot = _label_span(product.kind)
    # ROUND_WRAP says the label is 1.35 diameters wide, so a radian is width / 2.7.
    u = (art.shape[1] / 2 + theta * art.shape[1] / 2.7) % art.shape[1]
    v = np.clip((t - top) / (foot - top), 0, 1) * (art.shape[0] - 1)
    step = max(int(art.shape[0] / max(t.shape[0] * (foot - top), 1) * 0.6), 1)
    source = cv2.blur(art, (step, step)) if step > 1 else art
    wrapped = cv2.remap(
        source, u.astype(np.float32), v.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
    )
    colour = wrapped.astype(np.float32)
    outside = (t < top) | (t > foot)
    colour[outside] = _container_colour(product)
    if product.kind == "bottle":
        colour[t < 0.1] = float32(product.accent) * 0.9
    return colour


def _container_colour(product: Product) -> _Float:
    if product.kind == "can":
        return float32((196, 198, 202))
    glass = ((70, 44, 22), (30, 66, 40), (186, 200, 202), (120, 60, 30))[product.art_seed % 4]
    return float32(glass) * 0.7 + float32(product.base) * 0.3


def _can_lid(colour: _Float, x: _Float, ys: _Float, sag: float, pose: Pose) -> _Float:
    """Paints the lid's ellipse into `colour` and returns its coverage."""
    depth = max(sag * 0.84 * 0.9, 0.5)
    distance = np.hypot(x / 0.84, (ys - depth) / depth)
    cover = _soft(1 - distance, depth)
    metal = 150 + 70 * np.cos(3 * x - pose.light)
    ring = np.where((distance > 0.82) | (np.hypot(x / 0.2, (ys - depth * 1.1) / (depth * 0.35)) < 1), 232, metal)
    colour[:] = colour * (1 - cover[..., None]) + ring[..., None] * cover[..., None]
    return cover


def _rgba(colour: _Float, alpha: _Float) -> NDArray[np.uint8]:
    return np.dstack([np.clip(colour, 0, 255), alpha * 255]).astype(np.uint8)


def _carton(product: Product, pose: Pose, _: np.random.Generator) -> NDArray[np.uint8]:
    """A box of which the front, one side and the top are seen, each with its own light."""
    height = float(pose.height_px)
    width, depth = height * product.aspect, height * product.aspect * (0.35 + 0.4 * (product.art_seed % 7) / 6)
    front = width * np.cos(pose.yaw)
    side = depth * np.sin(abs(pose.yaw))
    lift = depth * np.sin(pose.pitch) * 0.7
    rise = side * np.tan(pose.pitch) * 0.6
    canvas = np.zeros((int(height + lift + rise) + 4, int(front + side) + 4, 4), np.uint8)
    left = 1.0 if pose.yaw >= 0 else side + 1
    near = [(left, lift), (left + front, lift), (left + front, lift + height), (left, lift + height)]
    shift = side if pose.yaw >= 0 else -side
    art = label_art(product)
    edge = 1 if pose.yaw >= 0 else 0
    far_top, far_foot = (near[edge][0] + shift, lift - rise), (near[edge][0] + shift, lift + height - rise * 1.6)
    side_quad = [near[1], far_top, far_foot, near[2]] if edge else [far_top, near[0], near[3], far_foot]
    lit = 1.0 + 0.15 * pose.light * (1 if edge else -1)
    if side > 2:
        _paste_face(canvas, _side_art(product), side_quad, 0.62 * lit)
    top_face = np.full((8, 8, 3), product.base, np.uint8)
    roof = [(near[0][0] + shift * 0.9, 1.0), (near[1][0] + shift * 0.9, 1.0), near[1], near[0]]
    _paste_face(canvas, top_face, roof, 1.08)
    _paste_face(canvas, art, near, 0.97 / max(lit, 0.9))
    return canvas


def _side_art(product: Product) -> NDArray[np.uint8]:
    """A side panel: the ground colour with the accent's band, so that it belongs to the front."""
    panel = np.full((96, 48, 3), product.base, np.uint8)
    panel[70:82] = product.accent
    panel[14:50:6, 8:40] = product.ink
    return panel


def _paste_face(
    canvas: NDArray[np.uint8], face: NDArray[np.uint8], quad: list[tuple[float, float]], gain: float
) -> None:
    height, width = face.shape[:2]
    target = float32(quad)
    wanted = max(float(np.abs(target[2] - target[1]).max()), 8.0)
    if wanted < height * 0.7:
        scale = wanted / height
        face = np.asarray(
            cv2.resize(face, (max(int(width * scale), 4), max(int(height * scale), 4)), interpolation=cv2.INTER_AREA),
            np.uint8,
        )
        height, width = face.shape[:2]
    source = float32([[0, 0], [width, 0], [width, height], [0, height]])
    layer = np.dstack(
        [np.clip(face.astype(np.float32) * gain, 0, 255).astype(np.uint8), np.full(face.shape[:2], 255, np.uint8)]
    )
    matrix = cv2.getPerspectiveTransform(source, target)
    cv2.warpPerspective(
        layer,
        matrix,
        (canvas.shape[1], canvas.shape[0]),
        dst=canvas,
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_TRANSPARENT,
    )


def _pouch(product: Product, pose: Pose, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A soft bag: bulging sides, crimped seams at the top and the foot, wrinkles."""
    rows, cols = pose.height_px, max(int(pose.height_px * product.aspect * (0.86 + 0.14 * np.cos(pose.yaw))), 12)
    ys, xs = np.mgrid[0:rows, 0:cols].astype(np.float32)
    x, y = xs / cols * 2 - 1, ys / rows
    swell = 0.93 + 0.06 * np.sin(np.pi * np.clip(y, 0, 1)) + 0.006 * np.sin(y * 40 + product.art_seed % 6)
    art = np.asarray(cv2.resize(label_art(product), (cols, rows), interpolation=cv2.INTER_AREA), np.uint8)
    bend = 0.02 * np.sin(y * 9 + rng.uniform(0, 6))
    u = (x / swell + bend + pose.yaw * 0.15 * (1 - x * x) + 1) / 2 * (cols - 1)
    colour = cv2.remap(art, u.astype(np.float32), ys, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(
        np.float32
    )
    gain = (
        0.86
        + 0.22 * np.cos(1.3 * x - pose.light) * np.sin(np.pi * np.clip(y * 0.9 + 0.05, 0, 1))
        + _wrinkles(rng, rows, cols, 0.10)
    )
    seam = (y < 0.06) | (y > 0.95)
    gain = np.where(seam, 0.8 + 0.12 * np.sign(np.sin(xs * 2 * np.pi / max(cols / 28, 3))), gain)
    alpha = _soft(1 - np.abs(x) / swell, cols / 2)
    return _rgba(colour * gain[..., None].astype(np.float32), alpha)


def _wrinkles(rng: np.random.Generator, rows: int, cols: int, strength: float) -> _Float:
    coarse = rng.normal(0, strength, (7, 5)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (cols, rows), interpolation=cv2.INTER_CUBIC), np.float32)
