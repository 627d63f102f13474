"""Run by the peer's interpreter: PaddleX's own pipeline PP-ShiTuV2 on photos.

    paddlex_oracle.py REQUEST.json

The request names `pipeline` (a yaml), `photos` ([path, threshold of boxes] each), `gallery` ([path, label] each) and `out`, a folder
that gets `results.json` (of each photo the boxes with what was recognised in them) and `features.npz` (of each photo the vectors of
the crops, in the same order).
"""

import json
import sys
from pathlib import Path

import numpy as np
from paddlex import create_pipeline
from paddlex.inference.utils.mkldnn_blocklist import MKLDNN_BLOCKLIST

DETECTOR = "PP-ShiTuV2_det"


class Recorded:
    """The pipeline's own encoder, which keeps the vectors that the pipeline searched with."""

    def __init__(self, model):
        self._model, self.features = model, []

    def __call__(self, images):
        found = list(self._model(images))
        self.features.append(np.stack([one["feature"] for one in found]).astype(np.float32))
        return found

    def __getattr__(self, name):
        return getattr(self._model, name)


def main(request):
    # PaddleX runs models with oneDNN, save those on its list. Paddle 3.3.1 cannot run a detector's resizing with it, be it ours or one
    # that PaddleDetection's own layer exported ("ConvertPirAttribute2RuntimeAttribute not support").
    MKLDNN_BLOCKLIST.append(DETECTOR)
    pipeline = create_pipeline(pipeline=request["pipeline"])
    pictures, labels = zip(*request["gallery"], strict=True)
    index = pipeline.build_index(list(pictures), list(labels), metric_type="IP", index_type="Flat")
    pipeline.rec_model = recorded = Recorded(pipeline.rec_model)
    results = [
        plain(result)
        for photo, threshold in request["photos"]
        for result in pipeline.predict(photo, index=index, det_threshold=threshold)
    ]
    out = Path(request["out"])
    (out / "results.json").write_text(json.dumps(results))
    np.savez(out / "features.npz", *recorded.features)


def plain(result):
    boxes = [
        {
            "coordinate": [float(value) for value in box["coordinate"]],
            "det_score": float(box["det_score"]),
            "labels": box["labels"],
            "rec_scores": [float(score) for score in box["rec_scores"]],
        }
        for box in result["boxes"]
    ]
    return {"input_path": str(result["input_path"]), "boxes": boxes}


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
