"""ONNX Runtime Web is fetched once, whole and unchanged, or one line says what to do."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fptk.core.errors import InputError, TargetUnavailableError
from fptk.core.precision import Precision
from fptk.core.preprocess import PreprocessSpec
from fptk.export.bundle import read_bundle
from fptk.export.targets.base import BuildRequest
from fptk.export.targets.web import WebTarget
from fptk.export.web import runtime

from .conftest import script

WANTED = f"npm pack onnxruntime-web@{runtime.VERSION} onnxruntime-common@{runtime.VERSION}"


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_it_is_fetched_once_and_only_what_is_needed(with_npm: Path) -> None:
    folder = runtime.runtime_folder()
    dist = f"{runtime.DIST}/"
    needed = {dist + name for name in (*runtime.WASM_FILES, *runtime.WEBGPU_FILES)} | {str(runtime.NODE_MODULE)}
    common = {f"node_modules/onnxruntime-common/{name}" for name in ("package.json", "dist/esm/index.js")}
    assert files(folder) == {*needed, *common, "node_modules/onnxruntime-web/package.json", "sha256.json"}
    assert runtime.runtime_folder() == folder
    (asked,) = with_npm.read_text().splitlines()
    assert asked.startswith("pack --ignore-scripts ")
    assert f" onnxruntime-web@{runtime.VERSION} " in asked


@pytest.mark.parametrize("damage", ["changed", "removed", "no hashes", "hashes are no JSON"])
def test_a_damaged_cache_is_fetched_again(with_npm: Path, damage: str) -> None:
    folder = runtime.runtime_folder()
    wasm = folder / runtime.DIST / runtime.WASM_FILES[-1]
    hashes = folder / "sha256.json"
    if damage == "changed":
        wasm.write_bytes(b"half")
    elif damage == "removed":
        wasm.unlink()
    elif damage == "no hashes":
        hashes.unlink()
    else:
        hashes.write_text("[")
    before = files(folder) | {"sha256.json", f"{runtime.DIST}/{wasm.name}"}
    assert files(runtime.runtime_folder()) == before
    assert wasm.read_bytes() != b"half"
    assert len(with_npm.read_text().splitlines()) == 2


def test_archives_in_the_cache_folder_serve_a_machine_without_npm(empty_machine: Path, archives: Path) -> None:
    with pytest.raises(TargetUnavailableError) as refused:
        runtime.runtime_folder()
    assert refused.value.exit_code == 3
    assert "npm is not installed" in str(refused.value)
    assert WANTED in str(refused.value)
    home = runtime.runtime_home().parent
    assert not [*home.iterdir()]
    for path in archives.iterdir():
        shutil.copy(path, home)
    assert runtime.runtime_remedy() is None
    assert (runtime.runtime_folder() / runtime.NODE_MODULE).is_file()


def test_an_archive_that_is_not_the_published_one_is_refused(with_npm: Path, archives: Path) -> None:
    path = archives / f"onnxruntime-web-{runtime.VERSION}.tgz"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(TargetUnavailableError, match="sha512 differs"):
        runtime.runtime_folder()
    assert not runtime.runtime_home().exists()


def test_what_npm_says_is_passed_on(empty_machine: Path) -> None:
    script(
        empty_machine / "npm",
        f"#!{sys.executable}\nimport sys\nsys.exit('npm error code ENOTFOUND\\nnpm error network request failed\\n"
        "npm error A complete log of this run can be found in: /root/x')\n",
    )
    with pytest.raises(TargetUnavailableError) as refused:
        runtime.runtime_folder()
    assert "(code ENOTFOUND: network request failed); " in str(refused.value)
    assert WANTED in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_a_cache_that_cannot_be_used_is_told_of(empty_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = empty_machine / "file"
    file.write_text("mine")
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    with pytest.raises(InputError, match="XDG_CACHE_HOME"):
        runtime.runtime_folder()
    assert file.read_text() == "mine"


def test_the_probe_names_what_is_missing(
    empty_machine: Path, archives: Path, with_node: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = WebTarget().probe()
    assert (probe.can_build, probe.can_run, probe.reason) == (False, False, "npm is not installed")
    assert WANTED in probe.remedy
    home = runtime.runtime_home().parent
    home.mkdir(parents=True)
    for path in archives.iterdir():
        shutil.copy(path, home)
    probe = WebTarget().probe()
    assert (probe.can_build, probe.can_run, probe.reason) == (True, False, "node is not installed")
    assert probe.remedy == "install Node.js 18 or newer"
    with_node("16.20.2")
    assert WebTarget().probe().reason == "node is 16.20.2"
    with_node("20.1.0")
    probe = WebTarget().probe()
    assert (probe.can_build, probe.can_run, probe.reason) == (True, True, "")
    assert probe.versions["node"] == "20.1.0"


def test_a_build_without_npm_ends_with_exit_code_3_and_the_command(empty_machine: Path, tmp_path: Path) -> None:
    request = BuildRequest(tmp_path / "none.onnx", Precision.FP32, tmp_path, PreprocessSpec(size=(64, 64)))
    with pytest.raises(TargetUnavailableError, match="npm is not installed") as refused:
        WebTarget().build(request)
    assert WANTED in str(refused.value)


def test_a_network_that_the_page_cannot_resize_for_is_refused(empty_machine: Path, tmp_path: Path) -> None:
    request = BuildRequest(tmp_path / "none.onnx", Precision.FP32, tmp_path, PreprocessSpec(resize="bicubic"))
    with pytest.raises(InputError, match="bicubic; choose another target"):
        WebTarget().build(request)


@pytest.mark.slow
def test_an_export_without_npm_ends_with_exit_code_3_and_the_command(
    empty_machine: Path, checkpoint: Path, fptk: Callable[..., Any], tmp_path: Path
) -> None:
    done = fptk("export", checkpoint, "--target", "web", "--fp32", "--golden", "1", "--out", tmp_path / "out")
    assert done.code == 3
    (last,) = [line for line in done.err.splitlines() if line.startswith("fptk: ")]
    assert WANTED in last
    assert WANTED in (read_bundle(tmp_path / "out" / "bundles" / "web-fp32").unavailable or "")
