"""Draws product pictures and scenes with true boxes (numpy, OpenCV and Pillow only; no Paddle)."""

from __future__ import annotations

from shitu_train.render.demo_dataset import DemoSizes, write_demo_dataset
from shitu_train.render.picture import draw_picture
from shitu_train.render.product import KINDS, Product, make_products
from shitu_train.render.scene import Scene, draw_scene
from shitu_train.render.words import SPLITS

__all__ = [
    "KINDS",
    "SPLITS",
    "DemoSizes",
    "Product",
    "Scene",
    "draw_picture",
    "draw_scene",
    "make_products",
    "write_demo_dataset",
]
