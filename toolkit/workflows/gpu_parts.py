"""A folder of files in parts of at most a given size, each of use alone, and the folder again on the other side.

A part is a folder with one tar file and its card. A file that is too large for the room left goes into several parts as
slices, which are joined when the last one arrives. Nothing here needs more than Python.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fptk.core.errors import InputError
from fptk.core.files import read_json, sha256_file, write_json
from fptk.core.progress import SILENT, Listener, track

TAR = "files.tar"
CARD = "part.json"
RECEIVED = "received"
"""Folder in the store with the cards of the parts that arrived."""

SLICE = ".slice-"
BLOCK = 512
"""Bytes that everything in a tar file is a multiple of."""

ENDING = 20 * BLOCK
"""Bytes of a tar file's end: two empty blocks, filled up to its record size."""

WORTH_SLICING = 8
"""A file that is larger than this share of a part (an eighth) is sliced rather than left for the next part."""


class Piece(NamedTuple):
    """What one part holds of one file."""

    name: str
    """Path in the folder, with slashes."""
    start: int
    """First byte."""
    length: int
    """Bytes."""
    size: int
    """Bytes of the whole file."""

    @property
    def member(self) -> str:
        """Name in the tar file."""
        return self.name if self.length == self.size else f"{self.name}{SLICE}{self.start}-{self.size}"


def plan_parts(files: Iterable[tuple[str, int]], limit: int) -> list[list[Piece]]:
    """Divide files among parts, in their order.

    Args:
        files: name and size in bytes of each.
        limit: bytes that a part's tar file may have; at least 64 KiB.

    Returns:
        The pieces of each part.

    Raises:
        InputError: the limit is too small.
    """
    if limit < 128 * BLOCK:
        raise InputError(f"a part of {limit} bytes holds nothing; give at least {128 * BLOCK}")
    parts: list[list[Piece]] = []
    room = 0
    for name, size in files:
        start = 0
        while start < size or start == 0:
            left = size - start
            fits = room - BLOCK
            if _padded(left) > fits and (not parts or left * WORTH_SLICING < limit or fits < BLOCK):
                parts.append([])
                room = limit - ENDING
                fits = room - BLOCK
            length = min(left, fits // BLOCK * BLOCK)
            parts[-1].append(Piece(name, start, length, size))
            room -= BLOCK + _padded(length)
            start += max(length, 1)
    return parts


def _padded(length: int) -> int:
    return -(-length // BLOCK) * BLOCK


def write_parts(
    source: Path, names: Sequence[str], folder: Path, limit: int, listener: Listener = SILENT
) -> list[Path]:
    """Write ``part-1``, ``part-2`` ... of the named files; parts of an earlier call are replaced.

    Args:
        source: the folder that the names are in.
        names: paths in it with slashes, at most 100 characters each with their slice's mark, in the order of the parts.
        folder: where the parts go.
        limit: bytes that a part's tar file may have.
        listener: told of the parts.

    Returns:
        The folders of the parts, in order.

    Raises:
        InputError: the limit is too small, or a file cannot be read or written.
    """
    plan = plan_parts([(name, (source / name).stat().st_size) for name in names], limit)
    pack = hashlib.sha256(json.dumps(plan).encode()).hexdigest()[:16]
    for old in folder.glob("part-*"):
        shutil.rmtree(old)
    written = []
    for number, pieces in track(listener, list(enumerate(plan, start=1)), "writing parts"):
        part = folder / f"part-{number}"
        part.mkdir(parents=True)
        with tarfile.open(part / TAR, "w", format=tarfile.USTAR_FORMAT) as tar:
            for piece in pieces:
                entry = tarfile.TarInfo(piece.member)
                entry.size = piece.length
                entry.mode = 0o644
                tar.addfile(entry, io.BytesIO(_bytes_of(source / piece.name, piece)))
        card = {
            "pack": pack,
            "number": number,
            "of": len(plan),
            "files": len(pieces),
            "bytes": (part / TAR).stat().st_size,
            "sha256": sha256_file(part / TAR),
        }
        write_json(part / CARD, card)
        written.append(part)
    return written


def _bytes_of(path: Path, piece: Piece) -> bytes:
    with path.open("rb") as handle:
        handle.seek(piece.start)
        return handle.read(piece.length)


def receive(part: Path, store: Path) -> bool:
    """Take one part into the store. What it holds is of use at once, but for slices of which others are missing.

    Args:
        part: folder of a part.
        store: folder that the files appear in; made if need be.

    Returns:
        Whether it was new.

    Raises:
        InputError: the part is missing, damaged, or of another packing than those in the store.
    """
    card = _card(part / CARD)
    known = received(store)
    if known and known[0]["pack"] != card["pack"]:
        raise InputError(f"{store} holds parts of another packing than {part}; remove it, or choose another --store")
    if any(each["number"] == card["number"] for each in known):
        return False
    tar_file = part / TAR
    if not tar_file.is_file() or sha256_file(tar_file) != card["sha256"]:
        raise InputError(f"{tar_file} is missing or damaged; copy the part again")
    store.mkdir(parents=True, exist_ok=True)
    with tarfile.open(tar_file) as tar:
        tar.extractall(store, filter="data")
    join_slices(store)
    (store / RECEIVED).mkdir(exist_ok=True)
    write_json(store / RECEIVED / f"{card['number']}.json", card)
    return True


def join_slices(store: Path) -> list[Path]:
    """Join every file of which all slices are there; the files."""
    slices: dict[Path, list[tuple[int, int, Path]]] = {}
    for path in store.rglob(f"*{SLICE}*"):
        name, _, numbers = path.name.rpartition(SLICE)
        start, _, size = numbers.partition("-")
        slices.setdefault(path.with_name(name), []).append((int(start), int(size), path))
    joined = []
    for whole, found in slices.items():
        if sum(path.stat().st_size for _, _, path in found) < found[0][1]:
            continue
        temporary = whole.with_name(f".{whole.name}.tmp")
        with temporary.open("wb") as handle:
            for _, _, path in sorted(found):
                with path.open("rb") as piece:
                    shutil.copyfileobj(piece, handle)
        temporary.replace(whole)
        for _, _, path in found:
            path.unlink()
        joined.append(whole)
    return joined


def received(store: Path) -> list[dict[str, Any]]:
    """Cards of the parts in the store, in their order.

    Raises:
        InputError: one is damaged.
    """
    return sorted((_card(path) for path in (store / RECEIVED).glob("*.json")), key=lambda card: int(card["number"]))


def missing_parts(store: Path) -> list[int]:
    """Numbers of the parts that have not arrived; none where no part has.

    Raises:
        InputError: a card is damaged.
    """
    cards = received(store)
    there = {card["number"] for card in cards}
    return [number for number in range(1, cards[0]["of"] + 1) if number not in there] if cards else []


def parts_in(folder: Path) -> Iterator[Path]:
    """Folders of the parts in ``folder``, in order."""
    cards = folder.glob(f"part-*/{CARD}")
    return (path.parent for path in sorted(cards, key=lambda path: int(_card(path)["number"])))


def _card(path: Path) -> dict[str, Any]:
    card = read_json(path, "card of a part")
    kinds = {"pack": str, "number": int, "of": int, "sha256": str}
    if not isinstance(card, dict) or any(type(card.get(key)) is not kind for key, kind in kinds.items()):
        raise InputError(f"card of a part {path} is damaged; copy the part again")
    return card
