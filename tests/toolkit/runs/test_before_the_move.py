"""Run folders that an fptk wrote before its modules moved: they are read, opened and resumed as ever."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from fptk.export.bundle import find_bundles, open_bundle, read_bundle
from fptk.models import load_checkpoint
from fptk.runs.folder import RunFolder
from fptk.runs.source import find_source, run_of

ARCHIVE = Path(__file__).parents[2] / "fixtures" / "before-the-move.tar.xz"


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds ``run/``, trained and exported, and ``half/``, stopped after step 1 of 2."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


def test_finished_run_is_read(old: Path) -> None:
    run = RunFolder(old / "run")
    result = run.finished()
    assert result is not None
    assert result["step"] == 2
    assert run.recipe().name == "demo"
    assert run.data() == []
    (record,) = run.records()
    assert (record["step"], record["f1"]) == (2, result["best_f1"])
    assert run.difference(run.recipe(), []) is None


def test_checkpoints_load(old: Path) -> None:
    run = RunFolder(old / "run")
    for path in (run.best, run.last):
        network, card = load_checkpoint(path)
        assert (card.model, card.step, card.preprocess.size) == ("microsegformer", 2, (64, 64))
        assert card.recipe == run.read()["recipe"]
        assert not network.training


def test_run_is_found_with_its_faces(old: Path) -> None:
    for given in (old / "run", old / "run" / "last.safetensors"):
        source = find_source(given)
        assert (source.is_run, source.folder, source.recipe.name) == (True, old / "run", "demo")
    sets = source.training_set(None), source.evaluation_set(None)
    assert [len(each) if each else 0 for each in sets] == [16, 8]


def test_bundles_open_and_label_a_face(old: Path) -> None:
    run = RunFolder(old / "run")
    folders = find_bundles(run.bundles)
    assert [folder.name for folder in folders] == ["onnx-fp32", "onnx-int8", "openvino-fp32", "openvino-int8"]
    face = np.zeros((1, 64, 64, 3), np.uint8)
    for folder in folders:
        manifest = read_bundle(folder)
        assert f"{manifest.target}-{manifest.precision}" == folder.name
        opened, session = open_bundle(folder, threads=1)
        with session:
            assert session(face).shape == (1, 64, 64)
        assert opened.label == manifest.label
        found = run_of(folder)
        assert found is not None
        assert found.weights == run.best


def test_half_a_training_is_resumed_to_its_end(old: Path, fptk: Callable[..., Any]) -> None:
    half, whole = RunFolder(old / "half"), RunFolder(old / "run")
    assert half.finished() is None
    assert half.records() == []
    done = fptk("train", "--resume", "--out", half.path)
    assert done.code == 0, done.err
    assert "at step 1 of 2" in done.err
    result = half.finished()
    assert result is not None
    assert result["step"] == 2
    assert [record["step"] for record in half.records()] == [2]
    # Its rate is 1e-30, so the weights are those of the whole run; its BatchNorm statistics have seen the same faces.
    resumed, expected = load_file(half.last), load_file(whole.last)
    assert resumed.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_allclose(resumed[name], tensor, rtol=1e-5, atol=1e-6, err_msg=name)
