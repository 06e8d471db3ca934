"""The page of a web bundle: its files, ONNX Runtime Web, and ``page.json``, which says all that the page shows."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from fptk.core.files import write_json
from fptk.core.precision import Precision
from fptk.core.version import __version__
from fptk.export.golden import FOLDER as GOLDEN_FOLDER
from fptk.export.golden import MARGINS, PHOTOGRAPH
from fptk.export.web import INDEX, PAGE
from fptk.export.web.runtime import VERSION, browser_files

FP32_BESIDE = f"{PAGE}/fp32.onnx"
"""The FP32 engine in the bundle of another one, for a visitor to compare."""


def write_page(folder: Path, manifest: Mapping[str, Any], runtime: Path, *, webgpu: bool = True) -> None:
    """Make a folder with an engine and its golden samples a page for browsers.

    Args:
        folder: of the bundle, without its manifest yet.
        manifest: what ``fptk.json`` will hold.
        runtime: see :func:`fptk.export.web.runtime.runtime_folder`.
        webgpu: add what WebGPU needs.
    """
    page = folder / PAGE
    (page / "ort").mkdir(parents=True)
    for file in (resources.files(__package__) / PAGE).iterdir():
        (folder if file.name == INDEX else page).joinpath(file.name).write_bytes(file.read_bytes())
    for path in browser_files(runtime, webgpu=webgpu):
        shutil.copyfile(path, page / "ort" / path.name)
    write_json(page / "page.json", {**describe(folder, manifest), "webgpu": webgpu})


def describe(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What the page has to know, out of the manifest. Names of files are relative to ``page/``.

    Hosts, paths and commands of the manifest are no business of visitors and are left out.
    """
    golden = manifest["golden"]
    engines = [_engine(folder, manifest["engine"], manifest["precision"], golden["limits"])]
    if (folder / FP32_BESIDE).is_file():
        share = 1 - MARGINS[Precision.FP32][0] / 100
        limits = {"pixels": share, "photograph": share, "classes": {}}
        engines.append(_engine(folder, FP32_BESIDE, Precision.FP32, limits))
    return {
        "fptk": __version__,
        "runtime": VERSION,
        "model": manifest["model"],
        "size": manifest["preprocess"]["size"],
        "input": manifest["input"]["name"],
        "output": manifest["output"]["name"],
        "classes": manifest["classes"],
        "palette": manifest["palette"],
        "engines": engines,
        "samples": [_pair(str(number)) for number in range(1, golden["samples"] + 1)],
        "photograph": _pair(PHOTOGRAPH),
        "license": golden["license"],
    }


def _engine(folder: Path, name: str, precision: str, limits: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": str(precision).upper(),
        "file": f"../{name}",
        "megabytes": round((folder / name).stat().st_size / 1e6, 1),
        "limits": {key: limits[key] for key in ("pixels", "photograph", "classes")},
    }


def _pair(stem: str) -> dict[str, str]:
    return {"image": f"../{GOLDEN_FOLDER}/{stem}.png", "labels": f"../{GOLDEN_FOLDER}/{stem}-labels.png"}
