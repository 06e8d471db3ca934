"""``fptk predict``: what each format holds, and that no format writes over a file of the user's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fptk.core.classes import ClassSet
from fptk.data.synthetic.faces import draw_face
from fptk.export.bundle import read_bundle
from fptk.workflows.predict import JSON_MARK, as_json

Command = Callable[..., Any]

CLASSES = ClassSet(names=("ground", "skin", "hair"), palette=((0, 0, 0), (1, 1, 1), (9, 8, 7)))


@pytest.fixture
def predict(cpu_bundles: Path, fptk: Command, tmp_path: Path) -> Command:
    """Predict one face in a format; the file that it left."""
    photo = tmp_path / "face.png"
    Image.fromarray(draw_face(3, 0, (96, 80))[0]).save(photo)

    def call(style: str, *options: str) -> Any:
        where = ("--out", tmp_path / "out", "--model", cpu_bundles / "onnx-fp32")
        return fptk("predict", photo, "--format", style, *where, *options)

    return call


def test_all_formats_tell_of_the_same_labels(predict: Command, cpu_bundles: Path, tmp_path: Path) -> None:
    bundle, out = read_bundle(cpu_bundles / "onnx-fp32"), tmp_path / "out"
    assert predict("labels").code == 0
    with Image.open(out / "face.png") as picture:
        labels = np.array(picture)
    assert labels.shape == (96, 80)

    assert predict("color").code == 0
    with Image.open(out / "face.png") as picture:
        assert picture.mode == "RGB"
        colors = np.array(picture)
    assert np.array_equal(colors, np.array(bundle.palette, np.uint8)[labels])

    for _ in range(2):  # its own file may be replaced
        assert predict("json").code == 0
    found = json.loads((out / "face.json").read_text())
    assert (found["width"], found["height"], found["image"], found["model"]) == (80, 96, "face.png", "onnx fp32")
    values, lengths = np.array(found["runs"]).T
    assert np.array_equal(np.repeat(values, lengths).reshape(96, 80), labels)
    assert {each["index"]: each["pixels"] for each in found["classes"]} == {
        int(index): int((labels == index).sum()) for index in np.unique(labels)
    }
    assert all(bundle.classes[each["index"]] == each["name"] for each in found["classes"])


def test_json_of_a_small_map() -> None:
    labels = np.array([[0, 0, 2], [0, 2, 2]], np.uint8)
    found = as_json(labels, "a.jpg", "onnx int8", CLASSES)
    ground, hair = found["classes"]
    assert ground == {
        "index": 0,
        "name": "ground",
        "color": [0, 0, 0],
        "pixels": 3,
        "share": 0.5,
        "box": [0, 0, 2, 2],
    }
    assert (hair["name"], hair["color"], hair["box"]) == ("hair", [9, 8, 7], [1, 0, 3, 2])
    assert found["runs"] == [[0, 2], [2, 1], [0, 1], [2, 2]]
    assert json.dumps(found).startswith(JSON_MARK)


@pytest.mark.parametrize("content", ["", '{"mine": 1}', "no json"])
def test_json_of_the_users_stays(content: str, predict: Command, tmp_path: Path) -> None:
    mine = tmp_path / "out" / "face.json"
    mine.parent.mkdir()
    mine.write_text(content)
    refused = predict("json")
    assert refused.code == 2
    assert "is not by fptk predict" in refused.err.strip().splitlines()[-1]
    assert mine.read_text() == content
    assert predict("json", "--overwrite").code == 0
    assert mine.read_text().startswith(JSON_MARK)
