"""An engine's file says what it is, and a manifest that says something else is refused, with its hashes in order."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

import fptk as api
from fptk.core.classes import CELEBAMASK, CLASSES
from fptk.core.errors import InputError
from fptk.core.files import sha256_file
from fptk.core.preprocess import PreprocessSpec
from fptk.export.bundle import checked_bundle
from fptk.export.engine_metadata import read_metadata

VERSION_1 = Path(__file__).parents[1] / "fixtures" / "bundles" / "version-1"
ENGINES = {"onnx": "model.onnx", "openvino": "model.xml"}


@pytest.fixture(params=ENGINES)
def copied(request: pytest.FixtureRequest, cpu_bundles: Path, tmp_path: Path) -> tuple[Path, str]:
    """A bundle to change, and the name of its engine."""
    folder = shutil.copytree(cpu_bundles / f"{request.param}-fp32", tmp_path / "bundle")
    return Path(folder), ENGINES[request.param]


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the manifest so that it agrees with itself and with its files."""
    values = json.loads((folder / "fptk.json").read_text(encoding="utf-8"))
    change(values)
    values["preprocess_sha256"] = PreprocessSpec.model_validate(values["preprocess"]).sha256
    for name in values["files"]:
        path = folder / name
        values["files"][name] = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
    (folder / "fptk.json").write_text(json.dumps(values), encoding="utf-8")


def test_an_engine_says_what_its_labels_and_images_are(copied: tuple[Path, str]) -> None:
    folder, engine = copied
    found, manifest = read_metadata(folder / engine), checked_bundle(folder)
    assert tuple(json.loads(found["fptk.classes"])) == CLASSES
    assert [tuple(color) for color in json.loads(found["fptk.palette"])] == list(CELEBAMASK.palette)
    assert PreprocessSpec.model_validate_json(found["fptk.preprocess"]) == manifest.preprocess
    assert found["fptk.checkpoint_sha256"] == manifest.checkpoint_sha256


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "mean": (lambda values: values["preprocess"].update(mean=[0.5, 0.5, 0.5]), r"its preprocess\.mean is \(0\.485, "),
    "resize": (lambda values: values["preprocess"].update(resize="nearest"), "its preprocess.resize is 'bilinear'"),
    "palette": (
        lambda values: values["palette"].__setitem__(slice(4, 6), values["palette"][5:3:-1]),
        r"its palette\[4\] is \(51, 51, 255\), fptk\.json says \(204, 0, 204\)",
    ),
    "weights": (lambda values: values.update(checkpoint_sha256="0" * 64), "its checkpoint_sha256 is '"),
    "network": (lambda values: values.update(model="unet"), "its model is 'microsegformer', fptk.json says 'unet'"),
    "graph": (lambda values: values.update(variant="naive"), "its graph is 'deploy', fptk.json says 'original'"),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_a_manifest_that_was_changed_consistently_is_refused(
    copied: tuple[Path, str], change: Callable[[dict[str, Any]], Any], message: str, fptk: Callable[..., Any]
) -> None:
    folder, _ = copied
    rewrite(folder, lambda values: None)
    checked_bundle(folder)
    rewrite(folder, change)
    with pytest.raises(InputError, match=message):
        checked_bundle(folder)
    finished = fptk("profile", folder)
    assert finished.code == 2
    assert len(finished.err.strip().splitlines()) == 1


def test_the_engine_of_another_network_is_refused(copied: tuple[Path, str]) -> None:
    folder, engine = copied
    content = (folder / engine).read_bytes()
    own = checked_bundle(folder).checkpoint_sha256.encode()
    assert own in content
    (folder / engine).write_bytes(content.replace(own, b"f" * 64))
    rewrite(folder, lambda values: None)
    with pytest.raises(InputError, match="its checkpoint_sha256 is 'ffff"):
        checked_bundle(folder)


@pytest.mark.parametrize("text", ["[", "7", '[["a"]]', "[1, 2, 3]"])
def test_a_damaged_entry_is_refused(cpu_bundles: Path, tmp_path: Path, text: str) -> None:
    folder = Path(shutil.copytree(cpu_bundles / "onnx-fp32", tmp_path / "bundle"))
    model = onnx.load(str(folder / "model.onnx"))
    next(entry for entry in model.metadata_props if entry.key == "fptk.palette").value = text
    onnx.save(model, folder / "model.onnx")
    rewrite(folder, lambda values: None)
    with pytest.raises(InputError, match=r"holds a damaged entry fptk\.palette"):
        checked_bundle(folder)


def test_an_engine_without_metadata_is_not_compared(cpu_bundles: Path, tmp_path: Path) -> None:
    assert read_metadata(VERSION_1 / "model.onnx") == {}
    folder = Path(shutil.copytree(cpu_bundles / "onnx-fp32", tmp_path / "bundle"))
    model = onnx.load(str(folder / "model.onnx"))
    del model.metadata_props[:]
    onnx.save(model, folder / "model.onnx")
    rewrite(folder, lambda values: values.update(model="unet"))
    assert checked_bundle(folder).model == "unet"


@pytest.mark.parametrize("damage", ["cut", "encoding", "multi-byte"])
def test_a_damaged_openvino_file_is_refused(cpu_bundles: Path, tmp_path: Path, damage: str) -> None:
    folder = Path(shutil.copytree(cpu_bundles / "openvino-fp32", tmp_path / "bundle"))
    content = (folder / "model.xml").read_bytes()
    damaged = {
        "cut": content[: len(content) // 2],
        "encoding": content.replace(b'<?xml version="1.0"?>', b'<?xml version="1.0" encoding="none"?>'),
        "multi-byte": content.replace(b'<?xml version="1.0"?>', b'<?xml version="1.0" encoding="utf-7"?>'),
    }
    assert damaged[damage] != content
    (folder / "model.xml").write_bytes(damaged[damage])
    rewrite(folder, lambda values: None)
    with pytest.raises(InputError, match=r"model\.xml: it is damaged XML"):
        checked_bundle(folder)


@pytest.mark.slow
def test_quantizing_keeps_what_an_engine_says(checkpoint: Path, faces_folder: Path, tmp_path: Path) -> None:
    built = api.build(checkpoint, precisions=("int8",), calibration=faces_folder, gate=None, out=tmp_path)
    assert len(built) == len(ENGINES)
    for bundle in built:
        found = read_metadata(bundle.folder / str(bundle.engine))
        assert found["fptk.checkpoint_sha256"] == bundle.checkpoint_sha256
        assert tuple(json.loads(found["fptk.classes"])) == CLASSES
