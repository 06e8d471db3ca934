"""Any data set written out as a split folder of the CE7454 layout."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from fptk.core.classes import CELEBAMASK
from fptk.core.dataset import FaceParsingDataset, Sample
from fptk.core.errors import InputError
from fptk.core.files import atomic_folder, make_folder, write_text, writing
from fptk.core.progress import SILENT, Listener, track
from fptk.data.class_file import CLASS_FILE, class_file_text

JPEG_QUALITY = 95


def write_dataset(dataset: FaceParsingDataset, folder: Path, split: str = "train", listener: Listener = SILENT) -> Path:
    """Write ``<split>/images/KEY.jpg`` (quality 95) and ``<split>/masks/KEY.png`` (palette PNG) under ``folder``.

    The split folder appears whole or not at all. A class list that isn't CelebAMask-HQ's goes into
    ``<folder>/classes.yaml``. ``listener`` is told how many samples are written.

    Returns:
        The split folder.

    Raises:
        InputError: it exists and isn't empty, or it cannot be written.
    """
    target = check_target(folder, split)
    make_folder(folder)
    palette = dataset.classes.flat_palette()
    with atomic_folder(target) as temporary:
        for name in ("images", "masks"):
            (temporary / name).mkdir()
        for index in track(listener, range(len(dataset)), f"writing {split}"):
            _write_pair(dataset[index], temporary, palette)
    if dataset.classes.difference(CELEBAMASK):
        write_text(folder / CLASS_FILE, class_file_text(dataset.classes.without_files()))
    return target


def check_target(folder: Path, split: str) -> Path:
    """The split folder that :func:`write_dataset` would write; nothing is created.

    Raises:
        InputError: something is there already, or the system refuses to say.
    """
    target = folder / split
    with writing(target):
        there = target.exists() or target.is_symlink()
        taken = there and not (target.is_dir() and next(target.iterdir(), None) is None)
    if taken:
        raise InputError(f"{target} exists and is not empty; remove it or choose another --out")
    return target


def _write_pair(sample: Sample, folder: Path, palette: list[int]) -> None:
    """JPEG without chroma subsampling: thin coloured things keep their edges."""
    Image.fromarray(sample.image).save(folder / "images" / f"{sample.key}.jpg", quality=JPEG_QUALITY, subsampling=0)
    mask = Image.fromarray(sample.mask)
    mask.putpalette(palette)
    mask.save(folder / "masks" / f"{sample.key}.png", optimize=True)
