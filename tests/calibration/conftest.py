"""Fixtures of the calibration tests."""

from __future__ import annotations

import numpy as np
import pytest

from fptk.core.classes import NUM_CLASSES
from fptk.core.dataset import UInt8Array

from .networks import Faces, smooth_noise, striped


@pytest.fixture
def noise_images() -> list[UInt8Array]:
    """Four images of random blocks, uint8 (1, 32, 32, 3)."""
    return smooth_noise()


@pytest.fixture
def all_classes() -> Faces:
    """Eight striped images that show every class, rare ones included."""
    rng = np.random.default_rng(1)
    order = [list(rng.permutation(NUM_CLASSES)) for _ in range(8)]
    return Faces([striped(seed, classes) for seed, classes in enumerate(order)])
