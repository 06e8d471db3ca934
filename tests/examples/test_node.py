"""examples/node: its resizing is Pillow's to the bit, and its label maps are fptk's."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .conftest import AGREEMENT, EXAMPLES, SIZES, labels_of_fptk, labels_of_mask

RESIZE = """
import { readFileSync, writeFileSync } from "node:fs";
const { resizeImage, resizeLabels } = await import(process.argv[1]);
for (const [name, [height, width], [toHeight, toWidth]] of JSON.parse(process.argv[2])) {
  const image = { pixels: readFileSync(`${name}.rgb`), height, width };
  writeFileSync(`${name}.resized`, resizeImage(image, toHeight, toWidth));
  const labels = { pixels: readFileSync(`${name}.labels`), height, width };
  writeFileSync(`${name}.nearest`, resizeLabels(labels, toHeight, toWidth));
}
"""

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


@needs_node
def test_resizing_is_that_of_pillow(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    cases, pixels = [], []
    for index, (size, to) in enumerate(SIZES):
        name = str(tmp_path / str(index))
        image, labels = random.integers(0, 256, (*size, 3), np.uint8), random.integers(0, 19, size, np.uint8)
        Path(f"{name}.rgb").write_bytes(image.tobytes())
        Path(f"{name}.labels").write_bytes(labels.tobytes())
        cases.append((name, size, to))
        pixels.append((image, labels))
    script = (EXAMPLES / "node" / "resize.js").as_uri()
    command = ["node", "--input-type=module", "-e", RESIZE, script, json.dumps(cases)]
    subprocess.run(command, check=True)
    for (name, size, to), (image, labels) in zip(cases, pixels, strict=True):
        expected = np.array(Image.fromarray(image).resize(to[::-1], Image.Resampling.BILINEAR))
        assert Path(f"{name}.resized").read_bytes() == expected.tobytes(), (size, to)
        nearest = np.array(Image.fromarray(labels).resize(to[::-1], Image.Resampling.NEAREST))
        assert Path(f"{name}.nearest").read_bytes() == nearest.tobytes(), (size, to)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with its packages, in a folder of its own."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    ignored = shutil.ignore_patterns("node_modules")
    folder = Path(shutil.copytree(EXAMPLES / "node", tmp_path_factory.mktemp("node") / "node", ignore=ignored))
    done = subprocess.run(["npm", "ci", "--no-audit"], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"npm cannot install the packages: {done.stderr.strip().splitlines()[0]}")
    return folder / "parse.js"


def parse(program: Path, *arguments: Path) -> subprocess.CompletedProcess[str]:
    command = ["node", str(program), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
@needs_node
@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_it_labels_a_photograph_as_fptk_does(
    program: Path, bundles: Path, photo: Path, kind: str, tmp_path: Path
) -> None:
    with Image.open(photo) as image:
        exif = image.getexif()
        exif[0x0112] = 6  # lies on its side
        image.save(tmp_path / f"face.{kind}", exif=exif)
    bundle = bundles / "onnx-fp32"
    finished = parse(program, bundle, tmp_path / f"face.{kind}", tmp_path / "mask.png")
    assert finished.returncode == 0, finished.stderr
    assert " FPS, " in finished.stdout
    expected = labels_of_fptk(bundle, tmp_path / f"face.{kind}")
    assert (labels_of_mask(tmp_path / "mask.png") == expected).mean() >= AGREEMENT


@pytest.mark.slow
@needs_node
def test_what_it_cannot_do_is_one_line(program: Path, bundles: Path, photo: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.png"
    mine.write_bytes(b"mine")
    for arguments, words in (
        ((bundles / "onnx-fp32", photo, mine), "exists; choose another name"),
        ((bundles / "openvino-fp32", photo, tmp_path / "mask.png"), "holds no onnx engine"),
        ((bundles / "onnx-fp32", tmp_path / "none.jpg", tmp_path / "mask.png"), "none.jpg"),
    ):
        finished = parse(program, *arguments)
        assert finished.returncode == 2
        assert words in finished.stderr
        assert len(finished.stderr.splitlines()) == 1
    assert mine.read_bytes() == b"mine"
