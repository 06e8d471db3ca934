"""Parts: what is sent in pieces arrives whole, in any order, and a damaged piece is refused."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from fptk.core.errors import InputError
from fptk.workflows.gpu_parts import (
    CARD,
    TAR,
    missing_parts,
    parts_in,
    plan_parts,
    receive,
    received,
    write_parts,
)

LIMIT = 128 * 1024


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Small files, an empty one, and one of more than two parts."""
    source = tmp_path / "source"
    (source / "faces").mkdir(parents=True)
    draw = random.Random(0)
    for number in range(40):
        (source / "faces" / f"{number}.webp").write_bytes(draw.randbytes(draw.randrange(4000)))
    (source / "faces" / "empty").write_bytes(b"")
    (source / "big.whl").write_bytes(draw.randbytes(300_000))
    return source


def names_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def contents(folder: Path, names: list[str]) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names}


def test_parts_arrive_whole_in_any_order(folder: Path, tmp_path: Path) -> None:
    names = names_of(folder)
    parts = write_parts(folder, names, tmp_path / "packs", LIMIT)
    assert len(parts) >= 4
    assert all((part / TAR).stat().st_size <= LIMIT for part in parts)
    assert list(parts_in(tmp_path / "packs")) == parts
    store = tmp_path / "store"
    assert missing_parts(store) == []
    for part in reversed(parts):
        assert receive(part, store)
    assert not receive(parts[0], store)
    assert missing_parts(store) == []
    assert len(received(store)) == len(parts)
    assert contents(store, names) == contents(folder, names)
    assert not list(store.rglob("*.slice-*"))


def test_a_part_is_of_use_alone(folder: Path, tmp_path: Path) -> None:
    names = [name for name in names_of(folder) if name.startswith("faces")] + ["big.whl"]
    first, *others = write_parts(folder, names, tmp_path / "packs", LIMIT)
    store = tmp_path / "store"
    receive(first, store)
    assert missing_parts(store) == list(range(2, len(others) + 2))
    there = [name for name in names if (store / name).is_file()]
    assert "big.whl" not in there
    assert len(there) > 20
    assert contents(store, there) == contents(folder, there)


@pytest.mark.parametrize("harm", ["cut", "changed", "gone", "card"])
def test_a_damaged_part_is_refused(folder: Path, tmp_path: Path, harm: str) -> None:
    part = write_parts(folder, names_of(folder), tmp_path / "packs", LIMIT)[0]
    tar = part / TAR
    content = tar.read_bytes()
    if harm == "cut":
        tar.write_bytes(content[:-1])
    elif harm == "changed":
        tar.write_bytes(content[:2000] + bytes([content[2000] ^ 1]) + content[2001:])
    elif harm == "gone":
        tar.unlink()
    else:
        (part / CARD).write_text('{"number": 1}', encoding="utf-8")
    with pytest.raises(InputError, match="copy the part again"):
        receive(part, tmp_path / "store")
    assert not received(tmp_path / "store")


def test_parts_of_two_packings_do_not_mix(folder: Path, tmp_path: Path) -> None:
    names = names_of(folder)
    one = write_parts(folder, names, tmp_path / "one", LIMIT)
    other = write_parts(folder, names[:-1], tmp_path / "other", LIMIT)
    receive(one[0], tmp_path / "store")
    with pytest.raises(InputError, match="another packing"):
        receive(other[1], tmp_path / "store")


def test_packing_again_leaves_no_old_part(folder: Path, tmp_path: Path) -> None:
    names = names_of(folder)
    before = write_parts(folder, names, tmp_path / "packs", LIMIT)
    after = write_parts(folder, names[:10], tmp_path / "packs", LIMIT)
    assert len(after) < len(before)
    assert list(parts_in(tmp_path / "packs")) == after


def test_every_byte_has_one_place() -> None:
    files = [("a", 0), ("b", 70_000), ("c", 1), ("d", 512), ("e", 1_000_000)]
    plan = plan_parts(files, 65_536)
    for name, size in files:
        pieces = [piece for part in plan for piece in part if piece.name == name]
        assert sum(piece.length for piece in pieces) == size
        assert [piece.start for piece in pieces] == [sum(p.length for p in pieces[:i]) for i in range(len(pieces))]
    with pytest.raises(InputError, match="at least 65536"):
        plan_parts(files, 1000)
