from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fptk.core.classes import CELEBAMASK, CLASSES
from fptk.core.errors import InputError
from fptk.core.masks import read_mask
from fptk.core.preprocess import read_image
from fptk.data import convert as module
from fptk.data import open_training
from fptk.data.convert import compose_mask, convert_release, read_mapping, split_of

ORIG_IDX = {0: 119613, 1: 162770, 2: 162771, 3: 182637, 4: 182638, 2001: 7}
"""Faces of the small release with their numbers in CelebA: the borders of the official split among them."""

MakeRelease = Callable[..., Path]


@pytest.fixture
def make_release(tmp_path: Path) -> MakeRelease:
    """Write a release of the faces in ``ORIG_IDX``: random overlapping rectangles as parts."""

    def make(numbers: dict[int, int] = ORIG_IDX, image_size: int = 128, part_size: int = 64) -> Path:
        folder = tmp_path / "release"
        (folder / "CelebA-HQ-img").mkdir(parents=True)
        rows = [f"    {n}      {orig}   {orig + 1:06d}.jpg" for n, orig in numbers.items()]
        header = "idx  orig_idx  orig_file"
        (folder / "CelebA-HQ-to-CelebA-mapping.txt").write_text("\n".join([header, *rows]) + "\n")
        for number in numbers:
            rng = np.random.default_rng(number)
            pixels = rng.integers(0, 256, (image_size, image_size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "CelebA-HQ-img" / f"{number}.jpg")
            annotations = folder / "CelebAMask-HQ-mask-anno" / str(number // 2000)
            annotations.mkdir(parents=True, exist_ok=True)
            for part in rng.permutation(CLASSES[1:])[:12]:
                area = np.zeros((part_size, part_size, 3), np.uint8)
                top, left = rng.integers(0, part_size // 2, 2)
                area[top : top + part_size // 2, left : left + part_size // 2] = 255
                Image.fromarray(area).save(annotations / f"{number:05d}_{part}.png")
        return folder

    return make


def painted_like_g_mask(annotations: Path, number: int) -> np.ndarray:
    """The official script, pixel by pixel."""
    mask = np.zeros((64, 64))
    for index, part in enumerate(CLASSES[1:]):
        path = annotations / str(number // 2000) / f"{number:05d}_{part}.png"
        if path.exists():
            area = np.asarray(Image.open(path))[:, :, 2]
            for row, column in np.ndindex(64, 64):
                if area[row, column] != 0:
                    mask[row, column] = index + 1
    return mask


def test_release_becomes_a_data_set_with_the_official_split(tmp_path, make_release):
    out = tmp_path / "out"
    result = convert_release(make_release(), out, size=64, jobs=1)
    assert result.written == {"train": 3, "val": 2, "test": 1}
    assert (result.failures, result.absent) == ([], 0)
    train, val = open_training([out])
    assert [train[i].key for i in range(3)] == ["00000", "00001", "02001"]
    assert [val[i].key for i in range(2)] == ["00002", "00003"]
    assert [path.name for path in (out / "test" / "masks").iterdir()] == ["00004.png"]


def test_split_borders_are_those_of_the_official_script():
    assert [split_of(n) for n in (0, 162770, 162771, 182637, 182638, 202598)] == [
        *["train", "train", "val", "val", "test", "test"]
    ]


def test_parts_are_painted_in_the_official_order(make_release):
    annotations = make_release() / "CelebAMask-HQ-mask-anno"
    for number in ORIG_IDX:
        assert np.array_equal(compose_mask(annotations, number), painted_like_g_mask(annotations, number))


def test_masks_are_palette_pngs_whose_pixels_are_the_classes(tmp_path, make_release):
    source = make_release()
    convert_release(source, tmp_path / "out", size=64, jobs=1)
    path = tmp_path / "out" / "train" / "masks" / "00000.png"
    expected = compose_mask(source / "CelebAMask-HQ-mask-anno", 0)
    assert np.array_equal(read_mask(path), expected)
    with Image.open(path) as picture:
        assert picture.mode == "P"
        assert np.array_equal(np.asarray(picture.convert("RGB")), np.array(CELEBAMASK.palette, np.uint8)[expected])


def test_image_of_the_wanted_size_is_copied_byte_for_byte(tmp_path, make_release):
    source = make_release()
    convert_release(source, tmp_path / "out", size=128, jobs=1)
    copied = (tmp_path / "out" / "train" / "images" / "00000.jpg").read_bytes()
    assert copied == (source / "CelebA-HQ-img" / "0.jpg").read_bytes()
    assert read_mask(tmp_path / "out" / "train" / "masks" / "00000.png").shape == (128, 128)


def test_processes_write_the_same_bytes_as_one(tmp_path, make_release):
    source = make_release()
    convert_release(source, tmp_path / "one", size=64, jobs=1)
    convert_release(source, tmp_path / "two", size=64, jobs=2)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_second_run_keeps_what_is_there_and_adds_what_is_missing(tmp_path, make_release, heard):
    source, out = make_release(), tmp_path / "out"
    convert_release(source, out, size=64, jobs=1, listener=heard)
    assert heard.steps == [("converting faces", n, 6) for n in range(1, 7)]
    whole = tree(out)
    (out / "train" / "images" / "00001.jpg").unlink()
    kept = out / "train" / "images" / "00000.jpg"
    before = kept.stat().st_mtime_ns
    result = convert_release(source, out, size=64, jobs=1)
    assert (result.written["train"], result.kept["train"]) == (1, 2)
    assert kept.stat().st_mtime_ns == before
    assert tree(out) == whole


def test_only_the_splits_asked_for_are_written(tmp_path, make_release):
    result = convert_release(make_release(), tmp_path / "out", splits=("val",), size=64, jobs=1)
    assert result.written == {"val": 2}
    assert not (tmp_path / "out" / "train").exists()


def test_bad_faces_are_left_out_and_reported(tmp_path, make_release):
    source, out = make_release(), tmp_path / "out"
    (source / "CelebA-HQ-img" / "0.jpg").write_text("no picture")
    photograph = source / "CelebA-HQ-img" / "1.jpg"
    photograph.write_bytes(photograph.read_bytes()[:-500])
    for path in (source / "CelebAMask-HQ-mask-anno" / "0").glob("00002_*"):
        path.unlink()
    part = next((source / "CelebAMask-HQ-mask-anno" / "0").glob("00003_*"))
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(part)
    (source / "CelebA-HQ-img" / "9.jpg").write_bytes(b"")
    (source / "CelebA-HQ-img" / "4.jpg").unlink()
    result = convert_release(source, out, size=64, jobs=1)
    reasons = dict(result.failures)
    assert sorted(reasons) == ["00000", "00001", "00002", "00003", "9.jpg"]
    assert "not an image file" in reasons["00000"]
    assert "damaged" in reasons["00001"]
    assert "no part of face 2" in reasons["00002"]
    assert part.parent.name in reasons["00003"]
    assert "no such face" in reasons["9.jpg"]
    assert result.absent == 1
    assert sorted(path.name for path in out.rglob("*.*g")) == ["02001.jpg", "02001.png"]


def test_folder_that_is_no_release_says_what_is_missing(tmp_path, make_release):
    source = make_release()
    (source / "CelebA-HQ-to-CelebA-mapping.txt").unlink()
    with pytest.raises(InputError, match=r"CelebA-HQ-to-CelebA-mapping\.txt not found"):
        convert_release(source, tmp_path / "out")
    with pytest.raises(InputError, match="does not exist"):
        convert_release(tmp_path / "none", tmp_path / "out")


@pytest.mark.parametrize("line", ["5 abc 000001.jpg", "7"])
def test_bad_line_of_the_mapping_is_named(tmp_path, line):
    path = tmp_path / "mapping.txt"
    path.write_text(f"idx orig_idx orig_file\n0 1 000002.jpg\n\n{line}\n")
    with pytest.raises(InputError, match="line 4"):
        read_mapping(path)


def test_output_of_other_settings_or_of_someone_else_is_refused(tmp_path, make_release, make_split):
    source, out = make_release(), tmp_path / "out"
    convert_release(source, out, size=64, jobs=1)
    with pytest.raises(InputError, match="choose another --out"):
        convert_release(source, out, size=32, jobs=1)
    make_split(tmp_path / "mine" / "train", 1)
    with pytest.raises(InputError, match="did not write"):
        convert_release(source, tmp_path / "mine", jobs=1)


def test_full_disk_ends_the_run_and_is_not_taken_for_a_bad_face(tmp_path, make_release, monkeypatch):
    def full(*_: object) -> None:
        raise InputError("cannot write x: no space left on the device")

    monkeypatch.setattr(module, "_save_mask", full)
    with pytest.raises(InputError, match="no space left"):
        convert_release(make_release(), tmp_path / "out", size=64, jobs=1)


@pytest.mark.slow
def test_killed_run_leaves_whole_files_and_the_next_completes_it(tmp_path, make_release):
    source, out = make_release({n: n * 3000 for n in range(60)}, 512, 256), tmp_path / "out"
    command = [sys.executable, "-m", "fptk", "data", "convert", str(source), "--out", str(out), "--size", "256"]
    process = subprocess.Popen([*command, "--jobs", "1"], start_new_session=True)
    deadline = time.monotonic() + 60
    while len(list(out.rglob("*.jpg"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    written = [path for path in out.rglob("*.*g") if not path.name.startswith(".")]
    assert 5 <= len(written) < 120
    for path in written:
        (read_image if path.suffix == ".jpg" else read_mask)(path)
    subprocess.run([*command, "--jobs", "1"], check=True, stdout=subprocess.DEVNULL)
    convert_release(source, tmp_path / "straight", size=256, jobs=1)
    pairs = {name: data for name, data in tree(out).items() if "/." not in name}
    assert pairs == tree(tmp_path / "straight")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to find a process's children")
def test_workers_of_a_killed_run_end_with_it(tmp_path, make_release):
    source, out = make_release({n: n for n in range(400)}, 256, 128), tmp_path / "out"
    command = [sys.executable, "-m", "fptk", "data", "convert", str(source), "--out", str(out), "--jobs", "2"]
    process = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + 60
    while len(list(out.rglob("*.jpg"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) >= 2
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while any(alive(int(child)) for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [child for child in children if alive(int(child))] == []
    assert len(list(out.rglob("*.jpg"))) < 400


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
