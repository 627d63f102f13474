# ruff: noqa: INP001  # a script for another interpreter, in no package
# mypy: disable-error-code="import-not-found"
"""Run by the peer's interpreter: PaddleX's basic serving with a number of threads.

serving.py PIPELINE.yaml HOST PORT THREADS

It does what `paddlex --serve --pipeline PIPELINE.yaml --device cpu` does (paddlex_cli.serve, 3.3.13), whose command line cannot set the
threads: PaddleX's Python API can.
"""

import sys

from paddlex import create_pipeline
from paddlex.inference import PaddlePredictorOption
from paddlex.inference.pipelines import load_pipeline_config
from paddlex.inference.serving.basic_serving import create_pipeline_app, run_server


def main(config_path: str, host: str, port: int, threads: int) -> None:
    """Serve until a signal ends it."""
    config = load_pipeline_config(config_path)
    option = PaddlePredictorOption(cpu_threads=threads)
    pipeline = create_pipeline(config=dict(config), device="cpu", pp_option=option)
    run_server(create_pipeline_app(pipeline, config), host=host, port=port)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
