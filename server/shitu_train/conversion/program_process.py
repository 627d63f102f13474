"""`python -m shitu_train.conversion.program_process STEM ENDING FOLDER`: the other side of `exported_program`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from shitu_train.conversion.exported_program import uses_of


def main(stem: str, ending: str, folder: Path) -> None:
    """Write the program's uses, its parameters and its outputs for `pictures.npy` into the folder."""
    paddle.enable_static()
    executor = paddle.static.Executor(paddle.CPUPlace())
    pictures = np.load(folder / "pictures.npy")
    if ending == ".pdmodel":
        with paddle.pir_utils.OldIrGuard():
            program, feeds, fetches = paddle.static.load_inference_model(stem, executor)
            outputs = _outputs(executor, program, feeds, fetches, pictures)
        uses = uses_of(paddle.base.libpaddle.pir.translate_to_pir(program.desc))
    else:
        program, feeds, fetches = paddle.static.load_inference_model(stem, executor)
        outputs = _outputs(executor, program, feeds, fetches, pictures)
        uses = uses_of(program)
    scope = paddle.static.global_scope()
    np.savez(folder / "values.npz", **{name: np.asarray(scope.find_var(name).get_tensor()) for _, name in uses})
    np.savez(folder / "outputs.npz", **{f"{row}/{i}": v for row, vs in enumerate(outputs) for i, v in enumerate(vs)})
    told = [{"operator": op, "place": place, "shape": list(shape), "name": name} for (op, place, shape), name in uses]
    content = json.dumps({"uses": told, "outputs": len(fetches)})
    (folder / "program.json").write_text(content, encoding="utf-8")


def _outputs(executor: Any, program: Any, feeds: list[str], fetches: list[Any], pictures: Any) -> list[list[Any]]:
    rows = []
    for picture in pictures:
        feed = {name: np.ones((1, 2), np.float32) if name == "scale_factor" else picture[np.newaxis] for name in feeds}
        rows.append(executor.run(program, feed=feed, fetch_list=fetches))
    return rows


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
