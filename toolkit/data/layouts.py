"""How a data set lies on disk: one table of layouts, and the splits of a folder that one of them fits."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import partial
from pathlib import Path, PurePosixPath

from fptk.core.classes import ClassSet
from fptk.core.errors import InputError
from fptk.core.files import kind_of
from fptk.data.class_file import class_set_of
from fptk.data.listing import check_folder, shown
from fptk.data.lists import LIST_FILES, LIST_SUFFIXES, SPLITS, pair_listed, read_list
from fptk.data.pairing import NAMINGS, PICTURE_SUFFIXES, Pairing, pair_files

RELEASE_FOLDERS = ("CelebA-HQ-img", "CelebAMask-HQ-mask-anno")
"""Folders of the original CelebAMask-HQ release, which has to be converted first."""

_SPLIT = "{split}"
_ALIKE = 0.6
"""Likeness (0-1) of a folder's names to those of a layout from which on the layout is named as the nearest."""


@dataclass(frozen=True)
class Layout:
    """One way to lay out images and masks.

    Attributes:
        name: what errors call it.
        images: image folder below the data folder; ``{split}`` stands for train, val or test. Without it the data
            folder is one split.
        masks: mask folder, likewise.
        namings: how a mask's stem may follow from its image's, see :data:`~fptk.data.pairing.NAMINGS`.
    """

    name: str
    images: str
    masks: str
    namings: tuple[str, ...] = NAMINGS

    @property
    def parted(self) -> bool:
        """Whether it has splits."""
        return _SPLIT in self.images

    @property
    def by_split(self) -> bool:
        """Whether each split is a folder that holds images and masks, so that splits may be laid out differently."""
        return self.images.startswith(f"{_SPLIT}/")

    def folders(self, root: Path, split: str = SPLITS[0]) -> tuple[Path, Path]:
        """Image folder and mask folder of a split."""
        return root / self.images.format(split=split), root / self.masks.format(split=split)

    def text(self, split: str = SPLITS[0]) -> str:
        """The layout in words, for errors: ``img_dir/train + ann_dir/train (mmseg)``."""
        return f"{self.images} + {self.masks} ({self.name})".format(split=split)


LAYOUTS = (
    Layout("CE7454", "{split}/images", "{split}/masks"),
    Layout("LaPa", "{split}/images", "{split}/labels"),
    *(Layout("named folders", f"{{split}}/{each}_image", f"{{split}}/{each}_mask") for each in SPLITS),
    Layout("mmseg", "img_dir/{split}", "ann_dir/{split}"),
    Layout("YOLO", "images/{split}", "masks/{split}"),
    Layout("YOLO", "images/{split}", "labels/{split}"),
    Layout("one split", "images", "masks"),
    Layout("one split", "images", "labels"),
    *(Layout("one split", f"{each}_image", f"{each}_mask") for each in SPLITS),
)
"""Every layout of folders, in the order in which they are tried."""


@dataclass(frozen=True)
class Split:
    """Where one split lies; nothing of it was read yet.

    Attributes:
        name: ``train``, ``val`` or ``test``; the name of the folder or list that is one split itself.
        title: what tables call its data set.
        folder: the folder that holds it, or its list: what errors name.
        alone: whether ``folder`` is a data folder of this split only, which can be given by itself.
        listed: whether ``folder`` is a list, which may hold other splits too.
        classes: what its masks hold.
        pair: reads the names; see :meth:`pairing`.
    """

    name: str
    title: str
    folder: Path
    alone: bool
    listed: bool
    classes: ClassSet
    pair: Callable[[], Pairing]

    @property
    def place(self) -> tuple[Path, str]:
        """What no other split shares."""
        return self.folder.resolve(), self.name if self.listed else ""

    def pairing(self) -> Pairing:
        """Pair the names of its images and masks.

        Raises:
            InputError: a folder is missing, empty or unreadable, or of no known layout.
        """
        return self.pair()


@dataclass(frozen=True)
class Splits:
    """The splits of a data folder or list.

    Attributes:
        parted: whether it has splits; if not, it is one split itself.
        by_name: the splits by name, at least one.
    """

    parted: bool
    by_name: dict[str, Split]

    @property
    def only(self) -> Split:
        """The one split of a folder or list that has none."""
        return next(iter(self.by_name.values()))


def find_splits(folder: Path) -> Splits:
    """The splits of a data set root or list, or the one split that a folder or list is itself.

    Args:
        folder: a folder of a layout of :data:`LAYOUTS`, or that holds ``pairs.csv`` or ``pairs.json``; or such a file
            of any name. A list says more than folders: where there is one, it counts.

    Raises:
        InputError: it is missing, empty, of no known layout, or of two at once, or its list can't be used.
    """
    if folder.suffix.lower() in LIST_SUFFIXES and kind_of(folder, "list of pairs") == "file":
        return _of_list(folder, folder)
    names = check_folder(folder)
    lists = [name for name in LIST_FILES if name in names]
    if len(lists) > 1:
        raise InputError(f"{folder} holds {' and '.join(lists)}; keep one list of pairs, or give one with --data FILE")
    if lists:
        return _of_list(folder / lists[0], folder)
    return _of_folder(folder)


def find_pair(folder: Path) -> tuple[Path, Path] | None:
    """Image folder and mask folder of a folder that is one split, or None where it is something else.

    Raises:
        InputError: the folder is missing or empty, or holds two such pairs.
    """
    check_folder(folder)
    layout = _best(folder, "", (each for each in LAYOUTS if not each.parted))
    return layout.folders(folder) if layout else None


def unknown_layout(folder: Path) -> InputError:
    """The error for a folder that is neither a data set root nor a split folder: what it holds, and what is nearest."""
    names = check_folder(folder)
    if all(name in names for name in RELEASE_FOLDERS):
        return InputError(
            f"{folder} is the original CelebAMask-HQ release; run: fptk data convert {folder} --out NEW_DIR"
        )
    for there in names:
        partners = [partner for layout in LAYOUTS for partner in _partners(layout, there)]
        if partners and not set(partners) & set(names):
            missing = " nor ".join(f"{partner}/" for partner in dict.fromkeys(partners))
            return InputError(f"{folder} holds {there}/ but no {missing}; put the two side by side")
    likeness = {layout: _likeness(layout, names) for layout in LAYOUTS}
    nearest = max(likeness, key=lambda layout: (likeness[layout], not layout.parted))
    if likeness[nearest] >= _ALIKE:
        known = f"the nearest layout is {nearest.text()}"
    else:
        texts = dict.fromkeys(f"{each.images} + {each.masks}".format(split=SPLITS[0]) for each in LAYOUTS)
        known = f"expected {', '.join(texts)}, or {' or '.join(LIST_FILES)}"
    return InputError(f"{folder} is of no known layout: found {shown(names)}; {known}")


def _of_list(path: Path, given: Path) -> Splits:
    classes = class_set_of(path)
    own = given.resolve().name if given != path else path.stem
    title = given.resolve().name
    splits: dict[str, Split] = {}
    pairs = read_list(path)
    for split, listed in pairs.items():
        pair = partial(pair_listed, path, listed)
        splits[split or own] = Split(
            split or own, f"{title}/{split}" if split else title, path, not split, True, classes, pair
        )
    return Splits("" not in pairs, splits)


def _of_folder(folder: Path) -> Splits:
    whole = _best(folder, "", (each for each in LAYOUTS if not each.parted))
    chosen = {split: _best(folder, split, (each for each in LAYOUTS if each.parted)) for split in SPLITS}
    fitting = {split: layout for split, layout in chosen.items() if layout}
    filled = [(layout, split) for split, layout in fitting.items() if _is_filled(layout, folder, split)]
    if whole and filled and _is_filled(whole, folder, ""):
        raise _two(folder, filled[0], (whole, ""))
    if whole and (not fitting or _is_filled(whole, folder, "")):
        name = folder.resolve().name
        return Splits(False, {name: _split(folder, name, whole, class_set_of(folder))})
    first = next(iter([*(layout for layout, _ in filled), *fitting.values()]), None)
    for layout, split in filled:
        if layout.by_split != filled[0][0].by_split:
            raise _two(folder, filled[0], (layout, split))
    layouts = {split: _like(chosen[split], first) for split in SPLITS}
    there = [split for split, layout in layouts.items() if _is_there(folder, split, layout)]
    if not there:
        raise unknown_layout(folder)
    classes = class_set_of(folder)
    return Splits(True, {split: _split(folder, split, layouts[split], classes) for split in there})


def _like(layout: Layout | None, first: Layout | None) -> Layout | None:
    """The layout of a split beside a split of layout ``first``: its own where splits lie in the same way.

    None for a folder of a split that fits no layout; reading it says what it lacks.
    """
    if first is None or (layout is not None and layout.by_split == first.by_split):
        return layout
    return None if first.by_split else first


def _is_there(folder: Path, split: str, layout: Layout | None) -> bool:
    """Whether a folder has a split, be it one that can't be read."""
    if layout is None or layout.by_split:
        return os.path.lexists(folder / split)
    return any(os.path.lexists(each) for each in layout.folders(folder, split))


def _split(root: Path, name: str, layout: Layout | None, classes: ClassSet) -> Split:
    """A split of folders; without a layout, one whose reading says what it lacks."""
    if layout is not None and not layout.parted:
        folder, title = root, "/".join(root.resolve().parts[-2:])
    elif layout is None or layout.by_split:
        folder = root / name
        title = "/".join(folder.resolve().parts[-2:])
    else:
        folder, title = layout.folders(root, name)[0], f"{root.resolve().name}/{name}"
    alone = layout is None or not layout.parted or layout.by_split
    return Split(name, title, folder, alone, False, classes, partial(_pair, root, folder, name, layout))


def _pair(root: Path, folder: Path, name: str, layout: Layout | None) -> Pairing:
    if layout is None:
        raise unknown_layout(folder)
    return pair_files(*layout.folders(root, name), layout.namings)


def _best(root: Path, split: str, layouts: Iterable[Layout]) -> Layout | None:
    """The first layout whose two folders are there; of several the one whose folders hold pictures.

    Raises:
        InputError: two layouts fit equally.
    """
    fitting = [layout for layout in layouts if all(map(os.path.lexists, layout.folders(root, split)))]
    filled = [layout for layout in fitting if _is_filled(layout, root, split)]
    if len(filled) > 1:
        raise _two(root, (filled[0], split), (filled[1], split))
    return next(iter([*filled, *fitting]), None)


def _is_filled(layout: Layout, root: Path, split: str) -> bool:
    return all(any(_pictures(folder)) for folder in layout.folders(root, split))


def _pictures(folder: Path) -> Iterator[str]:
    """Names of pictures in a folder; none where it cannot be read, which is said when it is opened."""
    try:
        with os.scandir(folder) as entries:
            yield from (entry.name for entry in entries if entry.name.lower().endswith(PICTURE_SUFFIXES))
    except OSError:
        return


def _two(root: Path, *found: tuple[Layout, str]) -> InputError:
    both = " and ".join(layout.text(split) for layout, split in found)
    return InputError(
        f"{root} holds {both}; keep one pair of image and mask folder in a split, or list the pairs in pairs.csv"
    )


def _tops(layout: Layout) -> list[str]:
    """First part of its image folder and of its mask folder."""
    return [PurePosixPath(text.format(split=SPLITS[0])).parts[0] for text in (layout.images, layout.masks)]


def _partners(layout: Layout, there: str) -> list[str]:
    """The folder that a layout wants beside ``there``, if it wants one."""
    tops = _tops(layout)
    return [] if layout.by_split or there not in tops else [top for top in tops if top != there]


def _likeness(layout: Layout, names: Iterable[str]) -> float:
    """How near a folder's names are to those of a layout, 0-1."""
    best = [max(SequenceMatcher(None, top, name.lower()).ratio() for name in names) for top in _tops(layout)]
    return sum(best) / len(best)
