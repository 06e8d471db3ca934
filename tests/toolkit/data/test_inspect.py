from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fptk.core.classes import CLASSES
from fptk.core.errors import InputError
from fptk.data.inspect import KINDS, inspect_folder
from fptk.data.synthetic.faces import SyntheticFaces


def put_mask(folder: Path, name: str, mask: np.ndarray) -> None:
    Image.fromarray(mask.astype(np.uint8)).save(folder / "masks" / name)


def faces_with_faults(folder: Path, make_split) -> Path:
    """A data set that has every fault once, and two faces (000, 001) of train without any."""
    train = make_split(folder / "train", 10)
    upright = np.zeros((32, 32))
    upright[10, 20:24], upright[10, 4:8] = 4, 5
    put_mask(train, "000.png", upright)
    put_mask(train, "001.png", np.ones((32, 32)))
    put_mask(train, "002.png", upright[:, ::-1])
    (train / "masks" / "003.png").unlink()
    wrong = np.zeros((32, 32))
    wrong[0, :3], wrong[1, :2] = 19, 255
    put_mask(train, "004.png", wrong)
    put_mask(train, "005.png", np.zeros((16, 32)))
    image = train / "images" / "006.jpg"
    image.write_bytes(image.read_bytes()[:-100])
    (train / "masks" / "007.png").write_text("text")
    Image.fromarray(np.full((32, 32, 3), 17, np.uint8) * np.arange(3, dtype=np.uint8)).save(train / "masks" / "008.png")
    (train / "images" / "009.png").write_bytes(b"same stem")
    put_mask(train, "lonely.png", upright)
    put_mask(train, "000.PNG", upright)
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open(train / "images" / "001.jpg").save(train / "images" / "001.jpg", exif=exif)
    val = make_split(folder / "val", 2, seed=70)
    for number in range(2):
        put_mask(val, f"{number:03d}.png", np.zeros((32, 32)))
    shutil.copy(train / "images" / "000.jpg", val / "images" / "001.jpg")
    shutil.copy(train / "images" / "001.jpg", train / "images" / "005.jpg")
    (folder / "test").mkdir()
    return folder


def test_every_fault_is_listed_with_its_file(tmp_path, make_split):
    put = faces_with_faults(tmp_path, make_split)
    put_mask(tmp_path / "train", "006.png", np.zeros((32, 32)))
    put_mask(tmp_path / "train", "009.png", np.zeros((32, 32)))
    result = inspect_folder(put, jobs=1)
    found = {(finding.kind, Path(finding.file).name) for finding in result.findings}
    assert found == {
        ("unreadable split", "test"),
        ("image without mask", "003.jpg"),
        ("two images of one stem", "009.png"),
        ("two masks of one stem", "000.png"),
        ("EXIF orientation of one file only", "001.png"),
        ("damaged image", "006.jpg"),
        ("damaged mask", "007.png"),
        ("label of no class", "008.png"),
        ("label of no class", "004.png"),
        ("mask of another size", "005.png"),
        ("mask without image", "lonely.png"),
        ("duplicate across splits", "000.jpg"),
        ("duplicate within a split", "001.jpg"),
        ("left and right eye swapped", "002.png"),
        ("class that never occurs", tmp_path.name),
    }
    assert {kind for kind, _ in found} == set(KINDS) - {"class in the wrong place"}, "every other kind is tried here"
    assert len(result.errors) == 9
    assert all("\n" not in finding.message for finding in result.findings)
    messages = {finding.kind: finding.message for finding in result.findings}
    assert any("holds 19 (3 px), 255 (2 px)" in finding.message for finding in result.findings)
    assert "colours that no class has: #001122 (1024 px)" in messages["label of no class"]
    assert "32x16 pixels, its image 32x32" in messages["mask of another size"]
    assert result.duplicates == [["train/000.jpg", "val/001.jpg"], ["train/001.jpg", "train/005.jpg"]]


def test_counts_and_frequencies_are_of_the_valid_pairs(tmp_path, make_split):
    make_split(tmp_path / "train", 3, (32, 64))
    skin_and_nose = np.ones((32, 64))
    skin_and_nose[:, :16] = 2
    put_mask(tmp_path / "train", "000.png", skin_and_nose)
    put_mask(tmp_path / "train", "001.png", np.zeros((32, 64)))
    put_mask(tmp_path / "train", "002.png", np.full((32, 64), 255))
    report = inspect_folder(tmp_path, jobs=1).splits["train"]
    assert (report.images, report.masks, report.readable) == (3, 3, 2)
    assert report.sizes == {"64x32": 3}
    assert report.pixel_share[:4].tolist() == [0.5, 0.375, 0.125, 0]
    assert report.image_share[:4].tolist() == [0.5, 0.5, 0.5, 0]
    assert (report.eyes, report.eyes_swapped) == (0, 0)


def test_json_form_is_complete_and_strict(tmp_path, make_split):
    result = inspect_folder(make_split(tmp_path / "val", 2), jobs=1)
    value = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert set(value) == {"folder", "splits", "duplicates", "errors", "warnings", "findings"}
    split = value["splits"]["val"]
    assert list(split["classes"]) == list(CLASSES)
    assert split["images"] == split["masks"] == split["readable"] == 2
    assert split["eyes"] == {"checked": 2, "swapped": split["eyes"]["swapped"]}
    assert sum(row["pixel_share"] for row in split["classes"].values()) == pytest.approx(1)


def test_processes_find_the_same_as_one(tmp_path, make_split, heard):
    faces_with_faults(tmp_path, make_split)
    alone = inspect_folder(tmp_path, jobs=1)
    shared = inspect_folder(tmp_path, jobs=2, listener=heard)
    assert alone.as_dict() == shared.as_dict()
    assert heard.steps[-1] == ("reading pairs", 12, 12)


def test_split_folder_is_inspected_by_itself(tmp_path, make_split):
    result = inspect_folder(make_split(tmp_path / "faces", 2), jobs=1)
    assert list(result.splits) == ["faces"]


@pytest.mark.parametrize("name", ["none", "empty", "strange/x"])
def test_folder_that_is_no_data_set_is_an_input_error(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "strange" / "x" / "y").mkdir(parents=True)
    with pytest.raises(InputError):
        inspect_folder(tmp_path / name)


@pytest.mark.slow
def test_real_faces_are_sound(real_data: Path):
    result = inspect_folder(real_data / "celebamask-3k")
    assert result.errors == []
    assert {name: report.readable for name, report in result.splits.items()} == {"train": 3000, "val": 430}
    assert result.splits["val"].eyes_swapped == 0


@pytest.mark.parametrize("order", ["bisenet", "exchanged"])
def test_masks_that_contradict_the_names_are_told(tmp_path, order):
    names = list(CLASSES)
    if order == "bisenet":
        words = (
            "background skin l_brow r_brow l_eye r_eye eye_g l_ear r_ear ear_r nose mouth u_lip l_lip neck neck_l cloth"
        )
        names = [*words.split(), "hair", "hat"]
    else:
        names[2], names[11] = "u_lip", "nose"
    table = np.array([names.index(name) for name in CLASSES], np.uint8)
    for split in ("images", "masks"):
        (tmp_path / split).mkdir()
    for index, (image, mask, _) in enumerate(SyntheticFaces(8, (64, 64))[number] for number in range(8)):
        Image.fromarray(image).save(tmp_path / "images" / f"{index}.png")
        Image.fromarray(table[mask]).save(tmp_path / "masks" / f"{index}.png")
    messages = {finding.kind: finding.message for finding in inspect_folder(tmp_path, jobs=1).findings}
    told = messages["class in the wrong place"]
    assert "are the classes in another order?" in told
    assert ("BiSeNet's face parser orders them background, skin, l_brow" in told) == (order == "bisenet")
    (tmp_path / "classes.yaml").write_text(f"classes: [{', '.join(names)}]")
    kinds = {finding.kind for finding in inspect_folder(tmp_path, jobs=1).findings}
    assert "class in the wrong place" not in kinds


def test_own_classes_are_counted_by_name_and_ignored_pixels_are_not(tmp_path, make_split):
    make_split(tmp_path / "train", 2)
    (tmp_path / "classes.yaml").write_text("classes: [background, hair, hat]")
    for mask in (tmp_path / "train" / "masks").iterdir():
        pixels = np.zeros((32, 32))
        pixels[:16, :16], pixels[16:] = 1, 255
        put_mask(tmp_path / "train", mask.name, pixels)
    result = inspect_folder(tmp_path, jobs=1)
    split = result.as_dict()["splits"]["train"]
    assert {name: row["pixel_share"] for name, row in split["classes"].items()} == {
        "background": 0.5,
        "hair": 0.5,
        "hat": 0,
    }
    assert split["ignored_share"] == 0.5
    assert [finding.kind for finding in result.findings] == ["class that never occurs"]
    assert "no mask shows hat" in result.findings[0].message
