"""The PyTorch reference session."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fptk.core.preprocess import PreprocessSpec
from fptk.models import TorchSession, create_model


def test_session_is_normalize_network_argmax(trained_like: Any) -> None:
    model = trained_like(create_model())
    spec = PreprocessSpec(size=(64, 96))
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)
    x = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - torch.tensor(spec.mean)[:, None, None]) / torch.tensor(
        spec.std
    )[:, None, None]
    with TorchSession(model, spec) as session:
        labels = session(images)
    assert labels.dtype == np.uint8
    assert labels.shape == (2, 64, 96)
    assert session.name == "pytorch fp32"
    assert (labels == model(x).argmax(1).numpy()).mean() > 0.9999


def test_session_restores_mode_and_threads() -> None:
    model = create_model().train()
    before = torch.get_num_threads()
    session = TorchSession(model, PreprocessSpec(size=(64, 64)), threads=1)
    images = np.zeros((1, 64, 64, 3), dtype=np.uint8)
    assert np.array_equal(session(images), session(images))  # dropout is off
    assert model.training
    assert torch.get_num_threads() == before


def test_wrong_shape_is_a_bug_of_the_caller() -> None:
    session = TorchSession(create_model(), PreprocessSpec(size=(64, 64)))
    with pytest.raises(ValueError, match="expected uint8 images"):
        session(np.zeros((1, 32, 64, 3), dtype=np.uint8))
