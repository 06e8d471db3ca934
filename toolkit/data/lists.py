"""A list of pairs, CSV or JSON: which image and mask belong together, and maybe in which split."""

from __future__ import annotations

import csv
import io
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from fptk.core.errors import InputError
from fptk.core.files import open_regular, read_json, reason_of
from fptk.data.listing import shown
from fptk.data.pairing import Pairing, is_file

SPLITS = ("train", "val", "test")
"""The splits that a data set may have."""

LIST_SUFFIXES = (".csv", ".json")
"""File names taken for a list of pairs, in any case."""

LIST_FILES = tuple(f"pairs{suffix}" for suffix in LIST_SUFFIXES)
"""Lists that are looked for at the root of a data set."""

COLUMNS = ("image", "mask", "split")

_LIMIT = 256 * 2**20
_DELIMITERS = ",;\t"


class ListedPair(NamedTuple):
    """One row.

    Attributes:
        place: where it stands, for errors: ``line 3``.
        image: path relative to the list's folder, as normal form with ``/``.
        mask: likewise.
        split: ``train``, ``val`` or ``test``; empty in a list without splits.
    """

    place: str
    image: str
    mask: str
    split: str


def read_list(path: Path) -> dict[str, list[ListedPair]]:
    """The pairs of a list by split; the one split of a list without splits is ``""``.

    Args:
        path: a CSV file (UTF-8; comma, semicolon or tab) whose first row names the columns ``image``, ``mask`` and
            maybe ``split``, or a JSON file that holds a list of objects with these keys. Paths start at its folder.

    Raises:
        InputError: it cannot be read, has no such columns or no pair, names an image twice, splits only some pairs, or
            a path leaves its folder.
    """
    rows = _json_rows(path) if path.suffix.lower() == ".json" else _csv_rows(path)
    pairs = [_pair(path, place, row) for place, row in rows]
    if not pairs:
        raise InputError(f"list of pairs {path} names no pair; add rows of image and mask")
    without = next((pair for pair in pairs if not pair.split), None)
    if without and any(pair.split for pair in pairs):
        raise InputError(f"list of pairs {path}, {without.place} has no split, others have; give all one or none")
    first: dict[str, ListedPair] = {}
    splits: dict[str, list[ListedPair]] = {}
    for pair in pairs:
        if (before := first.setdefault(pair.image, pair)) is not pair:
            raise InputError(f"list of pairs {path}: {pair.image} is in {before.place} and {pair.place}; remove one")
        splits.setdefault(pair.split, []).append(pair)
    return {split: splits[split] for split in ("", *SPLITS) if split in splits}


def pair_listed(path: Path, pairs: Iterable[ListedPair]) -> Pairing:
    """The pairs of one split of a list, in sorted order of their keys.

    A key is the stem of the image, or, where stems of the split are not unique, its path without suffix, parts joined
    by ``__``.
    """
    listed = list(pairs)
    counts = Counter(PurePosixPath(pair.image).stem for pair in listed)
    unique = max(counts.values()) == 1
    keyed = sorted((_key(pair.image, unique), pair) for pair in listed)
    folder = path.parent
    images = {key: folder / pair.image for key, pair in keyed}
    masks = {key: folder / pair.mask for key, pair in keyed}
    if len(images) < len(keyed):
        twice = next(key for key, count in Counter(key for key, _ in keyed).items() if count > 1)
        first, second = (pair for key, pair in keyed if key == twice)
        raise InputError(f"list of pairs {path}: {first.image} and {second.image} share one name; rename one")
    files = [(file, f"{path.name}, {pair.place}: {what}") for _, pair in keyed for what, file in _files(folder, pair)]
    return Pairing(
        images=images,
        masks=masks,
        unused=[],
        clashes=[],
        mask_clashes=[],
        other_masks={},
        irregular=[(file, what) for file, what in files if not is_file(file)],
    )


def _files(folder: Path, pair: ListedPair) -> Iterator[tuple[str, Path]]:
    yield "image", folder / pair.image
    yield "mask", folder / pair.mask


def _key(image: str, stems_are_unique: bool) -> str:
    path = PurePosixPath(image)
    return unicodedata.normalize("NFC", path.stem if stems_are_unique else "__".join(path.with_suffix("").parts))


def _csv_rows(path: Path) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Rows with the place of each; names of columns are as in the file but for case and blanks around."""
    try:
        with open_regular(path) as handle:
            content = handle.read(_LIMIT + 1)
        if len(content) > _LIMIT:
            raise ValueError(f"it is larger than {_LIMIT // 2**20} MiB")
        text = content.decode("utf-8-sig")
        header = text.partition("\n")[0]
        delimiter = max(_DELIMITERS, key=header.count)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        columns = [name.strip().lower() for name in next(reader, [])]
        _check_columns(path, columns)
        rows = [(f"line {reader.line_num}", row) for row in reader if any(cell.strip() for cell in row)]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"list of pairs {path} is not a readable CSV file: {reason_of(error)}") from error
    for place, row in rows:
        if len(row) > len(columns):
            raise InputError(f"list of pairs {path}, {place}: {len(row)} cells for {len(columns)} columns; quote paths")
        yield place, dict(zip(columns, row, strict=False))


def _check_columns(path: Path, columns: list[str]) -> None:
    missing = [name for name in COLUMNS[:2] if name not in columns]
    if missing:
        found = shown([name for name in columns if name]) or "nothing"
        raise InputError(
            f"list of pairs {path} has no column {' and no column '.join(missing)}, its first row holds {found}; "
            "name the columns image, mask and, if there are splits, split"
        )


def _json_rows(path: Path) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    content = read_json(path, "list of pairs")
    if not isinstance(content, list) or not all(isinstance(each, dict) for each in content):
        raise InputError(f'list of pairs {path} is no list of objects; expected [{{"image": PATH, "mask": PATH}}, …]')
    for number, each in enumerate(content, start=1):
        yield f"entry {number}", each


def _pair(path: Path, place: str, row: Mapping[Any, Any]) -> ListedPair:
    cells = [row.get(name, "") for name in COLUMNS]
    for name, cell in zip(COLUMNS, cells, strict=True):
        if not isinstance(cell, str) or (not cell.strip() and name != "split"):
            raise InputError(f"list of pairs {path}, {place}: no {name}; each pair needs an image and a mask")
    image, mask, split = (cell.strip() for cell in cells)
    if split and split not in SPLITS:
        raise InputError(f"list of pairs {path}, {place}: split '{split[:40]}'; expected {', '.join(SPLITS)}")
    return ListedPair(place, _inside(path, place, image), _inside(path, place, mask), split)


def _inside(path: Path, place: str, text: str) -> str:
    """A path of the list in normal form; refused where it leads out of the list's folder."""
    normal = os.path.normpath(text)
    if os.path.isabs(text) or normal in (".", "..") or normal.startswith(f"..{os.sep}"):  # noqa: PTH117
        raise InputError(
            f"list of pairs {path}, {place}: {text[:200]} is no file in the folder of the list; "
            "give paths relative to the list, and put the list beside or above its files"
        )
    return normal
