"""The files of a training, looked at before its first step: can each be used, and are they the same as before?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from fptk.core.dataset import FaceParsingDataset
from fptk.core.errors import InputError
from fptk.core.files import reason_of, sha256_file, sha256_json
from fptk.core.progress import SILENT, Listener
from fptk.data.folders import FolderDataset
from fptk.data.splits import innermost, key_of
from fptk.data.statistics import SampleStatistics, StatisticsCache, measure, pair_key

Identity = dict[str, dict[str, Any]]
"""By set (``train`` and ``val``): number of ``images``, and the sha256 of their ``names`` and of their ``contents``."""

_Place = tuple[FaceParsingDataset, int]
_WORDS = {"train": "training", "val": "validation"}
_KEPT_AT_ONCE = 256


@dataclass(frozen=True)
class Fault:
    """Why a face cannot be used."""

    message: str


def identity_of(train: FaceParsingDataset, val: FaceParsingDataset, workers: int | None = None) -> Identity | None:
    """What tells these two sets from others, wherever they lie: names and bytes of photographs and masks, in order.

    Returns:
        ``None`` for drawn faces, which the recipe describes.

    Raises:
        InputError: a file cannot be read.
    """
    found: Identity = {}
    for name, dataset in (("train", train), ("val", val)):
        with ThreadPoolExecutor(workers) as pool:
            contents = list(pool.map(lambda index, dataset=dataset: _pair(dataset, index), range(len(dataset))))
        if None in contents:
            return None
        names = [key_of(dataset, index) for index in range(len(dataset))]
        found[name] = {"images": len(dataset), "names": sha256_json(names), "contents": sha256_json(contents)}
    return found


def difference_of(before: Identity, now: Identity) -> str | None:
    """What has changed between two identities, in words; ``None`` for nothing."""
    for name, word in _WORDS.items():
        old, new = before[name], now[name]
        if old["images"] != new["images"]:
            return f"there are {new['images']} {word} images, and there were {old['images']} at its start"
        if old["names"] != new["names"]:
            return f"the {word} images have other names than at its start"
        if old["contents"] != new["contents"]:
            return f"a {word} image or mask has another content than at its start"
    return None


def check_files(
    *datasets: FaceParsingDataset,
    workers: int | None = None,
    what: str = "checking the files",
    listener: Listener = SILENT,
    cache: StatisticsCache | None = None,
) -> None:
    """Decode every photograph and mask, so that none ends a command later. Drawn faces are passed over.

    Args:
        datasets: what the command will read.
        workers: threads; None for the executor's own number.
        what: description of the counter.
        listener: is told how many faces are done.
        cache: of faces that were decoded before, by the content of their files; None for the user's own.

    Raises:
        InputError: files cannot be used; the first is named and the others are counted.
    """
    cache = cache or StatisticsCache()
    faults: list[str] = []
    done = 0
    with listener.counting(what, sum(map(len, datasets))) as update:
        for part in _parts(*datasets):
            faults += _check_part(part, workers, cache)
            done += len(part)
            update(done)
    if faults:
        others = f" ({len(faults) - 1} more like it; fptk data inspect lists all)" if len(faults) > 1 else ""
        raise InputError(f"{faults[0]}{others}")


def _check_part(part: list[_Place], workers: int | None, cache: StatisticsCache) -> list[str]:
    """Decode the faces that the cache does not know, and tell it of them; the faults of the others."""
    with ThreadPoolExecutor(workers) as pool:
        keys = list(pool.map(lambda each: _pair(*each), part))
        known = cache.get([key for key in keys if key is not None])
        unknown = [each for each, key in zip(part, keys, strict=True) if key is not None and key not in known]
        results = list(pool.map(lambda each: _decode(*each), unknown))
    faults, decoded = [], {}
    for (dataset, index), result in zip(unknown, results, strict=True):
        if isinstance(result, Fault):
            faults.append(result.message)
        elif key := _pair(dataset, index):
            decoded[key] = result
    if decoded:
        cache.put(decoded)
    return faults


def _parts(*datasets: FaceParsingDataset) -> Iterator[list[_Place]]:
    """Handfuls of faces: what a handful has cost is kept, also if Ctrl-C comes during the next."""
    for dataset in datasets:
        for start in range(0, len(dataset), _KEPT_AT_ONCE):
            yield [(dataset, index) for index in range(start, min(len(dataset), start + _KEPT_AT_ONCE))]


def _decode(dataset: FaceParsingDataset, index: int) -> SampleStatistics | Fault:
    try:
        image, mask, _ = dataset[index]
    except InputError as error:
        return Fault(str(error))
    return measure(image, mask, dataset.classes)


def _pair(dataset: FaceParsingDataset, index: int) -> str | None:
    """Hashes of a face's two files; ``None`` for a drawn one."""
    member, inner = innermost(dataset, index)
    if not isinstance(member, FolderDataset):
        return None
    return pair_key(_sha256(member.image_path(inner)), _sha256(member.mask_path(inner)), member.classes)


def _sha256(path: Path) -> str:
    try:
        facts = os.stat(path)  # noqa: PTH116 - half the time of Path.stat
        return _sha256_of(path, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {reason_of(error)}") from error


@lru_cache(maxsize=1_000_000)
def _sha256_of(path: Path, *facts: int) -> str:
    """Hash of a file; one with the same size, times and inode is not read again by this process."""
    return sha256_file(path)
