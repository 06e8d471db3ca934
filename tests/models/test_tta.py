"""Averaged views, guided borders, and what ``fptk eval`` says of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fptk.cli import eval as eval_command
from fptk.core.classes import CELEBAMASK
from fptk.core.dataset import UInt8Array
from fptk.models.tta import VIEWS, AveragedViews, GuidedBorders, TimedSession, augmented_session, guided_filter


class LeftAndRight(nn.Module):
    """Sees the subject's left eye in bright pixels right of the middle, and the right eye left of it."""

    def forward(self, x: Tensor) -> Tensor:
        bright = x.mean(dim=1)
        right_half = torch.arange(x.shape[3]) >= x.shape[3] // 2
        logits = torch.zeros(len(x), 19, *x.shape[2:])
        logits[:, 0] = 2 - bright
        logits[:, 4] = 4 * bright * right_half
        logits[:, 5] = 4 * bright * ~right_half
        return logits


class Recording(nn.Module):
    """Keeps the sizes it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(tuple(x.shape[2:]))
        return torch.cat([x, x.new_zeros(len(x), 16, *x.shape[2:])], dim=1)


def eyes() -> Tensor:
    x = torch.zeros(2, 3, 64, 96)
    x[:, :, 20:40, 10:30] = 1
    x[:, :, 10:30, 60:80] = 1
    return x


def test_mirrored_view_is_swapped_back() -> None:
    plain = LeftAndRight()(eyes()).softmax(1)
    averaged = AveragedViews(LeftAndRight(), ["flip"])(eyes())
    torch.testing.assert_close(averaged, plain)
    assert {int(label) for label in averaged.argmax(1).unique()} == {0, *CELEBAMASK.swap_pairs[0]}


def test_no_view_is_the_network_alone() -> None:
    x = eyes()
    torch.testing.assert_close(AveragedViews(LeftAndRight())(x), LeftAndRight()(x).softmax(1))


def test_views_combine_and_probabilities_add_up_to_one() -> None:
    network = Recording()
    p = AveragedViews(network, ["flip", "scale"])(torch.rand(1, 3, 64, 128))
    assert network.sizes == [(64, 128)] * 2 + [(64, 96)] * 2 + [(64, 160)] * 2  # 48 and 80 rows lie between multiples
    torch.testing.assert_close(p.sum(1), torch.ones(1, 64, 128))
    assert float(p.min()) >= 0


def test_guided_filter_equals_a_least_squares_fit_of_each_window() -> None:
    """Equation 4 of the paper: a and b minimise sum (a I + b - p)^2 + eps a^2 over the window."""
    generator = torch.Generator().manual_seed(0)
    guide, p = (torch.rand(1, 1, 5, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    slopes, offsets = np.zeros((5, 6)), np.zeros((5, 6))
    for row in range(5):
        for column in range(6):
            window = (slice(max(0, row - 1), row + 2), slice(max(0, column - 1), column + 2))
            seen, wanted = (each[0, 0].numpy()[window].ravel() for each in (guide, p))
            count = len(seen)
            matrix = [[seen @ seen + 0.01 * count, seen.sum()], [seen.sum(), count]]
            slopes[row, column], offsets[row, column] = np.linalg.solve(matrix, [seen @ wanted, wanted.sum()])
    expected = np.zeros((5, 6))
    for row in range(5):
        for column in range(6):
            window = (slice(max(0, row - 1), row + 2), slice(max(0, column - 1), column + 2))
            expected[row, column] = slopes[window].mean() * float(guide[0, 0, row, column]) + offsets[window].mean()
    np.testing.assert_allclose(guided_filter(guide, p, 1, 0.01)[0, 0], expected, rtol=1e-9)


def test_guided_borders_move_to_the_edge_of_the_image() -> None:
    """The network's border lies 2 pixels off the edge of a two-coloured image; the filter halves that."""

    class TwoOff(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            p = torch.zeros(1, 19, 32, 32)
            p[:, 1, :, :18], p[:, 0, :, 18:] = 1, 1
            return p

    x = torch.zeros(1, 3, 32, 32)
    x[..., :16] = 1
    refined = GuidedBorders(TwoOff(), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))(x)
    torch.testing.assert_close(refined.sum(1), torch.ones(1, 32, 32))
    wrong = (refined.argmax(1)[0, 8:24] == 1) != (x[0, 0, 8:24] == 1)
    assert int(wrong.sum()) == 16  # one pixel in each of 16 rows


def test_session_keeps_the_contract_and_counts_time(checkpoint: Path, images: UInt8Array) -> None:
    with TimedSession(augmented_session(checkpoint, VIEWS, "guided")) as session:
        labels = session(images)
        assert (labels.shape, labels.dtype) == (images.shape[:3], np.uint8)
        assert labels.max() < 19
        assert session.milliseconds > 0
        assert session.name == "pytorch fp32 + flip + scale + guided"


def test_command_and_module_name_the_same_views() -> None:
    assert eval_command.VIEWS == VIEWS


def test_eval_prints_gain_and_cost_and_writes_both_scores(fptk, checkpoint: Path, faces_folder: Path, tmp_path) -> None:
    file = tmp_path / "scores.json"
    options = [checkpoint, "--data", faces_folder, "--threads", 1, "--json", file]
    done = fptk("eval", *options, "--tta", "flip", "--refine", "guided")
    assert done.code == 0, done.err
    assert "gain: mIoU" in done.out
    assert "cost:" in done.out
    assert "ms an image" in done.out
    found = json.loads(file.read_text())
    assert fptk("eval", *options).code == 0
    plain = json.loads(file.read_text())
    assert found["without"] == plain
    assert found["per_class"].keys() == plain["per_class"].keys()
    assert found["milliseconds"] > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--tta", "flop"], "'flop' is no view; choose from flip, scale"), (["--refine", "crf"], "'guided'")],
)
def test_unknown_view_is_refused(fptk, arguments: list[str], said: str) -> None:
    done = fptk("eval", *arguments)
    assert done.code == 2
    assert said in done.err


def test_engine_cannot_be_augmented(fptk, tmp_path: Path) -> None:
    (tmp_path / "fptk.json").touch()
    done = fptk("eval", tmp_path, "--tta", "flip")
    assert done.code == 2
    assert "need class probabilities" in done.err
