from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from fptk.core.classes import CELEBAMASK, CLASS_INDEX, IGNORE, KNOWN, LAPA, ClassSet, check_same
from fptk.core.errors import InputError
from fptk.core.palette import draw_palette, lab


def test_names_indices_and_colors_are_19_and_distinct():
    assert len(CELEBAMASK) == len(set(CELEBAMASK.names)) == len(set(CELEBAMASK.palette)) == 19
    assert [CLASS_INDEX[name] for name in CELEBAMASK.names] == list(range(19))
    assert (CLASS_INDEX["background"], CLASS_INDEX["l_eye"], CLASS_INDEX["cloth"]) == (0, 4, 18)


@pytest.mark.parametrize("classes", KNOWN.values(), ids=[*KNOWN])
def test_swap_exchanges_every_left_with_its_right_and_nothing_else(classes: ClassSet):
    table = np.array(classes.swap_table())
    assert np.array_equal(table[table], np.arange(256))
    moved = {
        classes.names[label]: classes.names[table[label]] for label in range(len(classes)) if table[label] != label
    }
    assert moved
    for name, other in moved.items():
        assert other == (name.replace("l_", "r_", 1) if name.startswith("l_") else name.replace("r_", "l_", 1))


def test_flat_palette_is_what_pillow_takes():
    flat = CELEBAMASK.flat_palette()
    assert len(flat) == 768
    assert tuple(flat[3 * 13 : 3 * 13 + 3]) == CELEBAMASK.palette[13]
    assert not any(flat[3 * 19 :])
    assert LAPA.flat_palette()[3 * IGNORE :] == [255, 255, 255]


def test_colors_are_drawn_once_and_for_all_and_stay_apart_for_colour_blind_eyes():
    palette = draw_palette(20)
    assert palette[0] == (0, 0, 0)
    assert draw_palette(11) == palette[:11]
    assert len(set(draw_palette(255))) == 255
    seen = lab(list(palette[:11]))
    distances = np.linalg.norm(seen[:, :, None] - seen[:, None], axis=3) + 1000 * np.eye(11)
    assert distances.min() > 25  # of CIELAB, where 2.3 is a just noticeable difference
    released = lab(list(CELEBAMASK.palette[:11]))
    theirs = np.linalg.norm(released[:, :, None] - released[:, None], axis=3) + 1000 * np.eye(11)
    assert distances.min() > theirs.min()


def test_lists_are_compared_by_name():
    assert LAPA.difference(ClassSet(names=LAPA.names)) is None
    assert "class 2 is 'nose' in the first and 'l_brow' in the second" in str(CELEBAMASK.difference(LAPA))
    longer = ClassSet(names=(*LAPA.names, "hat"))
    assert LAPA.difference(longer) == "the first has 11 classes and the second 12"
    with pytest.raises(InputError, match=r"the engine has 11 classes .* the set has 12 classes"):
        check_same(LAPA, "the engine", longer, "the set")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"names": ()}, "at least 1"),
        ({"names": ("a", "a")}, "two classes have the name 'a'"),
        ({"names": ("a", "b\n")}, "class 1 has the name"),
        ({"names": ("a", "")}, "class 1 has the name"),
        ({"names": [str(each) for each in range(256)]}, "at most 255"),
        ({"names": ("a", "b"), "palette": ((0, 0, 0),)}, "1 colours for 2 classes"),
        ({"names": ("a", "b"), "palette": ((0, 0, 0), (0, 0, 0))}, "'a' and 'b' have the same colour"),
        ({"names": ("a", "b"), "palette": ((0, 0, 0), (0, 0, 256))}, "less than or equal to 255"),
        ({"names": ("a", "b"), "swap_pairs": ((0, 2),)}, "flip pairs"),
        ({"names": ("a", "b", "c"), "swap_pairs": ((0, 1), (1, 2))}, "flip pairs"),
        ({"names": ("a", "b"), "ignore": 1}, "ignore 1 is also the value of class 'b'"),
        ({"names": ("a", "b"), "values": ((7, 0), (7, 1))}, "stands for two things"),
        ({"names": ("a", "b"), "values": ((7, 0), (255, 1))}, "stands for two things"),
        ({"names": ("a", "b"), "values": ((7, 2),)}, "not among the 2"),
    ],
)
def test_a_list_that_contradicts_itself_is_refused(fields: dict[str, object], words: str):
    with pytest.raises(ValidationError, match=words):
        ClassSet.model_validate(fields)


def test_without_a_background_nothing_lies_outside_a_photograph():
    assert ClassSet(names=("background", "hair")).outside == 0
    assert ClassSet(names=("skin", "hair"), ignore=None).outside == IGNORE
    assert ClassSet(names=("skin", "hair"), ignore=None).ignores
    assert not CELEBAMASK.ignores
