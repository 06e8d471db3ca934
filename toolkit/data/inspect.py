"""What a data set holds and what is wrong with it: every fault is listed, none ends the inspection."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fptk.core.classes import CELEBAMASK, ClassSet
from fptk.core.dataset import UInt8Array, pixel_hash
from fptk.core.errors import InputError
from fptk.core.files import sha256_file
from fptk.core.masks import class_counts, decode_mask, stored_mask, unknown_values
from fptk.core.preprocess import decode_image
from fptk.core.progress import SILENT, Listener, track
from fptk.data.folders import one_turned, size_mismatch
from fptk.data.layouts import Split, find_splits
from fptk.data.pairing import no_image, unicode_note
from fptk.data.parallel import parallel_map
from fptk.data.pixels import FileState, keep_hashes, state_of
from fptk.data.statistics import SampleStatistics, StatisticsCache, mean_and_std, measure, pair_key

Severity = Literal["error", "warning"]

KINDS: dict[str, Severity] = {
    "unreadable split": "error",
    "image without mask": "error",
    "two images of one stem": "error",
    "two masks of one stem": "error",
    "damaged image": "error",
    "damaged mask": "error",
    "label of no class": "error",
    "mask of another size": "error",
    "mask without image": "warning",
    "EXIF orientation of one file only": "warning",
    "duplicate across splits": "warning",
    "duplicate within a split": "warning",
    "left and right eye swapped": "warning",
    "class that never occurs": "warning",
    "class in the wrong place": "warning",
}
"""Every kind of finding; an ``error`` would stop a training or an evaluation that reads the file."""


_ABOVE = (
    ("l_brow", "l_eye"),
    ("r_brow", "r_eye"),
    ("l_eye", "nose"),
    ("r_eye", "nose"),
    ("nose", "u_lip"),
    ("u_lip", "l_lip"),
    ("l_lip", "neck"),
    ("neck", "cloth"),
    ("hat", "nose"),
)
"""Classes of which the first lies above the second in an upright face."""

_MASKS_TO_JUDGE = 5
"""Masks that show both classes of a pair, below which nothing is said of their places."""

_BISENET = (0, 1, 10, 6, 4, 5, 2, 3, 7, 8, 11, 12, 13, 17, 18, 9, 15, 14, 16)
"""Label of each class of CelebAMask-HQ in the order of the well-known BiSeNet face parser (face-parsing.PyTorch)."""


@dataclass(frozen=True)
class Finding:
    """One fault.

    Attributes:
        kind: a key of :data:`KINDS`.
        split: the split it is in.
        file: the file or folder, as text.
        message: one sentence: what was found and what to do.
    """

    kind: str
    split: str
    file: str
    message: str

    @property
    def severity(self) -> Severity:
        """``error`` or ``warning``, by kind."""
        return KINDS[self.kind]


@dataclass
class SplitReport:
    """Figures of one split.

    Attributes:
        folder: the split folder.
        classes: what its masks hold.
        images: image files.
        masks: mask files.
        sizes: number of images that could be decoded, by ``WIDTHxHEIGHT``.
        readable: pairs that were read and are valid; the figures below are of these.
        class_pixels: int64 (C,), pixels of each class.
        class_images: int64 (C,), images in which each class occurs.
        channel_sums: int64 (3,), sum of the red, green and blue values 0-255.
        channel_squares: int64 (3,), sum of their squares.
        eyes: masks that show both eyes.
        eyes_swapped: of those, masks whose left eye stands left of the right one: a flip without label swap.
        pixels: pixels of all readable pairs, ignored ones too.
        above: int64 (P, 2), for each pair of :data:`_ABOVE` the masks that show both classes, and those in which the
            first lies below the second.
    """

    folder: Path
    classes: ClassSet
    images: int = 0
    masks: int = 0
    sizes: Counter[str] = field(default_factory=Counter)
    readable: int = 0
    class_pixels: npt.NDArray[np.int64] = field(init=False)
    class_images: npt.NDArray[np.int64] = field(init=False)
    above: npt.NDArray[np.int64] = field(init=False)
    channel_sums: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(3, np.int64))
    channel_squares: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(3, np.int64))
    eyes: int = 0
    eyes_swapped: int = 0
    pixels: int = 0

    def __post_init__(self) -> None:
        self.class_pixels, self.class_images = (np.zeros(len(self.classes), np.int64) for _ in range(2))
        self.above = np.zeros((len(_ABOVE), 2), np.int64)

    @property
    def mean_and_std(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and deviation of the colour channels, of values scaled to 0-1; None where no pair is readable."""
        if not self.readable:
            return None
        return mean_and_std([SampleStatistics(self.class_pixels, self.channel_sums, self.channel_squares, self.pixels)])

    @property
    def pixel_share(self) -> npt.NDArray[np.float64]:
        """float64 (C,), share of all pixels that are not ignored, 0-1."""
        return self.class_pixels / max(1, int(self.class_pixels.sum()))

    @property
    def image_share(self) -> npt.NDArray[np.float64]:
        """float64 (C,), share of readable images in which the class occurs, 0-1."""
        return self.class_images / max(1, self.readable)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON."""
        columns = self.class_pixels, self.pixel_share, self.class_images, self.image_share
        rows = zip(self.classes.names, *columns, strict=True)
        mean, std = self.mean_and_std or (None, None)
        return {
            "folder": str(self.folder),
            "images": self.images,
            "masks": self.masks,
            "readable": self.readable,
            "ignored_share": 1 - int(self.class_pixels.sum()) / max(1, self.pixels),
            "sizes": dict(self.sizes.most_common()),
            "classes": {
                name: {
                    "pixels": int(pixels),
                    "pixel_share": float(pixel_share),
                    "images": int(images),
                    "image_share": float(image_share),
                }
                for name, pixels, pixel_share, images, image_share in rows
            },
            "channels": {"mean": mean, "std": std},
            "eyes": {"checked": self.eyes, "swapped": self.eyes_swapped},
        }


@dataclass
class Inspection:
    """What :func:`inspect_folder` found.

    Attributes:
        folder: the data folder.
        splits: figures by split name.
        duplicates: groups of images with the same pixels, each image as ``SPLIT/FILE``.
        findings: every fault, errors before warnings.
    """

    folder: Path
    splits: dict[str, SplitReport] = field(default_factory=dict)
    duplicates: list[list[str]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def errors(self) -> list[Finding]:
        """Findings that would stop a training."""
        return [finding for finding in self.findings if finding.severity == "error"]

    def summary(self) -> str:
        """Findings counted by kind, errors first: ``2 x damaged image, 1 x mask without image``."""
        counts = Counter(finding.kind for finding in self.findings)
        return ", ".join(f"{counts[kind]} × {kind}" for kind in KINDS if counts[kind])

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers, ready for JSON."""
        return {
            "folder": str(self.folder),
            "splits": {name: report.as_dict() for name, report in self.splits.items()},
            "duplicates": self.duplicates,
            "errors": len(self.errors),
            "warnings": len(self.findings) - len(self.errors),
            "findings": [
                {"severity": f.severity, "kind": f.kind, "split": f.split, "file": f.file, "message": f.message}
                for f in self.findings
            ],
        }


@dataclass(frozen=True)
class _Pair:
    split: str
    image: Path
    mask: Path | None
    classes: ClassSet


@dataclass
class _Examined:
    """What one pair's files say; ``mask`` figures are None where the pair is not valid.

    Attributes:
        identity: of the photograph, to find duplicates: the hash of its pixels, or of its bytes where it's damaged.
        state: of the photograph's file before it was read; None where it could not be decoded.
        sides: width and height of the photograph.
        centers: float64 (C, 2), mean column and row of each class; NaN where it has no pixel.
    """

    faults: list[tuple[str, Path, str]] = field(default_factory=list)
    identity: str | None = None
    state: FileState | None = None
    sides: tuple[int, int] | None = None
    key: str | None = None
    statistics: SampleStatistics | None = None
    centers: npt.NDArray[np.float64] | None = None


def inspect_folder(
    folder: Path,
    *,
    jobs: int | None = None,
    cache: StatisticsCache | None = None,
    listener: Listener = SILENT,
) -> Inspection:
    """Read every file of a data set root or split folder.

    Args:
        folder: data set root or split folder.
        jobs: processes; None for one per core.
        cache: where to leave what was counted of each valid pair, for the trainings to come; the hashes of the pixels
            go into the user's cache too. None to leave nothing.
        listener: is told how many pairs are read.

    Raises:
        InputError: ``folder`` itself is missing, empty or of no known layout; faults inside it become findings.
    """
    result = Inspection(folder)
    pairs: list[_Pair] = []
    for split in find_splits(folder).by_name.values():
        pairs += _list_split(result, split)
    hashes: dict[str, list[_Pair]] = defaultdict(list)
    counted: dict[str, SampleStatistics] = {}
    decoded: dict[FileState, str] = {}
    results = track(listener, parallel_map(_examine, pairs, jobs), "reading pairs", len(pairs))
    for pair, examined in zip(pairs, results, strict=True):
        _count(result, pair, examined)
        if examined.identity is not None:
            hashes[examined.identity].append(pair)
            if examined.state is not None:
                decoded[examined.state] = examined.identity
        if examined.key is not None and examined.statistics is not None:
            counted[examined.key] = examined.statistics
    if cache is not None:
        cache.put(counted)
        keep_hashes(decoded)
    _report_duplicates(result, hashes.values())
    _report_classes(result)
    order = list(KINDS)
    result.findings.sort(key=lambda finding: order.index(finding.kind))
    return result


def _list_split(result: Inspection, split: Split) -> list[_Pair]:
    """Look at a split's file names; report what they show and return the pairs to examine."""
    name, folder = split.name, split.folder
    report = result.splits[name] = SplitReport(folder, split.classes)
    try:
        pairing = split.pairing()
    except InputError as error:
        result.findings.append(Finding("unreadable split", name, str(folder), str(error)))
        return []
    report.images = len(pairing.images) + len(pairing.clashes)
    report.masks = len(pairing.masks) + len(pairing.unused) + len(pairing.mask_clashes)
    found = [
        *(("image without mask", pairing.images[key], pairing.advice(key)) for key in pairing.without_mask),
        *(("mask without image", mask, "it is not used") for mask in pairing.unused),
        *(("two images of one stem", *_beside(*clash)) for clash in pairing.clashes),
        *(("two masks of one stem", *_beside(*clash)) for clash in pairing.mask_clashes),
    ]
    result.findings += [Finding(kind, name, str(path), f"{kind}: {path.name}; {what}") for kind, path, what in found]
    if not pairing.images:
        result.findings.append(Finding("unreadable split", name, str(folder), no_image(folder, pairing)))
    return [_Pair(name, image, pairing.masks.get(key), split.classes) for key, image in pairing.images.items()]


def _beside(first: Path, clash: Path) -> tuple[Path, str]:
    return clash, f"beside {first.name}{unicode_note(first, clash)}"


def _examine(pair: _Pair) -> _Examined:
    """Decode one pair (runs in a worker process)."""
    result, image, mask = _Examined(), None, None
    content_hash = _content_hash(pair.image)
    try:
        state = state_of(pair.image)
        image = decode_image(pair.image)
        result.state, result.sides = state, (image.pixels.shape[1], image.pixels.shape[0])
    except InputError as error:
        result.faults.append(("damaged image", pair.image, str(error)))
    result.identity = pixel_hash(image.pixels) if image is not None else content_hash
    if pair.mask is None:
        return result
    try:
        mask = decode_mask(pair.mask, pair.classes)
    except InputError as error:
        result.faults.append(_mask_fault(pair.mask, pair.classes, error))
    if image is None or mask is None:
        return result
    if mask.pixels.shape != image.pixels.shape[:2]:
        fault = size_mismatch(pair.mask, mask, image)
        result.faults.append(("mask of another size", pair.mask, fault))
        return result
    if mask.turned != image.turned:
        result.faults.append(("EXIF orientation of one file only", pair.mask, one_turned(pair.mask, mask)))
    result.statistics = measure(image.pixels, mask.pixels, pair.classes)
    mask_hash = _content_hash(pair.mask)
    if content_hash is not None and mask_hash is not None:
        result.key = pair_key(content_hash, mask_hash, pair.classes)
    result.centers = _centers(mask.pixels, len(pair.classes))
    return result


def _content_hash(path: Path) -> str | None:
    """sha256 of a regular file that can be read; of another, reading says what is wrong with it."""
    try:
        return sha256_file(path) if path.is_file() else None
    except OSError:
        return None


def _mask_fault(path: Path, classes: ClassSet, error: InputError) -> tuple[str, Path, str]:
    """Tell a mask with wrong labels, which it lists, from one that is no mask at all."""
    try:
        pixels = stored_mask(path).pixels
    except InputError:
        return "damaged mask", path, str(error)
    labels, counts = unknown_values(pixels, classes) if pixels.ndim == 2 else ([], [])
    if not labels:
        return "damaged mask" if pixels.ndim == 2 else "label of no class", path, str(error)
    listed = ", ".join(f"{label} ({count} px)" for label, count in zip(labels[:5], counts, strict=False))
    more = f" and {len(labels) - 5} more labels" if len(labels) > 5 else ""
    return "label of no class", path, f"mask {path} holds {listed}{more}, and the data set has {classes.words}"


def _centers(mask: UInt8Array, count: int) -> npt.NDArray[np.float64]:
    """Mean column and row of each class, float64 (C, 2); NaN where it has no pixel."""
    pixels = class_counts(mask, count)
    columns = np.arange(mask.shape[1], dtype=np.float64)
    rows = np.stack([class_counts(row, count) for row in mask])  # a histogram of each row
    down = np.arange(mask.shape[0], dtype=np.float64) @ rows
    across = np.bincount(mask.ravel(), np.broadcast_to(columns, mask.shape).ravel(), minlength=count)[:count]
    with np.errstate(invalid="ignore"):
        return np.asarray(np.stack([across, down], axis=1) / pixels[:, None])


def _count(result: Inspection, pair: _Pair, examined: _Examined) -> None:
    """Add one examined pair to the figures and findings of its split."""
    report = result.splits[pair.split]
    result.findings += [Finding(kind, pair.split, str(path), message) for kind, path, message in examined.faults]
    if examined.sides is not None:
        report.sizes[f"{examined.sides[0]}x{examined.sides[1]}"] += 1
    if examined.statistics is None:
        return
    report.readable += 1
    report.class_pixels += examined.statistics.class_pixels
    report.pixels += examined.statistics.pixels
    report.class_images += examined.statistics.class_pixels > 0
    report.channel_sums += examined.statistics.channel_sums
    report.channel_squares += examined.statistics.channel_squares
    if examined.centers is not None:
        _count_places(result, pair, report, examined.centers)


def _count_places(result: Inspection, pair: _Pair, report: SplitReport, centers: npt.NDArray[np.float64]) -> None:
    """Add where the classes of one mask lie."""
    place = {name: centers[label] for label, name in enumerate(report.classes.names)}
    unknown = np.full(2, np.nan)
    for row, (upper, lower) in enumerate(_ABOVE):
        apart = place.get(lower, unknown)[1] - place.get(upper, unknown)[1]
        report.above[row] += not np.isnan(apart), apart < 0
    apart = float(place.get("l_eye", unknown)[0] - place.get("r_eye", unknown)[0])
    report.eyes += not np.isnan(apart)
    if apart <= 0:
        report.eyes_swapped += 1
        kind = "left and right eye swapped"
        message = f"mask {pair.mask}: the subject's left eye lies {-apart:.0f} px left of the right one"
        result.findings.append(Finding(kind, pair.split, str(pair.mask), message))


def _report_classes(result: Inspection) -> None:
    """What the masks of all splits together say against the names of their classes."""
    reports = [report for report in result.splits.values() if report.readable]
    if not reports:
        return
    classes, folder = reports[0].classes, str(result.folder)
    images = np.sum([report.class_images for report in reports], axis=0)
    never = [name for name, count in zip(classes.names, images, strict=True) if not count]
    if never:
        words = f"no mask shows {', '.join(never)}; a network cannot learn them, and no gate can judge them"
        result.findings.append(Finding("class that never occurs", "", folder, words))
    wrong = [
        f"{upper} lies below {lower} in {below} of {seen} masks"
        for (upper, lower), (seen, below) in zip(_ABOVE, np.sum([each.above for each in reports], axis=0), strict=True)
        if seen >= _MASKS_TO_JUDGE and 2 * below > seen
    ]
    if wrong:
        known = classes.names == CELEBAMASK.names and len(wrong) > 1
        order = [CELEBAMASK.names[_BISENET.index(label)] for label in range(len(_BISENET))]
        hint = f"BiSeNet's face parser orders them {', '.join(order)}; " if known else ""
        words = f"{', '.join(wrong[:4])}: are the classes in another order? {hint}state the order in classes.yaml"
        result.findings.append(Finding("class in the wrong place", "", folder, words))


def _report_duplicates(result: Inspection, groups: Iterable[list[_Pair]]) -> None:
    for group in groups:
        if len(group) < 2:
            continue
        names = [f"{pair.split}/{pair.image.name}" for pair in group]
        across = len({pair.split for pair in group}) > 1
        kind = "duplicate across splits" if across else "duplicate within a split"
        result.duplicates.append(names)
        message = f"the same image {len(names)} times: {', '.join(names)}"
        result.findings.append(Finding(kind, group[0].split, str(group[0].image), message))
