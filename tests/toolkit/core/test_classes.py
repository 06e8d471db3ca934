from __future__ import annotations

import numpy as np

from fptk.core.classes import CLASS_INDEX, CLASSES, NUM_CLASSES, PALETTE, SWAP_PAIRS, flat_palette, swap_table


def test_names_indices_and_colors_are_19_and_distinct():
    assert NUM_CLASSES == len(set(CLASSES)) == len(set(PALETTE)) == 19
    assert [CLASS_INDEX[name] for name in CLASSES] == list(range(19))
    assert (CLASS_INDEX["background"], CLASS_INDEX["l_eye"], CLASS_INDEX["cloth"]) == (0, 4, 18)


def test_swap_exchanges_every_left_with_its_right_and_nothing_else():
    table = np.array(swap_table())
    assert np.array_equal(table[table], np.arange(19))
    assert [CLASSES[table[i]] for i in range(19) if table[i] != i] == [
        *["r_eye", "l_eye", "r_brow", "l_brow", "r_ear", "l_ear"]
    ]
    for left, right in SWAP_PAIRS:
        assert CLASSES[left].replace("l_", "r_", 1) == CLASSES[right]


def test_flat_palette_is_what_pillow_takes():
    flat = flat_palette()
    assert len(flat) == 768
    assert tuple(flat[3 * 13 : 3 * 13 + 3]) == PALETTE[13]
    assert not any(flat[3 * 19 :])
