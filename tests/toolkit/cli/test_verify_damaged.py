"""Bundles that were damaged, tampered with or carried to the wrong place: one verdict each, and nothing is run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fptk.core.cpu import FAMILIES, cpu_family
from fptk.core.files import sha256_file
from fptk.export.targets.onnxruntime import OnnxRuntimeTarget
from fptk.export.targets.openvino import OpenVinoTarget

Manifest = dict[str, Any]
Break = Callable[[Path], Any]

pytestmark = pytest.mark.usefixtures("quick_timing")


def edited(change: Callable[[Manifest], Any]) -> Break:
    """Change the manifest's values in place."""

    def breaks(folder: Path) -> None:
        path = folder / "fptk.json"
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))

    return breaks


def set_to(**changes: Any) -> Break:
    return edited(lambda values: values.update(changes))


def golden(**changes: Any) -> Break:
    return edited(lambda values: values["golden"].update(changes))


def corrected(change: Break) -> Break:
    """Change files, and write their new sizes and hashes into the manifest."""

    def breaks(folder: Path) -> None:
        change(folder)

        def rehash(values: Manifest) -> None:
            for name in values["files"]:
                path = folder / name
                values["files"][name] = {"sha256": sha256_file(path), "bytes": path.stat().st_size}

        edited(rehash)(folder)

    return breaks


def both(*changes: Break) -> Break:
    def breaks(folder: Path) -> None:
        for change in changes:
            change(folder)

    return breaks


def write(name: str, content: bytes) -> Break:
    return lambda folder: (folder / name).write_bytes(content)


def cut(name: str) -> Break:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-100])


def flip(name: str) -> Break:
    def breaks(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    return breaks


def remove(name: str) -> Break:
    return lambda folder: (folder / name).unlink()


def rename(name: str, new: str) -> Break:
    return lambda folder: (folder / name).rename(folder / new)


def swap_with_int8(folder: Path) -> None:
    """The engine of the bundle beside it, under this one's name."""
    shutil.copy(folder.parent / "proven" / "onnx-int8" / "model.onnx", folder / "model.onnx")


def exchange(first: str, second: str) -> Break:
    return both(rename(first, "between"), rename(second, first), rename("between", second))


def link(name: str) -> Break:
    return both(
        lambda folder: shutil.move(folder / name, folder.parent / "elsewhere"),
        lambda folder: (folder / name).symlink_to(folder.parent / "elsewhere"),
    )


def folder_instead(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").mkdir()


def picture(name: str, pixels: Any) -> Break:
    return corrected(lambda folder: Image.fromarray(np.asarray(pixels, np.uint8)).save(folder / name))


def listed_as(name: str) -> Break:
    def change(values: Manifest) -> None:
        values["files"][name] = values["files"].pop("model.onnx")
        values["engine"] = name

    return edited(change)


def graph(change: Callable[[Any], Any]) -> Break:
    """Change the ONNX graph, with corrected hashes."""

    def breaks(folder: Path) -> None:
        import onnx

        model = onnx.load(folder / "model.onnx")
        change(model)
        onnx.save(model, folder / "model.onnx")

    return corrected(breaks)


def custom_domain(model: Any) -> None:
    model.graph.node[-1].domain = "com.example"
    model.opset_import.add(domain="com.example", version=1)


def outside_data(model: Any) -> None:
    tensor = next(each for each in model.graph.initializer if each.name.endswith("classifier.weight"))
    tensor.ClearField("raw_data")
    tensor.data_location = 1
    tensor.external_data.add(key="location", value="../elsewhere")


def openvino(xml: str) -> Break:
    return both(
        rename("model.onnx", "model.xml"),
        listed_as("model.xml"),
        set_to(target="openvino", precision_hint="f32"),
        corrected(write("model.xml", xml.encode())),
    )


LAYER = '<net name="n" version="11"><layers><layer id="0" name="x" type="{}" version="{}"/></layers></net>'
OTHER_FAMILY = next(each for each in FAMILIES if each != cpu_family())

DAMAGED: dict[str, tuple[Break, int, str]] = {
    # manifests
    "manifest missing": (remove("fptk.json"), 2, "fptk.json"),
    "manifest empty": (write("fptk.json", b""), 2, "not a readable JSON file"),
    "manifest cut": (cut("fptk.json"), 2, "not a readable JSON file"),
    "manifest a list": (write("fptk.json", b"[]"), 2, "no JSON object"),
    "manifest a link": (link("fptk.json"), 2, "fptk.json is a link"),
    "manifest of a later fptk": (set_to(schema_version=9), 2, "versions 1, 2 and 3: a newer fptk wrote it"),
    "manifest of no version": (edited(lambda values: values.pop("schema_version")), 2, "schema version None"),
    "manifest with an unknown key": (set_to(program="rm"), 2, "program"),
    "preprocessing changed": (edited(lambda v: v["preprocess"].update(mean=[0, 0, 0])), 2, "preprocess_sha256"),
    "class names exchanged": (
        edited(lambda v: v["classes"].__setitem__(slice(4, 6), ["r_eye", "l_eye"])),
        2,
        "classes[4] is 'l_eye', fptk.json says 'r_eye'",
    ),
    "input of another size": (edited(lambda v: v["input"].update(shape=[1, 32, 32, 3])), 2, "input is uint8"),
    # engines
    "engine missing": (remove("model.onnx"), 2, "lacks its file model.onnx"),
    "engine truncated": (cut("model.onnx"), 2, "bytes, fptk.json says"),
    "engine with a flipped bit": (flip("model.onnx"), 2, "model.onnx differs from the hash"),
    "engine renamed": (rename("model.onnx", "engine.onnx"), 2, "lacks its file model.onnx"),
    "engine renamed in the manifest too": (
        both(rename("model.onnx", "model.ort"), listed_as("model.ort")),
        2,
        "ends in .onnx, not model.ort",
    ),
    "engine of the bundle beside it": (swap_with_int8, 2, "bytes, fptk.json says"),
    "engine a link": (link("model.onnx"), 2, "model.onnx is a link"),
    "engine a folder": (folder_instead, 2, "no regular file"),
    "engine outside of the folder": (listed_as("../elsewhere"), 2, "no plain name of a file inside"),
    "engine unlisted": (edited(lambda v: v["files"].pop("model.onnx")), 2, "model.onnx is not among files"),
    "engine no ONNX file": (corrected(write("model.onnx", b"hello")), 2, "model.onnx is no ONNX file"),
    "engine with weights elsewhere": (graph(outside_data), 2, "reads '../elsewhere'"),
    "engine with an operation of OpenVINO's extensions": (
        openvino(LAYER.format("Evil", "extension")),
        2,
        "custom operation: layer 'x' is 'Evil' of 'extension'",
    ),
    "engine with an operation of no set": (openvino(LAYER.format("Evil", "")), 2, "custom operation"),
    "engine of damaged XML": (openvino("<net><layers>"), 2, "damaged XML"),
    "engine null": (set_to(engine=None, unavailable="no GPU here"), 3, "holds no engine: no GPU here"),
    # golden samples
    "sample changed": (flip("golden/1.png"), 2, "1.png differs from the hash"),
    "sample missing": (remove("golden/photograph-labels.png"), 2, "lacks its file golden/photograph-labels.png"),
    "samples exchanged": (exchange("golden/1.png", "golden/2.png"), 2, "golden/1.png"),
    "sample unlisted": (edited(lambda v: v["files"].pop("golden/2.png")), 2, "golden sample golden/2.png is not among"),
    "samples none": (set_to(golden=None), 2, "holds no golden samples"),
    "samples by the thousand": (golden(samples=1000), 2, "golden.samples"),
    "limits none": (golden(limits=None), 2, "no golden limits"),
    "limits beyond 1": (edited(lambda v: v["golden"]["limits"].update(pixels=2)), 2, "golden.limits.pixels"),
    "limits of text": (edited(lambda v: v["golden"]["limits"]["classes"].update(hair="x")), 2, "classes.hair"),
    # the wrong place
    "target unknown": (set_to(target="tflite"), 2, "unknown target 'tflite'"),
    "processor of another kind": (set_to(precision="int8", cpu=OTHER_FAMILY), 3, f"of kind {OTHER_FAMILY}"),
    "refused at its export": (
        both(set_to(gate={"passed": False, "summary": "refused: hair"}), set_to(engine=None)),
        4,
        "refused at its export: refused: hair",
    ),
}
"""What is done to a bundle, the exit code, and words of the line that it ends in. Nothing of these is loaded."""

LOADED: dict[str, tuple[Break, int, str]] = {
    "sample no picture": (corrected(write("golden/1.png", b"hello")), 2, "is not an image file"),
    "sample of another size": (picture("golden/2.png", np.zeros((32, 32, 3))), 2, "is 32x32 with labels of 64x64"),
    "labels beyond the classes": (picture("golden/1-labels.png", np.full((64, 64), 19)), 2, "holds label 19"),
    "labels of another size": (picture("golden/photograph-labels.png", np.zeros((8, 8))), 2, "labels of 8x8"),
    "operation of another domain": (graph(custom_domain), 2, "cannot load"),
    "engine of a later format": (
        both(
            graph(lambda model: setattr(model, "ir_version", 99)),
            edited(lambda v: v["tools"].update(onnxruntime="99.0")),
        ),
        3,
        "this host is older than the bundle (onnxruntime",
    ),
    "engine of an unknown format": (graph(lambda model: setattr(model, "ir_version", 99)), 2, "cannot load"),
}
"""As :data:`DAMAGED`, of bundles whose hashes are right: their engine is handed to its runtime, and to nothing else."""


@pytest.fixture
def bundle(proven: Path, tmp_path: Path) -> Path:
    """A copy of the FP32 bundle to break."""
    (tmp_path / "proven").symlink_to(proven)
    return Path(shutil.copytree(proven / "onnx-fp32", tmp_path / "bundle"))


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Engines that were handed to their runtime."""
    names: list[str] = []
    for target in (OnnxRuntimeTarget, OpenVinoTarget):

        def load(self: Any, path: Path, *more: Any, real: Any = target.load, **options: Any) -> Any:
            names.append(path.name)
            return real(self, path, *more, **options)

        monkeypatch.setattr(target, "load", load)
    return names


def assert_ends(finished: Any, code: int, words: str, folder: Path) -> None:
    assert finished.code == code, finished.err
    assert "Traceback" not in finished.err
    last = finished.err.strip().splitlines()[-1]
    assert last.startswith("fptk: ")
    assert words in last
    assert str(folder) in last
    assert ("refused", "damaged", "cannot run")[(4, 2, 3).index(code)] in finished.out


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_bundle_gets_its_verdict_and_nothing_of_it_is_loaded(
    name: str, bundle: Path, fptk: Callable[..., Any], loaded: list[str]
) -> None:
    break_it, code, words = DAMAGED[name]
    break_it(bundle)
    assert_ends(fptk("verify", bundle), code, words, bundle)
    assert loaded == []


@pytest.mark.parametrize("name", LOADED)
def test_wrong_content_with_right_hashes_gets_its_verdict(
    name: str, bundle: Path, fptk: Callable[..., Any], loaded: list[str]
) -> None:
    break_it, code, words = LOADED[name]
    break_it(bundle)
    assert_ends(fptk("verify", bundle), code, words, bundle)
    assert loaded == ["model.onnx"]


def test_there_are_thirty_of_them() -> None:
    assert len(DAMAGED) >= 30


@pytest.mark.parametrize("what", ["nothing", "file"])
def test_what_is_no_bundle_is_damaged(what: str, fptk: Callable[..., Any], tmp_path: Path) -> None:
    if what == "file":
        (tmp_path / what).write_text("x")
    assert_ends(fptk("verify", tmp_path / what), 2, "bundle", tmp_path / what)


def test_the_gravest_verdict_decides(proven: Path, bundle: Path, fptk: Callable[..., Any], tmp_path: Path) -> None:
    """4 refused, else 2 damaged, else 3 cannot run here, else 0."""
    kinds = {}
    for name in ("engine missing", "engine null", "refused at its export"):
        kinds[name] = Path(shutil.copytree(bundle, tmp_path / name))
        DAMAGED[name][0](kinds[name])
    damaged, absent, refused = kinds.values()
    assert fptk("verify", bundle).code == 0
    assert fptk("verify", bundle, absent).code == 3
    assert fptk("verify", absent, damaged).code == 2
    last = fptk("verify", damaged, absent, refused, bundle)
    assert last.code == 4
    assert last.err.splitlines()[-1].startswith("fptk: refused: ")
    assert all(name in last.err.splitlines()[-1] for name in ("engine missing", "engine null"))


def test_the_untouched_bundle_passes(bundle: Path, fptk: Callable[..., Any], loaded: list[str]) -> None:
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    finished = fptk("verify", bundle)
    assert finished.code == 0, finished.err
    assert loaded == ["model.onnx"]
    assert {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()} == before
