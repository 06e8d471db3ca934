"""The look at every file before long work: what it counts, and what it says of damaged files."""

from __future__ import annotations

import pytest

from fptk.core.errors import InputError
from fptk.data import FolderDataset
from fptk.data.identity import check_files
from fptk.data.statistics import StatisticsCache


def test_every_face_is_counted(tmp_path, make_split, heard):
    faces = FolderDataset(make_split(tmp_path / "a", 3))
    others = FolderDataset(make_split(tmp_path / "b", 2, seed=9))
    check_files(faces, others, what="looking", listener=heard, cache=StatisticsCache(tmp_path / "cache"))
    assert heard.steps == [("looking", 3, 5), ("looking", 5, 5)]


def test_the_first_damaged_file_is_named_and_the_others_are_counted(tmp_path, make_split, heard):
    faces = FolderDataset(make_split(tmp_path / "a", 4))
    for index in (1, 3):
        faces.image_path(index).write_bytes(b"no image")
    with pytest.raises(InputError, match=r"001\.jpg .*\(1 more like it"):
        check_files(faces, listener=heard, cache=StatisticsCache(tmp_path / "cache"))
    assert heard.steps[-1][1:] == (4, 4)
