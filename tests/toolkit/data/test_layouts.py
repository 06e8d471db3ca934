"""Data sets as people lay them out, through the command line and the functions that every command opens them with."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fptk.core.errors import InputError
from fptk.data import FolderDataset, image_file, key_of, open_calibration, open_evaluation, open_split, open_training
from fptk.data.identity import identity_of
from fptk.data.inspect import inspect_folder
from fptk.data.layouts import LAYOUTS, find_pair, find_splits
from fptk.data.pairing import NAMINGS

Command = Callable[..., Any]
Lay = Callable[[Path, Path], Path]


@dataclass(frozen=True)
class Copy:
    """Copies a CE7454 data set into another layout; written without the table that it tests.

    Attributes:
        images: folder of a photograph, by split.
        masks: folder of a mask, by split.
        mask: name of a mask, by the stem and the name of its photograph.
    """

    images: str
    masks: str
    mask: str = "{stem}.png"

    def __call__(self, faces: Path, folder: Path, splits: Sequence[str] = ("train", "val")) -> Path:
        for split, image, mask in pairs_of(faces, splits):
            name = self.mask.format(stem=image.stem, name=image.name)
            copy(image, folder / self.images.format(split=split) / image.name)
            copy(mask, folder / self.masks.format(split=split) / name)
        return folder


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def pairs_of(faces: Path, splits: Sequence[str] = ("train", "val")) -> Iterator[tuple[str, Path, Path]]:
    """Split, photograph and mask of each face of a CE7454 data set."""
    for split in splits:
        for image in sorted((faces / split / "images").iterdir()):
            yield split, image, faces / split / "masks" / f"{image.stem}.png"


def listed(faces: Path, folder: Path) -> list[dict[str, str]]:
    """Copy the faces into folders of no layout; the rows that list them, the last face first."""
    rows = []
    for split, image, mask in pairs_of(faces):
        copy(image, folder / "photographs" / split / image.name)
        copy(mask, folder / "painted by Ann" / f"{split}-{image.stem}-final.png")
        painted = f"painted by Ann/{split}-{image.stem}-final.png"
        rows.append({"image": f"photographs/{split}/{image.name}", "mask": painted, "split": split})
    return rows[::-1]


def write_csv(path: Path, rows: Sequence[dict[str, str]], **options: Any) -> Path:
    with path.open("w", encoding="utf-8-sig", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]), **options)
        writer.writeheader()
        writer.writerows(rows)
    return path


def csv_list(faces: Path, folder: Path) -> Path:
    write_csv(folder / "pairs.csv", listed(faces, folder))
    return folder


def csv_list_of_excel(faces: Path, folder: Path) -> Path:
    rows = [{name.upper(): cell for name, cell in row.items()} for row in listed(faces, folder)]
    return write_csv(folder / "my faces.csv", rows, delimiter=";")


def json_list(faces: Path, folder: Path) -> Path:
    (folder / "pairs.json").write_text(json.dumps(listed(faces, folder)))
    return folder


def json_file(faces: Path, folder: Path) -> Path:
    path = folder / "mine.JSON"
    path.write_text(json.dumps(listed(faces, folder)))
    return path


PARTED: dict[str, Lay] = {
    "CE7454": Copy("{split}/images", "{split}/masks"),
    "LaPa": Copy("{split}/images", "{split}/labels"),
    "named folders": Copy("{split}/{split}_image", "{split}/{split}_mask"),
    "mmseg": Copy("img_dir/{split}", "ann_dir/{split}"),
    "YOLO-like, masks": Copy("images/{split}", "masks/{split}"),
    "YOLO-like, labels": Copy("images/{split}", "labels/{split}"),
    "pairs.csv": csv_list,
    "pairs.json": json_list,
    "semicolons, in a file of another name": csv_list_of_excel,
    "JSON file of another name": json_file,
    "masks end in _mask": Copy("{split}/images", "{split}/masks", "{stem}_mask.png"),
    "masks end in _label": Copy("images/{split}", "labels/{split}", "{stem}_label.png"),
    "masks end in -seg": Copy("img_dir/{split}", "ann_dir/{split}", "{stem}-seg.png"),
    "masks have two endings": Copy("{split}/images", "{split}/labels", "{name}.png"),
}
"""How to copy a CE7454 data set into each layout that has splits."""

WHOLE: dict[str, Copy] = {
    "images + masks": Copy("images", "masks"),
    "images + labels": Copy("images", "labels"),
    "val_image + val_mask": Copy("val_image", "val_mask"),
    "images + masks that end in _mask": Copy("images", "masks", "{stem}_mask.png"),
}
"""Those of one split."""


def made(lay: Lay, faces: Path, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return lay(faces, folder)


def inspected(fptk: Command, data: Path) -> dict[str, Any]:
    finished = fptk("data", "inspect", data, "--jobs", 1, "--json", "-")
    assert finished.code == 0, finished.out + finished.err
    splits: dict[str, Any] = json.loads(finished.out)["splits"]
    return splits


def scores_of(fptk: Command, checkpoint: Path, data: Path, path: Path) -> dict[str, Any]:
    finished = fptk("eval", checkpoint, "--data", data, "--json", path)
    assert finished.code == 0, finished.err
    scores: dict[str, Any] = json.loads(path.read_text())
    return scores


@pytest.fixture(scope="module")
def expected(faces_folder: Path) -> Any:
    """What tells the training and validation faces of the CE7454 layout from others."""
    return identity_of(*open_training([faces_folder]))


@pytest.mark.parametrize("name", PARTED)
def test_a_data_set_is_the_same_in_every_layout(
    name: str, fptk: Command, faces_folder: Path, expected: Any, checkpoint: Path, tmp_path: Path
) -> None:
    data = made(PARTED[name], faces_folder, tmp_path / "faces")
    splits = inspected(fptk, data)
    assert {split: (each["images"], each["masks"], each["readable"]) for split, each in splits.items()} == {
        "train": (12, 12, 12),
        "val": (4, 4, 4),
    }
    assert identity_of(*open_training([data])) == expected, "names, contents and order"
    assert [key_of(open_calibration(data), i) for i in range(12)] == [
        image.stem for _, image, _ in pairs_of(faces_folder, ["train"])
    ]
    assert open_split(data, "val").name == f"{data.name}/val"
    scores = scores_of(fptk, checkpoint, data, tmp_path / "scores.json")
    assert scores == scores_of(fptk, checkpoint, faces_folder, tmp_path / "expected.json")


@pytest.mark.parametrize("name", WHOLE)
def test_one_split_is_the_same_in_every_layout(
    name: str, fptk: Command, faces_folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    data = WHOLE[name](faces_folder, tmp_path / "faces", ["val"])
    assert {split: each["readable"] for split, each in inspected(fptk, data).items()} == {"faces": 4}
    scores = scores_of(fptk, checkpoint, data, tmp_path / "scores.json")
    assert scores == scores_of(fptk, checkpoint, faces_folder / "val", tmp_path / "expected.json")
    assert find_pair(data) == (data / WHOLE[name].images, data / WHOLE[name].masks)


def test_every_layout_of_the_table_is_tried_here() -> None:
    copies = [each for each in (*PARTED.values(), *WHOLE.values()) if isinstance(each, Copy)]
    named = {"{split}/train_image", "{split}/val_image", "{split}/test_image", "train_image", "val_image", "test_image"}
    assert {each.images for each in copies} - {"{split}/{split}_image"} >= {each.images for each in LAYOUTS} - named
    assert {each.masks for each in copies} >= {each.masks for each in LAYOUTS if each.images not in named}


@pytest.mark.parametrize("naming", NAMINGS)
def test_each_naming_of_masks_pairs(naming: str, faces_folder: Path, tmp_path: Path) -> None:
    data = Copy("images", "masks", naming + ".png")(faces_folder, tmp_path / "faces", ["val"])
    faces = FolderDataset(data)
    assert [faces.mask_path(i).stem for i in range(4)] == [
        naming.format(stem=image.stem, name=image.name) for _, image, _ in pairs_of(faces_folder, ["val"])
    ]


def test_a_list_without_splits_is_one_split(
    fptk: Command, faces_folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    rows = [{name: row[name] for name in ("image", "mask")} for row in listed(faces_folder, tmp_path)]
    data = write_csv(tmp_path / "all.csv", rows)
    assert {split: each["readable"] for split, each in inspected(fptk, data).items()} == {"all": 16}
    assert len(open_evaluation(data)) == 16
    train, val = open_training([data])
    assert (len(train), len(val)) == (14, 2)
    with pytest.raises(InputError, match="one split itself"):
        open_split(data, "train")
    (tmp_path / "all.csv").rename(tmp_path / "pairs.csv")
    assert list(inspected(fptk, tmp_path)) == [tmp_path.name]


def test_images_of_one_name_in_two_folders_of_a_list_get_keys_of_their_own(make_split, tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        make_split(tmp_path / name, 2, seed=10 * seed)
    files = [(f"./{name}/images/00{number}.jpg", f"{name}/masks/00{number}.png") for name in "ba" for number in (1, 0)]
    data = write_csv(tmp_path / "list.csv", [{"image": image, "mask": mask} for image, mask in files])
    faces = FolderDataset(data)
    keys = ["a__images__000", "a__images__001", "b__images__000", "b__images__001"]
    assert [faces.key(i) for i in range(len(faces))] == keys
    assert image_file(faces, 1) == tmp_path / "a" / "images" / "001.jpg"
    assert faces.mask_path(2) == tmp_path / "b" / "masks" / "000.png"


def test_a_list_counts_before_the_folders_beside_it(faces_folder: Path, tmp_path: Path) -> None:
    data = Copy("images", "masks")(faces_folder, tmp_path / "faces", ["val"])
    stems = sorted(path.stem for path in (data / "masks").iterdir())
    suffix = next((data / "images").iterdir()).suffix
    write_csv(data / "pairs.csv", [{"image": f"images/{stems[1]}{suffix}", "mask": f"masks/{stems[1]}.png"}])
    faces = FolderDataset(data)
    assert [faces.key(i) for i in range(len(faces))] == [stems[1]]


def test_folders_that_hold_no_picture_do_not_make_a_second_layout(faces_folder: Path, tmp_path: Path) -> None:
    data = Copy("{split}/images", "{split}/masks")(faces_folder, tmp_path / "faces")
    for folder in ("train/labels", "val/labels", "images/train", "masks/train", "img_dir/test", "ann_dir/test"):
        (data / folder).mkdir(parents=True)
        (data / folder / "boxes.txt").write_text("0 0.5 0.5 1 1")
    assert {split: found.folder for split, found in find_splits(data).by_name.items()} == {
        "train": data / "train",
        "val": data / "val",
    }
    assert identity_of(*open_training([data])) == identity_of(*open_training([faces_folder]))


def test_splits_of_folders_may_be_laid_out_differently(faces_folder: Path, tmp_path: Path) -> None:
    Copy("{split}/images", "{split}/labels")(faces_folder, tmp_path, ["train"])
    Copy("{split}/val_image", "{split}/val_mask")(faces_folder, tmp_path, ["val"])
    assert identity_of(*open_training([tmp_path])) == identity_of(*open_training([faces_folder]))


def test_a_split_without_masks_stops_only_what_reads_it(faces_folder: Path, tmp_path: Path) -> None:
    data = Copy("img_dir/{split}", "ann_dir/{split}")(faces_folder, tmp_path / "faces")
    shutil.copytree(data / "img_dir" / "val", data / "img_dir" / "test")
    assert len(open_evaluation(data)) == 4
    with pytest.raises(InputError, match="ann_dir/test does not exist"):
        open_split(data, "test")
    finding = inspect_folder(data, jobs=1).findings[0]
    assert (finding.kind, finding.split) == ("unreadable split", "test")


def test_a_root_of_splits_is_no_split(faces_folder: Path) -> None:
    with pytest.raises(InputError, match="holds the splits train, val; say which"):
        FolderDataset(faces_folder)


@pytest.mark.parametrize("name", ["mmseg", "pairs.csv", "CE7454"])
def test_one_split_may_not_be_used_twice_in_any_layout(name: str, faces_folder: Path, tmp_path: Path) -> None:
    data = made(PARTED[name], faces_folder, tmp_path / "faces")
    with pytest.raises(InputError, match="used twice"):
        open_training([data, data])


def test_a_data_set_of_a_test_split_only_says_how_to_use_it(faces_folder: Path, tmp_path: Path) -> None:
    roots = {
        "give FOLDER/test": Copy("test/images", "test/masks")(faces_folder, tmp_path / "a", ["val"]),
        "list its pairs in a CSV file": Copy("img_dir/test", "ann_dir/test")(faces_folder, tmp_path / "b", ["val"]),
    }
    for words, root in roots.items():
        with pytest.raises(InputError, match=f"to score on its test split {words.replace('FOLDER', str(root))}"):
            open_evaluation(root)
        with pytest.raises(InputError, match=f"to train on its test split {words.replace('FOLDER', str(root))}"):
            open_training([root])


# Refusals.


def pictures(folder: Path, *names: str, suffix: str = ".png") -> None:
    """A folder of two small files by the names of pictures; no refusal here opens one."""
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(2):
            (folder / name / f"{number}{suffix}").write_bytes(b"")


def rename_masks(folder: Path, *names: str) -> None:
    """Two photographs 0 and 1, and masks of other names."""
    pictures(folder, "images", suffix=".jpg")
    (folder / "masks").mkdir()
    for name in names:
        (folder / "masks" / name).write_bytes(b"")


def write(path: Path, content: str | bytes) -> None:
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def csv_of(*rows: str, header: str = "image,mask") -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        pictures(folder, "images", "masks")
        write(folder / "pairs.csv", "\n".join((header, *rows)))

    return spoil


def json_of(content: str) -> Callable[[Path], None]:
    return lambda folder: write(folder / "pairs.json", content)


def beside(folder: Path) -> None:
    """A list that names the mask of another folder."""
    pictures(folder, "images", "masks")
    pictures(folder.parent / "other", "masks")
    write(folder / "pairs.csv", "image,mask\nimages/0.png,../other/masks/0.png")


REFUSED: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    # What is there, and the nearest layout.
    "nothing": (lambda folder: None, ["is empty", "train/images + train/masks"]),
    "no masks": (lambda folder: pictures(folder, "images"), ["holds images/ but no masks/ nor labels/"]),
    "no images": (lambda folder: pictures(folder, "labels"), ["holds labels/ but no images/"]),
    "no masks of splits": (
        lambda folder: pictures(folder, "images/train"),
        ["holds images/ but no masks/ nor labels/"],
    ),
    "no masks of a split": (lambda folder: pictures(folder, "train/images"), ["train holds images/ but no masks/"]),
    "empty masks of splits": (
        lambda folder: (pictures(folder, "images/train"), (folder / "masks" / "train").mkdir(parents=True)),
        ["masks/train is empty"],
    ),
    "no ann_dir": (lambda folder: pictures(folder, "img_dir/train"), ["holds img_dir/ but no ann_dir/"]),
    "mmseg without splits": (
        lambda folder: pictures(folder, "img_dir", "ann_dir"),
        ["found ann_dir, img_dir", "nearest layout is img_dir/train + ann_dir/train (mmseg)"],
    ),
    "other spelling": (
        lambda folder: pictures(folder, "Image", "mask"),
        ["found Image, mask", "the nearest layout is images + masks (one split)"],
    ),
    "other names of splits": (
        lambda folder: pictures(folder, "training/images", "training/masks", "validation/images"),
        ["found training, validation", "the nearest layout is train/images + train/masks (CE7454)"],
    ),
    "nothing that is like one": (
        lambda folder: pictures(folder, *"bcdfgh"),
        ["found b, c, d, f and 2 more", "train/images + train/labels", "images/train + masks/train", "pairs.csv"],
    ),
    "masks of other names": (
        lambda folder: rename_masks(folder, "a.png", "b.png", "c.png", "d.png", "e.png"),
        ["2 of 2 images", "the first is 0.jpg", "holds a.png, b.png, c.png, d.png and 1 more", "add its mask 0.png"],
    ),
    "one mask of another name": (
        lambda folder: rename_masks(folder, "0_mask.png", "1.mask.png"),
        ["1 of 2 images", "the first is 1.jpg", "add its mask 1_mask.png"],
    ),
    "masks are of splits, images are not": (
        lambda folder: (pictures(folder, "images", suffix=".jpg"), pictures(folder, "masks/train")),
        ["2 of 2 images", "its mask folder holds train"],
    ),
    # Two at once.
    "masks of two kinds of name": (
        lambda folder: rename_masks(folder, "0_mask.png", "1_mask.png", "0_label.png", "1_label.png"),
        ["0_mask.png and 0_label.png", "keep one kind"],
    ),
    "two mask folders": (
        lambda folder: pictures(folder, "train/images", "train/masks", "train/labels"),
        ["train/images + train/masks (CE7454) and train/images + train/labels (LaPa)", "keep one pair"],
    ),
    "two mask folders of one split": (
        lambda folder: pictures(folder, "images", "masks", "labels"),
        ["images + masks (one split) and images + labels (one split)", "keep one pair"],
    ),
    "splits and one split": (
        lambda folder: pictures(folder, "val/images", "val/masks", "images", "masks"),
        ["val/images + val/masks (CE7454) and images + masks (one split)"],
    ),
    "splits of two layouts": (
        lambda folder: pictures(folder, "train/images", "train/masks", "img_dir/val", "ann_dir/val"),
        ["train/images + train/masks (CE7454) and img_dir/val + ann_dir/val (mmseg)"],
    ),
    "two lists": (
        lambda folder: (csv_of("images/0.png,masks/0.png")(folder), json_of("[]")(folder)),
        ["pairs.csv and pairs.json", "--data FILE"],
    ),
    # Lists.
    "a missing image": (
        csv_of("images/0.png,masks/0.png", "images/5.png,masks/1.png"),
        ["pairs.csv, line 3: image", "images/5.png does not exist"],
    ),
    "a missing mask": (csv_of("images/0.png,masks/5.png"), ["line 2: mask", "masks/5.png does not exist"]),
    "a folder for an image": (csv_of("images,masks/0.png"), ["line 2: image", "it is a folder"]),
    "a path that leaves": (beside, ["line 2: ../other/masks/0.png is no file in the folder of the list"]),
    "a path that leaves by a way round": (
        csv_of("images/0.png,masks/../../other/0.png"),
        ["line 2: masks/../../other/0.png is no file in the folder"],
    ),
    "the folder above": (csv_of("..,masks/0.png"), ["line 2: .. is no file in the folder"]),
    "the folder itself": (
        csv_of("a/b.png,m.png", "c/b.png,m.png", "a/..,m.png"),
        ["line 4: a/.. is no file in the folder"],
    ),
    "an absolute path": (csv_of("/etc/passwd,masks/0.png"), ["line 2: /etc/passwd is no file in the folder"]),
    "a NUL in a path": (json_of('[{"image": "a\\u0000.png", "mask": "b.png"}]'), ["pairs.json, entry 1: image"]),
    "an empty file": (
        lambda folder: write(folder / "pairs.csv", ""),
        ["no column image and no column mask"],
    ),
    "other columns": (csv_of("a,b", header="photo,mask"), ["no column image", "its first row holds photo, mask"]),
    "no rows": (csv_of(), ["names no pair"]),
    "an empty cell": (csv_of("images/0.png,"), ["line 2: no mask"]),
    "a missing cell": (csv_of("images/0.png"), ["line 2: no mask"]),
    "a comma in a name": (csv_of("images/0,1.png,masks/0.png"), ["line 2: 3 cells for 2 columns"]),
    "an open quote": (csv_of('"images/0.png,masks/0.png'), ["not a readable CSV file"]),
    "no text": (lambda folder: write(folder / "pairs.csv", b"image,mask\n\xff\xfe\x00,b"), ["not a readable CSV file"]),
    "a FIFO": (lambda folder: os.mkfifo(folder / "pairs.csv"), ["pairs.csv is not a readable CSV file"]),
    "an image twice": (
        csv_of("images/0.png,masks/0.png", "./images/0.png,masks/1.png"),
        ["images/0.png is in line 2 and line 3"],
    ),
    "a split of another name": (
        csv_of("images/0.png,masks/0.png,dev", header="image,mask,split"),
        ["line 2: split 'dev'", "train, val, test"],
    ),
    "a split for some": (
        csv_of("images/0.png,masks/0.png,val", "images/1.png,masks/1.png,", header="image,mask,split"),
        ["line 3 has no split"],
    ),
    "two names that are one": (
        csv_of("a/b.png,m.png", "a/c/b.png,m.png", "a__c/b.png,m.png"),
        ["a/c/b.png and a__c/b.png share one name"],
    ),
    "broken JSON": (json_of('[{"image": '), ["pairs.json is not a readable JSON file"]),
    "JSON of another kind": (json_of('{"image": "a.png"}'), ["no list of objects"]),
    "JSON of numbers": (json_of('[{"image": 3, "mask": "a.png"}]'), ["entry 1: no image"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_data_set_is_refused_in_one_line(name: str, fptk: Command, checkpoint: Path, tmp_path: Path) -> None:
    spoil, words = REFUSED[name]
    (tmp_path / "faces").mkdir()
    spoil(tmp_path / "faces")
    for command in (("eval", checkpoint, "--data", tmp_path / "faces"), ("train", "--data", tmp_path / "faces")):
        finished = fptk(*command)
        assert finished.code == 2
        assert [word for word in words if word not in finished.err] == [], finished.err
        assert finished.err.count("\n") == 1, finished.err
    finished = fptk("data", "inspect", tmp_path / "faces", "--jobs", 1)
    assert finished.code == 2
    assert finished.err.count("\n") == 1
    assert "Traceback" not in finished.out + finished.err


@pytest.mark.parametrize("name", ["a missing image", "a missing mask"])
def test_inspect_lists_every_missing_file_of_a_list(name: str, fptk: Command, make_split, tmp_path: Path) -> None:
    make_split(tmp_path, 2, suffix=".png")
    rows = [("images/000.png", "masks/000.png"), ("images/001.png", "masks/001.png")]
    write_csv(tmp_path / "pairs.csv", [{"image": image, "mask": mask} for image, mask in rows])
    kind = name.rpartition(" ")[2]
    for number in range(2):
        (tmp_path / f"{kind}s" / f"00{number}.png").unlink()
    finished = fptk("data", "inspect", tmp_path, "--jobs", 1)
    assert finished.code == 2
    assert finished.out.count("does not exist") == 2
    assert f"2 × damaged {kind}" in finished.err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["LaPa", "pairs.csv"])
def test_training_export_and_bench_read_other_layouts(
    name: str, fptk: Command, faces_folder: Path, tmp_path: Path
) -> None:
    data = made(PARTED[name], faces_folder, tmp_path / "faces")
    run = tmp_path / "run"
    lax = ("--max-miou-drop", 100, "--max-class-drop", 100)
    sizes = ("--set", "data.size=64", "--set", "optim.epochs=1", "--set", "data.batch=4")
    for command in (
        ("train", "--recipe", "demo", "--data", data, "--out", run, *sizes),
        ("export", run, "--target", "onnx", "--int8", "--calib", data, "--calib-size", 4, *lax),
        ("bench", run, "--accuracy", "--data", data),
    ):
        finished = fptk(*command)
        assert finished.code == 0, finished.err
        assert "synthetic" not in finished.err
