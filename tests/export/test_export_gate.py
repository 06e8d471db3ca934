"""A network that has learnt something, its INT8 damaged on purpose: the gate names the class, the ladder repairs it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fptk.core.classes import CLASSES
from fptk.export.bundle import read_bundle

Command = Callable[..., Any]

pytestmark = pytest.mark.slow
SIZE = (64, 64)
BROKEN = "hair"


@pytest.fixture(scope="module")
def known_faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set whose val/ the network below has learnt by heart; train/ holds other faces, to calibrate on."""
    from fptk.data.synthetic.faces import SyntheticFaces
    from fptk.data.writer import write_dataset

    folder = tmp_path_factory.mktemp("known")
    write_dataset(SyntheticFaces(16, SIZE), folder, "val")
    write_dataset(SyntheticFaces(16, SIZE, start=16), folder, "train")
    return folder


@pytest.fixture(scope="module")
def learnt(known_faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of MicroSegFormer that tells the large classes of val/ apart."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from fptk.core.preprocess import PreprocessSpec
    from fptk.data import open_split
    from fptk.models import CheckpointCard, count_parameters, create_model, save_checkpoint

    torch.manual_seed(0)
    spec, faces = PreprocessSpec(size=SIZE), open_split(known_faces, "val")
    samples = [faces[index] for index in range(len(faces))]
    images = torch.from_numpy(np.stack([sample.image for sample in samples])).permute(0, 3, 1, 2).float() / 255
    images = (images - torch.tensor(spec.mean)[:, None, None]) / torch.tensor(spec.std)[:, None, None]
    masks = torch.from_numpy(np.stack([sample.mask for sample in samples])).long()
    model = create_model("microsegformer", dropout=0.0)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for step in range(60):
        part = slice(8 * (step % 2), 8 * (step % 2) + 8)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images[part]), masks[part]).backward()
        optimizer.step()
    path = tmp_path_factory.mktemp("weights") / "learnt.safetensors"
    card = CheckpointCard(
        model=model.name, options=model.options, num_parameters=count_parameters(model), preprocess=spec
    )
    save_checkpoint(path, model.state_dict(), card)
    return path


@pytest.fixture
def export(fptk: Command, learnt: Path, known_faces: Path, tmp_path: Path) -> Command:
    """``fptk export`` of the network to INT8, with more arguments."""

    def call(*arguments: object) -> Any:
        options = (learnt, "--data", known_faces, "--calib-size", 8, "--out", tmp_path)
        return fptk("export", "--int8", *options, *arguments)

    return call


def break_classifier(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Let the first ``times`` quantisations multiply the scale of one class's classifier weights by 8."""
    from onnx import numpy_helper

    from fptk.calibration import onnx_quantizer as onnx_quantizer

    insert, left = onnx_quantizer.insert_qdq, [times]

    def insert_and_break(model: Any, ranges: Any, settings: Any, nodes: Sequence[str]) -> Any:
        result = insert(model, ranges, settings, nodes)
        if left[0] == 0:
            return result
        left[0] -= 1
        by_name = {constant.name: constant for constant in result.graph.initializer}
        (name,) = {
            node.input[1]
            for node in result.graph.node
            if node.op_type == "DequantizeLinear" and node.input[0].endswith("classifier.weight_quantized")
        }
        scale = numpy_helper.to_array(by_name[name]).copy()
        assert scale.shape == (len(CLASSES),)
        scale[CLASSES.index(BROKEN)] *= 8
        by_name[name].CopyFrom(numpy_helper.from_array(scale, name))
        return result

    monkeypatch.setattr(onnx_quantizer, "insert_qdq", insert_and_break)


@pytest.mark.parametrize("target", ["onnx", "trt"])
def test_a_weight_scale_times_eight_ends_with_4_and_its_class(
    target: str, export: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the engine as built, and on the simulation of one that this host cannot build."""
    limits = ("--max-miou-drop", 100, "--max-class-drop", 5, "--no-fallback", "--target", target)
    sound = export(*limits)
    assert sound.code in (0, 3), sound.err
    break_classifier(monkeypatch, 1)
    refused = export(*limits)
    assert refused.code == 4, refused.err
    last = refused.err.strip().splitlines()[-1]
    _, _, named = last.partition("class IoU fell by more than 5 points: ")
    assert f"{BROKEN} -" in named, last
    assert "rejected" in last
    bundle = read_bundle(tmp_path / "rejected" / f"{target}-int8")
    assert bundle.judged is not None
    assert BROKEN in bundle.judged.failed_classes
    (line,) = (line for line in refused.out.splitlines() if line.strip().startswith(f"{BROKEN} "))
    assert "fell by more than 5" in line


def test_the_fallback_repairs_a_first_candidate_that_was_broken(
    export: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_classifier(monkeypatch, 1)
    finished = export("--target", "onnx", "--max-miou-drop", 100, "--max-class-drop", 5)
    assert finished.code == 0, finished.err
    fallback = read_bundle(tmp_path / "bundles" / "onnx-int8").build.fallback
    assert fallback is not None
    first, second = fallback.attempts
    assert first.verdict is not None
    assert BROKEN in first.verdict.summary
    assert fallback.passed == second.candidate == "percentile ranges"


def test_the_calibration_list_of_an_export_calibrates_the_next_one(export: Command, tmp_path: Path) -> None:
    options = ("--target", "onnx", "--no-gate")
    assert export(*options).code == 0
    first = read_bundle(tmp_path / "bundles" / "onnx-int8")
    written = tmp_path / "calibration" / "images.json"
    assert first.calibration == json.loads(written.read_text())
    image = first.calibration["images"][0]
    assert image["path"].endswith(f"/train/images/{image['key']}.jpg")
    assert len(image["sha256"]) == 64
    assert set(first.calibration["coverage"]) == set(CLASSES)
    listed = tmp_path / "list.json"
    written.rename(listed)
    assert export(*options, "--calib", listed).code == 0
    again = read_bundle(tmp_path / "bundles" / "onnx-int8")
    assert again.calibration is not None
    assert again.calibration["strategy"] == "list"
    assert again.calibration["sha256"] == first.calibration["sha256"]
    assert again.files == first.files, "equal lists calibrate to equal engines"
    assert export(*options, "--calib-strategy", "random").code == 0
    drawn = read_bundle(tmp_path / "bundles" / "onnx-int8").calibration
    assert drawn is not None
    assert (drawn["strategy"], drawn["minimum"]) == ("random", None)
