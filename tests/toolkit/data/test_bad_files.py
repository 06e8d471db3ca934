"""Photographs, masks and folders that aren't what they seem, through the command line: name, exit code, words."""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import subprocess
import sys
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fptk.core.classes import CELEBAMASK, CLASSES
from fptk.core.dataset import pixel_hash, pixel_hash_of
from fptk.core.errors import FptkWarning
from fptk.core.masks import read_mask
from fptk.core.preprocess import read_image
from fptk.data import ConcatDataset, FolderDataset, Subset, find_duplicates
from fptk.data import pixels as pixels_module

SIDE = 32
Command = Callable[..., Any]


def labels(seed: int = 0, highest: int = 18) -> np.ndarray:
    """Random labels, uint8 (SIDE, SIDE), every class up to ``highest`` among them."""
    mask = np.random.default_rng(seed).integers(0, highest + 1, (SIDE, SIDE)).astype(np.uint8)
    mask[np.isin(mask, (4, 5))] = 0  # one eye of each kind will do, the left one to the right
    mask[0, : highest + 1] = np.arange(highest, -1, -1)
    return mask


def write_png(path: Path, values: np.ndarray, depth: int, palette: list[int] | None = None) -> None:
    """A grey or palette PNG of a bit depth, without Pillow, which writes few of them."""
    if depth == 16:
        rows = values.astype(">u2").view(np.uint8).reshape(len(values), -1)
    else:
        bits = np.unpackbits(values.astype(np.uint8)[..., None], axis=2)[..., 8 - depth :]
        rows = np.packbits(bits.reshape(len(values), -1), axis=1)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], depth, 3 if palette else 0, 0, 0, 0)
    chunks = [(b"IHDR", header)]
    if palette:
        chunks.append((b"PLTE", bytes(palette)))
    chunks += [(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data)) for tag, data in chunks
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def palette_mask(path: Path, mask: np.ndarray, palette: list[int], **options: Any) -> None:
    picture = Image.fromarray(mask)
    picture.putpalette(palette)
    picture.save(path, **options)


class Bad:
    """A data set of two pairs in ``images`` and ``masks``, and ways to spoil it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("images", "masks"):
            (folder / name).mkdir(parents=True)
        for number in range(2):
            pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(self.image(f"{number}.jpg"))
            palette_mask(self.mask(f"{number}.png"), labels(number), CELEBAMASK.flat_palette())

    def image(self, name: str = "0.jpg") -> Path:
        return self.folder / "images" / name

    def mask(self, name: str = "0.png") -> Path:
        return self.folder / "masks" / name

    def fifo(self, path: Path) -> None:
        path.unlink()
        os.mkfifo(path)

    def socket(self, path: Path) -> None:
        path.unlink()
        before = Path.cwd()
        os.chdir(path.parent)  # names of sockets are short
        try:
            socket.socket(socket.AF_UNIX).bind(path.name)
        finally:
            os.chdir(before)

    def link(self, path: Path, target: Path | str) -> None:
        path.unlink()
        path.symlink_to(target)

    def turned(self, orientation: int) -> None:
        """Give both photographs an orientation."""
        for path in self.folder.joinpath("images").iterdir():
            Image.open(path).save(path, exif=exif(orientation))


def reordered(bad: Bad) -> None:
    """What a palette optimiser does: the same picture, colours sorted otherwise."""
    order = np.random.default_rng(3).permutation(19)
    table = np.argsort(order).astype(np.uint8)
    palette = [channel for index in order for channel in CELEBAMASK.palette[index]]
    palette_mask(bad.mask(), table[labels()], palette + [0] * (768 - len(palette)))


def shortened(bad: Bad) -> None:
    """Only the colours that occur, at the front of the palette."""
    used = [1, 13, 17]
    palette_mask(bad.mask(), labels(highest=2), [channel for index in used for channel in CELEBAMASK.palette[index]])


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


def landscape(bad: Bad, **options: Any) -> None:
    """A pair of 32x16 pixels; ``options`` go to the writer of the mask."""
    Image.fromarray(np.zeros((16, 32, 3), np.uint8)).save(bad.image())
    palette_mask(bad.mask(), np.zeros((16, 32), np.uint8), CELEBAMASK.flat_palette(), **options)


SPOILT: dict[str, tuple[Callable[[Bad], object], int, list[str]]] = {
    "nothing": (lambda bad: None, 0, ["no fault found"]),
    # Bit depths: what the file holds is what is read and what the message names.
    "1-bit grey mask": (lambda bad: write_png(bad.mask(), labels(highest=1), 1), 0, ["no fault found"]),
    "2-bit grey mask": (lambda bad: write_png(bad.mask(), labels(highest=3), 2), 0, ["no fault found"]),
    "4-bit grey mask": (lambda bad: write_png(bad.mask(), labels(highest=15), 4), 0, ["no fault found"]),
    "16-bit grey mask": (lambda bad: write_png(bad.mask(), labels(), 16), 0, ["no fault found"]),
    "16-bit grey mask with label 300": (
        lambda bad: write_png(bad.mask(), np.where(labels() == 3, 300, labels().astype(int)), 16),
        2,
        ["holds 300 (", "label of no class"],
    ),
    "8-bit grey mask with label 19": (
        lambda bad: write_png(bad.mask(), np.where(labels() == 3, 19, labels()), 8),
        2,
        ["holds 19 ("],
    ),
    "4-bit palette mask": (
        lambda bad: write_png(bad.mask(), labels(highest=15), 4, CELEBAMASK.flat_palette()[:48]),
        0,
        ["no fault found"],
    ),
    # Geometry.
    "EXIF of the image only": (
        lambda bad: bad.turned(3),
        0,
        ["the image has an EXIF orientation and its mask has none"],
    ),
    "EXIF of the mask only": (
        lambda bad: palette_mask(bad.mask(), labels(), CELEBAMASK.flat_palette(), exif=exif(6)),
        0,
        ["its mask has an EXIF orientation and the image has none"],
    ),
    "EXIF that makes the sizes differ": (
        lambda bad: (landscape(bad), bad.turned(6)),
        2,
        ["32x16", "16x32", "because the image has an EXIF orientation and the mask has none"],
    ),
    "EXIF of the mask that makes the sizes differ": (
        lambda bad: landscape(bad, exif=exif(8)),
        2,
        ["because the mask has an EXIF orientation"],
    ),
    "EXIF that turns nothing": (lambda bad: bad.turned(1), 0, ["no fault found"]),
    # Palettes.
    "palette in another order": (reordered, 2, ["0.png", "class colours in another order", "re-ordered"]),
    "palette of the colours that occur": (shortened, 2, ["index 0 (background)", "class 1 (skin)", "re-ordered"]),
    "grey ramp": (
        lambda bad: palette_mask(bad.mask(), labels(), [v for v in range(256) for _ in range(3)]),
        0,
        ["no fault found"],
    ),
    "palette without colours": (lambda bad: palette_mask(bad.mask(), labels(), [0] * 768), 0, ["no fault found"]),
    "colours of the user's own": (
        lambda bad: palette_mask(bad.mask(), labels(), [(7 * v + 3) % 256 for v in range(768)]),
        0,
        ["no fault found"],
    ),
    "two plain colours": (
        lambda bad: palette_mask(bad.mask(), labels(highest=1), [0, 0, 0, 255, 0, 0]),
        0,
        ["no fault found"],
    ),
    # Names.
    "two masks": (
        lambda bad: bad.mask("0.PNG").write_bytes(bad.mask("1.png").read_bytes()),
        2,
        ["two masks of one stem", "0.png", "0.PNG"],
    ),
    "two photographs": (
        lambda bad: bad.image("0.png").write_bytes(bad.image().read_bytes()),
        2,
        ["two images of one stem", "0.jpg", "0.png"],
    ),
    "one name in two Unicode forms": (
        lambda bad: (bad.image().rename(bad.image("zoé.jpg")), bad.mask().rename(bad.mask(nfd("zoé.png")))),
        0,
        ["no fault found"],
    ),
    "two photographs in two Unicode forms": (
        lambda bad: (
            bad.image("zoé.jpg").write_bytes(bad.image().read_bytes()),
            bad.image().rename(bad.image(nfd("zoé.jpg"))),
            bad.mask().rename(bad.mask("zoé.png")),
        ),
        2,
        ["two images of one stem", "differ in Unicode form"],
    ),
    "JPEG mask": (
        lambda bad: (bad.mask().unlink(), Image.fromarray(labels()).save(bad.mask("0.jpg"))),
        2,
        ["0.jpg is a JPEG", "lossless PNG", "as 0.png"],
    ),
    "BMP mask": (
        lambda bad: (bad.mask().unlink(), Image.fromarray(labels()).save(bad.mask("0.bmp"))),
        2,
        ["0.bmp is no PNG", "lossless PNG"],
    ),
    "JPEG mask named PNG": (
        lambda bad: Image.fromarray(labels()).save(bad.mask(), format="JPEG"),
        2,
        ["is JPEG, whose losses change labels"],
    ),
    "mask in other case": (
        lambda bad: (bad.image().rename(bad.image("Ann.jpg")), bad.mask().rename(bad.mask("ann.png"))),
        2,
        ["rename ann.png to Ann.png"],
    ),
    "mask missing": (lambda bad: bad.mask().unlink(), 2, ["image without mask", "add its mask 0.png"]),
    "hidden files": (
        lambda bad: (
            bad.image("._0.jpg").write_bytes(b"fork"),
            bad.mask("._0.png").write_bytes(b"fork"),
            bad.image(".DS_Store").write_bytes(b""),
            (bad.folder / ".DS_Store").write_bytes(b""),
            os.mkfifo(bad.image(".hidden.jpg")),
        ),
        0,
        ["no fault found"],
    ),
    # Files that are none.
    "photograph is a FIFO": (lambda bad: bad.fifo(bad.image()), 2, ["0.jpg", "not a regular file"]),
    "mask is a FIFO": (lambda bad: bad.fifo(bad.mask()), 2, ["0.png", "not a regular file"]),
    "photograph is a socket": (lambda bad: bad.socket(bad.image()), 2, ["0.jpg", "not a regular file"]),
    "photograph is a device": (lambda bad: bad.link(bad.image(), "/dev/zero"), 2, ["0.jpg", "not a regular file"]),
    "mask is a device": (lambda bad: bad.link(bad.mask(), "/dev/zero"), 2, ["0.png", "not a regular file"]),
    "photograph is a folder": (
        lambda bad: (bad.image().unlink(), bad.image().mkdir()),
        2,
        ["0.jpg", "it is a folder"],
    ),
    "photograph is a broken link": (lambda bad: bad.link(bad.image(), "nowhere.jpg"), 2, ["0.jpg", "does not exist"]),
    "mask is a link to itself": (lambda bad: bad.link(bad.mask(), "0.png"), 2, ["0.png", "cannot be read"]),
    "masks is a FIFO": (
        lambda bad: (
            [mask.unlink() for mask in bad.mask().parent.iterdir()],
            bad.mask().parent.rmdir(),
            os.mkfifo(bad.mask().parent),
        ),
        2,
        ["masks", "expected a data folder"],
    ),
    "EPS photograph": (
        lambda bad: bad.image().write_bytes(
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n"
        ),
        2,
        ["0.jpg is EPS"],
    ),
    "floating-point photograph": (
        lambda bad: (
            bad.image().unlink(),
            Image.fromarray(np.ones((SIDE, SIDE), np.float32)).save(bad.image(), format="TIFF"),
        ),
        2,
        ["0.jpg", "floating-point"],
    ),
    "32-bit photograph": (
        lambda bad: Image.fromarray(np.full((SIDE, SIDE), 10**6, np.int32)).save(bad.image(), format="TIFF"),
        2,
        ["0.jpg", "32-bit values"],
    ),
}


@pytest.mark.parametrize("name", SPOILT)
def test_inspect_says_what_is_wrong_with_a_data_set(name: str, fptk: Command, tmp_path: Path) -> None:
    spoil, code, words = SPOILT[name]
    bad = Bad(tmp_path / "faces")
    spoil(bad)
    finished = fptk("data", "inspect", bad.folder, "--jobs", 1)
    text = finished.out + finished.err
    assert finished.code == code, text
    assert [word for word in words if word not in " ".join(text.split())] == []
    assert "Traceback" not in text
    assert finished.err.count("\n") == (code != 0), "one line"


EVALUATED = [
    *("EXIF that makes the sizes differ", "palette in another order", "two masks", "JPEG mask", "photograph is a FIFO"),
    *(
        "mask is a FIFO",
        "mask is a device",
        "photograph is a broken link",
        "mask is a link to itself",
        "two photographs",
    ),
    "two photographs in two Unicode forms",
]


@pytest.mark.parametrize("name", EVALUATED)
def test_eval_ends_with_the_same_in_one_line(name: str, fptk: Command, checkpoint: Path, tmp_path: Path) -> None:
    spoil, code, words = SPOILT[name]
    bad = Bad(tmp_path / "faces")
    spoil(bad)
    finished = fptk("eval", checkpoint, "--data", bad.folder)
    assert finished.code == code
    assert finished.err.splitlines()[-1].startswith("fptk: ")
    known = [word for word in words if word not in ("two masks of one stem", "two images of one stem", "0.PNG")]
    assert [word for word in known if word not in finished.err] == []
    assert "Traceback" not in finished.err


def test_eval_warns_once_of_orientations_and_goes_on(fptk: Command, checkpoint: Path, tmp_path: Path) -> None:
    bad = Bad(tmp_path / "faces")
    bad.turned(3)
    finished = fptk("eval", checkpoint, "--data", bad.folder)
    assert finished.code == 0, finished.err
    assert finished.err.count("EXIF") == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_image_and_mask_go_through_the_same_geometry(orientation: int, tmp_path: Path) -> None:
    bad = Bad(tmp_path / "faces")
    mask = labels()
    Image.fromarray(np.repeat(mask[..., None], 3, axis=2)).save(bad.image("0.png"), exif=exif(orientation))
    bad.image().unlink()
    palette_mask(bad.mask(), mask, CELEBAMASK.flat_palette(), exif=exif(orientation))
    sample = FolderDataset(bad.folder)[0]
    assert np.array_equal(sample.image[..., 0], sample.mask)


@pytest.mark.parametrize(("depth", "highest"), [(1, 1), (2, 3), (4, 15), (8, 18), (16, 18)])
@pytest.mark.parametrize("turned", [False, True])
def test_masks_of_every_bit_depth_hold_their_true_values(
    depth: int, highest: int, turned: bool, tmp_path: Path
) -> None:
    path = tmp_path / "m.png"
    write_png(path, labels(highest=highest), depth)
    if turned and depth in (8, 16):
        with Image.open(path) as picture:
            picture.save(path, exif=exif(3))
        assert np.array_equal(read_mask(path), labels(highest=highest)[::-1, ::-1])
    else:
        assert np.array_equal(read_mask(path), labels(highest=highest))


def test_16_bit_photograph_keeps_its_grays(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, SIDE * SIDE).astype(np.uint16).reshape(SIDE, SIDE)
    write_png(tmp_path / "a.png", ramp, 16)
    image = read_image(tmp_path / "a.png")
    assert (image.shape, image.dtype) == ((SIDE, SIDE, 3), np.uint8)
    assert np.abs(image[..., 0] - ramp / 257).max() <= 0.5
    assert (image.min(), image.max()) == (0, 255)


NO_DATA: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "name of 300 characters": (lambda folder: folder / ("x" * 300), ["too long"]),
    "folder with a name of 300 characters": (lambda folder: folder / ("x" * 300) / "train", ["too long"]),
    "FIFO": (lambda folder: os.mkfifo(folder / "fifo") or folder / "fifo", ["expected a data folder"]),
    "device": (lambda folder: "/dev/zero", ["expected a data folder"]),
    "link to itself": (
        lambda folder: (folder / "loop").symlink_to("loop") or folder / "loop",
        ["loop", "cannot be read"],
    ),
    "folder below a file": (lambda folder: (folder / "f").write_text("") * 0 or folder / "f" / "x", ["does not exist"]),
    "nothing": (lambda folder: folder / "nothing", ["does not exist"]),
}


@pytest.mark.parametrize("command", [("data", "inspect", "{}"), ("eval", "{checkpoint}", "--data", "{}")])
@pytest.mark.parametrize("name", NO_DATA)
def test_path_that_is_no_data_folder_is_one_line(
    name: str, command: tuple[str, ...], fptk: Command, checkpoint: Path, tmp_path: Path
) -> None:
    make, words = NO_DATA[name]
    path = str(make(tmp_path))
    finished = fptk(*(word.format(path, checkpoint=checkpoint) for word in command))
    assert finished.code == 2, finished.err
    assert finished.err.startswith("fptk: ")
    assert finished.err.count("\n") == 1
    assert [word for word in words if word not in finished.err] == []


@pytest.mark.parametrize("command", [("data", "inspect", "{}"), ("eval", "{checkpoint}", "--data", "{}")])
@pytest.mark.parametrize("locked", ["images/0.jpg", "masks/0.png", "images", "."])
def test_what_may_not_be_read_is_one_line(
    locked: str, command: tuple[str, ...], fptk: Command, checkpoint: Path, tmp_path: Path
) -> None:
    bad = Bad(tmp_path / "faces")
    path = bad.folder / locked
    path.chmod(0)
    if os.access(path, os.R_OK):
        path.chmod(0o755)
        pytest.skip("this user may read everything (root)")
    try:
        finished = fptk(*(word.format(bad.folder, checkpoint=checkpoint) for word in command))
    finally:
        path.chmod(0o755)
    assert finished.code == 2
    text = finished.out + finished.err
    assert "permission" in text.lower() or "is not readable" in text
    assert "Traceback" not in text


# The leak check.


def save_again(path: Path, target: Path) -> None:
    """The same pixels in another file."""
    Image.open(path).save(target)


def leaking(folder: Path) -> Path:
    """A data set whose val/ holds a photograph of train/ that was saved again as PNG, under another name."""
    train, val = Bad(folder / "train"), Bad(folder / "val")
    for number in range(2):
        Image.fromarray(labels(40 + number)).convert("RGB").save(val.image(f"{number}.jpg"))
    val.image("1.jpg").unlink()
    save_again(train.image("0.jpg"), val.image("1.png"))
    return folder


def test_training_refuses_a_photograph_that_was_saved_again_for_validation(fptk: Command, tmp_path: Path) -> None:
    finished = fptk("train", "--data", leaking(tmp_path / "faces"), "--out", tmp_path / "run")
    assert finished.code == 2, finished.err
    assert "1 validation image(s) are also in the training data, the first is 0 (validation: 1)" in finished.err


def test_inspect_lists_a_photograph_that_was_saved_again(fptk: Command, tmp_path: Path) -> None:
    finished = fptk("data", "inspect", leaking(tmp_path / "faces"), "--jobs", 1, "--json", tmp_path / "found.json")
    assert finished.code == 0, finished.err
    assert json.loads((tmp_path / "found.json").read_text())["duplicates"] == [["train/0.jpg", "val/1.png"]]


def test_hash_of_pixels_goes_through_subsets(tmp_path: Path) -> None:
    root = leaking(tmp_path / "faces")
    train, val = FolderDataset(root / "train"), FolderDataset(root / "val")
    assert pixel_hash_of(Subset(train, [1, 0]), 1) == pixel_hash_of(val, 1) == pixel_hash(train[0].image)
    assert pixel_hash_of(ConcatDataset([train, val]), 3) == pixel_hash(train[0].image)
    assert train.content_hash(0) != val.content_hash(1)
    assert find_duplicates(Subset(train, [1, 0]), val) == [("0", "1")]


def test_what_was_decoded_once_is_not_decoded_again_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = leaking(tmp_path / "faces")
    train, val = FolderDataset(root / "train"), FolderDataset(root / "val")
    decoded: list[Path] = []
    decode = pixels_module.decode_image
    monkeypatch.setattr(pixels_module, "decode_image", lambda path: decoded.append(path) or decode(path))
    assert find_duplicates(train, val) == [("0", "1")]
    assert len(decoded) == 3, "a JPEG that no other looks like at an eighth of its size is left out"
    assert find_duplicates(train, val) == [("0", "1")]
    assert len(decoded) == 3
    Image.fromarray(labels(60)).convert("RGB").save(root / "val" / "images" / "1.png")
    assert find_duplicates(train, val) == []
    assert len(decoded) == 4


def test_photograph_whose_file_was_rewritten_as_a_jpeg_is_found(tmp_path: Path) -> None:
    """What removing or adding EXIF does: the same coefficients, other bytes."""
    train, val = Bad(tmp_path / "train"), Bad(tmp_path / "val")
    for number in range(2):
        pixels = np.random.default_rng(50 + number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(val.image(f"{number}.jpg"))
    content = train.image("1.jpg").read_bytes()
    val.image("0.jpg").write_bytes(content[:2] + b"\xff\xfe\x00\x09comment" + content[2:])
    assert find_duplicates(FolderDataset(train.folder), FolderDataset(val.folder)) == [("1", "0")]


def test_leak_check_decodes_only_sizes_that_occur_on_both_sides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    train, val = Bad(tmp_path / "train"), Bad(tmp_path / "val")
    for path in val.folder.joinpath("images").iterdir():
        Image.open(path).resize((48, 32)).save(path)
    monkeypatch.setattr(pixels_module, "decode_image", lambda path: pytest.fail(f"{path} was decoded"))
    assert find_duplicates(FolderDataset(train.folder), FolderDataset(val.folder)) == []


@pytest.mark.parametrize("content", [b"no database", b""])
def test_leak_check_does_without_a_damaged_cache(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "cache" / "fptk").mkdir(parents=True)
    (tmp_path / "cache" / "fptk" / pixels_module.FILE).write_bytes(content)
    root = leaking(tmp_path / "faces")
    assert len(find_duplicates(FolderDataset(root / "train"), FolderDataset(root / "val"))) == 1


# Converting and drawing.


def release(folder: Path, suffix: str = ".jpg") -> Path:
    """A release of two faces, 0 and 1, with a skin and a hair part each."""
    annotations = folder / "CelebAMask-HQ-mask-anno" / "0"
    annotations.mkdir(parents=True)
    (folder / "CelebA-HQ-img").mkdir()
    (folder / "CelebA-HQ-to-CelebA-mapping.txt").write_text("idx orig_idx orig_file\n0 0 a.jpg\n1 1 b.jpg\n")
    for number in range(2):
        picture = Image.fromarray(np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8))
        picture.save(folder / "CelebA-HQ-img" / f"{number}{suffix}")
        for part, (top, bottom) in {"skin": (8, 40), "hair": (32, 60)}.items():
            area = np.zeros((64, 64, 3), np.uint8)
            area[top:bottom, 8:56] = 255
            Image.fromarray(area).save(annotations / f"{number:05d}_{part}.png")
    return folder


def convert(fptk: Command, source: Path, out: Path) -> Any:
    return fptk("data", "convert", source, "--out", out, "--size", 64, "--jobs", 1)


@pytest.mark.parametrize("suffix", [".jpg", ".JPG", ".jpeg", ".png", ".PNG", ".webp", ".bmp"])
def test_convert_takes_photographs_of_every_kind(suffix: str, fptk: Command, tmp_path: Path) -> None:
    finished = convert(fptk, release(tmp_path / "release", suffix), tmp_path / "out")
    assert finished.code == 0, finished.err
    dataset = FolderDataset(tmp_path / "out" / "train")
    assert len(dataset) == 2
    source = tmp_path / "release" / "CelebA-HQ-img" / f"0{suffix}"
    assert np.array_equal(dataset[0].image, read_image(source)), "copied as it is"
    assert "2 were there already" in convert(fptk, tmp_path / "release", tmp_path / "out").out


def test_convert_without_a_photograph_says_so(fptk: Command, tmp_path: Path) -> None:
    source = release(tmp_path / "release")
    for path in (source / "CelebA-HQ-img").iterdir():
        path.rename(path.with_suffix(".tiff"))
    finished = convert(fptk, source, tmp_path / "out")
    assert finished.code == 2
    assert "no photograph" in finished.err


def test_convert_turns_a_photograph_upright_once(fptk: Command, tmp_path: Path) -> None:
    source = release(tmp_path / "release", ".png")
    path = source / "CelebA-HQ-img" / "0.png"
    with Image.open(path) as picture:
        picture.save(path, exif=exif(3))
    upright = read_image(path)
    assert convert(fptk, source, tmp_path / "out").code == 0
    sample = FolderDataset(tmp_path / "out" / "train")[0]
    assert np.abs(sample.image.astype(int) - upright).mean() < 40, "a JPEG of it"
    with Image.open(tmp_path / "out" / "train" / "images" / "00000.jpg") as written:
        assert not written.getexif()


PARTS: dict[str, Callable[[np.ndarray], Image.Image]] = {
    "as it was": lambda area: Image.fromarray(area),
    "red only": lambda area: Image.fromarray(area * np.array([1, 0, 0], np.uint8)),
    "grey": lambda area: Image.fromarray(area[..., 0]),
    "one bit": lambda area: Image.fromarray(area[..., 0]).convert("1"),
    "ones": lambda area: Image.fromarray(area[..., 0] // 255),
    "JPEG once": lambda area: Image.open(io.BytesIO(as_jpeg(area))).convert("RGB"),
    "red JPEG once": lambda area: Image.open(io.BytesIO(as_jpeg(area * np.array([1, 0, 0], np.uint8)))).convert("RGB"),
    "white with a shape in alpha": lambda area: Image.merge(
        "RGBA", [*[Image.new("L", area.shape[:2], 255)] * 3, Image.fromarray(area[..., 0])]
    ),
    "smooth edges": lambda area: Image.fromarray(area).resize((128, 128)).resize((64, 64), Image.Resampling.BILINEAR),
}


def as_jpeg(area: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(area).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


@pytest.mark.parametrize("name", PARTS)
def test_parts_that_were_saved_again_convert_to_the_same_mask(name: str, fptk: Command, tmp_path: Path) -> None:
    source = release(tmp_path / "release")
    convert(fptk, source, tmp_path / "right")
    for path in (source / "CelebAMask-HQ-mask-anno" / "0").iterdir():
        PARTS[name](np.array(Image.open(path))).save(path)
    finished = convert(fptk, source, tmp_path / "out")
    assert finished.code == 0, finished.err
    right, mask = (read_mask(tmp_path / name / "train" / "masks" / "00000.png") for name in ("right", "out"))
    assert (right != mask).mean() < (0.05 if "red JPEG" in name else 0.01)
    assert set(np.unique(mask)) == {0, CLASSES.index("skin"), CLASSES.index("hair")}


def dark(source: Path) -> None:
    path = source / "CelebAMask-HQ-mask-anno" / "0" / "00000_skin.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8) // 2).save(path)


CONVERSIONS: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "part of greys": (dark, ["00000_skin.png is not black and white"]),
    "two photographs of one face": (
        lambda source: save_again(source / "CelebA-HQ-img" / "0.jpg", source / "CelebA-HQ-img" / "0.png"),
        ["0.jpg and 0.png are photographs of one face"],
    ),
    "two files of one part": (
        lambda source: save_again(
            source / "CelebAMask-HQ-mask-anno" / "0" / "00000_skin.png",
            source / "CelebAMask-HQ-mask-anno" / "0" / "00000_skin.jpg",
        ),
        ["00000_skin.jpg", "are one part"],
    ),
    "photograph is a FIFO": (
        lambda source: ((source / "CelebA-HQ-img" / "0.jpg").unlink(), os.mkfifo(source / "CelebA-HQ-img" / "0.jpg")),
        ["0.jpg", "not a regular file"],
    ),
    "mapping is a FIFO": (
        lambda source: (
            (source / "CelebA-HQ-to-CelebA-mapping.txt").unlink(),
            os.mkfifo(source / "CelebA-HQ-to-CelebA-mapping.txt"),
        ),
        ["mapping file", "not a regular file"],
    ),
    "mapping with two answers": (
        lambda source: (source / "CelebA-HQ-to-CelebA-mapping.txt").write_text("0 0 a\n1 1 b\n0 182638 c\n"),
        ["line 3", "face 0"],
    ),
}


@pytest.mark.parametrize("name", CONVERSIONS)
def test_convert_refuses_what_it_cannot_tell(name: str, fptk: Command, tmp_path: Path) -> None:
    spoil, words = CONVERSIONS[name]
    source = release(tmp_path / "release")
    spoil(source)
    finished = convert(fptk, source, tmp_path / "out")
    assert finished.code == 2
    assert [word for word in words if word not in finished.err] == []
    assert finished.err.splitlines()[-1].startswith("fptk: ")


@pytest.mark.parametrize("there", ["notes.txt", "train/images/mine.jpg", "train/images/00000.jpg", "fptk-convert.json"])
def test_convert_and_synth_write_over_nothing(there: str, fptk: Command, tmp_path: Path) -> None:
    source, file = release(tmp_path / "release"), tmp_path / "out" / there
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    finished = convert(fptk, source, tmp_path / "out")
    assert finished.code == 2
    assert file.read_text() == "mine"
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == [file]


def test_convert_keeps_each_file_that_is_there(fptk: Command, tmp_path: Path) -> None:
    source = release(tmp_path / "release")
    assert convert(fptk, source, tmp_path / "out").code == 0
    train = tmp_path / "out" / "train"
    (train / "images" / "00001.jpg").unlink()
    mended = labels()
    palette_mask(train / "masks" / "00001.png", mended, CELEBAMASK.flat_palette())
    assert convert(fptk, source, tmp_path / "out").code == 0
    assert np.array_equal(read_mask(train / "masks" / "00001.png"), mended)
    assert (train / "images" / "00001.jpg").exists()


def test_convert_does_not_write_into_the_release(fptk: Command, tmp_path: Path) -> None:
    source = release(tmp_path / "release")
    before = sorted(source.rglob("*"))
    assert convert(fptk, source, source).code == 2
    assert sorted(source.rglob("*")) == before


@pytest.mark.parametrize("split", ["train", "val"])
def test_synth_refuses_before_it_draws(split: str, fptk: Command, tmp_path: Path) -> None:
    (tmp_path / "out" / split).mkdir(parents=True)
    (tmp_path / "out" / split / "mine.txt").write_text("mine")
    finished = fptk("data", "synth", "--out", tmp_path / "out", "--count", 2, "--val", 1, "--size", 32)
    assert finished.code == 2
    assert "is not empty" in finished.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == [split]


@pytest.mark.parametrize("size", [31, 4097, 10**6])
def test_sizes_beyond_sense_are_refused(size: int, fptk: Command, tmp_path: Path) -> None:
    finished = fptk("data", "synth", "--out", tmp_path / "out", "--count", 1, "--size", size)
    assert finished.code == 2
    assert "4096" in finished.err


def test_a_warning_is_one_line_on_stderr(tmp_path: Path) -> None:
    """In a process of its own: pytest keeps warnings to itself."""
    program = (
        "import sys, warnings, click, fptk.cli; from fptk.core.errors import FptkWarning\n"
        "@click.command()\n"
        "def command(): [warnings.warn('a\\nb [red]', FptkWarning) for _ in range(2)]\n"
        "fptk.cli.LazyGroup.get_command = lambda *_: command\n"
        "sys.argv = ['fptk', 'doctor']; fptk.cli.main()"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (finished.stdout, finished.stderr) == ("", "warning: a\\nb [red]\n" * 2)


def test_a_script_hears_of_orientations_as_a_warning(tmp_path: Path) -> None:
    bad = Bad(tmp_path / "faces")
    bad.turned(6)
    with pytest.warns(FptkWarning, match="EXIF orientation"):
        list(FolderDataset(bad.folder))


def test_warnings_of_pillow_do_not_reach_the_terminal(tmp_path: Path) -> None:
    """In a process of its own: pytest keeps warnings to itself."""
    bad = Bad(tmp_path / "faces")
    picture = Image.fromarray(labels())
    picture.putpalette(CELEBAMASK.flat_palette())
    picture.save(bad.image("0.png"), transparency=bytes(range(19)))
    bad.image().unlink()
    program = (
        "import sys; from PIL import Image; Image.MAX_IMAGE_PIXELS = 600; from fptk.cli import main; "
        f"sys.argv = ['fptk', 'data', 'inspect', {str(bad.folder)!r}, '--jobs', '1']; main()"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stderr) == (0, "")
