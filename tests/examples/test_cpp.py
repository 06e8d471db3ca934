"""examples/cpp: its resizing is Pillow's to the bit, and its label maps are fptk's."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .conftest import AGREEMENT, EXAMPLES, SIZES, labels_of_fptk, labels_of_mask

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the programs."""
    pytest.importorskip("openvino", reason="openvino is not installed")
    for tool in ("cmake", "g++"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    folder = tmp_path_factory.mktemp("cpp")
    configure = ["cmake", "-S", EXAMPLES / "cpp", "-B", folder, f"-DPython3_EXECUTABLE={sys.executable}"]
    for command in (configure, ["cmake", "--build", folder]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning:" not in done.stderr
    return folder


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("size", "to"), SIZES)
def test_resizing_is_that_of_pillow(build: Path, tmp_path: Path, size: tuple[int, int], to: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    for shape, suffix, method in (
        ((*size, 3), "ppm", Image.Resampling.BILINEAR),
        (size, "pgm", Image.Resampling.NEAREST),
    ):
        image = Image.fromarray(random.integers(0, 256, shape, np.uint8))
        image.save(tmp_path / f"in.{suffix}")
        done = run(build / "resize", tmp_path / f"in.{suffix}", tmp_path / f"out.{suffix}", *to)
        assert done.returncode == 0, done.stderr
        with Image.open(tmp_path / f"out.{suffix}") as resized:
            assert np.array_equal(np.asarray(resized), np.asarray(image.resize(to[::-1], method)))


@pytest.mark.parametrize("suffix", ["ppm", "png"])
def test_it_labels_a_photograph_as_fptk_does(
    build: Path, bundles: Path, photo: Path, suffix: str, tmp_path: Path
) -> None:
    if suffix == "png" and "PNG_LIBRARY_RELEASE-NOTFOUND" in (build / "CMakeCache.txt").read_text():
        pytest.skip("libpng is not installed")
    with Image.open(photo) as image:
        image.save(tmp_path / f"face.{suffix}")
    bundle = bundles / "openvino-fp32"
    finished = run(build / "parse", bundle, tmp_path / f"face.{suffix}", tmp_path / "mask.ppm")
    assert finished.returncode == 0, finished.stderr
    assert " FPS, " in finished.stdout
    agreement = (labels_of_mask(tmp_path / "mask.ppm") == labels_of_fptk(bundle, photo)).mean()
    assert agreement >= AGREEMENT


def test_what_it_cannot_do_is_one_line(build: Path, bundles: Path, photo: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.ppm"
    mine.write_bytes(b"mine")
    (tmp_path / "cut.ppm").write_bytes(b"P6\n640 480\n255\nabc")
    bundle = bundles / "openvino-fp32"
    for arguments, words in (
        ((bundle, photo, mine), "exists; choose another name"),
        ((bundles / "onnx-fp32", photo, tmp_path / "mask.ppm"), "is no openvino bundle"),
        ((bundle, tmp_path / "none.ppm", tmp_path / "mask.ppm"), "none.ppm"),
        ((bundle, tmp_path / "cut.ppm", tmp_path / "mask.ppm"), "is truncated"),
        ((tmp_path, photo, tmp_path / "mask.ppm"), "fptk.json"),
    ):
        finished = run(build / "parse", *arguments)
        assert finished.returncode == 2
        assert words in finished.stderr
        assert len(finished.stderr.splitlines()) == 1
    assert mine.read_bytes() == b"mine"
