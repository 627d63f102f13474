"""Run by the peer's interpreter: PaddleX's own index files.

paddlex_index.py build FOLDER VECTORS.npy LABELS.json METRIC TYPE     builds an index of the vectors and saves it
paddlex_index.py remove FOLDER ID...                                  removes items, as `pipeline.remove_index` does
paddlex_index.py search FOLDER QUERIES.npy THRESHOLD TOPK OUT.json    searches as the pipeline does
"""

import json
import sys
from pathlib import Path

import numpy as np
from paddlex.inference.pipelines.components import FaissBuilder, FaissIndexer


def build(folder, vectors, labels, metric, kind):
    features = np.load(vectors)
    index = FaissBuilder.build(
        list(range(len(features))),
        json.loads(Path(labels).read_text()),
        lambda images: [{"feature": features[image]} for image in images],
        metric_type=metric,
        index_type=kind,
    )
    index.save(folder)


def remove(folder, *ids):
    FaissBuilder.remove([int(one) for one in ids], folder).save(folder)


def search(folder, queries, threshold, topk, out):
    found = FaissIndexer(folder)(np.load(queries), float(threshold), 100, int(topk))
    plain = [
        {"score": one["score"] and [float(score) for score in one["score"]], "label": one["label"]} for one in found
    ]
    Path(out).write_text(json.dumps(plain))


if __name__ == "__main__":
    {"build": build, "remove": remove, "search": search}[sys.argv[1]](*sys.argv[2:])
