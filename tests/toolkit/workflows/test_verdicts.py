"""Verdicts are those of this machine and this measurement: wrong labels are refused, and the reference is named.

The network of most tests is an oracle: its engines, and PyTorch, know the true labels of two sets of faces. So its
record is mIoU 1, and what a test gets to see follows from the labels and engines that it spoils.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from fptk.calibration.gate import BuilderRefusal, GatePolicy, Verdict, evaluate_gate
from fptk.core.dataset import UInt8Array
from fptk.core.host import describe_host
from fptk.core.metrics import ConfusionMatrix, Scores
from fptk.core.precision import Precision
from fptk.data import open_evaluation
from fptk.data.synthetic.faces import SyntheticFaces
from fptk.data.writer import write_dataset
from fptk.export.bundle import Bundle, Evaluation, read_bundle, write_manifest
from fptk.export.targets.onnxruntime import OnnxRuntimeSession
from fptk.models.checkpoint import load_checkpoint, save_checkpoint
from fptk.recipes import Recipe
from fptk.runs.source import ModelSource
from fptk.workflows.verdicts import Scored, content_sha256, evaluate_gates

Command = Callable[..., Any]
POLICY = GatePolicy(min_class_pixels=300)


@pytest.fixture(scope="module")
def other_faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four faces that no manifest knows."""
    folder = tmp_path_factory.mktemp("other")
    write_dataset(SyntheticFaces(4, (64, 64), start=40), folder, "val")
    return folder


def truth(folder: Path) -> Scores:
    """What a perfect network scores."""
    dataset, matrix = open_evaluation(folder), ConfusionMatrix()
    for index in range(len(dataset)):
        matrix.add(dataset[index].mask, dataset[index].mask)
    return matrix.scores()


def judged_by(policy: GatePolicy, folder: Path) -> Verdict:
    """The gate of a manifest under this policy."""
    return evaluate_gate(truth(folder), truth(folder), policy)


@pytest.fixture(scope="module")
def untrained(cpu_bundles: Path) -> Path:
    """An FP32 bundle as it was exported; not to change."""
    return cpu_bundles / "onnx-fp32"


@dataclass
class Bundles:
    """Makes bundles of the oracle."""

    template: Path
    folder: Path
    evaluation: Evaluation
    gate: Verdict
    broken: set[str] = field(default_factory=set)
    """Labels of engines that answer clothes everywhere."""

    def make(self, name: str, precision: str = "int8", **changes: Any) -> Path:
        """A bundle whose manifest says that it passed on the validation faces."""
        folder = self.folder / name
        shutil.copytree(self.template, folder)
        values = {"precision": Precision(precision), "evaluation": self.evaluation, "gate": self.gate, **changes}
        write_manifest(read_bundle(folder).model_copy(update=values), folder)
        return folder

    def manifest(self, folder: Path, **changes: Any) -> Bundle:
        """Rewrite a manifest."""
        bundle = read_bundle(folder).model_copy(update=changes)
        write_manifest(bundle, folder)
        return bundle


@pytest.fixture
def bundles(
    untrained: Path, faces_folder: Path, other_faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Bundles:
    from fptk.models.torch_session import TorchSession

    known: dict[bytes, UInt8Array] = {}
    spec = read_bundle(untrained).preprocess
    for dataset in map(open_evaluation, (faces_folder, other_faces)):
        for sample in (dataset[index] for index in range(len(dataset))):
            known[spec.apply(sample.image).tobytes()] = spec.apply_mask(sample.mask)
    scores = truth(faces_folder)
    evaluation = read_bundle(untrained).evaluation
    assert evaluation is not None
    evaluation = evaluation.model_copy(update={"reference": scores, "engine": scores})
    made = Bundles(untrained, tmp_path / "made", evaluation, judged_by(POLICY, faces_folder))

    def infer(session: Any, images: UInt8Array) -> UInt8Array:
        if session.name in made.broken:
            return np.full(images.shape[:3], 18, np.uint8)
        return np.stack([known[image.tobytes()] for image in images])

    monkeypatch.setattr(OnnxRuntimeSession, "_infer", infer)
    monkeypatch.setattr(TorchSession, "_infer", infer)
    return made


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else real(name, *rest))


def relabelled(folder: Path, copy: Path, change: Callable[[UInt8Array], UInt8Array]) -> Path:
    """The same photographs with other masks."""
    shutil.copytree(folder / "val", copy)
    for path in (copy / "masks").iterdir():
        with Image.open(path) as image:
            mask = np.asarray(image)
        Image.fromarray(change(mask)).save(path)
    return copy


def shifted(mask: UInt8Array) -> UInt8Array:
    """Every class under the next one's number."""
    return ((mask.astype(int) + 1) % 19).astype(np.uint8)


def left_is_right(mask: UInt8Array) -> UInt8Array:
    table = np.arange(19, dtype=np.uint8)
    table[[4, 5, 6, 7, 8, 9]] = (5, 4, 7, 6, 9, 8)
    return table[mask]


def retouched(mask: UInt8Array) -> UInt8Array:
    """Two pixels of another class."""
    corrected = mask.copy()
    corrected[0, :2] = (corrected[0, :2] + 1) % 19
    return corrected


class Judged:
    """A finished ``fptk bench --accuracy`` with its rows by label."""

    def __init__(self, finished: Any, path: Path) -> None:
        self.finished, self.code, self.out = finished, finished.code, finished.out
        self.error = finished.err.strip().splitlines()[-1] if finished.err.strip() else ""
        self.report = json.loads(path.read_text())
        self.rows = {f"{row['target']} {row['precision']}": row for row in self.report["rows"]}


@pytest.fixture
def accuracy(fptk: Command, tmp_path: Path) -> Callable[..., Judged]:
    """Run ``fptk bench --accuracy`` on folders and options."""

    def call(*arguments: object) -> Judged:
        return Judged(fptk("bench", "--accuracy", *arguments, "--json", tmp_path / "b.json"), tmp_path / "b.json")

    return call


@pytest.mark.parametrize("faces", ["faces_folder", "other_faces"])
@pytest.mark.parametrize("torch", [True, False])
def test_wrong_labels_are_refused(
    faces: str, torch: bool, bundles: Bundles, accuracy: Callable[..., Judged], checkpoint: Path,
    request: pytest.FixtureRequest, tmp_path: Path,
) -> None:  # fmt: skip
    """The engines agree with PyTorch to the pixel, and all are wrong."""
    if not torch:
        request.getfixturevalue("no_torch")
    wrong = relabelled(request.getfixturevalue(faces), tmp_path / "wrong", shifted)
    fp32, int8 = bundles.make("a", "fp32"), bundles.make("b")
    done = accuracy(fp32, int8, "--data", wrong, "--reference", checkpoint)
    assert done.code == 4
    assert "onnx fp32, onnx int8: " in done.error
    assert "these labels" in done.error
    assert {row["verdict"] for row in done.rows.values()} == {"refused"}
    assert done.report["recommendation"] is None
    assert done.rows["onnx int8"]["reference"] == ("pytorch fp32" if torch else "onnx fp32")
    assert "refused" in done.out


def test_wrong_labels_are_refused_of_a_lone_engine(
    bundles: Bundles, no_torch: None, accuracy: Callable[..., Judged], other_faces: Path, tmp_path: Path
) -> None:
    wrong = relabelled(other_faces, tmp_path / "wrong", shifted)
    done = accuracy(bundles.make("a"), "--data", wrong)
    assert done.code == 4
    assert "onnx int8 scores" in done.error
    assert "100.00 is on record" in done.error


def test_left_for_right_on_the_known_photographs_is_refused(
    bundles: Bundles, accuracy: Callable[..., Judged], checkpoint: Path, faces_folder: Path, tmp_path: Path
) -> None:
    """Six classes of nineteen wrong: on the same photographs a record leaves less room than on others."""
    wrong = relabelled(faces_folder, tmp_path / "wrong", left_is_right)
    done = accuracy(bundles.make("a"), "--data", wrong, "--reference", checkpoint)
    assert done.code == 4
    assert done.report["reference"]["miou"] > 0.5


def test_without_torch_installed_a_real_engine_is_refused(untrained: Path, other_faces: Path, tmp_path: Path) -> None:
    """In a process that cannot import torch at all; the untrained network is far below what its manifest claims."""
    folder = tmp_path / "bundle"
    shutil.copytree(untrained, folder)
    bundle = read_bundle(folder)
    assert bundle.evaluation is not None
    reference = dataclasses.replace(bundle.evaluation.reference, miou=0.7)
    evaluation = bundle.evaluation.model_copy(update={"reference": reference})
    write_manifest(bundle.model_copy(update={"evaluation": evaluation}), folder)
    code = (
        "import sys; sys.modules['torch'] = None\n"
        f"sys.argv = ['fptk', 'bench', '--accuracy', {str(folder)!r}, '--data', {str(other_faces)!r}]\n"
        "from fptk.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 4, done.stderr
    assert "70.00 is on record" in done.stderr.splitlines()[-1]


def test_wrong_labels_without_any_record(
    bundles: Bundles, accuracy: Callable[..., Judged], checkpoint: Path, faces_folder: Path, tmp_path: Path
) -> None:
    """Nothing says what the network scored: still it must beat one answer for every pixel."""
    wrong = relabelled(faces_folder, tmp_path / "wrong", shifted)
    folder = bundles.make("a", evaluation=None, gate=None)
    done = accuracy(folder, "--data", wrong, "--reference", checkpoint)
    assert done.code == 4
    assert "everywhere would be right for" in done.error
    assert accuracy(folder, "--data", faces_folder, "--reference", checkpoint).code == 0


def test_the_manifest_is_the_reference_on_its_own_images(
    bundles: Bundles, accuracy: Callable[..., Judged], checkpoint: Path, faces_folder: Path
) -> None:
    """Also where PyTorch is at hand; the figures of PyTorch are then marked as old ones."""
    done = accuracy(bundles.make("a"), "--data", faces_folder, "--reference", checkpoint)
    assert done.code == 0, done.error
    row = done.rows["onnx int8"]
    assert (row["accuracy"], row["reference"], row["verdict"]) == ("measured", "manifest", "pass")
    assert (row["delta_miou"], row["measured_on"]) == (0.0, describe_host()["cpu"])
    assert set(row["judged_classes"]) | set(row["unjudged_classes"]) == set(truth(faces_folder).per_class)
    assert 0 < len(row["judged_classes"]) < 19
    assert f"pass {len(row['judged_classes'])}/19" in done.out
    assert ", ".join(row["unjudged_classes"]) in " ".join(done.out.split())
    assert "100.00† " in next(line for line in done.out.splitlines() if "pytorch" in line)
    assert "† from the manifest, measured on this processor" in done.out


def test_the_gate_refuses_a_broken_engine_and_its_policy_is_the_manifests(
    bundles: Bundles, accuracy: Callable[..., Judged], faces_folder: Path
) -> None:
    bundles.broken.add("onnx int8")
    fp32, int8 = bundles.make("a", "fp32"), bundles.make("b")
    done = accuracy(fp32, int8, "--data", faces_folder)
    assert done.code == 4
    assert (done.rows["onnx fp32"]["verdict"], done.rows["onnx int8"]["verdict"]) == ("pass", "refused")
    assert "onnx int8: refused: mIoU" in done.error
    assert "onnx fp32" not in done.error
    generous = GatePolicy(max_miou_drop=100, max_class_drop=100)
    bundles.manifest(int8, gate=judged_by(generous, faces_folder))
    assert accuracy(int8, "--data", faces_folder).code == 0


def test_retouched_masks_are_not_the_set_of_the_manifest(
    bundles: Bundles, accuracy: Callable[..., Judged], checkpoint: Path, faces_folder: Path, tmp_path: Path
) -> None:
    """The photographs and their hash are the same."""
    touched = relabelled(faces_folder, tmp_path / "touched", retouched)
    assert content_sha256(open_evaluation(touched)) == bundles.evaluation.content_sha256
    done = accuracy(bundles.make("a"), "--data", touched, "--reference", checkpoint)
    assert done.code == 0, done.error
    assert done.rows["onnx int8"]["reference"] == "pytorch fp32"
    assert done.report["reference"]["accuracy"] == "measured"


def test_other_images_are_judged_against_pytorch_or_an_fp32_engine_or_not_at_all(
    bundles: Bundles, accuracy: Callable[..., Judged], checkpoint: Path, other_faces: Path
) -> None:
    fp32, int8 = bundles.make("a", "fp32"), bundles.make("b")
    by_pytorch = accuracy(fp32, int8, "--data", other_faces, "--reference", checkpoint)
    assert {row["reference"] for row in by_pytorch.rows.values()} == {"pytorch fp32"}
    assert {row["verdict"] for row in by_pytorch.rows.values()} == {"pass"}

    by_engine = accuracy(fp32, int8, "--data", other_faces)
    assert by_engine.code == 0, by_engine.error
    assert (by_engine.rows["onnx int8"]["reference"], by_engine.rows["onnx int8"]["verdict"]) == ("onnx fp32", "pass")
    assert (by_engine.rows["onnx fp32"]["reference"], by_engine.rows["onnx fp32"]["verdict"]) == (None, "not judged")
    assert "judged against onnx fp32" in by_engine.out
    assert by_engine.report["reference"] is None

    alone = accuracy(int8, "--data", other_faces)
    assert alone.code == 0
    assert alone.rows["onnx int8"]["verdict"] == "not judged"
    assert alone.rows["onnx int8"]["accuracy"] == "measured"
    assert "no FP32 reference" in alone.rows["onnx int8"]["reason"]


def test_weights_of_another_network_are_no_reference(
    bundles: Bundles, accuracy: Callable[..., Judged], checkpoint: Path, other_faces: Path, tmp_path: Path
) -> None:
    network, card = load_checkpoint(checkpoint)
    other = {name: value + 1 for name, value in network.state_dict().items()}
    save_checkpoint(tmp_path / "other.safetensors", other, card)
    done = accuracy(bundles.make("a"), "--data", other_faces, "--reference", tmp_path / "other.safetensors")
    assert done.rows["onnx int8"]["verdict"] == "not judged"
    assert "are not the weights of onnx int8" in done.finished.err


def test_a_broken_fp32_engine_does_not_speak_for_its_siblings(bundles: Bundles, other_faces: Path) -> None:
    """Right labels, PyTorch absent: the sound engines are not refused for what another one computes wrongly."""
    dataset, matrix = open_evaluation(other_faces), ConfusionMatrix()
    for index in range(len(dataset)):
        matrix.add(dataset[index].mask, np.full_like(dataset[index].mask, 18))
    sound = bundles.make("a", "fp32")
    bundle = read_bundle(sound)
    broken = bundle.model_copy(update={"target": "openvino"})
    int8 = bundle.model_copy(update={"precision": Precision.INT8})
    scored = [
        Scored(sound, bundle, truth(other_faces)),
        Scored(sound, broken, matrix.scores()),
        Scored(sound, int8, truth(other_faces)),
    ]
    words = [gate_result.word for gate_result in evaluate_gates(scored, dataset)]
    assert words == ["not judged", "refused", "pass"]


def test_a_refusal_that_no_score_shows_stands(
    bundles: Bundles, accuracy: Callable[..., Judged], faces_folder: Path
) -> None:
    gate = BuilderRefusal(summary="3 of 66 layers are INT8")
    done = accuracy(bundles.make("a", gate=gate), "--data", faces_folder)
    assert done.code == 4
    assert "refused at its export: 3 of 66 layers" in done.error


def test_accuracy_by_name_needs_images(
    bundles: Bundles, fptk: Command, checkpoint: Path, faces_folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Those of the run that the bundle stands in will do."""
    folder = bundles.make("a")
    finished = fptk("bench", folder, "--accuracy")
    assert finished.code == 2
    assert "--data" in finished.err.strip().splitlines()[-1]
    assert not finished.out
    recipe = Recipe.load("microsegformer").with_overrides(["data.size=64"])
    source = ModelSource(checkpoint, tmp_path, recipe, (faces_folder,), is_run=True)
    monkeypatch.setattr("fptk.workflows.bench.run_of", lambda _: source)
    finished = fptk("bench", folder, "--accuracy", "--json", "-")
    assert finished.code == 0, finished.err
    assert json.loads(finished.out)["rows"][0]["accuracy"] == "measured"


@pytest.mark.parametrize(
    ("host", "place", "words"),
    [
        (describe_host(), "this processor", "fastest here among what passed the gate: onnx int8"),
        (describe_host() | {"cpu": "Xeon 6975P-C"}, "Xeon 6975P-C", "nothing is recommended: onnx int8 passed on"),
        (
            describe_host() | {"isa": ["avx2", "amx_int8"]},
            f"{describe_host()['cpu']}, with other instruction sets",
            "nothing is recommended",
        ),
    ],
)
def test_figures_from_the_manifest_are_marked(
    host: dict[str, Any], place: str, words: str, bundles: Bundles, fptk: Command, faces_folder: Path,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    """Speed is measured; accuracy and verdict are as old as the export, and from where that was."""
    monkeypatch.setattr("fptk.workflows.bench.peak_memory", lambda *_: None)
    monkeypatch.setattr(OnnxRuntimeSession, "_infer", lambda self, images: np.zeros(images.shape[:3], np.uint8))
    folder = bundles.make("a", host=host)
    finished = fptk("bench", folder, "--rounds", 1, "--json", tmp_path / "b.json")
    assert finished.code == 0, finished.err
    text = " ".join(finished.out.split())
    assert f"† from the manifest, measured on {place}" in text
    assert words in text
    row = json.loads((tmp_path / "b.json").read_text())["rows"][0]
    assert (row["accuracy"], row["measured_on"], row["reference"]) == ("manifest", host["cpu"], "manifest")
    assert row["fps"] > 0
    assert f"pass {len(row['judged_classes'])}/19†" in text
    assert "100.00†" in text


def test_a_refused_manifest_ends_with_4(bundles: Bundles, fptk: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fptk.workflows.bench.peak_memory", lambda *_: None)
    monkeypatch.setattr(OnnxRuntimeSession, "_infer", lambda self, images: np.zeros(images.shape[:3], np.uint8))
    host = describe_host() | {"cpu": "Xeon 6975P-C"}
    folder = bundles.make("a", host=host, gate=BuilderRefusal(summary="mIoU -66.5"))
    finished = fptk("bench", folder, "--fps", "--rounds", 1)
    assert finished.code == 4
    assert "refused†" in finished.out
    assert "onnx int8: mIoU -66.5 (from the manifest, judged on Xeon 6975P-C)" in finished.err.strip().splitlines()[-1]


def test_an_engine_that_this_host_cannot_compute_has_a_row(
    bundles: Bundles, fptk: Command, faces_folder: Path, other_faces: Path, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    pytest.importorskip("openvino", reason="openvino is not installed")
    monkeypatch.setattr("fptk.calibration.openvino_cpu.has_bf16", lambda: False)
    monkeypatch.setattr("fptk.workflows.bench.peak_memory", lambda *_: None)
    bf16 = bundles.make("a", "bf16", target="openvino", precision_hint="bf16")
    int8 = bundles.make("b")
    finished = fptk("bench", bf16, int8, "--accuracy", "--data", faces_folder, "--json", tmp_path / "b.json")
    assert finished.code == 0, finished.err
    rows = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert [row["accuracy"] for row in rows] == ["manifest", "measured"]
    assert "no bf16" in rows[0]["note"]
    assert "openvino bf16: this processor has no bf16" in " ".join(finished.out.split())
    alone = fptk("bench", bf16, "--accuracy", "--data", other_faces)
    assert alone.code == 3
    assert "no engine could be scored here" in alone.err.strip().splitlines()[-1]


class TestEval:
    """``fptk eval BUNDLE``."""

    def test_a_pass_says_against_what_and_on_which_classes(
        self, bundles: Bundles, fptk: Command, checkpoint: Path, other_faces: Path, tmp_path: Path
    ) -> None:
        options = ("--data", other_faces, "--reference", checkpoint, "--json", tmp_path / "e.json")
        finished = fptk("eval", bundles.make("a"), *options)
        assert finished.code == 0, finished.err
        assert "pass: mIoU -0.00 points" in finished.out or "pass: mIoU +0.00 points" in finished.out
        assert "reference: pytorch fp32, scored on the same images, mIoU 100.00" in finished.out
        value = json.loads((tmp_path / "e.json").read_text())
        assert (value["verdict"], value["reference"], value["miou"]) == ("pass", "pytorch fp32", 1.0)
        assert len(value["judged_classes"]) + len(value["unjudged_classes"]) == 19
        assert ", ".join(value["unjudged_classes"]) in finished.out

    def test_a_refusal_ends_with_4_after_the_json(
        self, bundles: Bundles, fptk: Command, faces_folder: Path, tmp_path: Path
    ) -> None:
        bundles.broken.add("onnx int8")
        finished = fptk("eval", bundles.make("a"), "--data", faces_folder, "--json", tmp_path / "e.json")
        assert finished.code == 4
        assert finished.err.strip().splitlines()[-1].startswith("fptk: onnx int8: refused: mIoU -")
        value = json.loads((tmp_path / "e.json").read_text())
        assert (value["verdict"], value["reference"]) == ("refused", "manifest")
        assert value["reason"] in finished.err

    def test_wrong_labels_are_refused(
        self, bundles: Bundles, no_torch: None, fptk: Command, other_faces: Path, tmp_path: Path
    ) -> None:
        wrong = relabelled(other_faces, tmp_path / "wrong", shifted)
        finished = fptk("eval", bundles.make("a"), "--data", wrong)
        assert finished.code == 4
        assert "these labels" in finished.err.strip().splitlines()[-1]

    def test_weights_have_no_verdict(
        self, bundles: Bundles, fptk: Command, checkpoint: Path, other_faces: Path
    ) -> None:
        finished = fptk("eval", checkpoint, "--data", other_faces, "--json", "-")
        assert "verdict" not in json.loads(finished.out)


def test_scores_come_back_from_a_manifest(faces_folder: Path) -> None:
    scores = truth(faces_folder)
    values = json.loads(json.dumps(scores.as_dict()))
    read = TypeAdapter(Scores).validate_python
    assert read(values) == scores
    for damage in ({"per_class": {"skin": 1}}, {"miou": "high"}, {"images": None}):
        with pytest.raises(ValidationError):
            read(values | damage)
