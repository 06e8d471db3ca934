"""The original CelebAMask-HQ release as index masks in the CE7454 layout, with the official split.

The release holds 30,000 photographs (``CelebA-HQ-img/N.jpg``, 1024 x 1024), one PNG per face and part
(``CelebAMask-HQ-mask-anno/<0..14>/NNNNN_part.png``, 512 x 512) and the number of each face in CelebA, which decides its
split. Painting order and split follow ``face_parsing/Data_preprocessing/g_mask.py`` and ``g_partition.py`` of
https://github.com/switchablenorms/CelebAMask-HQ; the whole release gives 24,183 / 2,993 / 2,824 faces.
"""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from fptk.core.classes import CELEBAMASK
from fptk.core.dataset import UInt8Array
from fptk.core.errors import InputError
from fptk.core.files import atomic_file, make_folder, read_json, write_json, writing
from fptk.core.preprocess import Decoded, decode_image, opened_image, read_image, regular_file, resize_labels
from fptk.core.progress import SILENT, Listener, track
from fptk.data.layouts import RELEASE_FOLDERS
from fptk.data.listing import visible_names
from fptk.data.lists import SPLITS
from fptk.data.pairing import IMAGE_SUFFIXES
from fptk.data.parallel import parallel_map

BoolArray = npt.NDArray[np.bool_]

MAPPING_FILE = "CelebA-HQ-to-CelebA-mapping.txt"
FACES_PER_FOLDER = 2000
"""Folder ``k // 2000`` of the annotations holds the parts of face k."""

FIRST_VAL, FIRST_TEST = 162_771, 182_638
"""First CelebA number of val and of test, as ``g_partition.py`` compares them with the column ``orig_idx``.

(That column counts from 0 while CelebA's own list counts files from 1, so the official split of CelebAMask-HQ is off by
one face at each border against CelebA's. Published results use it as it is.)
"""

JPEG_QUALITY = 95
BLACK, WHITE = 64, 192
"""A part mask that was JPEG once is black up to the first value and white from the second; between them is noise."""

SETTINGS_FILE = "fptk-convert.json"
"""Written into the output: a second run with other settings must not mix with the first."""


@dataclass(frozen=True)
class Face:
    """One face of the release.

    Attributes:
        number: N of ``N.jpg``.
        split: ``train``, ``val`` or ``test``.
        file: name of the photograph.
    """

    number: int
    split: str
    file: str

    @property
    def stem(self) -> str:
        """File stem of the converted pair, five digits like the release's part names."""
        return f"{self.number:05d}"


@dataclass
class Conversion:
    """What :func:`convert_release` did.

    Attributes:
        written: faces written by this run, per split.
        kept: faces that an earlier run had written already, per split.
        failures: faces left out: (file stem, reason).
        absent: faces that the mapping file lists without a photograph being there (a partly unpacked release).
    """

    written: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[str, str]] = field(default_factory=list)
    absent: int = 0

    def count(self, split: str, stem: str, outcome: str | None) -> None:
        """Note what became of one face: ``None`` for written, :data:`KEPT`, or why it was left out."""
        if outcome is None:
            self.written[split] += 1
        elif outcome == KEPT:
            self.kept[split] += 1
        else:
            self.failures.append((stem, outcome))


def split_of(orig_idx: int) -> str:
    """Official split of the face that is number ``orig_idx`` (from 0) in CelebA."""
    if orig_idx >= FIRST_TEST:
        return "test"
    return "val" if orig_idx >= FIRST_VAL else "train"


def read_mapping(path: Path) -> dict[int, int]:
    """CelebA number (``orig_idx``, from 0) of each CelebA-HQ number (``idx``).

    Raises:
        InputError: the file is missing or holds a line that is not ``idx orig_idx orig_file``.
    """
    regular_file(path, "mapping file")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"mapping file {path} cannot be read: {error}") from error
    mapping: dict[int, int] = {}
    for number, line in enumerate(lines, start=1):
        columns = line.split()
        if not columns or columns[0] == "idx":
            continue
        try:
            face, orig = int(columns[0]), int(columns[1])
        except (ValueError, IndexError):
            raise InputError(
                f"mapping file {path}, line {number}: expected 'idx orig_idx file', got '{line[:80]}'"
            ) from None
        if mapping.setdefault(face, orig) != orig:
            raise InputError(f"mapping file {path}, line {number}: face {face} was {mapping[face]} before, now {orig}")
    return mapping


def read_release(source: Path) -> tuple[list[Face], Conversion]:
    """The faces of a release, or of a part of it, by the photographs that are there.

    Returns:
        The faces in order of their number, and a report that holds what is absent and what can't be a face.

    Raises:
        InputError: ``source`` is no CelebAMask-HQ release.
    """
    names = visible_names(source)
    missing = [name for name in (*RELEASE_FOLDERS, MAPPING_FILE) if name not in names]
    if missing:
        raise InputError(f"{source} is no CelebAMask-HQ release: {', '.join(missing)} not found in it")
    mapping = read_mapping(source / MAPPING_FILE)
    photographs: dict[int, list[str]] = defaultdict(list)
    report = Conversion()
    for name in visible_names(source / RELEASE_FOLDERS[0]):
        stem, suffix = Path(name).stem, Path(name).suffix
        if suffix.lower() not in IMAGE_SUFFIXES:
            continue
        number = int(stem) if stem.isdecimal() else None
        if number is None or number not in mapping:
            report.failures.append((name, f"{MAPPING_FILE} has no such face"))
        else:
            photographs[number].append(name)
    report.absent = len(mapping) - len(photographs)
    faces: list[Face] = []
    for number, names in sorted(photographs.items()):
        face = Face(number, split_of(mapping[number]), names[0])
        if len(names) > 1:
            report.failures.append((face.stem, f"{' and '.join(names)} are photographs of one face; remove one"))
        else:
            faces.append(face)
    return faces, report


def compose_mask(annotations: Path, number: int) -> UInt8Array:
    """Paint the parts of a face into one label map, later classes over earlier ones.

    Args:
        annotations: the folder ``CelebAMask-HQ-mask-anno``.
        number: the face's number.

    Returns:
        uint8 (H, W), labels 0-18; (512, 512) in the release.

    Raises:
        InputError: the face has no part at all, a part is damaged or not black and white, or parts differ in size.
    """
    folder = annotations / str(number // FACES_PER_FOLDER)
    mask: UInt8Array | None = None
    parts = _parts_in(folder, _changed(folder))
    for label, part in enumerate(CELEBAMASK.names[1:], start=1):
        names = parts.get(f"{number:05d}_{part}", [])
        if not names:
            continue
        path = folder / names[0]
        if len(names) > 1:
            raise InputError(f"{path} and {names[1]} are one part of face {number}; remove one")
        painted = read_part(path)
        if mask is None:
            mask = np.zeros(painted.shape, np.uint8)
        if painted.shape != mask.shape:
            raise InputError(f"part {path} is {painted.shape[1]}x{painted.shape[0]}, others are {mask.shape[1]} wide")
        mask[painted] = label
    if mask is None:
        raise InputError(f"no part of face {number} in {folder}")
    return mask


def read_part(path: Path) -> BoolArray:
    """The pixels that a part mask paints, bool (H, W).

    The release's parts are black and white in all three channels, of which ``g_mask.py`` looks at the blue one. Parts
    that another tool has saved again may show white in one channel or in alpha, be of two other values, or hold the
    noise of a JPEG; the brightest channel of a pixel decides here, and of more than two values :data:`BLACK` and
    :data:`WHITE` tell.

    Raises:
        InputError: the file is damaged, or most of what isn't black isn't white either.
    """
    light: UInt8Array = read_image(path).max(axis=2)
    with opened_image(path, "part") as image:
        transparent = "A" in image.getbands() or "transparency" in image.info
        if transparent:
            alpha = np.array(image.convert("RGBA").getchannel("A"))
            if alpha.shape == light.shape:
                light = np.where(alpha < WHITE, 0, light)
    values = np.unique(light)
    if len(values) <= 2:
        return np.asarray(light > (values[0] if len(values) == 2 else 0))
    white, between = int((light >= WHITE).sum()), int(((light > BLACK) & (light < WHITE)).sum())
    if between > white or white == 0:
        raise InputError(
            f"part {path} is not black and white: {between} pixels lie between {BLACK} and {WHITE}, {white} above; "
            "take the original part masks of the release"
        )
    return np.asarray(light >= (BLACK + WHITE) // 2)


def _changed(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=16)
def _parts_in(folder: Path, changed: int) -> dict[str, list[str]]:
    """File names of the pictures in an annotation folder by stem, as of its last change (part of the cache's key)."""
    parts: dict[str, list[str]] = defaultdict(list)
    for name in visible_names(folder) if changed else ():
        path = Path(name)
        if path.suffix.lower() in IMAGE_SUFFIXES:
            parts[path.stem].append(name)
    return parts


def convert_release(
    source: Path,
    out: Path,
    *,
    splits: Sequence[str] = SPLITS,
    size: int = 512,
    jobs: int | None = None,
    listener: Listener = SILENT,
) -> Conversion:
    """Convert a release to ``OUT/{train,val,test}/{images,masks}``.

    A file is written whole or not at all, and a file that is there already is kept, so that a run that was stopped
    goes on where it ended. A face that cannot be read is left out and reported.

    Args:
        source: folder of the release.
        out: folder of the converted data set; new, or one that an earlier run with the same ``size`` began.
        splits: which of ``train``, ``val``, ``test`` to write.
        size: side of images and masks in pixels; an upright image that has it already is copied byte for byte, another
            is resized (Lanczos) and saved as JPEG of quality 95. Masks are resized by nearest neighbour.
        jobs: processes; None for one per core.
        listener: is told how many faces are done.

    Raises:
        InputError: ``source`` is no release, ``out`` holds something else, or the disk cannot be written.
    """
    faces, result = read_release(source)
    faces = [face for face in faces if face.split in splits]
    claim(out, "CelebAMask-HQ", size)
    for split in splits:
        make_folder(out / split / "images")
        make_folder(out / split / "masks")
    work = partial(_convert_face, source, out, size)
    outcomes = track(listener, parallel_map(work, faces, jobs), "converting faces", len(faces))
    for face, outcome in zip(faces, outcomes, strict=True):
        result.count(face.split, face.stem, outcome)
    return result


KEPT = "kept"
"""Outcome of a pair that an earlier run had written already."""


def claim(out: Path, source: str, size: int) -> None:
    """Make ``out`` this conversion's, or find that it is already."""
    settings = {"source": source, "size": size}
    path = out / SETTINGS_FILE
    with writing(out):
        begun = path.exists()
        taken = out.exists() and (not out.is_dir() or any(out.iterdir()))
    if begun:
        found = read_json(path, "conversion settings")
        if found != settings:
            raise InputError(f"{out} was converted with {found}, now asked for {settings}; choose another --out")
    elif taken:
        raise InputError(f"{out} holds something that this command did not write; choose another --out")
    else:
        write_json(path, settings)


def _convert_face(source: Path, out: Path, size: int, face: Face) -> str | None:
    """Write what is missing of one pair; None when done, ``KEPT`` when it was there, else why it can't be read."""
    photograph = source / RELEASE_FOLDERS[0] / face.file
    suffix = photograph.suffix.lower()
    images = out / face.split / "images"
    mask_file = out / face.split / "masks" / f"{face.stem}.png"
    kept = next((file for end in (".jpg", suffix) if (file := images / f"{face.stem}{end}").exists()), None)
    if kept is not None and mask_file.exists():
        return KEPT
    try:
        image = decode_image(photograph)
        mask = compose_mask(source / RELEASE_FOLDERS[1], face.number)
    except InputError as error:
        return str(error)
    # The mask goes first: a mask whose image is still missing is ignored by the readers, the reverse is an error.
    if not mask_file.exists():
        _save_mask(mask_file, resize_labels(mask, (size, size)))
    if kept is None:
        _save_image(images, face.stem, photograph, image, size)
    return None


def _save_mask(path: Path, mask: UInt8Array) -> None:
    picture = Image.fromarray(mask)
    picture.putpalette(CELEBAMASK.flat_palette())
    with atomic_file(path) as temporary:
        picture.save(temporary)


def _save_image(folder: Path, stem: str, photograph: Path, image: Decoded, size: int) -> None:
    """Copy a photograph that has the size already, or write a JPEG; one that EXIF turns is never copied."""
    if image.pixels.shape[:2] == (size, size) and not image.turned:
        suffix = photograph.suffix.lower().replace(".jpeg", ".jpg")
        with atomic_file(folder / f"{stem}{suffix}") as temporary:
            shutil.copyfile(photograph, temporary)
        return
    resized = Image.fromarray(image.pixels).resize((size, size), Image.Resampling.LANCZOS)
    with atomic_file(folder / f"{stem}.jpg") as temporary:
        resized.save(temporary, quality=JPEG_QUALITY, subsampling=0)
