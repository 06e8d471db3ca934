"""Every network's deploy form, rewrite by rewrite: the same logits, the same labels, on weights that look trained."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fptk.core.preprocess import PreprocessSpec
from fptk.models import create_model, list_models
from fptk.models.deploy import REQUIRES, REWRITES, to_deploy
from fptk.models.deploy import rewrites as exact
from fptk.models.deploy.segformer import TiledAttention
from fptk.models.deploy.serving import Serving
from fptk.models.engine_form import ENGINES

from .closeness import assert_same_labels, relative_error

NETWORKS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in list_models() if name != "microsegformer"),
    ("segformer", {"head": "transpose"}),
]
"""All but MicroSegFormer, whose rewrites have tests of their own."""

RELATIVE = {torch.float32: 1e-5, torch.float64: 1e-12}


def subsets(name: str, options: dict[str, Any]) -> dict[str, list[str]]:
    """Each rewrite that applies with the one it needs, none, and all."""
    applies = to_deploy(create_model(name, **options)).applies
    alone = {each: [each, *([REQUIRES[each]] if each in REQUIRES else [])] for each in applies}
    return {**alone, "none": [], "all": list(REWRITES)}


@pytest.mark.parametrize(("name", "options"), NETWORKS)
@pytest.mark.parametrize("engine", ENGINES)
def test_each_rewrite_is_exact_in_float64(name: str, options: dict[str, Any], engine: str, trained_like: Any) -> None:
    model = trained_like(create_model(name, **options)).double()
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    with torch.inference_mode():
        reference = model(images)
        for chosen, rewrites in subsets(name, options).items():
            ours = to_deploy(model, engine=engine, rewrites=rewrites)(images)
            assert relative_error(ours, reference) <= RELATIVE[torch.float64], chosen


@pytest.mark.parametrize(("name", "options"), NETWORKS)
@pytest.mark.parametrize(
    ("size", "dtype"),
    [
        ((96, 160), torch.float32),
        ((256, 256), torch.float32),
        pytest.param((512, 512), torch.float32, marks=pytest.mark.slow),
        pytest.param((256, 256), torch.float64, marks=pytest.mark.slow),
    ],
)
def test_deploy_form_keeps_logits_and_labels(
    name: str, options: dict[str, Any], size: tuple[int, int], dtype: torch.dtype, trained_like: Any
) -> None:
    model = trained_like(create_model(name, **options)).to(dtype)
    pixels = torch.randint(0, 256, (1, *size, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images = (pixels.permute(0, 3, 1, 2).to(dtype) / 255 - 0.45) / 0.226
    deployed = to_deploy(model)
    with torch.inference_mode():
        reference = model(images)
        assert relative_error(deployed(images), reference) <= RELATIVE[dtype]
        labels = deployed.labels(images)
    assert labels.shape == (1, *size)
    assert float((labels == reference.argmax(1)).float().mean()) >= 0.9999


@pytest.mark.parametrize(("name", "options"), NETWORKS)
@pytest.mark.parametrize("engine", ENGINES)
def test_serving_takes_pixels_and_gives_labels(
    name: str, options: dict[str, Any], engine: str, trained_like: Any
) -> None:
    model, spec = trained_like(create_model(name, **options)), PreprocessSpec(size=(64, 96))
    images = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)
    deployed = to_deploy(model, engine=engine)
    with torch.inference_mode():
        reference = Serving(model, spec, "logits")(images)
        labels = Serving(deployed, spec)(images)
        assert relative_error(Serving(deployed, spec, "logits")(images), reference) <= 1e-5
        assert labels.dtype == torch.uint8
        assert_same_labels(ENGINES[engine], labels, reference)


@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_no_batchnorm_nor_transposed_convolution_is_left(name: str, options: dict[str, Any], trained_like: Any) -> None:
    model = trained_like(create_model(name, **options)).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    form = to_deploy(model)
    assert not [module for module in form.modules() if isinstance(module, (nn.BatchNorm2d, nn.ConvTranspose2d))]
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_decoder_of_segformer_makes_no_concatenation(trained_like: Any) -> None:
    form = to_deploy(trained_like(create_model("segformer")))
    assert all(conv.in_channels <= 256 for conv in form.modules() if isinstance(conv, nn.Conv2d) and conv.groups == 1)


@pytest.mark.parametrize("limit", [{"query_tile": 16}, {"max_scores": 10_000}])
def test_queries_in_tiles_attend_as_all_at_once(limit: dict[str, int], trained_like: Any) -> None:
    model = trained_like(create_model("segformer")).double()
    form = to_deploy(model)
    tiled = [module for module in form.modules() if isinstance(module, TiledAttention)]
    assert len(tiled) == 7
    for module in tiled:
        module.form = dataclasses.replace(module.form, **limit)
    images = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.inference_mode():
        assert relative_error(form(images), model(images)) <= 1e-12


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 5), (8, 8), (16, 24)])
def test_pyramid_matrices_pool_and_interpolate_as_torch_does(size: tuple[int, int]) -> None:
    maps = torch.randn(2, 4, *size, dtype=torch.float64)
    for side in (1, 2, 3, 6):
        pooling, interpolation = exact.pyramid_matrices(*size, (side,))
        pooled = F.adaptive_avg_pool2d(maps, side)
        torch.testing.assert_close(maps.flatten(2) @ pooling, pooled.flatten(2), rtol=0, atol=1e-12)
        enlarged = F.interpolate(pooled, size=size, mode="bilinear", align_corners=False)
        torch.testing.assert_close(pooled.flatten(2) @ interpolation, enlarged.flatten(2), rtol=0, atol=1e-12)


@pytest.mark.parametrize("k", [2, 4])
def test_transposed_convolution_is_a_pointwise_one_and_a_shuffle(k: int, trained_like: Any) -> None:
    transposed = trained_like(nn.Sequential(nn.ConvTranspose2d(5, 7, k, k)))[0].double()
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    ours = F.pixel_shuffle(exact.transposed_as_pointwise(transposed)(x), k)
    assert relative_error(ours, transposed(x)) <= 1e-12


@pytest.mark.parametrize("options", [{"stride": 1}, {"padding": 1}, {"groups": 2}, {"output_padding": 1}])
def test_other_transposed_convolutions_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        exact.transposed_as_pointwise(nn.ConvTranspose2d(4, 4, 2, **{"stride": 2, **options}))
