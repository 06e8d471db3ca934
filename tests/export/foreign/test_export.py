"""A foreign network the whole way: built, judged against its own file, verified, and repaired where INT8 breaks it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from fptk.core.classes import CELEBAMASK
from fptk.core.dataset import Sample, UInt8Array
from fptk.core.evaluation import evaluate
from fptk.data import open_split
from fptk.data.writer import write_dataset
from fptk.export.bundle import read_bundle
from fptk.export.foreign.source import OnnxSource

from .networks import DESCRIPTION, Small

Command = Callable[..., Any]
QUICK = ("--calib-size", 4, "--threads", 1, "--golden", 1, "--no-processor-matrix")


def describe(folder: Path, **fields: Any) -> None:
    """Write the description beside the network."""
    (folder / "network.yaml").write_text(yaml.safe_dump({**DESCRIPTION, **fields}))


def test_without_torch_the_way_is_the_same(fptk: Command, faces_folder: Path, tmp_path: Path) -> None:
    path = Small(classes=19).save(tmp_path / "team.onnx")
    describe(tmp_path, classes=19)
    words = [path, "--target", "onnx", "--data", faces_folder, *QUICK, "--out", tmp_path]
    code = "import sys; sys.modules['torch'] = None\nfrom fptk.cli import main\nmain()"
    command = [sys.executable, "-c", code, "export", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    val = open_split(faces_folder, "val")
    with OnnxSource(path, {"classes": "celebamask"}).session() as session:
        expected = evaluate(session, val)
    for precision in ("fp32", "int8"):
        bundle = read_bundle(tmp_path / "bundles" / f"onnx-{precision}")
        assert (bundle.model, bundle.class_set.names) == ("team", CELEBAMASK.names)
        assert bundle.checkpoint_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert bundle.options["mean"] == DESCRIPTION["mean"]
        assert bundle.build.details["graph"]["reference"].startswith("the ONNX file as it is")
        assert bundle.evaluation is not None
        assert bundle.evaluation.reference == expected
    assert bundle.build.quantizer is not None
    assert fptk("verify", tmp_path / "bundles" / "onnx-int8").code == 0
    scored = fptk("eval", path, "--data", faces_folder)
    assert scored.code == 0, scored.err
    assert f"{100 * expected.miou:.2f}" in scored.out
    judged = fptk("eval", tmp_path / "bundles" / "onnx-fp32", "--data", faces_folder / "train", "--reference", path)
    assert "onnx file fp32, scored on the same images" in judged.out + judged.err


class Stripes:
    """Images of horizontal stripes, each in the palette color of its class, with noise."""

    name = "stripes"
    classes = CELEBAMASK

    def __init__(self, count: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.samples = []
        for index in range(count):
            rows = rng.permutation(len(CELEBAMASK))[:8].repeat(8).astype(np.uint8)
            mask = np.repeat(rows[:, None], 64, axis=1)
            image = np.array(CELEBAMASK.palette)[mask] + rng.normal(0, 5, (64, 64, 3))
            self.samples.append(Sample(image.clip(0, 255).astype(np.uint8), mask, f"{seed}-{index}"))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def content_hash(self, index: int) -> str:
        return hashlib.sha256(self.samples[index].image.tobytes()).hexdigest()


def nearest_color(path: Path, outlier: float) -> Path:
    """A network whose class wins where the pixel lies nearest to its color, by the parts of pixel minus color.

    One hidden channel is made ``outlier`` times as large before the classifier, whose weights are as much smaller.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    count = len(CELEBAMASK)
    colors = np.array(CELEBAMASK.palette, np.float32) / 255
    spread, shift = np.zeros((6 * count, 3, 1, 1), np.float32), np.zeros(6 * count, np.float32)
    classify = np.zeros((count, 6 * count, 1, 1), np.float32)
    for label in range(count):
        for channel in range(6):
            sign, at = 1 - 2 * (channel % 2), 6 * label + channel
            spread[at, channel // 2], shift[at] = sign, -sign * colors[label, channel // 2]
            classify[label, at] = -1
    scale = np.ones((1, 6 * count, 1, 1), np.float32)
    scale[0, 0], classify[:, 0] = outlier, classify[:, 0] / outlier
    constants = {"same": np.eye(3, dtype=np.float32)[:, :, None, None]}
    constants |= {"spread": spread, "shift": shift, "scale": scale, "classify": classify}
    nodes = [
        helper.make_node("Conv", ["in", "same"], ["first"], name="first"),
        helper.make_node("Relu", ["first"], ["positive"]),
        helper.make_node("Conv", ["positive", "same"], ["pixels"], name="second"),
        helper.make_node("Conv", ["pixels", "spread", "shift"], ["parts"], name="spread"),
        helper.make_node("Relu", ["parts"], ["distances"]),
        helper.make_node("Mul", ["distances", "scale"], ["scaled"]),
        helper.make_node("Conv", ["scaled", "classify"], ["out"], name="classify"),
    ]
    graph = helper.make_graph(
        nodes,
        "nearest",
        [helper.make_tensor_value_info("in", TensorProto.FLOAT, ["n", 3, 64, 64])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", count, 64, 64])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))
    return path


@pytest.mark.slow
def test_outlier_channels_fail_the_gate_and_are_repaired(fptk: Command, tmp_path: Path) -> None:
    write_dataset(Stripes(6, 0), tmp_path / "data", "train")
    write_dataset(Stripes(4, 1), tmp_path / "data", "val")
    describe(tmp_path, mean=0, std=1, classes="celebamask")
    words = ("--int8", "--target", "onnx", "--data", tmp_path / "data", *QUICK, "--out", tmp_path)
    sound = fptk("export", nearest_color(tmp_path / "sound.onnx", 1.0), *words, "--no-fallback")
    assert sound.code == 0, sound.err
    path = nearest_color(tmp_path / "outlier.onnx", 300.0)
    refused = fptk("export", path, *words, "--no-fallback")
    assert refused.code == 4, refused.err
    repaired = fptk("export", path, *words)
    assert repaired.code == 0, repaired.err
    bundle = read_bundle(tmp_path / "bundles" / "onnx-int8")
    assert bundle.build.fallback is not None
    assert bundle.build.fallback.passed == bundle.build.fallback.attempts[-1].candidate
    assert len(bundle.build.fallback.attempts) > 1


@pytest.fixture(scope="module")
def team_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set that networks learn in a few steps: val/ they have seen, train/ is to calibrate on."""
    from fptk.data.synthetic.faces import SyntheticFaces

    folder = tmp_path_factory.mktemp("team")
    write_dataset(SyntheticFaces(16, (64, 64)), folder, "val")
    write_dataset(SyntheticFaces(16, (64, 64), start=16), folder, "train")
    return folder


def team_network(name: str, data: Path) -> Any:
    """A network that is not fptk's, trained on ``val`` of the data, and the names of its outputs."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from .torch_networks import BiSeNet, DeepLabV3, SegFormer, train

    torch.manual_seed(0)
    faces = open_split(data, "val")
    if name == "bisenet":
        return train(BiSeNet(width=16), faces, 150), ["out", "aux"]
    if name == "deeplabv3":
        return train(DeepLabV3(width=16), faces, 150), ["out"]
    pytest.importorskip("transformers", reason="transformers is not installed: no SegFormer of theirs")
    small = SegFormer(hidden_sizes=[16, 32, 80, 128], depths=[1, 1, 1, 1])
    return train(small, faces, 150), ["out"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bisenet", "deeplabv3", "segformer"])
def test_a_network_of_others_goes_the_whole_way(name: str, fptk: Command, team_data: Path, tmp_path: Path) -> None:
    from .torch_networks import export_plainly

    network, outputs = team_network(name, team_data)
    path = export_plainly(network, tmp_path / f"{name}.onnx", (64, 64), outputs)
    describe(tmp_path, classes="celebamask", output="out")
    targets = ("--target", "onnx", "--target", "openvino", "--target", "trt-rtx")
    limits = ("--max-miou-drop", 1, "--max-class-drop", 10)
    done = fptk("export", path, *targets, "--fp32", "--int8", "--data", team_data, *QUICK, *limits, "--out", tmp_path)
    assert done.code in (0, 3), done.err
    for target in ("onnx", "openvino", "trt-rtx"):
        for precision in ("fp32", "int8"):
            bundle = read_bundle(tmp_path / "bundles" / f"{target}-{precision}")
            assert bundle.evaluation is not None
            reference, engine = bundle.evaluation.reference.miou, bundle.evaluation.engine.miou
            assert reference > 0.15, "the network has learnt something"
            assert abs(engine - reference) < (1e-4 if precision == "fp32" else 0.01)
            rewrites = bundle.build.details["graph"]["rewrites"]
            assert all(each["kept"] for each in rewrites), rewrites


@pytest.mark.slow
def test_a_plain_export_of_our_own_network_gives_its_labels(
    fptk: Command, checkpoint: Path, images: UInt8Array, faces_folder: Path, tmp_path: Path
) -> None:
    """The same labels as the network's own export, both rewritten and as it is written."""
    from fptk.export.bundle import open_bundle
    from fptk.models import load_checkpoint

    from .torch_networks import export_plainly

    network, _ = load_checkpoint(checkpoint)
    path = export_plainly(network.original(), tmp_path / "plain.onnx", (64, 64), ["out"])
    describe(tmp_path, classes="celebamask")
    labels = []
    for model, graph in ((path, "deploy"), (path, "original"), (checkpoint, "original"), (checkpoint, "deploy")):
        out = tmp_path / f"{model.stem}-{graph}"
        words = (
            "--fp32",
            "--target",
            "onnx",
            "--data",
            faces_folder,
            *QUICK,
            "--no-gate",
            "--graph",
            graph,
            "--out",
            out,
        )
        done = fptk("export", model, *words)
        assert done.code == 0, done.err
        name = "onnx-fp32" + ("-original" if graph == "original" else "")
        with open_bundle(out / "bundles" / name)[1] as session:
            labels.append(session(images))
    first, *others = labels
    assert len(np.unique(first)) > 3
    assert [float(np.mean(first == other)) for other in others] == pytest.approx([1.0] * 3, abs=1e-4)


@pytest.mark.slow
def test_the_shipped_weights_lose_no_more_as_a_plain_file(fptk: Command, real_faces: Path, tmp_path: Path) -> None:
    """On real faces: the same FP32 reference, and INT8 within 0.3 points of the network's own way."""
    pytest.importorskip("torch", reason="torch is not installed")
    from fptk.models import load_checkpoint
    from fptk.runs.source import shipped_weights

    from .torch_networks import export_plainly

    weights = shipped_weights()
    if weights is None:
        pytest.skip("this build has no weights in the package")
    network, card = load_checkpoint(weights)
    path = export_plainly(network.original(), tmp_path / "plain.onnx", card.preprocess.size, ["out"])
    describe(tmp_path, classes="celebamask")
    words = ("--int8", "--target", "onnx", "--data", real_faces / "celebamask-3k", "--eval-images", 16, "--no-gate")
    scores = []
    for model in (path, weights):
        out = tmp_path / model.stem
        done = fptk("export", model, *words, *QUICK, "--calib-size", 8, "--out", out)
        assert done.code == 0, done.err
        evaluation = read_bundle(out / "bundles" / "onnx-int8").evaluation
        assert evaluation is not None
        scores.append((evaluation.reference.miou, evaluation.engine.miou))
    (plain, plain_int8), (native, native_int8) = scores
    assert plain == pytest.approx(native, abs=1e-4)
    assert abs(plain_int8 - native_int8) < 0.003, scores
