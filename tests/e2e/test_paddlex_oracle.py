"""PaddleX 3.3.13 as the oracle: the same exported directories and photos, its pipeline and `shitu serve --profile paddlex`."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import SHARED_DATA, start_server
from tests.peer.comparison import LEAST_COSINE, MOST_BOXES, THRESHOLD, Comparison
from tests.peer.interpreter import peer_python, run_peer

pytest.importorskip("paddle", reason="needs the train extra: pip install 'shitu[train]'")
pytest.importorskip("paddle2onnx", reason="needs the train extra: pip install 'shitu[train]'")
pytestmark = [
    pytest.mark.train,
    pytest.mark.peer,
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore"),
]

import yaml  # noqa: E402
from tests.peer import oracle_models  # noqa: E402

from shitu_client import Box, Client, NewItem  # noqa: E402
from shitu_train.conversion.converter import convert  # noqa: E402
from shitu_train.conversion.options import ConversionOptions  # noqa: E402

DETECTOR, ENCODER, CLIP = "PP-ShiTuV2_det", "PP-ShiTuV2_rec", "PP-ShiTuV2_rec_CLIP_vit_base"
PERTURBED_DETECTOR, PERTURBED_ENCODER = "perturbed_det", "perturbed_rec"
FEWEST_BOXES = 5
CLIP_BOXES = 8
"""Of each photo go through the CLIP encoder, which is ten times as slow: the best."""
TOP_K = 5
SOME = slice(0, None, 5)
"""Photos that suffice to show a difference."""
ORIENTATIONS = {6: Image.Transpose.ROTATE_90, 3: Image.Transpose.ROTATE_180, 8: Image.Transpose.ROTATE_270}
"""EXIF's values, and what turns an upright picture into the stored one."""


class Oracle:
    """What PaddleX said of photos, with one encoder."""

    def __init__(self, out):
        self._results = json.loads((out / "results.json").read_text())
        with np.load(out / "features.npz") as stored:
            self._features = [stored[name] for name in stored.files]

    def boxes(self, index):
        """Coordinates [n, 4] and scores [n]."""
        found = self._results[index]["boxes"]
        return np.array([box["coordinate"] for box in found]), np.array([box["det_score"] for box in found])

    def requested(self, index):
        """The boxes as the client sends them."""
        return [Box(*box["coordinate"]) for box in self._results[index]["boxes"]]

    def vectors(self, index):
        return self._features[index]

    def matches(self, index):
        """Of each box the scores by label, best first."""
        return [dict(zip(box["labels"], box["rec_scores"], strict=True)) for box in self._results[index]["boxes"]]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("oracle")
    yield folder
    shutil.rmtree(folder)  # gibibytes


@pytest.fixture(scope="module", autouse=True)
def python():
    """The peer's interpreter; nothing here begins without it and the photos."""
    for part in ("freiburg_dev", "grocery"):
        if not (SHARED_DATA / part).is_dir():
            pytest.skip(f"the photos are not at {SHARED_DATA / part}")
    return peer_python("paddlex", "paddle", "faiss")


@pytest.fixture(scope="module")
def photos():
    return oracle_models.photos()


@pytest.fixture(scope="module")
def turned(work, photos):
    """An oblong photo, stored turned, with the EXIF orientation that turns it back."""
    upright = Image.open(next(path for path in photos if len(set(Image.open(path).size)) == 2))
    paths = []
    for orientation, turn in ORIENTATIONS.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        paths.append(work / f"turned-{orientation}.jpg")
        upright.transpose(turn).save(paths[-1], quality=95, exif=exif)
    return upright.size, paths


@pytest.fixture(scope="module")
def directories(work, photos):
    """The exported models, and two in which one weight is another."""
    states = {name: oracle_models.spread_state(name, photos) for name in (DETECTOR, ENCODER, CLIP)}
    detector, encoder = dict(states[DETECTOR]), dict(states[ENCODER])
    detector["head.head_cls0.bias"] = detector["head.head_cls0.bias"] + np.eye(1, 33, dtype=np.float32)[0] * 0.1
    encoder["backbone.stages.3.0.pw_conv.conv.weight"] = encoder["backbone.stages.3.0.pw_conv.conv.weight"] * 1.1
    wanted = {name: (name, state) for name, state in states.items()}
    wanted |= {PERTURBED_DETECTOR: (DETECTOR, detector), PERTURBED_ENCODER: (ENCODER, encoder)}
    return {
        name: oracle_models.write_directory(architecture, state, work / name)
        for name, (architecture, state) in wanted.items()
    }


@pytest.fixture(scope="module")
def ask_paddlex(python, work, directories):
    """Runs PaddleX's pipeline with an encoder on (photo, threshold of boxes)."""

    def ask(encoder, asked):
        out = work / f"paddlex-{encoder}"
        out.mkdir()
        pipeline = {
            "pipeline_name": "PP-ShiTuV2",
            "index": None,
            "det_threshold": THRESHOLD,
            "rec_threshold": -1.0,
            "rec_topk": TOP_K,
            "SubModules": {
                "Detection": _submodule("text_detection", DETECTOR, directories),
                "Recognition": _submodule("text_recognition", encoder, directories),
            },
        }
        (out / "pipeline.yaml").write_text(yaml.safe_dump(pipeline))
        request = {
            "pipeline": str(out / "pipeline.yaml"),
            "photos": [[str(path), float(threshold)] for path, threshold in asked],
            "gallery": [[str(path), label] for path, label in oracle_models.gallery()],
            "out": str(out),
        }
        (out / "request.json").write_text(json.dumps(request))
        run_peer(python, "paddlex_oracle.py", out / "request.json")
        return Oracle(out)

    return ask


def _submodule(kind, name, directories):
    return {"module_name": kind, "model_name": name, "model_dir": str(directories[name]), "batch_size": 1}


@pytest.fixture(scope="module")
def oracle(ask_paddlex, photos, turned):
    """With the small encoder, every box over the threshold: of the photos, then of the turned ones."""
    return ask_paddlex(ENCODER, [(path, THRESHOLD) for path in [*photos, *turned[1]]])


@pytest.fixture(scope="module")
def clip_oracle(ask_paddlex, photos, oracle):
    """With the CLIP encoder, the best boxes of each photo."""
    thresholds = []
    for index in range(len(photos)):
        scores = np.sort(oracle.boxes(index)[1])[::-1]
        cut = len(scores) > CLIP_BOXES
        thresholds.append((scores[CLIP_BOXES - 1] + scores[CLIP_BOXES]) / 2 if cut else THRESHOLD)
    return ask_paddlex(CLIP, zip(photos, thresholds, strict=True))


@pytest.fixture(scope="module")
def repository(work, directories):
    for name, folder in directories.items():
        converted = convert(folder, ConversionOptions(repository=work / "models", name=name))
        assert not converted.card.source.note, "its own graph is served, with our architecture's names"
    return work / "models"


@pytest.fixture(scope="module")
def client(work, repository):
    """Of a server with PaddleX's preprocessing."""
    encoders = f"{ENCODER},{CLIP},{PERTURBED_ENCODER}"
    yield from _served(work / "paddlex", repository, DETECTOR, encoders, "paddlex")


@pytest.fixture(scope="module")
def other_client(work, repository):
    """Of a server with the preprocessing of the training, and the perturbed detector."""
    yield from _served(work / "trained", repository, PERTURBED_DETECTOR, CLIP, "trained")


def _served(folder, repository, detector, encoder, profile):
    options = ("--model-repository", str(repository), "--detector", detector, "--encoder", encoder)
    running = start_server(folder, *options, "--profile", profile)
    try:
        running.wait_until_serving()
        with Client(running.address, timeout_s=120) as connected:
            yield connected
    finally:
        running.stop()


@pytest.fixture(scope="module")
def galleries(client):
    items = [NewItem(label, label, path.read_bytes()) for path, label in oracle_models.gallery()]
    names = {encoder: f"gallery-{number}" for number, encoder in enumerate((ENCODER, CLIP, PERTURBED_ENCODER))}
    for encoder, name in names.items():
        client.create_gallery(name, encoder=encoder)
        assert client.add_items(name, items).failures == ()
    return names


@pytest.fixture(scope="module")
def report():
    """Collects figures; they are written to the file that SHITU_ORACLE_REPORT names."""
    figures = {}
    yield figures
    if path := os.environ.get("SHITU_ORACLE_REPORT"):
        Path(path).write_text(json.dumps(figures, indent=2) + "\n")


def detected(client, path):
    found = client.detect(path, detection_threshold=THRESHOLD, max_objects=MOST_BOXES).objects
    return np.array([box for box, _ in found]).reshape(-1, 4), np.array([score for _, score in found])


def compare_detection(client, oracle, numbered):
    compared = Comparison()
    for index, path in numbered:
        compared.add_boxes(path.name, oracle.boxes(index), detected(client, path))
    return compared


def compare_encoder(client, encoder, gallery, oracle, numbered):
    """Vectors and matches of PaddleX's boxes."""
    compared = Comparison()
    for index, path in numbered:
        boxes = oracle.requested(index)
        compared.add_vectors(path.name, oracle.vectors(index), client.embed(path, boxes, encoder=encoder).vectors)
        found = client.recognize(path, gallery, boxes=boxes, match_threshold=-1.0, top_k=TOP_K).objects
        ours = [{match.label: match.score for match in one.matches} for one in found]
        for theirs, mine in zip(oracle.matches(index), ours, strict=True):
            assert len(theirs) == TOP_K
            compared.add_matches(path.name, theirs, mine)
    return compared


def tell(capsys, report, what, compared):
    report[what] = compared.figures()
    with capsys.disabled():
        print(f"\n{what}: {json.dumps(report[what])}")  # noqa: T201


def test_detection_is_paddlexs(client, oracle, photos, report, capsys):
    compared = compare_detection(client, oracle, enumerate(photos))
    tell(capsys, report, "detection", compared)
    assert compared.faults == []
    assert compared.photos == 2 * oracle_models.PHOTOS_OF_EACH
    assert compared.fewest_boxes >= FEWEST_BOXES
    assert compared.boxes_at_the_edge <= compared.boxes // 100


@pytest.mark.parametrize("encoder", [ENCODER, CLIP])
def test_vectors_and_matches_are_paddlexs(client, galleries, encoder, photos, report, request, capsys):
    oracle = request.getfixturevalue("oracle" if encoder == ENCODER else "clip_oracle")
    compared = compare_encoder(client, encoder, galleries[encoder], oracle, enumerate(photos))
    tell(capsys, report, encoder, compared)
    assert compared.faults == []
    assert compared.vectors == compared.recognised >= len(photos) * FEWEST_BOXES


def test_recognition_detects_as_paddlex_does(client, galleries, oracle, photos):
    """Without given boxes too: overlapping boxes of one thing are told once, which PaddleX tells as often as it finds them."""
    for index, path in list(enumerate(photos))[SOME]:
        found = client.recognize(path, galleries[ENCODER], detection_threshold=THRESHOLD, match_threshold=-1.0).objects
        theirs = oracle.boxes(index)[0]
        assert 0 < len(found) <= len(theirs)
        for one in found:
            assert np.abs(theirs - np.array(one.box)).max(axis=1).min() <= 0.5


def test_turned_photos_are_turned_upright_as_paddlex_does(client, galleries, oracle, photos, turned):
    size, paths = turned
    numbered = list(enumerate(paths, start=len(photos)))
    compared = compare_detection(client, oracle, numbered)
    assert compared.faults == []
    assert compared.fewest_boxes >= FEWEST_BOXES
    assert compare_encoder(client, ENCODER, galleries[ENCODER], oracle, numbered).faults == []
    for path in paths:
        stored, seen = Image.open(path).size, client.detect(path)
        assert (seen.width, seen.height) == size
        assert (stored == size) == path.name.endswith("-3.jpg")


def test_a_perturbed_encoder_is_noticed(client, galleries, oracle, photos, report, capsys):
    some = list(enumerate(photos))[SOME]
    compared = compare_encoder(client, PERTURBED_ENCODER, galleries[PERTURBED_ENCODER], oracle, some)
    tell(capsys, report, "perturbed encoder", compared)
    assert any("cosine" in fault for fault in compared.faults)
    assert any("differs by" in fault for fault in compared.faults)


def test_a_perturbed_detector_is_noticed(other_client, oracle, photos, report, capsys):
    compared = compare_detection(other_client, oracle, list(enumerate(photos))[SOME])
    tell(capsys, report, "perturbed detector", compared)
    assert any("we alone have" in fault for fault in compared.faults)


def test_swapped_colours_are_noticed(client, oracle, photos, tmp_path):
    """PaddleX decodes to blue, green, red: a mistake about it would not hide."""
    swapped = tmp_path / "swapped.png"
    Image.fromarray(np.ascontiguousarray(np.asarray(Image.open(photos[-1]).convert("RGB"))[:, :, ::-1])).save(swapped)
    index = len(photos) - 1
    compared = Comparison()
    compared.add_vectors("swapped", oracle.vectors(index), client.embed(swapped, oracle.requested(index)).vectors)
    assert compared.min_cosine < LEAST_COSINE
    assert compared.faults


def test_the_trained_profile_resizes_otherwise(other_client, clip_oracle, photos, report, capsys):
    """CLIP was trained with bicubic resizing; PaddleX's pipeline serves it bilinear. The profile says which."""
    compared = Comparison()
    for index, path in list(enumerate(photos))[SOME]:
        # In whole pixels, as PaddleX truncates them, so that both profiles cut out the same.
        boxes = [Box(*np.trunc(box)) for box in clip_oracle.requested(index)]
        vectors = other_client.embed(path, boxes, encoder=CLIP).vectors
        compared.add_vectors(path.name, clip_oracle.vectors(index), vectors)
    tell(capsys, report, "trained profile", compared)
    assert compared.min_cosine < LEAST_COSINE
    assert compared.faults
