"""`training.json` beside each demo model: how it was made and what it achieves, written by the code that did it."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from shitu_models.fingerprint import weights_digest
from shitu_models.specs import DEMO_DET, DEMO_REC
from shitu_train.evaluation import OnnxModel, evaluate_grocery, evaluate_scenes

FILE_NAME = "training.json"
_TOOLS = ("paddlepaddle", "paddle2onnx", "onnx", "onnxruntime", "numpy")


def tool_versions() -> dict[str, str]:
    """Versions of the tools that decide what a trained and exported model is."""
    found = {}
    for name in _TOOLS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def source_commit() -> str:
    """The commit of the source, with `+` where files differ from it; `unknown` outside a checkout."""
    folder = Path(__file__).parent
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty=+"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def write_record(repository: Path, model: str, **sections: Any) -> None:
    """Add sections to the record of the model as it is now; figures of an earlier file of that model are dropped."""
    path, digest = repository / model / FILE_NAME, weights_digest(repository / model / "1" / "model.onnx")
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if record.get("sha256") != digest:
        record = {"model": model, "sha256": digest}
    record.update(sections)
    path.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def record_evaluation(repository: Path, scenes: Path, grocery: Path | None) -> dict[str, Any]:
    """Evaluates both demo models and adds the figures to both records.

    Returns:
        The figures by the name of the data: `drawn_scenes`, and `grocery` where its folder is given.
    """
    detector = OnnxModel(repository / DEMO_DET.name / "1" / "model.onnx", DEMO_DET)
    encoder = OnnxModel(repository / DEMO_REC.name / "1" / "model.onnx", DEMO_REC)
    figures: dict[str, Any] = {
        "drawn_scenes": asdict(evaluate_scenes(scenes, detector, encoder, DEMO_DET.default_threshold))
    }
    if grocery is not None:
        figures["grocery"] = asdict(evaluate_grocery(grocery, encoder))
    write_record(repository, DEMO_DET.name, evaluation={"drawn_scenes": figures["drawn_scenes"]})
    write_record(repository, DEMO_REC.name, evaluation=figures)
    return figures
