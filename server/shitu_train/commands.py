"""`shitu train ...`. Paddle is imported only inside the commands that need it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, NoReturn, Optional

import typer
from rich.console import Console
from rich.markup import escape

from shitu_train.cpu import configure_cpu
from shitu_train.errors import TrainError
from shitu_train.extras import paddle_module

commands = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)

Cache = Annotated[Path, typer.Option(help="Folder of the drawn training pictures (see render-cache).")]
Checkpoint = Annotated[Path, typer.Option(help="File of the run's state; an existing one is resumed.")]
Grocery = Annotated[
    Optional[Path], typer.Option(help="Folder of the Grocery Store photos; their even half is trained on.")
]
Repository = Annotated[Path, typer.Option(help="Folder of the models.")]


class DemoModel(str, Enum):
    """The models that are trained here."""

    DETECTOR = "demo_det"
    ENCODER = "demo_rec"


def register(app: typer.Typer) -> None:
    """Add the training commands as `shitu train`. Raises ModuleNotFoundError where the train extra is not installed."""
    if importlib.util.find_spec("paddle") is None:
        raise ModuleNotFoundError("Paddle is not installed", name="paddle")
    app.add_typer(commands, name="train", help="Draw pictures; train, export and evaluate models.")


@commands.command()
def render(
    out: Annotated[Path, typer.Argument(help="Folder to write to.")],
    *,
    products: Annotated[int, typer.Option(min=1, help="Products of brands that no model was trained on.")] = 30,
    pictures: Annotated[int, typer.Option(min=1, help="Gallery pictures of each product.")] = 4,
    scenes: Annotated[int, typer.Option(min=0, help="Test scenes.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same pictures.")] = 5,
) -> None:
    """Draw a demo data set: gallery/, gallery.txt, test_images/ and test_truth.json."""
    from rich.progress import Progress  # noqa: PLC0415

    from shitu_train.render import DemoSizes, write_demo_dataset  # noqa: PLC0415

    sizes = DemoSizes(products=products, gallery_pictures_per_product=pictures, scenes=scenes)
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("drawing", total=products * pictures + scenes)
        write_demo_dataset(out, seed, sizes, advance=lambda: progress.advance(task))


@commands.command()
def render_cache(
    *,
    cache: Cache,
    processes: Annotated[int, typer.Option(min=1, help="How many draw at once.")] = 2,
) -> None:
    """Draw the training and validation pictures once (about 4 minutes and 5 GB)."""
    from shitu_train.datasets.drawn import draw_cache  # noqa: PLC0415
    from shitu_train.plans import TRAIN_PLAN, VALIDATION_PLAN  # noqa: PLC0415

    with _errors_in_plain_words():
        draw_cache(cache / "train", TRAIN_PLAN, processes)
        draw_cache(cache / "val", VALIDATION_PLAN, 1)


@commands.command()
def fit(
    model: DemoModel,
    *,
    cache: Cache,
    checkpoint: Checkpoint,
    grocery: Grocery = None,
    time_budget_s: Annotated[Optional[float], typer.Option(min=1, help="End after this many seconds.")] = None,
    steps: Annotated[Optional[int], typer.Option(min=1, help="End after this many steps.")] = None,
    batch: Annotated[int, typer.Option(min=2, help="Pictures of a step.")] = 48,
    seed: Annotated[int, typer.Option(min=0, help="Of initial weights and of the batches.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Of Paddle.")] = 2,
) -> None:
    """Train a demo model on the CPU; a run that was interrupted goes on from its last checkpoint."""
    configure_cpu(threads)
    with _errors_in_plain_words():
        recipes = paddle_module("shitu_train.recipes")
    settings = recipes.RunSettings(
        cache=cache,
        checkpoint=checkpoint,
        grocery=grocery,
        time_budget_s=time_budget_s,
        steps=steps,
        batch=batch,
        seed=seed,
    )
    run = recipes.train_demo_encoder if model is DemoModel.ENCODER else recipes.train_demo_detector
    with _errors_in_plain_words():
        run(settings)


@commands.command()
def export(
    model: DemoModel,
    *,
    checkpoint: Annotated[Path, typer.Option(help="What `train` wrote.")],
    repository: Repository = Path("model_repository"),
) -> None:
    """Write a model to the repository as ONNX, if it computes what Paddle computes, and record how it was made."""
    with _errors_in_plain_words():
        parity = paddle_module("shitu_train.recipes").export_demo_model(model.value, checkpoint, repository)
    Console().print(f"{model.value}: {parity}", highlight=False)


@commands.command()
def evaluate(
    *,
    repository: Repository = Path("model_repository"),
    scenes: Annotated[Path, typer.Option(help="A folder that `render` wrote.")],
    grocery: Annotated[Optional[Path], typer.Option(help="Folder of the Grocery Store photos.")] = None,
) -> None:
    """Measure both demo models as exported, and add the figures to their training records."""
    from shitu_train.records import record_evaluation  # noqa: PLC0415

    with _errors_in_plain_words():
        figures = record_evaluation(repository, scenes, grocery)
    for name, values in figures.items():
        Console().print(f"{name}: {values}", highlight=False)


@contextmanager
def _errors_in_plain_words() -> Iterator[None]:
    """Ends the command with one sentence instead of a traceback where the user can do something about it."""
    try:
        yield
    except (TrainError, OSError, ValueError) as error:
        _fail(str(error), error)


def _fail(message: str, error: Exception) -> NoReturn:
    Console(stderr=True).print(f"[red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)
    raise SystemExit(1) from error
