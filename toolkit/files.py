"""Files and folders that are written whole or not at all, and their hashes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fptk.errors import InputError

_USER_ERRNO = {
    errno.ENOSPC: "no space left on the device",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EISDIR: "a folder is in the way",
    errno.EEXIST: "a file of that name is in the way",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EFBIG: "the file is larger than this system allows",
}

_TEMPORARY = ".fptk-"
"""Start of the names of temporary folders."""

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
"""Linux: paths are relative to the working folder; exchange what stands under two names."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals while writing ``path`` into one-line errors.

    Raises:
        InputError: disk full, read-only, no permission and the like.
    """
    try:
        yield
    except OSError as error:
        reason = _USER_ERRNO.get(error.errno or 0)
        if reason is None:
            raise
        raise InputError(f"cannot write {path}: {reason}; free space or choose another --out") from error


def make_folder(path: Path) -> Path:
    """Create ``path`` with its parents and check that files can be written into it.

    Raises:
        InputError: it cannot be created or written to.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    return path


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it replaces ``path``, on any error it is removed.

    The temporary name keeps the suffix of ``path``, which writers that choose a format by suffix need.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("rb") as handle:
                os.fsync(handle.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def temporary_folder(parent: Path, name: str) -> Iterator[Path]:
    """Yield a new hidden folder in ``parent``, removed at the end unless :func:`replace_folder` moved it away.

    What processes that were killed left of this kind in ``parent`` is removed first.
    """
    with writing(parent / name):
        parent.mkdir(parents=True, exist_ok=True)
        sweep_folders(parent)
        temporary, lock = _new_locked_folder(parent, name)
    try:
        with writing(parent / name):
            yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def sweep_folders(parent: Path) -> None:
    """Remove the temporary folders in ``parent`` whose process is dead; those of living ones are locked and stay.

    A lock rather than the number of a process decides: numbers are used again, and another container's say nothing.
    """
    for folder in parent.glob(f"{_TEMPORARY}*.tmp"):
        lock = _lock_folder(folder, wait=False)
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _new_locked_folder(parent: Path, name: str) -> tuple[Path, int | None]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{_TEMPORARY}{name}.", suffix=".tmp", dir=parent))
        lock = _lock_folder(folder, wait=True)
        # Between the two lines above a sweep of another process may have taken the folder for a dead one's.
        if folder.exists():
            return folder, lock
        if lock is not None:
            os.close(lock)


def _lock_folder(folder: Path, *, wait: bool) -> int | None:
    """A descriptor that holds the folder's lock until it is closed or the process ends, however it ends.

    Returns:
        ``None`` where another process holds the lock, or this system has no locks on folders.
    """
    try:
        import fcntl
    except ImportError:
        return None
    try:
        lock = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def replace_folder(temporary: Path, path: Path) -> None:
    """Put the finished folder ``temporary`` in the place of ``path`` (on the same file system).

    A process killed at any moment leaves the old folder or the new one, never a mixture. Linux swaps the two in one
    step. Elsewhere two renames do it, with an instant between them in which neither stands under its name; the old one
    then lies beside it as ``.NAME.old`` and :func:`restore_folder`, which every call starts with, puts it back.

    Raises:
        InputError: ``path`` is a file, or the system refuses the renaming.
    """
    retired = path.with_name(f".{path.name}.old")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        restore_folder(path)
        if path.exists() and not path.is_dir():
            raise FileExistsError(errno.EEXIST, "not a folder", str(path))
        temporary.chmod(0o755)
        if not path.exists():
            temporary.rename(path)
        elif not _swap(temporary, path):
            path.rename(retired)
            temporary.rename(path)
    shutil.rmtree(retired, ignore_errors=True)
    shutil.rmtree(temporary, ignore_errors=True)


def _swap(first: Path, second: Path) -> bool:
    """Exchange two folders in one step (renameat2(2)); ``False`` where the system or the file system cannot."""
    if sys.platform != "linux":
        return False
    import ctypes

    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(second))


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; on success it takes the place of ``path``, whole."""
    with temporary_folder(path.parent, path.name) as temporary:
        yield temporary
        replace_folder(temporary, path)


def restore_folder(path: Path) -> None:
    """Finish a :func:`replace_folder` that was killed between its two renames."""
    retired = path.with_name(f".{path.name}.old")
    if retired.exists():
        if path.exists():
            shutil.rmtree(retired)
        else:
            retired.rename(path)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` (UTF-8) to ``path``, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, whole or not at all. NaN is refused: it is not JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, what: str) -> Any:
    """Parse the JSON file ``path``; ``what`` names it in the error.

    Raises:
        InputError: it is missing, unreadable or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{what} {path} does not exist") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{what} {path} is not a readable JSON file: {error}") from error


def sha256_file(path: Path) -> str:
    """Hex sha256 of the content of ``path``."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Hex sha256 of ``value`` in canonical JSON (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
