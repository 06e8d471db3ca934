"""Randomness as a pure function of where it is used: a resumed training needs no generator's state."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What a random number is for; different streams of one seed are independent."""

    WEIGHTS = 0
    ORDER = 1
    AUGMENT = 2
    STEP = 3
    MIXUP = 4
    CUTMIX = 5
    SIZE = 6


def generator(seed: int, stream: Stream, *position: int) -> np.random.Generator:
    """Counter-based generator (Philox) for one place in the training.

    Args:
        seed: the recipe's seed.
        stream: what it is for.
        position: where it is used, e.g. epoch and position within it; integers >= 0.
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, int(stream), *position])))


def torch_seed(seed: int, stream: Stream, *position: int) -> int:
    """Seed for ``torch.manual_seed``, below 2**63."""
    state = np.random.SeedSequence([seed, int(stream), *position]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))
