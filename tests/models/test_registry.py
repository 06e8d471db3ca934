"""The registry: exact parameter counts, shapes, and one-line errors."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from fptk.core.errors import InputError
from fptk.models import count_parameters, create_model, list_models

COUNTS: list[tuple[str, dict[str, Any], int]] = [
    ("microsegformer", {"lmsa": "compact"}, 1_747_923),
    ("microsegformer", {"lmsa": "multiscale"}, 1_818_579),
    ("microsegformer", {"lmsa": None}, 1_721_939),
    ("segformer", {}, 1_975_683),
    ("segformer", {"head": "transpose"}, 1_981_478),
    ("unet", {}, 1_941_411),
    ("deeplabv3plus", {}, 1_964_394),
    ("fastscnn", {}, 1_154_435),
]


@pytest.mark.parametrize(("name", "options", "parameters"), COUNTS)
def test_network_has_the_exact_parameter_count(name: str, options: dict[str, Any], parameters: int) -> None:
    assert count_parameters(create_model(name, **options)) == parameters


def test_every_network_is_counted() -> None:
    assert {name for name, _, _ in COUNTS} == set(list_models())


@pytest.mark.parametrize("name", list_models())
def test_every_parameter_learns(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name)
    model(torch.randn(2, 3, 64, 96)).square().mean().backward()
    still = [key for key, p in model.named_parameters() if p.grad is None or not bool(p.grad.abs().max() > 0)]
    # A key bias of its own adds a constant to every score of a query: softmax does not see it.
    assert [key for key in still if not key.endswith("attention.k.bias")] == []


@pytest.mark.parametrize("name", ["deeplabv3plus", "fastscnn"])
def test_a_training_step_on_one_image_is_refused_where_means_are_normalized(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} .* at least 2 images, got 1"):
        create_model(name)(torch.zeros(1, 3, 64, 64))


def test_default_model_is_compact_microsegformer() -> None:
    model = create_model()
    assert model.name == "microsegformer"
    assert model.options == {"lmsa": "compact", "dropout": 0.15, "num_classes": 19}
    assert "microsegformer" in list_models()


@pytest.mark.parametrize(
    ("name", "options"),
    [("microsegformer", {"lmsa": "multiscale", "dropout": 0.3}), *((name, options) for name, options, _ in COUNTS)],
)
def test_options_rebuild_the_same_architecture(name: str, options: dict[str, Any]) -> None:
    model = create_model(name, **options)
    again = create_model(model.name, **model.options)
    again.load_state_dict(model.state_dict())
    assert again.options == model.options


@pytest.mark.parametrize("name", list_models())
@pytest.mark.parametrize("size", [(32, 32), (96, 160), (256, 256), pytest.param((512, 512), marks=pytest.mark.slow)])
def test_logits_have_the_images_size(name: str, size: tuple[int, int]) -> None:
    model = create_model(name).eval()
    with torch.inference_mode():
        logits = model(torch.randn(1, 3, *size))
    assert logits.shape == (1, 19, *size)
    assert logits.dtype == torch.float32
    assert bool(logits.isfinite().all())


@pytest.mark.parametrize("name", list_models())
@pytest.mark.parametrize("size", [(100, 64), (64, 33), (16, 64)])
def test_size_that_is_no_multiple_of_32_is_refused(name: str, size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="multiple of 32"):
        create_model(name)(torch.zeros(1, 3, *size))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet", {}, "unknown model 'resnet'; choose one of: .*microsegformer"),
        ("microsegformer", {"width": 2}, "no option 'width'; its options are: lmsa, dropout"),
        ("microsegformer", {"lmsa": "huge"}, "choose one of: compact, multiscale, None"),
        ("microsegformer", {"dropout": 1.5}, "expected 0 <= dropout < 1"),
        ("fastscnn", {"dropout": -0.1}, "expected 0 <= dropout < 1"),
        ("segformer", {"head": "linear"}, "choose one of: bilinear, transpose"),
    ],
)
def test_bad_name_or_option_is_one_line_with_the_choices(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        create_model(name, **options)
    assert "\n" not in str(caught.value)


def test_listing_models_and_reading_cards_import_no_torch() -> None:
    code = "import sys, fptk.models as m; m.list_models(); m.read_card; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
