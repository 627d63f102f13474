"""What the demo models are trained on: seeds and amounts, in one place, so that records can quote them."""

from __future__ import annotations

from shitu_train.datasets.drawn import DrawnPlan

TRAIN_PLAN = DrawnPlan(seed=11, products=1200, scenes=5600, pictures_per_product=12)
VALIDATION_PLAN = DrawnPlan(seed=12, products=60, scenes=200, pictures_per_product=4, split="val")
# Of each batch of either model; the real photos are few, and more would only be repeated more often.
PHOTO_SHARE = 0.15
