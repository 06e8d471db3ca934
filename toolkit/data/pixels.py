"""Hashes of decoded photographs, kept for files that haven't changed since: the leak check compares them."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from fptk.core.dataset import pixel_hash
from fptk.core.preprocess import decode_image, decode_small, regular_file
from fptk.core.progress import SILENT, Listener, track
from fptk.data.statistics import default_cache

FILE = "files-1.sqlite"
"""Name of the cache file; another layout of an entry needs another number."""

PIXELS, SKETCH = "pixels-1", "sketch-1"
"""What the entries of this module are about; another way of decoding needs another number."""

_UNKNOWN = "-"
"""In the place of a small picture's hash: only a JPEG has one."""

_ASKED_AT_ONCE = 300


class FileState(NamedTuple):
    """What says that a file has not changed.

    Attributes:
        path: absolute path.
        size: bytes.
        mtime_ns: time of its last change in nanoseconds.
    """

    path: str
    size: int
    mtime_ns: int


def state_of(path: Path, what: str = "image") -> FileState:
    """The present state of a file; ``what`` names it in errors.

    Raises:
        InputError: it is missing or no regular file.
    """
    status = regular_file(path, what)
    return FileState(str(path.absolute()), status.st_size, status.st_mtime_ns)


class FileCache:
    """Short texts that were found out about files, by what they are about and the file's state.

    One SQLite file in the user's cache folder, which several processes may use at once. A cache that cannot be read or
    written holds nothing and keeps nothing.

    Args:
        about: what the texts say, with the number of the way they were found out.
        folder: where the file lies; None for :func:`~fptk.data.statistics.default_cache`.
    """

    def __init__(self, about: str, folder: Path | None = None) -> None:
        self.about = about
        self.path = (folder or default_cache()) / FILE

    def get(self, states: Iterable[FileState]) -> dict[FileState, str]:
        """What is known of the files that are still in these states."""
        wanted, found = set(states), dict[FileState, str]()
        ordered = sorted(wanted)
        with contextlib.suppress(sqlite3.Error, OSError), contextlib.closing(self._open()) as database:
            for start in range(0, len(ordered), _ASKED_AT_ONCE):
                asked = [state.path for state in ordered[start : start + _ASKED_AT_ONCE]]
                rows = database.execute(
                    f"SELECT path, size, mtime_ns, text FROM files WHERE about = ? AND path IN ({_places(asked)})",
                    [self.about, *asked],
                )
                for path, size, mtime_ns, text in rows:
                    state = FileState(path, size, mtime_ns)
                    if state in wanted and isinstance(text, str):
                        found[state] = text
        return found

    def put(self, texts: Mapping[FileState, str]) -> None:
        """Keep ``texts``; each takes the place of what was known of the file before."""
        rows = [(self.about, *state, text) for state, text in texts.items()]
        if not rows:
            return
        with contextlib.suppress(sqlite3.Error, OSError), contextlib.closing(self._open()) as database, database:
            database.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", rows)

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(self.path, timeout=30)
        database.execute(
            "CREATE TABLE IF NOT EXISTS files (about TEXT, path TEXT, size INTEGER, mtime_ns INTEGER, "
            "text TEXT NOT NULL, PRIMARY KEY (about, path))"
        )
        return database


def hash_files(paths: Sequence[Path], jobs: int | None = None, listener: Listener = SILENT) -> list[str]:
    """:func:`~fptk.core.dataset.pixel_hash` of each image file, from the user's cache where the file is unchanged.

    Args:
        paths: image files.
        jobs: threads; None for one per core.
        listener: is told how many files are decoded.

    Raises:
        InputError: a file is missing, damaged or no image.
    """
    states = [state_of(path) for path in paths]
    hashes = _look_up(PIXELS, dict(zip(states, paths, strict=True)), _hash, jobs, listener)
    return [hashes[state] for state in states]


def keep_hashes(hashes: Mapping[FileState, str]) -> None:
    """Put into the user's cache the hashes of pixels that another reader of the files found."""
    FileCache(PIXELS).put(hashes)


def equal_images(
    a: Sequence[Path], b: Sequence[Path], jobs: int | None = None, listener: Listener = SILENT
) -> list[tuple[int, int]]:
    """Places (in ``a``, in ``b``) of image files that decode to the same picture.

    Whether two JPEG files can be equal shows at an eighth of their size, which decodes ten times as fast. So only
    those whose small pictures agree are decoded, and files of other formats whose size occurs on the other side.

    Args:
        a: image files.
        b: image files.
        jobs: threads; None for one per core.
        listener: is told how many files are read: first for the small pictures, then for the whole ones.

    Raises:
        InputError: a file is missing, damaged or no image.
    """
    states_a, states_b = ([state_of(path) for path in paths] for paths in (a, b))
    files = dict(zip([*states_a, *states_b], [*a, *b], strict=True))
    hashes = FileCache(PIXELS).get(files)
    if len(hashes) < len(files):
        sketches = _look_up(SKETCH, files, _sketch, jobs, listener)
        wanted = _candidates(states_a, states_b, sketches) | _candidates(states_b, states_a, sketches)
        hashes = _look_up(PIXELS, {state: files[state] for state in files if state in wanted}, _hash, jobs, listener)
    twins: dict[str, list[int]] = defaultdict(list)
    for place, state in enumerate(states_b):
        if state in hashes:
            twins[hashes[state]].append(place)
    return [
        (place, twin)
        for place, state in enumerate(states_a)
        if state in hashes
        for twin in twins.get(hashes[state], ())
    ]


def _candidates(
    these: Sequence[FileState], others: Sequence[FileState], sketches: Mapping[FileState, str]
) -> set[FileState]:
    """Those files whose pixels could be those of one of the others, by what :func:`_sketch` says."""
    seen = {sketches[state] for state in others}
    sizes = {sketch.rpartition(" ")[0] for sketch in seen}
    found: set[FileState] = set()
    for state in these:
        size, _, small = sketches[state].rpartition(" ")
        if sketches[state] in seen or f"{size} {_UNKNOWN}" in seen or (small == _UNKNOWN and size in sizes):
            found.add(state)
    return found


def _look_up(
    about: str,
    files: Mapping[FileState, Path],
    examine: Callable[[Path], str],
    jobs: int | None,
    listener: Listener,
) -> dict[FileState, str]:
    """What the cache knows of ``files``, and what ``examine`` says of the others, which the cache keeps.

    It runs in threads: Pillow and hashlib let go of the interpreter, and a script that calls this needs no
    ``if __name__ == "__main__"``.
    """
    from fptk.core.host import usable_cores

    cache = FileCache(about)
    known = cache.get(files)
    new = {state: path for state, path in files.items() if state not in known}
    if not new:
        return known
    found: dict[FileState, str] = {}
    pool = ThreadPoolExecutor(max(1, min(jobs or usable_cores(), len(new))))
    try:
        texts = track(listener, pool.map(examine, new.values()), "reading images", len(new))
        found.update(zip(new, texts, strict=True))  # pair by pair: what Ctrl-C interrupts keeps what it has
    finally:
        pool.shutdown(cancel_futures=True)
        cache.put(found)
    return known | found


def _hash(path: Path) -> str:
    return pixel_hash(decode_image(path).pixels)


def _sketch(path: Path) -> str:
    """The sides of a photograph, the shorter one first (EXIF may exchange them), and the hash of its small picture."""
    sides, small = decode_small(path)
    digest = _UNKNOWN if small is None else hashlib.sha256(repr(small.shape).encode() + small.tobytes()).hexdigest()
    return f"{min(sides)} {max(sides)} {digest}"


def _places(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))
