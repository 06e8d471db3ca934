"""The networks beside MicroSegFormer: exact counts, any size, gradients everywhere, and the rewrites that apply."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fptk.errors import InputError
from fptk.models import count_parameters, create_model, list_models
from fptk.models.deploy import ENGINES, to_deploy
from fptk.models.layers import average_into
from fptk.models.segformer import attend_in_tiles
from fptk.models.serving import Serving
from fptk.preprocess import PreprocessSpec

OTHERS = [name for name in list_models() if name != "microsegformer"]
VARIANTS: list[tuple[str, dict[str, Any]]] = [*((name, {}) for name in OTHERS), ("segformer", {"head": "transpose"})]


def relative_error(ours: torch.Tensor, reference: torch.Tensor) -> float:
    return float((ours - reference).abs().max() / reference.abs().max())


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("segformer", {"head": "bilinear"}, 1_975_683),
        ("segformer", {"head": "transpose"}, 1_981_478),
        ("unet", {}, 1_941_411),
        ("deeplabv3plus", {}, 1_964_394),
        ("fastscnn", {}, 1_154_435),
    ],
)
def test_exact_parameter_count(name: str, options: dict[str, Any], parameters: int) -> None:
    assert count_parameters(create_model(name, **options)) == parameters


@pytest.mark.parametrize(("name", "options"), VARIANTS)
@pytest.mark.parametrize("size", [(64, 64), (96, 160), (256, 256)])
def test_logits_have_the_images_size(name: str, options: dict[str, Any], size: tuple[int, int]) -> None:
    with torch.inference_mode():
        logits = create_model(name, **options).eval()(torch.randn(1, 3, *size))
    assert logits.shape == (1, 19, *size)
    assert bool(logits.isfinite().all())


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_every_parameter_learns(name: str, options: dict[str, Any]) -> None:
    model = create_model(name, **options).train()
    F.cross_entropy(model(torch.randn(2, 3, 64, 64)), torch.randint(0, 19, (2, 64, 64))).backward()
    still = [key for key, value in model.named_parameters() if value.grad is None or not bool(value.grad.any())]
    # A convolution's bias before BatchNorm has no influence in training; it is there because the count says so.
    assert not [key for key in still if not key.endswith("0.bias")]


@pytest.mark.parametrize(("name", "options"), VARIANTS)
@pytest.mark.parametrize("engine", ENGINES)
def test_deploy_form_is_exact_in_float64(name: str, options: dict[str, Any], engine: str, trained_like: Any) -> None:
    model = trained_like(create_model(name, **options)).double()
    model.efficient = False
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    with torch.inference_mode():
        form = to_deploy(model, engine=engine)
        assert not any(isinstance(each, nn.BatchNorm2d) for each in form.modules())
        assert relative_error(form(images), model(images)) <= 1e-12


@pytest.mark.parametrize(("name", "options"), VARIANTS)
@pytest.mark.parametrize("size", [(96, 160), (256, 256), pytest.param((512, 512), marks=pytest.mark.slow)])
def test_deploy_form_keeps_logits_and_labels(
    name: str, options: dict[str, Any], size: tuple[int, int], trained_like: Any
) -> None:
    model, spec = trained_like(create_model(name, **options)), PreprocessSpec(size=size)
    images = torch.randint(0, 256, (1, *size, 3), dtype=torch.uint8)
    model.efficient = False
    with torch.inference_mode():
        reference = Serving(model, spec, "logits")(images)
        form = to_deploy(model)
        assert relative_error(Serving(form, spec, "logits")(images), reference) <= 1e-5
        assert float((Serving(form, spec)(images) == reference.argmax(1)).float().mean()) >= 0.9999


@pytest.mark.parametrize("bins", [1, 2, 3, 6])
def test_average_into_is_adaptive_pooling(bins: int) -> None:
    x = torch.randn(2, 5, 16, 11, dtype=torch.float64)
    assert relative_error(average_into(x, bins), F.adaptive_avg_pool2d(x, bins)) <= 1e-12


def test_attention_in_tiles_is_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fptk.models.segformer.SCORES_IN_A_TILE", 300)
    q, k, v = torch.randn(3, 2, 2, 40, 8, dtype=torch.float64)
    expected = F.scaled_dot_product_attention(q, k, v, scale=1.0)
    assert relative_error(attend_in_tiles(q, k, v), expected) <= 1e-12


def test_unknown_head_is_one_line_with_the_choices() -> None:
    with pytest.raises(InputError, match="head 'huge' is unknown; choose one of: bilinear, transpose"):
        create_model("segformer", head="huge")
