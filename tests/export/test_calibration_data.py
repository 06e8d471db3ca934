"""What ``--calib`` may name, and which images and classes come of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fptk.core.classes import LAPA
from fptk.core.errors import InputError
from fptk.core.precision import Precision
from fptk.export.inputs import ExportInputs
from fptk.export.plan import ExportPlan
from fptk.runs.source import find_source


def inputs(checkpoint: Path, calib: Path, tmp_path: Path, data: Path | None = None) -> ExportInputs:
    plan = ExportPlan(
        targets=("onnx",),
        precisions=(Precision.INT8,),
        out=tmp_path / "out",
        command="",
        calib=calib,
        calib_size=2,
        data=data,
    )
    return ExportInputs(find_source(checkpoint), plan, tmp_path)


def test_a_list_of_pairs_is_a_data_set(checkpoint: Path, faces_folder: Path, tmp_path: Path) -> None:
    faces = Path(shutil.copytree(faces_folder / "train", tmp_path / "faces"))
    rows = [f"images/{path.name},masks/{path.stem}.png" for path in sorted((faces / "images").iterdir())[:3]]
    (faces / "some.csv").write_text("\n".join(["image,mask", *rows]))
    chosen = inputs(checkpoint, faces / "some.csv", tmp_path).calibration_set
    assert len(chosen) == 2
    assert {image.key for image in chosen.images} <= {Path(row.partition(",")[0]).stem for row in rows}


def test_photographs_without_masks_are_labelled_by_the_network(
    checkpoint: Path, faces_folder: Path, tmp_path: Path
) -> None:
    given = inputs(checkpoint, faces_folder / "train" / "images", tmp_path, faces_folder)
    chosen = given.calibration_set
    assert chosen.dataset == "images (labels predicted)"
    assert sum(covered.pixels for covered in chosen.coverage.values()) == 2 * 64 * 64
    with pytest.raises(InputError, match="is also image"):
        inputs(checkpoint, faces_folder / "val" / "images", tmp_path, faces_folder).calibration_set  # noqa: B018


def test_data_of_other_classes_are_refused_before_any_work(
    checkpoint: Path, faces_folder: Path, tmp_path: Path
) -> None:
    faces = Path(shutil.copytree(faces_folder, tmp_path / "faces"))
    (faces / "classes.yaml").write_text("classes: lapa")
    assert len(LAPA) == 11
    with pytest.raises(InputError, match=r"the network has 19 classes .* the calibration data .* has 11 classes"):
        inputs(checkpoint, faces / "train", tmp_path)
    with pytest.raises(InputError, match=r"the network has 19 classes .* the evaluation data .* has 11 classes"):
        inputs(checkpoint, faces_folder / "train" / "images", tmp_path, faces)
