"""A data set of other classes through every command: its names arrive everywhere, and no other list is read as its."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fptk.core.classes import CLASS_INDEX, IGNORE
from fptk.core.palette import draw_palette
from fptk.core.preprocess import PreprocessSpec
from fptk.data.synthetic.faces import SyntheticFaces
from fptk.export.bundle import read_bundle
from fptk.models.checkpoint import read_card

Command = Callable[..., "object"]

NAMES = ("background", "face", "hair", "l_eye", "r_eye")
YAML = "classes: [background, face, hair, l_eye, r_eye]\n"


def relabelled(mask: np.ndarray) -> np.ndarray:
    """CelebAMask-HQ's labels as those of :data:`NAMES`; glasses count nowhere."""
    labels = np.zeros_like(mask)
    labels[np.isin(mask, [CLASS_INDEX[name] for name in ("skin", "nose", "mouth", "u_lip", "l_lip")])] = 1
    for name, label in (("hair", 2), ("l_eye", 3), ("r_eye", 4), ("eye_g", IGNORE)):
        labels[mask == CLASS_INDEX[name]] = label
    return labels


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 training and 4 validation faces of 64x64, laid out as LaPa."""
    root = tmp_path_factory.mktemp("own")
    for split, faces in (("train", SyntheticFaces(12, (64, 64))), ("val", SyntheticFaces(4, (64, 64), start=12))):
        for part in ("images", "labels"):
            (root / split / part).mkdir(parents=True)
        for image, mask, key in (faces[index] for index in range(len(faces))):
            Image.fromarray(image).save(root / split / "images" / f"{key}.png")
            Image.fromarray(relabelled(mask)).save(root / split / "labels" / f"{key}.png")
    (root / "classes.yaml").write_text(YAML)
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network of the five classes."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from fptk.models import CheckpointCard, count_parameters, create_model, save_checkpoint

    torch.manual_seed(0)
    model = create_model("microsegformer", num_classes=len(NAMES))
    path = tmp_path_factory.mktemp("weights") / "five.safetensors"
    card = CheckpointCard(
        model=model.name,
        options=model.options,
        num_parameters=count_parameters(model),
        preprocess=PreprocessSpec(size=(64, 64)),
        classes=NAMES,
        palette=draw_palette(len(NAMES)),
        swap_pairs=((3, 4),),
    )
    save_checkpoint(path, model.state_dict(), card)
    return path


@pytest.fixture(scope="module")
def bundle(weights: Path, own: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its engine for ONNX Runtime."""
    import fptk

    out = tmp_path_factory.mktemp("bundles")
    options = {"precisions": ["fp32"], "gate": None, "matrix_images": 0, "out": out, "data": own}
    (built,) = fptk.build(weights, targets=["onnx"], **options)
    return built.folder


@pytest.mark.slow
def test_training_takes_all_but_the_classifier_and_its_card_names_the_classes(
    own: Path, checkpoint: Path, fptk: Command, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    settings = ["data.size=64", "data.batch=4", "optim.epochs=1", "data.sampling=rare", "loss.lovasz=0.5"]
    began = ("train", "--data", own, "--out", run, "--init-weights", checkpoint, "--stop-after", 2)
    said = fptk(*began, *(f"--set={each}" for each in settings)).err  # type: ignore[attr-defined]
    assert "taken but for classifier.weight, classifier.bias" in said
    (own / "classes.yaml").write_text(YAML.replace("hair", "hat"))
    try:
        finished = fptk("train", "--resume", "--out", run)
    finally:
        (own / "classes.yaml").write_text(YAML)
    assert finished.code == 2  # type: ignore[attr-defined]
    assert "class 2 is 'hair' in the first and 'hat' in the second" in finished.err  # type: ignore[attr-defined]
    assert fptk("train", "--resume", "--out", run).code == 0  # type: ignore[attr-defined]
    card = read_card(run / "best.safetensors")
    assert card.classes == NAMES
    assert card.options["num_classes"] == 5
    assert card.swap_pairs == ((3, 4),)
    assert len(set(card.palette)) == 5


def test_the_bundle_its_file_and_its_tables_name_them(bundle: Path, fptk: Command, own: Path) -> None:
    manifest = read_bundle(bundle)
    assert manifest.classes == NAMES
    assert manifest.evaluation is not None
    assert tuple(manifest.evaluation.engine.per_class) == NAMES
    finished = fptk("eval", bundle, "--data", own, "--errors", "--bootstrap", 100)
    assert finished.code == 0, finished.err  # type: ignore[attr-defined]
    for name in NAMES:
        assert name in finished.out  # type: ignore[attr-defined]
    assert "cloth" not in finished.out  # type: ignore[attr-defined]
    assert fptk("verify", bundle, "--data", own).code == 0  # type: ignore[attr-defined]


def test_masks_that_it_predicts_have_its_labels_and_colours(
    bundle: Path, fptk: Command, own: Path, tmp_path: Path
) -> None:
    image = next((own / "val" / "images").iterdir())
    for style in ("labels", "overlay"):
        finished = fptk("predict", image, "--model", bundle, "--out", tmp_path / style, "--format", style)
        assert finished.code == 0, finished.err  # type: ignore[attr-defined]
    picture = Image.open(tmp_path / "labels" / f"{image.stem}.png")
    assert int(np.array(picture).max()) < 5
    assert (picture.getpalette() or [])[:15] == [channel for color in read_bundle(bundle).palette for channel in color]


def test_labels_of_one_list_are_never_scored_as_another(
    bundle: Path,
    weights: Path,
    fptk: Command,
    own: Path,
    faces_folder: Path,
    checkpoint: Path,
    tmp_path: Path,
) -> None:
    for arguments in (
        ("eval", bundle, "--data", faces_folder),
        ("eval", weights, "--data", faces_folder),
        ("eval", checkpoint, "--data", own),
        ("verify", bundle, "--data", faces_folder),
        ("bench", bundle, "--data", faces_folder, "--accuracy"),
        ("export", checkpoint, "--target", "onnx", "--fp32", "--data", own, "--out", tmp_path / "out"),
        ("export", weights, "--target", "onnx", "--int8", "--calib", faces_folder, "--out", tmp_path / "out"),
    ):
        finished = fptk(*arguments)
        assert finished.code == 2, (arguments, finished.err)  # type: ignore[attr-defined]
        said = finished.err + finished.out  # type: ignore[attr-defined]
        assert "5 classes (background, face, hair, l_eye, …)" in said, arguments
        assert "class 1 is '" in said, arguments
        assert "Traceback" not in said


@pytest.mark.slow
def test_photographs_without_masks_calibrate_int8(weights: Path, own: Path, fptk: Command, tmp_path: Path) -> None:
    out = tmp_path / "int8"
    finished = fptk(
        *("export", weights, "--target", "onnx", "--int8", "--no-gate", "--calib", own / "train" / "images"),
        *("--calib-size", 4, "--out", out, "--data", own),
    )
    assert finished.code == 0, finished.err  # type: ignore[attr-defined]
    assert "the network itself labels images" in finished.err  # type: ignore[attr-defined]
    calibration = json.loads((out / "bundles" / "onnx-int8" / "fptk.json").read_text())["calibration"]
    assert calibration["dataset"] == "images (labels predicted)"
    assert tuple(calibration["coverage"]) == NAMES
    assert len(calibration["images"]) == 4
    assert all(image["path"].endswith(".png") for image in calibration["images"])
