"""The folder for browsers: whole, told by the manifest alone, and without a word of the host that made it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fptk.core.agreement import compare_labels
from fptk.core.dataset import UInt8Array
from fptk.core.precision import Precision
from fptk.core.preprocess import PreprocessSpec
from fptk.core.session import Session
from fptk.export.bundle import TensorRecord, read_bundle, record_files, write_manifest
from fptk.export.golden import GoldenRecord, label_golden, limits_of, make_golden, write_golden
from fptk.export.web import runtime
from fptk.export.web.page import FP32_BESIDE, write_page

ROOT = Path(__file__).resolve().parents[3]
SOURCES = ROOT / "export" / "web" / "page"


class Red(Session):
    """Labels each pixel by its red channel."""

    def _infer(self, images: UInt8Array) -> UInt8Array:
        return images[..., 0] % np.uint8(19)


@pytest.fixture(scope="module")
def proven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of an ONNX engine with golden samples of 64x64."""
    folder = tmp_path_factory.mktemp("proven") / "web-fp32"
    shutil.copytree(ROOT / "tests" / "fixtures" / "bundles" / "version-1", folder)
    spec = PreprocessSpec(size=(64, 64))
    session = Red("red", spec)
    golden = make_golden(session, 2)
    write_golden(golden, folder)
    agreement = compare_labels(label_golden(session, golden)[0], [*golden.labels])
    limits = limits_of(agreement, 1.0, None, Precision.FP32)
    record = GoldenRecord(samples=2, source=golden.source, license=golden.license, agreement=agreement, limits=limits)
    changes = {
        "precision": Precision.FP32,
        "golden": record,
        "files": record_files(folder),
        "preprocess": spec,
        "preprocess_sha256": spec.sha256,
        "input": TensorRecord(name="images", dtype="uint8", shape=(1, 64, 64, 3)),
        "output": TensorRecord(name="labels", dtype="uint8", shape=(1, 64, 64)),
    }
    write_manifest(read_bundle(folder).model_copy(update=changes), folder)
    return folder


@pytest.fixture
def bundle(proven: Path, tmp_path: Path) -> Path:
    """The same, for a page to be added."""
    return Path(shutil.copytree(proven, tmp_path / "web-fp32"))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """ONNX Runtime Web, each file of which holds its own name."""
    folder = tmp_path / "runtime"
    (folder / runtime.DIST).mkdir(parents=True)
    for name in (*runtime.WASM_FILES, *runtime.WEBGPU_FILES):
        (folder / runtime.DIST / name).write_text(name)
    return folder


def manifest_of(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = read_bundle(folder).model_dump(mode="json", by_alias=True)
    return manifest


def described(folder: Path) -> dict[str, Any]:
    description: dict[str, Any] = json.loads((folder / "page" / "page.json").read_text("utf-8"))
    return description


def test_everything_that_the_page_asks_for_is_in_the_folder(bundle: Path, home: Path) -> None:
    write_page(bundle, manifest_of(bundle), home)
    asked = re.findall(r'(?:href|src)="([^"]+)"', (bundle / "index.html").read_text("utf-8"))
    assert {"page/app.js", "page/style.css"} <= {*asked}
    for source in (bundle / "page").glob("*.js"):
        text = source.read_text("utf-8")
        asked += [f"page/{name}" for name in re.findall(r'(?:from|import|new URL\() ?"\./([^"]+\.js)"', text)]
        asked += [f"page/ort/{name}" for name in re.findall(r'"(ort[.\w-]+\.mjs)"', text)]
    assert "page/worker.js" in asked
    page = described(bundle)
    asked += [f"page/{engine['file']}" for engine in page["engines"]]
    asked += [f"page/{name}" for pair in [*page["samples"], page["photograph"]] for name in pair.values()]
    missing = [name for name in asked if not name.startswith("data:") and not (bundle / name).is_file()]
    assert not missing
    for name in (*runtime.WASM_FILES, *runtime.WEBGPU_FILES):
        assert (bundle / "page" / "ort" / name).read_text() == name


def test_the_page_says_what_the_manifest_says(bundle: Path, home: Path) -> None:
    manifest = manifest_of(bundle)
    manifest["classes"], manifest["palette"] = ["left", "right"], [[1, 2, 3], [4, 5, 6]]
    write_page(bundle, manifest, home)
    page = described(bundle)
    for key in ("classes", "palette", "model"):
        assert page[key] == manifest[key]
    assert page["size"] == manifest["preprocess"]["size"] == [64, 64]
    assert (page["input"], page["output"]) == ("images", "labels")
    assert len(page["samples"]) == manifest["golden"]["samples"]
    (engine,) = page["engines"]
    assert engine["name"] == "FP32"
    limits = manifest["golden"]["limits"]
    assert engine["limits"] == {key: limits[key] for key in ("pixels", "photograph", "classes")}


def test_no_visitor_learns_where_it_was_made(bundle: Path, home: Path) -> None:
    manifest = manifest_of(bundle)
    write_page(bundle, manifest, home)
    text = (bundle / "page" / "page.json").read_text("utf-8")
    told = [manifest["command"], manifest["checkpoint_sha256"], str(manifest["host"]["cpu"]), "latency", "tools"]
    assert not [word for word in told if word in text]


def test_an_int8_bundle_lets_a_visitor_compare(bundle: Path, home: Path) -> None:
    manifest = {**manifest_of(bundle), "precision": "int8"}
    (bundle / "page").mkdir()
    shutil.copy(bundle / "model.onnx", bundle / FP32_BESIDE)
    write_page(bundle, manifest, home, webgpu=False)
    page = described(bundle)
    assert [engine["name"] for engine in page["engines"]] == ["INT8", "FP32"]
    assert page["engines"][1]["limits"] == {"pixels": 0.995, "photograph": 0.995, "classes": {}}
    assert page["webgpu"] is False
    assert {path.name for path in (bundle / "page" / "ort").iterdir()} == {*runtime.WASM_FILES}


def test_the_size_of_a_bundle_is_that_of_its_engine(bundle: Path, home: Path) -> None:
    before = read_bundle(bundle).size_bytes
    write_page(bundle, manifest_of(bundle), home)
    after = read_bundle(bundle)
    after.files = record_files(bundle)
    assert after.size_bytes == before


def test_the_page_asks_nobody_else() -> None:
    """The policy forbids it, and no file names another address outside of a comment."""
    policy = re.search(r'content="(default-src[^"]+)"', (SOURCES / "index.html").read_text("utf-8"))
    assert policy is not None
    assert policy[1].startswith("default-src 'none';")
    assert "http" not in policy[1]
    for source in SOURCES.iterdir():
        code = re.sub(r"^\s*//.*$", "", source.read_text("utf-8"), flags=re.MULTILINE)
        assert "://" not in code, source.name


def test_pictures_are_resized_by_the_code_that_is_held_to_pillow() -> None:
    example = ROOT / "examples" / "node" / "resize.js"  # tests/examples/test_node.py
    assert (SOURCES / "resize.js").read_bytes() == example.read_bytes()
