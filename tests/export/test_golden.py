"""Golden samples: what they hold, what they are held to, and that an export puts them into every bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fptk.benchmarks.processors import ProcessorMatrix, ProcessorRow
from fptk.core.agreement import LabelAgreement, compare_labels
from fptk.core.classes import CELEBAMASK, NUM_CLASSES
from fptk.core.dataset import UInt8Array
from fptk.core.errors import InputError
from fptk.core.precision import Precision
from fptk.core.preprocess import PreprocessSpec
from fptk.core.session import Session
from fptk.data.synthetic.faces import SyntheticFaces
from fptk.export.bundle import checked_bundle, read_bundle
from fptk.export.golden import (
    FREE,
    MOST_SAMPLES,
    GoldenRecord,
    label_golden,
    limits_of,
    make_golden,
    read_golden,
    shortfalls,
    write_golden,
)

SPEC = PreprocessSpec(size=(64, 64))
RECORD = GoldenRecord(samples=2, source="s", license="l")


class Red(Session):
    """Labels each pixel by its red channel."""

    def _infer(self, images: UInt8Array) -> UInt8Array:
        return images[..., 0] % np.uint8(NUM_CLASSES)


@pytest.fixture
def red() -> Session:
    return Red("red", SPEC)


def test_what_is_written_is_read_again_bit_for_bit(red: Session, tmp_path: Path) -> None:
    golden = make_golden(red, 2)
    write_golden(golden, tmp_path)
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")} == set(RECORD.files)
    again = read_golden(tmp_path, RECORD, SPEC, CELEBAMASK)
    for name in ("images", "labels", "photograph", "photograph_labels"):
        assert np.array_equal(getattr(again, name), getattr(golden, name))
    assert golden.license == FREE


def test_the_photograph_needs_its_preprocessing(red: Session) -> None:
    """It is larger than the engine's size, of another aspect ratio, and no whole multiple on either side."""
    golden = make_golden(red, 1)
    height, width = golden.photograph.shape[:2]
    assert golden.photograph_labels.shape == (height, width) == (120, 90)
    assert height % 64
    assert width % 64
    labels, photograph = label_golden(red, golden)
    assert np.array_equal(labels[0], golden.labels[0])
    assert np.array_equal(photograph, golden.photograph_labels)


def test_evaluation_images_that_show_most_classes_are_taken_with_a_word_on_their_license(red: Session) -> None:
    faces = SyntheticFaces(12, (96, 64))
    golden = make_golden(red, 3, faces)
    shown = [len(np.unique(faces[index].mask)) for index in range(12)]
    taken = [
        index for index in range(12) if any(np.array_equal(SPEC.apply(faces[index].image), i) for i in golden.images)
    ]
    assert len(taken) == 3
    assert min(shown[index] for index in taken) >= max(shown[index] for index in range(12) if index not in taken)
    assert faces.name in golden.license
    with pytest.raises(InputError, match="more images than"):
        make_golden(red, 13, faces)


@pytest.mark.parametrize("name", ["1.png", "2-labels.png", "photograph-labels.png"])
def test_a_sample_of_another_size_is_named(name: str, red: Session, tmp_path: Path) -> None:
    write_golden(make_golden(red, 2), tmp_path)
    path = tmp_path / "golden" / name
    with Image.open(path) as image:
        image.resize((32, 48), Image.Resampling.NEAREST).save(path)
    with pytest.raises(InputError, match="expected"):
        read_golden(tmp_path, RECORD, SPEC, CELEBAMASK)


def agreement(pixels: float, **classes: float) -> LabelAgreement:
    counted = dict.fromkeys(classes, 1000) | ({"ear_r": 10} if "ear_r" in classes else {})
    return LabelAgreement(pixels=pixels, images=(pixels,), classes=classes, class_pixels=counted)


def row(name: str, golden: LabelAgreement | None, *, promised: bool = True) -> ProcessorRow:
    return ProcessorRow(instruction_set=name, family="avx2", promised=promised, status="measured", golden=golden)


def test_limits_are_the_lowest_promised_agreement_less_the_margin() -> None:
    rows = (
        row("AVX2", agreement(0.97, skin=0.90, hair=0.80)),
        row("AVX512_CORE", agreement(0.10, skin=0.10), promised=False),
        row("AVX512_CORE_VNNI", None),
    )
    matrix = ProcessorMatrix(processor="p", images=1, threads=1, reference_mean_miou=0.7, rows=rows)
    here = agreement(0.99, skin=0.95, hair=0.75, ear_r=1.0)
    limits = limits_of(here, 0.98, matrix, Precision.INT8)
    assert limits.pixels == pytest.approx(0.95)
    assert limits.photograph == pytest.approx(0.94)
    assert limits.classes == {"skin": pytest.approx(0.80), "hair": pytest.approx(0.65)}
    assert limits.measured_on == ("exporting host", "AVX2")
    alone = limits_of(here, 0.98, None, Precision.FP32)
    assert (alone.pixels, alone.classes["hair"]) == (pytest.approx(0.985), pytest.approx(0.72))


def test_what_falls_short_is_named_worst_class_first_and_the_limit_itself_passes() -> None:
    here = agreement(0.99, skin=0.95, hair=0.9)
    limits = limits_of(here, 0.98, None, Precision.FP32)
    exact = agreement(limits.pixels, skin=limits.classes["skin"], hair=limits.classes["hair"])
    assert shortfalls(exact, limits.photograph, limits) == []
    pixels, classes, photograph = shortfalls(agreement(0.9, skin=0.5), 0.5, limits)
    assert pixels == ("golden", "90.00 % of the golden pixels as FP32, at least 98.50 % expected")
    assert classes[1].startswith("IoU with FP32 by class: hair 0.00 % (at least 87.00 %), skin 50.00 %")
    assert photograph[0] == "photograph"
    assert photograph[1].startswith("50.00 % of the photograph")


def test_agreement_counts_pixels_images_and_classes() -> None:
    reference = [np.array([[0, 1], [1, 1]], np.uint8), np.array([[2, 2, 2, 2]], np.uint8)]
    found = [np.array([[0, 1], [1, 3]], np.uint8), np.array([[2, 2, 2, 2]], np.uint8)]
    result = compare_labels(found, reference)
    assert result.pixels == 7 / 8
    assert result.images == (0.75, 1.0)
    assert result.classes == {"background": 1.0, "skin": pytest.approx(2 / 3), "nose": 1.0, "eye_g": 0.0}
    assert result.class_pixels == {"background": 1, "skin": 3, "nose": 4, "eye_g": 0}


def test_an_export_leaves_samples_limits_and_latency(
    checkpoint: Path, faces_folder: Path, fptk: Callable[..., Any], tmp_path: Path
) -> None:
    done = fptk("export", checkpoint, "--target", "onnx", "--fp32", "--data", faces_folder, "--no-gate", "--golden", 2,
                "--golden", "data", "--out", tmp_path)  # fmt: skip
    assert done.code == 0, done.err
    bundle = checked_bundle(tmp_path / "bundles" / "onnx-fp32")
    golden, latency = bundle.golden, bundle.latency
    assert golden is not None
    assert golden.agreement is not None
    assert golden.limits is not None
    assert (golden.samples, len(golden.agreement.images)) == (2, 2)
    assert "val" in golden.source
    assert "licence" in golden.license
    assert golden.agreement.pixels > 0.99
    assert golden.limits.measured_on == ("exporting host", "native")
    assert bundle.processors is not None
    assert bundle.processors.rows[-1].golden == golden.agreement
    assert latency is not None
    assert 0 < latency.p50_ms <= latency.p90_ms
    assert latency.calls >= 5
    read_golden(bundle.folder, golden, bundle.preprocess, bundle.class_set)


@pytest.mark.slow
def test_samples_from_data_need_data(checkpoint: Path, fptk: Callable[..., Any], tmp_path: Path) -> None:
    done = fptk("export", checkpoint, "--target", "onnx", "--fp32", "--golden", "data", "--out", tmp_path)
    assert done.code == 2
    assert "--golden data takes evaluation images" in done.err.splitlines()[-1]


@pytest.mark.parametrize("value", ["0", str(MOST_SAMPLES + 1), "faces"])
def test_other_counts_are_refused(value: str, checkpoint: Path, fptk: Callable[..., Any]) -> None:
    assert fptk("export", checkpoint, "--golden", value).code == 2


def test_the_command_line_knows_the_limit() -> None:
    from fptk.cli.export import MOST_GOLDEN

    assert MOST_GOLDEN == MOST_SAMPLES


def test_older_bundles_hold_none() -> None:
    old = read_bundle(Path(__file__).parents[1] / "fixtures" / "bundles" / "version-1")
    assert (old.golden, old.latency) == (None, None)
