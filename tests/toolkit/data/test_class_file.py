"""``classes.yaml``: what a data set says of its masks, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fptk.core.classes import CELEBAMASK, IGNORE, LAPA, ClassSet
from fptk.core.errors import InputError
from fptk.data.class_file import class_file_text, class_set_of, pairs_by_name, read_class_file
from fptk.data.folders import FolderDataset
from fptk.data.splits import open_evaluation, open_training


def read(tmp_path: Path, text: str) -> ClassSet:
    (tmp_path / "classes.yaml").write_text(text)
    return read_class_file(tmp_path / "classes.yaml")


def test_a_list_that_ships_is_named(tmp_path: Path):
    assert read(tmp_path, "classes: lapa") == LAPA
    assert read(tmp_path, "classes: celebamask") == CELEBAMASK
    assert read(tmp_path, "classes: celebamask\nignore: 255").ignore == IGNORE


def test_a_list_of_ones_own(tmp_path: Path):
    text = """
    classes:
      - background
      - {name: hair, color: "#1b9e77"}
    """
    with pytest.raises(InputError, match="class 'background' has no color, and others have"):
        read(tmp_path, text)
    found = read(tmp_path, text.replace("- background", "- {name: background, color: [0, 0, 0]}"))
    assert found == ClassSet(names=("background", "hair"), palette=((0, 0, 0), (27, 158, 119)))
    assert found.ignore == IGNORE


def test_values_of_files_and_pairs_of_a_mirror(tmp_path: Path):
    found = read(tmp_path, "classes: [{name: a, values: [0, 3]}, {name: left eye, value: 255}, {name: right eye}]")
    assert found.values == ((0, 0), (3, 0), (255, 1), (2, 2))
    assert found.ignore is None
    assert found.swap_pairs == ((1, 2),)
    assert read(tmp_path, "classes: [a, l_x, r_x]\nflip: []").swap_pairs == ()
    assert read(tmp_path, "classes: [a, b, c]\nflip: [[c, a]]").swap_pairs == ((2, 0),)


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (["l_eye", "r_eye", "l_lip"], [(0, 1)]),
        (["right brow", "left brow"], [(1, 0)]),
        (["Eye_Left", "Eye_Right"], [(0, 1)]),
        (["ear-l", "ear-r", "earl"], [(0, 1)]),
        ([*CELEBAMASK.names], [*CELEBAMASK.swap_pairs]),
        ([*LAPA.names], [*LAPA.swap_pairs]),
    ],
)
def test_left_and_right_are_found_by_name(names: list[str], pairs: list[tuple[int, int]]):
    assert pairs_by_name(names) == pairs


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no key 'classes'"),
        ("[a, b]", "has no key 'classes'"),
        ("classes: [a\n", "is not valid YAML"),
        ("classes: voc", "'voc' is no list that ships; choose one of celebamask, lapa, helen"),
        ("classes: []", "classes is no list"),
        ("classes: 3", "classes is no list"),
        ("classes: [a]\nnames: [b]", "has the key 'names'; its keys are classes, ignore, flip"),
        ("classes: [{title: a}]", "class 0 has the key 'title'"),
        ("classes: [{color: '#000000'}]", "class 0 has no name"),
        ("classes: [1, 2]", "class 0 has no name"),
        ("classes: [a, a]", "two classes have the name 'a'"),
        ("classes: [{name: a, color: red}]", "class 0 has the color red; write"),
        ("classes: [{name: a, value: x}]", "class 0 has the value x"),
        ("classes: [{name: a, value: 5}, {name: b, value: 5}]", "one value of the mask files stands for two things"),
        ("classes: [{name: a, value: 70000}]", "less than or equal to 65535"),
        ("classes: [a, b]\nignore: 1", "ignore 1 is also the value of class 'b'"),
        ("classes: [a, b]\nignore: none", "ignore: "),
        ("classes: [a, b]\nflip: [a, b]", "flip holds a"),
        ("classes: [a, b]\nflip: [[a, c]]", "flip holds"),
        ("classes: !!python/object:os.system [a]", "tag"),
    ],
)
def test_what_is_no_class_list_is_one_line(tmp_path: Path, text: str, words: str):
    with pytest.raises(InputError) as caught:
        read(tmp_path, text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "classes.yaml") in str(caught.value)


@pytest.mark.parametrize(
    "classes",
    [
        CELEBAMASK,
        LAPA,
        ClassSet(names=("background", "true", "a: b", "#c", 'say "d"')),
        ClassSet(names=("a", "b"), values=((0, 0), (9, 0), (255, 1)), ignore=None),
    ],
)
def test_a_list_that_is_written_reads_back(tmp_path: Path, classes: ClassSet):
    assert read(tmp_path, class_file_text(classes, {1: "31 % of the pixels"})) == classes


def test_it_stands_at_the_root_and_holds_for_every_split(tmp_path: Path, make_split):
    for split in ("train", "val"):
        make_split(tmp_path / split, 2)
        for mask in (tmp_path / split / "masks").iterdir():
            Image.fromarray(np.full((32, 32), 255, np.uint8)).save(mask)
    with pytest.raises(InputError, match="write 'ignore: 255'"):
        FolderDataset(tmp_path / "train")[0]
    (tmp_path / "classes.yaml").write_text("classes: [background, hair]")
    assert class_set_of(tmp_path) == class_set_of(tmp_path / "val") == ClassSet(names=("background", "hair"))
    train, val = open_training([tmp_path])
    assert train.classes == val.classes == open_evaluation(tmp_path / "val").classes
    assert (train[0].mask == IGNORE).all()


def test_folders_of_different_lists_are_not_joined(tmp_path: Path, make_split):
    for name, text in (("a", "classes: lapa"), ("b", "classes: celebamask")):
        make_split(tmp_path / name / "train", 2)
        (tmp_path / name / "classes.yaml").write_text(text)
    with pytest.raises(InputError, match=r"11 classes .* 19 classes"):
        open_training([tmp_path / "a", tmp_path / "b"])
