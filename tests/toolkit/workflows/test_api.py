"""The public API: the whole way from a recipe to a measured engine, in a program that prints nothing by itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fptk
from fptk.calibration.gate import Decision
from fptk.core.errors import InputError
from fptk.core.progress import Listener
from fptk.data.synthetic.faces import SyntheticFaces
from fptk.export.bundle import read_bundle

TINY = {
    "data.synthetic": {"train": 8, "val": 4, "size": 64},
    "data.size": 64,
    "data.batch": 4,
    "optim.epochs": 1,
    "optim.warmup_epochs": 0,
}


class Recording(Listener):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str, *, heading: bool = False) -> None:
        self.lines.append(text)


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).parts[0] for path in folder.rglob("*")}


def test_the_names_are_loaded_when_they_are_used() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import fptk; seconds = time.perf_counter() - start\n"
        "heavy = {'numpy', 'torch', 'pydantic', 'PIL', 'click', 'rich', 'onnx'} & set(sys.modules)\n"
        "print(sorted(heavy), seconds < 0.1, sorted(set(dir(fptk)) - {'__version__'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = ["Gate", "Recipe", "benchmark", "build", "evaluate", "load", "predict", "train", "verify"]
    assert done.stdout.strip() == f"[] True {names}"
    with pytest.raises(AttributeError, match="nothing"):
        fptk.nothing  # noqa: B018


def test_from_a_recipe_to_a_measured_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    heard = Recording()
    run = fptk.train(fptk.Recipe.load("demo", TINY), out=tmp_path / "run", listener=heard)
    assert run.finished
    assert any("f1" in line for line in heard.lines)

    network = fptk.load(run)
    faces = SyntheticFaces(4, (80, 64), seed=1)
    scores = fptk.evaluate(network, faces, images=2)
    assert scores.images == 2
    assert 0 <= scores.miou <= 1

    gate = fptk.Gate(max_miou_drop=100, max_class_drop=100)
    bundles = fptk.build(
        run,
        targets=["onnx"],
        gate=gate,
        options={"onnx": {"cpu": "any"}},
        calib_size=2,
        matrix_images=None,
    )
    assert [bundle.label for bundle in bundles] == ["onnx fp32", "onnx int8"]
    assert [bundle.verdict for bundle in bundles] == [Decision.PASS, Decision.PASS]
    assert all(bundle.folder.parent == tmp_path / "run" / "bundles" for bundle in bundles)
    for bundle in bundles:
        assert bundle.evaluation is not None
        assert bundle.gate is not None
        assert bundle.gate.summary.startswith("passed")
        assert read_bundle(bundle.folder) == bundle
    assert bundles.best in list(bundles)

    engine = fptk.load(bundles[0])
    image = faces[0].image
    labels = fptk.predict(engine, image)
    assert (labels.shape, labels.dtype) == ((80, 64), np.uint8)
    assert (labels == fptk.predict(network, image)).mean() > 0.99

    report = fptk.benchmark(bundles, rounds=1)
    assert {row.label for row in report.rows} == {"onnx fp32", "onnx int8"}
    assert "onnx fp32" in str(report)

    assert files(tmp_path / "here") == set(), "a library writes only where it is told to"
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")


@pytest.mark.slow
def test_a_refused_engine_is_a_value(checkpoint: Path, faces_folder: Path, tmp_path: Path) -> None:
    strict = fptk.Gate(max_miou_drop=0, max_class_drop=0, min_class_pixels=0)
    (bundle,) = fptk.build(
        checkpoint,
        targets=["onnx"],
        precisions=["int8"],
        data=faces_folder,
        gate=strict,
        out=tmp_path,
        calib_size=2,
        fallback=False,
        matrix_images=None,
    )
    assert bundle.judged is not None
    if bundle.verdict is Decision.PASS:
        pytest.skip("INT8 lost nothing on these faces, so that there is nothing to refuse")
    assert bundle.verdict is Decision.REFUSED
    assert bundle.folder.parent.name == "rejected"


def test_mistakes_are_one_line(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="out="):
        fptk.build(checkpoint, targets=["onnx"])
    with pytest.raises(InputError, match=r"did you mean cpu"):
        fptk.build(checkpoint, targets=["onnx"], out=tmp_path, options={"onnx": {"cpus": "vnni"}})
    with pytest.raises(InputError, match="neither a bundle"):
        fptk.load(tmp_path)
    with pytest.raises(InputError, match="unknown target"):
        fptk.build(checkpoint, targets=["tflite"], out=tmp_path)
    assert files(tmp_path) == set()
