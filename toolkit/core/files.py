"""Files and folders that are written whole or not at all, and their hashes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import math
import os
import re
import shutil
import stat
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fptk.core.errors import InputError

if TYPE_CHECKING:
    from PIL.PngImagePlugin import PngInfo

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
    errno.ELOOP: "its links lead in a circle",
    errno.ENOENT: "a part of the path does not exist",
    errno.ENXIO: "nothing listens there",
    errno.ENODEV: "it is a device that files cannot be written to",
    errno.EIO: "the device reports an error",
    errno.EBUSY: "the system is using it",
    errno.EINVAL: "the system does not take it",
}

_IRREGULAR = "it is a FIFO, device or socket, not a regular file"

JSON_LIMIT = 64 * 2**20
"""Bytes of the largest JSON file that is read."""
JSON_DEPTH = 64
"""Lists and objects inside each other in a JSON file."""
JSON_DIGITS = 40
"""Digits of a whole number in a JSON file: enough for 128 bits."""

PICTURE_MARK = "Software"
"""Key of the PNG text that says which command of fptk drew a picture."""

Kind = Literal["file", "folder", "other"]

_UNWRITTEN = 0
"""Time of change, in ns, of a file that was made and not written to yet."""

_DESCRIPTOR = re.compile(r"/(?:dev/fd|proc/(?:self|thread-self)/fd)/(\d+)")
"""Names that a process has for what it has open."""

_TEMPORARY = ".fptk-"
"""Start of the names of temporary folders."""

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
"""Linux: paths are relative to the working folder; exchange what stands under two names."""


@contextlib.contextmanager
def writing(path: Path, option: str = "--out") -> Iterator[None]:
    """Turn the operating system's refusals while writing ``path`` into one-line errors.

    Args:
        path: as the user gave it.
        option: the command-line option that named it.

    Raises:
        InputError: disk full, read-only, no permission and the like.
    """
    try:
        yield
    except OSError as error:
        reason = _USER_ERRNO.get(error.errno or 0)
        if reason is None or (error.errno == errno.ENOENT and not _concerns(error, path)):
            raise
        raise InputError(f"cannot write {path}: {reason}; free space or choose another {option}") from error


def _concerns(error: OSError, path: Path) -> bool:
    """Whether the error is about ``path`` or a part of it, rather than about a file that was to be read."""
    try:
        parent, found = path.parent.resolve(), Path(error.filename or path).resolve()
    except (OSError, RuntimeError):  # the working folder was deleted, or links lead in a circle
        return True
    return found.is_relative_to(parent) or parent.is_relative_to(found)


def kind_of(path: Path, what: str = "path") -> Kind | None:
    """What stands at ``path``, links followed; ``None`` for nothing. Devices, FIFOs and sockets are ``other``.

    Args:
        path: as the user gave it.
        what: names it in the error.

    Raises:
        InputError: the system does not tell: no permission, a name too long, links in a circle.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{what} {path} cannot be read: {reason_of(error)}") from error
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "other"


def reason_of(error: Exception) -> str:
    """Why the system refused, in a few words for a message."""
    if isinstance(error, OSError) and error.strerror != _IRREGULAR:
        return _USER_ERRNO.get(error.errno or 0) or error.strerror or str(error)
    return _IRREGULAR if isinstance(error, OSError) else str(error)


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file for reading. A FIFO or device could block, never end, or do something: it is not opened.

    Raises:
        OSError: as ``open``; EINVAL for what is no regular file.
    """
    refusal = OSError(errno.EINVAL, _IRREGULAR, str(path))
    if not stat.S_ISREG(mode := path.stat().st_mode) and not stat.S_ISDIR(mode):
        raise refusal
    handle = os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb")
    if not stat.S_ISREG(os.fstat(handle.fileno()).st_mode):  # exchanged since
        handle.close()
        raise refusal
    return handle


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
def atomic_file(path: Path, *, option: str = "--out") -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it replaces ``path``, on any error it is removed.

    Only a regular file is replaced, and it passes on its permissions. Where ``path`` is a link, the file that it leads
    to is replaced and the link stays. What flows on (``/dev/stdout``, a FIFO, a terminal, a shell's ``>(...)``) is
    opened and written to once the content is whole.

    The temporary name keeps the suffix of ``path``, which writers that choose a format by suffix need.

    Args:
        path: as the user gave it.
        option: the command-line option that named it, for errors.

    Raises:
        InputError: the system refuses, or ``path`` is a folder, a block device or a socket.
    """
    with writing(path, option):
        place = _destination(path)
        if isinstance(place, _Stream):
            with tempfile.TemporaryDirectory(prefix="fptk-") as folder:
                temporary = Path(folder) / f"stream{path.suffix}"
                yield temporary
                place.pour(temporary)
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary, lock = _new_locked_file(place)
        try:
            yield temporary
            with temporary.open("rb") as handle:
                os.fsync(handle.fileno())
                if os.fstat(handle.fileno()).st_mtime_ns == _UNWRITTEN:
                    raise RuntimeError(f"nothing was written to {temporary}")
            if place.exists():
                temporary.chmod(stat.S_IMODE(place.stat().st_mode))
            temporary.replace(place)
        finally:
            temporary.unlink(missing_ok=True)
            os.close(lock)


def _new_locked_file(place: Path) -> tuple[Path, int]:
    """An empty file beside ``place`` and a descriptor that holds its lock until the process ends, however it ends.

    Its name follows from that of ``place``: what a killed process left is used again rather than left for ever. A name
    of its own is for the process that finds another one writing to ``place``.
    """
    name = f".{place.stem[:40]}.{{}}tmp{place.suffix[:40]}"
    for part in ("", "", f"{os.getpid()}-{threading.get_ident()}."):
        temporary = place.with_name(name.format(part))
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            lock = os.open(temporary, flags, 0o666)
        except OSError:
            if part:
                raise
            continue  # what stands there is another user's, a link or a folder
        # Between the line above and the next one its owner may have renamed or removed it.
        if part or (_lock_descriptor(lock) and _same_file(lock, temporary)):
            os.ftruncate(lock, 0)
            os.utime(lock, ns=(_UNWRITTEN, _UNWRITTEN))
            return temporary, lock
        os.close(lock)
    raise AssertionError("the last name is taken without a lock")


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), status)


def check_destination(path: Path, option: str = "--out") -> None:
    """Check before any work that :func:`atomic_file` could write ``path``; nothing stays.

    Raises:
        InputError: it is a folder, a block device or a socket, a part of the path is a file, or its folder cannot be
            written to.
    """
    with writing(path, option):
        place = _destination(path)
        if isinstance(place, _Stream):
            return
        parent = place.parent
        while not parent.exists() and parent != parent.parent:
            parent = parent.parent
        if not parent.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(parent))
        try:
            with tempfile.TemporaryFile(dir=parent):
                pass
        except FileNotFoundError as error:  # /proc and the like hold no files of others
            raise FileNotFoundError(errno.ENOENT, "no files can be made there", str(parent)) from error


class _Stream:
    """Where bytes flow on: an open descriptor of this process, or a FIFO or character device by its path."""

    def __init__(self, target: int | Path) -> None:
        self._target = target

    def pour(self, source: Path) -> None:
        """Write the content of ``source``."""
        if isinstance(self._target, int):
            for standard in (sys.stdout, sys.stderr):
                if standard is not None:
                    standard.flush()
            # A duplicate shares the offset: what the process wrote before stays, and the original stays open.
            descriptor = os.dup(self._target)
        else:
            descriptor = os.open(self._target, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY)
        with os.fdopen(descriptor, "wb") as sink, source.open("rb") as handle:
            shutil.copyfileobj(handle, sink)


def _destination(path: Path) -> Path | _Stream:
    """What writing to ``path`` means: a regular file, there or not yet, with no link in its name; or a stream.

    Raises:
        OSError: it is a folder, a block device or a socket, a descriptor that is not open, or the system refuses.
    """
    descriptor = _descriptor(path)
    if descriptor is not None:
        try:
            os.fstat(descriptor)
        except OSError:
            raise OSError(errno.ENXIO, "not open", str(path)) from None
        return _Stream(descriptor)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return Path(os.path.realpath(path))
    if stat.S_ISREG(mode):
        return Path(os.path.realpath(path))
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "a folder", str(path))
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        return _Stream(path)
    raise OSError(errno.ENODEV, "a block device or a socket", str(path))


def _descriptor(path: Path) -> int | None:
    """The descriptor that ``/dev/stdout``, ``/dev/fd/63`` and links to them name; ``None`` for other paths."""
    for _ in range(40):
        match = _DESCRIPTOR.fullmatch(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow the link
        if match:
            return int(match[1])
        if not path.is_symlink():
            return None
        path = path.parent / path.readlink()
    return None


def png_mark(command: str) -> PngInfo:
    """The text that a PNG drawn by ``fptk COMMAND`` carries: ``picture.save(path, pnginfo=png_mark("predict"))``."""
    from PIL.PngImagePlugin import PngInfo

    mark = PngInfo()
    mark.add_text(PICTURE_MARK, f"fptk {command}")
    return mark


def drawn_by(path: Path, command: str) -> bool:
    """Whether the file at ``path`` is a PNG that ``fptk COMMAND`` drew (:func:`png_mark`)."""
    from PIL import Image

    try:
        with open_regular(path) as handle, Image.open(handle, formats=["PNG"]) as picture:
            return bool(picture.info.get(PICTURE_MARK) == f"fptk {command}")
    except Exception:  # Pillow raises many kinds for damaged files, and none of these is a picture of fptk's
        return False


def check_pictures(
    destinations: Iterable[Path],
    command: str,
    *,
    reads: Iterable[Path] = (),
    overwrite: bool = False,
    option: str = "--out",
) -> None:
    """Check before any work that the pictures of ``fptk COMMAND`` will replace nothing but its own earlier ones.

    Args:
        destinations: files that will be written as PNG with :func:`png_mark`.
        command: e.g. ``predict``.
        reads: files and folders that the command reads; none of their files is ever replaced.
        overwrite: allow the replacing of other files.
        option: the command-line option that named the destinations, for errors.

    Raises:
        InputError: a destination is a file that the command reads, or a file that ``fptk COMMAND`` did not write, or a
            folder or the like.
    """
    destinations = list(destinations)
    for path in destinations:
        check_destination(path, option)
    check_unread(destinations, reads, option)
    for path in destinations:
        if not overwrite and kind_of(path) == "file" and not drawn_by(path, command):
            raise InputError(
                f"{path} exists and is not by fptk {command}; choose another {option}, or replace it with --overwrite"
            )


def check_unread(destinations: Iterable[Path], reads: Iterable[Path], option: str = "--out") -> None:
    """Check before any work that no file that will be written is one that the command reads, under whatever name.

    Args:
        destinations: files that will be written.
        reads: files that are read, and folders that are read with all that is in them; what does not exist is none.
        option: the command-line option that named the destinations, for errors.

    Raises:
        InputError: a destination exists, and is one of ``reads`` or stands in one of them.
    """
    files, folders = set(), []
    for read in reads:
        with contextlib.suppress(InputError):  # what cannot be read is not written over either
            kind = kind_of(read)
            if kind == "file":
                files.add(_identity(read))
            elif kind == "folder":
                folders.append(read.resolve())
    for path in destinations:
        if kind_of(path) == "file" and (
            _identity(path) in files or any(path.resolve().is_relative_to(folder) for folder in folders)
        ):
            raise InputError(f"{path} is read by this command and would be written over; choose another {option}")


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


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
        lock = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    if _lock_descriptor(lock, wait=wait):
        return lock
    os.close(lock)
    return None


def _lock_descriptor(descriptor: int, *, wait: bool = False) -> bool:
    """Whether this process now holds the lock of an open file or folder; ``False`` where the system has no locks."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


def replace_folder(temporary: Path, path: Path) -> None:
    """Put the finished folder ``temporary`` in the place of ``path``, on another file system by way of a copy there.

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
        try:
            _put_in_place(temporary, path, retired)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            with temporary_folder(path.parent, path.name) as beside:  # another disk: only there it can be swapped
                shutil.copytree(temporary, beside, dirs_exist_ok=True)
                beside.chmod(0o755)
                _put_in_place(beside, path, retired)
                shutil.rmtree(retired, ignore_errors=True)
    shutil.rmtree(retired, ignore_errors=True)
    shutil.rmtree(temporary, ignore_errors=True)


_RACES = 20
"""Times that another process may put its folder there between a look and a rename."""


def _put_in_place(temporary: Path, path: Path, retired: Path) -> None:
    for attempt in range(_RACES):
        try:
            if not path.exists():
                temporary.rename(path)
            elif not _swap(temporary, path):
                path.rename(retired)
                temporary.rename(path)
            return
        except OSError as error:
            # Another command came first: what was there is gone, or what was not is there now.
            lost = error.errno in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST) and temporary.exists()
            if not lost or attempt == _RACES - 1:
                raise


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


def write_text(path: Path, text: str, *, option: str = "--out") -> None:
    """Write ``text`` (UTF-8) to ``path``, whole or not at all; see :func:`atomic_file`."""
    with atomic_file(path, option=option) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, *, option: str = "--out") -> None:
    """Write ``value`` as indented JSON, whole or not at all. NaN is refused: it is not JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n", option=option)


def read_json(path: Path, what: str) -> Any:
    """Parse the JSON file ``path``; ``what`` names it in the error.

    Raises:
        InputError: it is missing, no regular file, unreadable, not JSON, or beyond the bounds of :func:`parse_json`.
    """
    try:
        with open_regular(path) as handle:
            content = handle.read(JSON_LIMIT + 1)
    except FileNotFoundError:
        raise InputError(f"{what} {path} does not exist") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{what} {path} is not a readable JSON file: {reason_of(error)}") from error
    try:
        return parse_json(content)
    except ValueError as error:
        raise InputError(f"{what} {path} is not a readable JSON file: {error}") from error


def parse_json(content: bytes | str) -> Any:
    """Parse JSON (UTF-8) from a source that is not trusted.

    Raises:
        ValueError: it is not JSON, is larger than :data:`JSON_LIMIT`, nests deeper than :data:`JSON_DEPTH`, or holds
            NaN, an infinity, or a number that no double and no 128-bit integer holds. The message is one line.
    """
    if len(content) > JSON_LIMIT:
        raise ValueError(f"it is larger than {JSON_LIMIT // 2**20} MiB")
    try:
        text = content if isinstance(content, str) else content.decode("utf-8")
        value = json.loads(text, parse_constant=_no_number, parse_float=_finite, parse_int=_whole)
    except RecursionError:
        raise ValueError(f"it nests deeper than {JSON_DEPTH}") from None
    level = [value]
    for _ in range(JSON_DEPTH):
        level = [child for each in level for child in _children(each) if isinstance(child, (dict, list))]
        if not level:
            return value
    raise ValueError(f"it nests deeper than {JSON_DEPTH}")


def _children(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:JSON_DIGITS]} is too large")
    return value


def _whole(text: str) -> int:
    if len(text) > JSON_DIGITS:
        raise ValueError(f"the number {text[:JSON_DIGITS]}… is too long")
    return int(text)


def sha256_file(path: Path) -> str:
    """Hex sha256 of the content of ``path``, a regular file."""
    with open_regular(path) as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Hex sha256 of ``value`` in canonical JSON (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
