"""infer.py of a bundle: it labels photographs as fptk does, without fptk, and spoils no file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fptk.core.evaluation import predict
from fptk.core.preprocess import read_image
from fptk.data.synthetic.faces import draw_face
from fptk.export import programs
from fptk.export.bundle import checked_bundle, open_bundle

PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino"}
WITHOUT_FPTK = "import sys; sys.modules.update(dict.fromkeys(['fptk', 'torch', 'onnx', 'pydantic'])); "
RUN = "import runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
LONGEST = 59


@pytest.fixture(scope="module", params=PACKAGES)
def bundle(request: pytest.FixtureRequest, cpu_bundles: Path) -> Path:
    return cpu_bundles / f"{request.param}-fp32"


def photograph(folder: Path, name: str, shape: tuple[int, int]) -> Path:
    """A synthetic face under noise, of any shape."""
    image = draw_face(0, 3, (128, 128))[0]
    pixels = np.array(Image.fromarray(image).resize(shape[::-1]))
    noise = np.random.default_rng(0).integers(0, 40, pixels.shape, np.uint8)
    Image.fromarray(pixels // 2 + noise).save(folder / name)
    return folder / name


def run(
    bundle: Path, *photographs: Path, python: str = sys.executable, before: str = WITHOUT_FPTK
) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [python, "-c", f"{before}{RUN}", str(bundle / "infer.py"), *map(str, photographs)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def mask_of(photo: Path) -> Path:
    return photo.with_name(photo.name + ".mask.png")


def labels_of_fptk(bundle: Path, photo: Path) -> np.ndarray:
    _, session = open_bundle(bundle)
    with session:
        return predict(session, read_image(photo))


def test_it_labels_photographs_as_fptk_does(bundle: Path, tmp_path: Path) -> None:
    sizes = {"smaller.png": (50, 41), "larger.jpg": (301, 230), "same.bmp": (64, 64), "wide.png": (40, 700)}
    photos = [photograph(tmp_path, name, shape) for name, shape in sizes.items()]
    upright = Image.open(photos[1])
    exif = upright.getexif()
    exif[0x0112] = 6
    upright.save(tmp_path / "turned.jpg", exif=exif)
    Image.fromarray(np.linspace(0, 65535, 90 * 70).reshape(90, 70).astype(np.uint16)).save(tmp_path / "gray16.png")
    upright.convert("P").save(tmp_path / "palette.png")
    photos += [tmp_path / "turned.jpg", tmp_path / "gray16.png", tmp_path / "palette.png"]
    finished = run(bundle, *photos)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count(" FPS, ") == len(photos)
    _, session = open_bundle(bundle)
    with session:
        for photo in photos:
            with Image.open(mask_of(photo)) as mask:
                expected = predict(session, read_image(photo))
                assert mask.getpalette()[3:6] == [204, 0, 0]
                assert np.array_equal(np.asarray(mask), expected), photo.name
                assert len(np.unique(expected)) > 1


def test_it_writes_over_its_own_masks_only(bundle: Path, tmp_path: Path) -> None:
    photo = photograph(tmp_path, "face.png", (80, 60))
    assert run(bundle, photo).returncode == 0
    assert run(bundle, photo).returncode == 0
    photograph(tmp_path, "face.png.mask.png", (10, 10))
    mine = mask_of(photo).read_bytes()
    finished = run(bundle, photo)
    assert finished.returncode != 0
    assert finished.stderr.splitlines() == [f"{photo}: {mask_of(photo)} is not of infer.py; move it"]
    assert mask_of(photo).read_bytes() == mine


@pytest.mark.parametrize("content", [b"no picture", None])
def test_a_photograph_that_cannot_be_read_is_one_line(bundle: Path, tmp_path: Path, content: bytes | None) -> None:
    photo = photograph(tmp_path, "face.png", (80, 60))
    photo.write_bytes(photo.read_bytes()[:900] if content is None else content)
    finished = run(bundle, photo)
    assert finished.returncode != 0
    assert finished.stderr.startswith(f"{photo}: ")
    assert len(finished.stderr.splitlines()) == 1
    assert not mask_of(photo).exists()


def test_the_manifest_records_it(bundle: Path) -> None:
    assert "infer.py" in checked_bundle(bundle).files


def test_openvino_computes_in_the_type_of_the_manifest(cpu_bundles: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(cpu_bundles / "openvino-fp32", tmp_path / "bundle"))
    values = json.loads((folder / "fptk.json").read_text(encoding="utf-8"))
    assert values["precision_hint"] == "f32"
    spy = "import openvino; compiled = openvino.Core.compile_model; "
    spy += "openvino.Core.compile_model = lambda *a: print(a[3]['INFERENCE_PRECISION_HINT']) or compiled(*a); "
    photo = photograph(tmp_path, "face.png", (80, 60))
    assert run(folder, photo, before=WITHOUT_FPTK + spy).stdout.splitlines()[0] == "f32"


def test_the_programs_are_short_and_differ_in_their_engine_only() -> None:
    texts = [(Path(programs.__file__).parent / f"infer_{name}.py").read_text(encoding="utf-8") for name in PACKAGES]
    assert max(len(text.splitlines()) for text in texts) <= LONGEST
    rest = []
    for text, package in zip(texts, PACKAGES.values(), strict=True):
        before, after = text.split("def load_engine")
        rest.append((before + after[after.index("def read_photograph") :]).replace(package, "ENGINE"))
    assert rest[0] == rest[1]


@pytest.mark.slow
@pytest.mark.parametrize("target", PACKAGES)
def test_it_runs_where_nothing_else_is_installed(target: str, cpu_bundles: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    install = [python, "-m", "pip", "install", "-q", "numpy", "Pillow", PACKAGES[target]]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"the package index gives no {PACKAGES[target]}: {done.stderr.strip().splitlines()[-1]}")
    bundle = Path(shutil.copytree(cpu_bundles / f"{target}-fp32", tmp_path / "device"))
    photo = photograph(tmp_path, "face.jpg", (333, 250))
    finished = run(bundle, photo, python=python, before="import sys; ")
    assert finished.returncode == 0, finished.stderr
    with Image.open(mask_of(photo)) as mask:
        assert (np.asarray(mask) == labels_of_fptk(bundle, photo)).mean() >= 0.999
