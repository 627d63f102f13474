"""Command line of the training side. Paddle is imported only inside the commands that need it."""

from __future__ import annotations

import argparse
from pathlib import Path

from shitu_train.cpu import configure_cpu


def main(arguments: list[str] | None = None) -> None:
    """Runs one command."""
    options = _parser().parse_args(arguments)
    options.run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="shitu_train", description=__doc__)
    commands = parser.add_subparsers(required=True)
    cache = commands.add_parser("render-cache", help="draw the training pictures once")
    cache.add_argument("--cache", type=Path, required=True, help="folder of the cache")
    cache.add_argument("--processes", type=int, default=2)
    cache.set_defaults(run=_render_cache)
    encoder = commands.add_parser("train-encoder", help="train demo_rec")
    encoder.add_argument("--grocery", type=Path, help="folder of the Grocery Store photos; their even half is trained on")
    _add_training(encoder)
    encoder.set_defaults(run=_train_encoder)
    detector = commands.add_parser("train-detector", help="train demo_det")
    detector.add_argument("--grocery", type=Path, help="folder of the Grocery Store photos; their even half is trained on")
    _add_training(detector)
    detector.set_defaults(run=_train_detector)
    export = commands.add_parser("export", help="export a checkpoint to ONNX, through the parity gate")
    export.add_argument("model", choices=("demo_det", "demo_rec"))
    export.add_argument("--checkpoint", type=Path, required=True)
    export.add_argument("--repository", type=Path, default=Path("model_repository"))
    export.set_defaults(run=_export)
    return parser


def _add_training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cache", type=Path, required=True, help="folder that render-cache filled")
    parser.add_argument("--checkpoint", type=Path, required=True, help="written again and again; an existing one is resumed")
    parser.add_argument("--time-budget-s", type=float, help="end after this many seconds")
    parser.add_argument("--steps", type=int, help="end after this many steps")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)


def _render_cache(options: argparse.Namespace) -> None:
    from shitu_train.datasets.drawn import DrawnPlan, draw_cache

    draw_cache(options.cache / "train", DrawnPlan(seed=11, products=1200, scenes=5600, pictures_per_product=12), options.processes)
    draw_cache(options.cache / "val", DrawnPlan(seed=12, products=60, scenes=200, pictures_per_product=4, split="val"), 1)


def _train_encoder(options: argparse.Namespace) -> None:
    configure_cpu(options.threads)
    from shitu_train.recipes import train_demo_encoder

    train_demo_encoder(options)


def _train_detector(options: argparse.Namespace) -> None:
    configure_cpu(options.threads)
    from shitu_train.recipes import train_demo_detector

    train_demo_detector(options)


def _export(options: argparse.Namespace) -> None:
    from shitu_train.recipes import export_demo_model

    print(export_demo_model(options.model, options.checkpoint, options.repository))
