"""Class pixels and colour moments of single faces, counted once and kept by content.

``fptk data inspect`` reads every pair anyway and leaves what it counted in the user's cache folder; a training that
needs class frequencies or the channels' mean then hashes the files instead of decoding them. An entry's key is the hash
of image and mask, so a changed file is counted anew, and the same face in another folder is not.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fptk.core.classes import CELEBAMASK, ClassSet
from fptk.core.dataset import UInt8Array
from fptk.core.masks import class_counts

FILE = "statistics-3.sqlite"
"""Name of the cache file; another layout of an entry, or another way of decoding files, needs another number."""
_OTHERS = 7
"""Numbers of an entry behind those of the classes."""
_ASKED_AT_ONCE = 500


class SampleStatistics(NamedTuple):
    """Figures of one face; sums over several faces are sums of the fields."""

    class_pixels: npt.NDArray[np.int64]
    """int64 (C,), pixels of each class; ignored ones are in none."""
    channel_sums: npt.NDArray[np.int64]
    """int64 (3,), sum of the red, green and blue values 0-255."""
    channel_squares: npt.NDArray[np.int64]
    """int64 (3,), sum of their squares."""
    pixels: int
    """Pixels of the face, ignored ones too."""


def measure(image: UInt8Array, mask: UInt8Array, classes: ClassSet) -> SampleStatistics:
    """Count one face: uint8 (H, W, 3) and labels of ``classes``, uint8 (H, W)."""
    histograms = np.stack([np.bincount(image[..., channel].ravel(), minlength=256) for channel in range(3)])
    values = np.arange(256, dtype=np.int64)
    return SampleStatistics(class_counts(mask, len(classes)), histograms @ values, histograms @ values**2, mask.size)


def mean_and_std(
    statistics: Sequence[SampleStatistics],
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation of each channel over all pixels of the faces, of values scaled to 0-1.

    Rounded to 6 digits, far below what one step of an 8-bit pixel can show, so that they read well in a model card. A
    channel that never changes gets the deviation of one step, 1/255.
    """
    pixels = sum(each.pixels for each in statistics)
    sums, squares = (
        np.sum([getattr(each, name) for each in statistics], axis=0).astype(np.float64) / pixels
        for name in ("channel_sums", "channel_squares")
    )
    mean, std = sums / 255, np.sqrt(np.maximum(squares - sums**2, 1.0)) / 255
    red, green, blue = (tuple(round(float(value), 6) for value in pair) for pair in zip(mean, std, strict=True))
    return (red[0], green[0], blue[0]), (red[1], green[1], blue[1])


def default_cache() -> Path:
    """``fptk/`` in ``$XDG_CACHE_HOME``, or else in ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fptk"


def pair_key(image_sha256: str, mask_sha256: str, classes: ClassSet = CELEBAMASK) -> str:
    """Key of a face by the hashes (hex) of its two files, and by what the mask means."""
    return f"{image_sha256}{mask_sha256}{'' if classes == CELEBAMASK else classes.sha256}"


class StatisticsCache:
    """Statistics of faces by :func:`pair_key`, in one SQLite file that several processes may use at once.

    A cache that cannot be read or written (a read-only home, a full disk, a damaged file) holds nothing and keeps
    nothing: the figures are counted again.

    Args:
        folder: where the file lies; None for :func:`default_cache`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.path = (folder or default_cache()) / FILE

    def get(self, keys: Sequence[str]) -> dict[str, SampleStatistics]:
        """What is known of ``keys``."""
        found: dict[str, SampleStatistics] = {}
        with contextlib.suppress(sqlite3.Error, OSError, ValueError), contextlib.closing(self._open()) as database:
            for start in range(0, len(keys), _ASKED_AT_ONCE):
                asked = keys[start : start + _ASKED_AT_ONCE]
                places = ",".join("?" * len(asked))
                rows = database.execute(f"SELECT key, numbers FROM faces WHERE key IN ({places})", asked)
                found |= {key: _unpack(numbers) for key, numbers in rows}
        return found

    def put(self, statistics: Mapping[str, SampleStatistics]) -> None:
        """Keep ``statistics`` by key."""
        rows: Iterable[tuple[str, bytes]] = ((key, _pack(each)) for key, each in statistics.items())
        with contextlib.suppress(sqlite3.Error, OSError), contextlib.closing(self._open()) as database, database:
            database.executemany("INSERT OR REPLACE INTO faces VALUES (?, ?)", rows)

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(self.path, timeout=30)
        database.execute("CREATE TABLE IF NOT EXISTS faces (key TEXT PRIMARY KEY, numbers BLOB NOT NULL)")
        return database


def _pack(statistics: SampleStatistics) -> bytes:
    *arrays, pixels = statistics
    return np.concatenate([*arrays, [pixels]]).astype("<i8").tobytes()


def _unpack(numbers: bytes) -> SampleStatistics:
    """Raises ValueError where the entry is too short."""
    values = np.frombuffer(numbers, "<i8").astype(np.int64)
    if len(values) <= _OTHERS:
        raise ValueError(f"an entry of {len(values)} numbers")
    return SampleStatistics(values[:-_OTHERS], values[-7:-4], values[-4:-1], int(values[-1]))
