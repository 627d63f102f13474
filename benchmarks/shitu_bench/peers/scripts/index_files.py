# ruff: noqa: INP001  # a script for another interpreter, in no package
# mypy: disable-error-code="import-not-found"
"""Run by the peer's interpreter: a gallery in the two forms in which PaddleX's serving takes one.

index_files.py VECTORS.npy LABELS.json STORED FOLDER

STORED becomes the file that its index storage reads for each request that names it by its key; FOLDER becomes what the key `index` of a
pipeline's yaml names, which is read once, at the start. Both hold the index that /shitu-index-build makes: flat, inner product.
"""

import json
import sys
from pathlib import Path

import numpy as np
from paddlex.inference.pipelines.components import FaissBuilder


def main(vectors_path: str, labels_path: str, stored: Path, folder: str) -> None:
    """Build the index and write both forms."""
    vectors = np.load(vectors_path)
    index = FaissBuilder.build(
        list(range(len(vectors))),
        json.loads(Path(labels_path).read_text(encoding="utf-8")),
        lambda rows: [{"feature": vectors[row]} for row in rows],
        metric_type="IP",
        index_type="Flat",
    )
    stored.parent.mkdir(parents=True, exist_ok=True)
    stored.write_bytes(index.to_bytes())
    index.save(folder)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4])
