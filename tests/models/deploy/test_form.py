"""Each rewrite alone and all together: the same logits, the same labels, on weights that look trained."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fptk.core.errors import InputError
from fptk.core.preprocess import PreprocessSpec
from fptk.models import create_model
from fptk.models.deploy import REQUIRES, REWRITES, inexact, to_deploy
from fptk.models.deploy import rewrites as exact
from fptk.models.deploy.label_map import KEY_BITS, KEY_RANGE, LABEL_MAPS, argmax, keys, labels_of_shuffled, phases
from fptk.models.deploy.microsegformer import FoldedAttention
from fptk.models.deploy.serving import Serving
from fptk.models.engine_form import ENGINES, EXACT, EngineForm

from .closeness import assert_close, assert_same_labels, relative_error

EXACT_LABEL_MAPS = [name for name in LABEL_MAPS if name not in EXACT]


def alone(name: str) -> list[str]:
    """A rewrite with the one that it needs."""
    return [name, REQUIRES[name]] if name in REQUIRES else [name]


def subsets() -> dict[str, list[str]]:
    return {**{name: alone(name) for name in REWRITES}, "none": [], "all": list(REWRITES)}


@pytest.mark.parametrize(
    ("chosen", "lmsa", "engine"),
    [(chosen, "compact", "onnxruntime") for chosen in subsets()]
    + [(chosen, lmsa, "onnxruntime") for chosen in ("collapsed_lmsa", "all") for lmsa in ("multiscale", None)]
    + [("all", lmsa, engine) for lmsa in ("compact", "multiscale", None) for engine in ("openvino", "tensorrt")],
)
def test_rewrite_is_exact_in_float64(chosen: str, lmsa: str | None, engine: str, trained_like: Any) -> None:
    model = trained_like(create_model(lmsa=lmsa)).double()
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    form = to_deploy(model, engine=engine, rewrites=subsets()[chosen])
    with torch.inference_mode():
        assert relative_error(form(images), model(images)) <= 1e-12


@pytest.mark.parametrize("size", [(256, 256), (96, 160), pytest.param((512, 512), marks=pytest.mark.slow)])
def test_every_rewrite_keeps_logits_and_labels_in_float32(size: tuple[int, int], trained_like: Any) -> None:
    model = trained_like(create_model())
    images = torch.randn(1, 3, *size)
    with torch.inference_mode():
        reference = model.original()(images)
        for name, chosen in subsets().items():
            ours = to_deploy(model, rewrites=chosen)(images)
            assert relative_error(ours, reference) <= 1e-5, name
            assert float((ours.argmax(1) == reference.argmax(1)).float().mean()) >= 0.9999, name


def test_to_deploy_leaves_the_model_alone(trained_like: Any) -> None:
    model = trained_like(create_model()).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    form = to_deploy(model)
    assert model.training
    assert not form.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"engine": "abacus"}, "unknown engine 'abacus'; choose one of: onnxruntime"),
        ({"rewrites": ["magic"]}, "unknown rewrite 'magic'; choose from: classifier_first"),
        ({"rewrites": ["collapsed_lmsa"]}, "'collapsed_lmsa' needs rewrite 'classifier_first'"),
    ],
)
def test_unknown_choice_is_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        to_deploy(create_model(), **arguments)


@pytest.mark.parametrize("limit", [{"query_tile": 16}, {"max_scores": 100}])
def test_queries_in_tiles_attend_as_all_at_once(limit: dict[str, int], trained_like: Any) -> None:
    model = trained_like(create_model(lmsa=None)).double()
    form = to_deploy(model)
    tiled = [module for module in form.modules() if isinstance(module, FoldedAttention)]
    assert len(tiled) == 7
    for module in tiled:
        module.form = dataclasses.replace(module.form, **limit)
    images = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.inference_mode():
        assert relative_error(form(images), model(images)) <= 1e-12


def test_fold_batchnorm_is_exact_under_padding(trained_like: Any) -> None:
    pair = trained_like(nn.Sequential(nn.Conv2d(5, 7, 3, padding=1, stride=2), nn.BatchNorm2d(7))).double()
    x = torch.randn(2, 5, 9, 8, dtype=torch.float64)
    with torch.inference_mode():
        assert relative_error(exact.fold_batchnorm(pair[0], pair[1])(x), pair(x)) <= 1e-12
        nested = nn.Sequential(pair, nn.ReLU())
        folded = copy.deepcopy(nested)
        exact.fold_batchnorms(folded)
        assert not any(isinstance(each, nn.BatchNorm2d) for each in folded.modules())
        assert relative_error(folded(x), nested(x)) <= 1e-12


def test_classifier_commutes_with_upsampling(trained_like: Any) -> None:
    conv = trained_like(nn.Sequential(nn.Conv2d(8, 19, 1))).double()
    x = torch.randn(1, 8, 5, 6, dtype=torch.float64)
    up = lambda maps: F.interpolate(maps, scale_factor=4, mode="bilinear")  # noqa: E731
    with torch.inference_mode():
        assert relative_error(up(conv(x)), conv(up(x))) <= 1e-12


def test_norm_does_not_fold_into_a_padded_convolution() -> None:
    with pytest.raises(ValueError, match="zero-padded"):
        exact.fold_norm_into_conv(nn.LayerNorm(4), nn.Conv2d(4, 4, 3, padding=1))


def test_norm_folds_into_linear_and_unpadded_convolution(trained_like: Any) -> None:
    norm, linear, conv = trained_like(
        nn.ModuleList([nn.LayerNorm(6), nn.Linear(6, 3), nn.Conv2d(6, 4, 2, stride=2)])
    ).double()
    x = torch.randn(2, 4, 4, 6, dtype=torch.float64)
    plain = F.layer_norm(x, (6,))
    with torch.inference_mode():
        assert relative_error(exact.fold_norm_into_linear(norm, linear)(plain), linear(norm(x))) <= 1e-12
        maps, plain_maps = norm(x).permute(0, 3, 1, 2), plain.permute(0, 3, 1, 2)
        assert relative_error(exact.fold_norm_into_conv(norm, conv)(plain_maps), conv(maps)) <= 1e-12


def test_merged_decoder_makes_no_wide_map(trained_like: Any) -> None:
    form = to_deploy(trained_like(create_model()))
    assert all(conv.in_channels <= 192 for conv in form.modules() if isinstance(conv, nn.Conv2d))


@pytest.mark.parametrize("form", EXACT_LABEL_MAPS)
@pytest.mark.parametrize("scale", [2, 4, 8])
def test_label_map_is_argmax_of_the_upsampled_logits(scale: int, form: str) -> None:
    coarse = torch.randn(2, 19, 24, 40, generator=torch.Generator().manual_seed(0))
    reference = F.interpolate(coarse, scale_factor=scale, mode="bilinear").argmax(1)
    labels = LABEL_MAPS[form](coarse, scale)
    assert labels.shape == (2, 24 * scale, 40 * scale)
    assert float((labels == reference).float().mean()) >= 0.9999


@pytest.mark.parametrize("size", [1e-3, 1.0, 20.0])
@pytest.mark.parametrize(("scale", "classes"), [(2, 19), (4, 19), (4, 2), (4, 32), (2, 100)])
def test_keys_choose_another_class_only_within_a_step(scale: int, classes: int, size: float) -> None:
    coarse = size * torch.randn(2, classes, 24, 40, generator=torch.Generator().manual_seed(0))
    full = F.interpolate(coarse, scale_factor=scale, mode="bilinear")
    labels = keys(coarse, scale)
    behind = full.amax(1) - full.gather(1, labels.long().unsqueeze(1)).squeeze(1)
    reach = min(float((coarse.amax(1) - coarse.amin(1)).max()), KEY_RANGE)
    assert labels.dtype == torch.uint8
    assert float(behind.max()) <= 1.001 * reach / (2**KEY_BITS - 1)
    assert float((labels == full.argmax(1)).float().mean()) >= 0.998


@pytest.mark.parametrize("form", [EngineForm("phases"), EngineForm("keys"), EngineForm("keys", gelu="polynomial")])
def test_another_class_is_noticed(form: EngineForm) -> None:
    """The comparison that tests of forms that round rely on."""
    logits = torch.tensor([1.0, 0.9, -3.0]).reshape(1, 3, 1, 1)
    assert_same_labels(form, torch.zeros(1, 1, 1), logits)
    with pytest.raises(AssertionError):
        assert_same_labels(form, torch.ones(1, 1, 1), logits)


@pytest.mark.parametrize(("scale", "classes"), [(8, 19), (6, 19), (4, 150)])
def test_keys_with_too_few_steps_are_phases(scale: int, classes: int) -> None:
    coarse = torch.randn(1, classes, 6, 10, generator=torch.Generator().manual_seed(0))
    assert torch.equal(keys(coarse, scale), phases(coarse, scale))


def test_keys_of_one_value_everywhere_are_the_lowest_class() -> None:
    assert not keys(torch.full((1, 19, 4, 4), 3.0)).any()


def test_polynomial_gelu_is_as_close_as_it_says() -> None:
    x = torch.linspace(-12, 12, 100_001, dtype=torch.float64)
    assert float((inexact.gelu(x) - F.gelu(x)).abs().max()) <= 0.00116
    assert inexact.gelu(torch.tensor([-1e6, 0.0, 1e6])).tolist() == pytest.approx([0, 0, 1e6], abs=3)


@pytest.mark.parametrize("form", EXACT_LABEL_MAPS)
def test_label_map_of_large_areas_is_argmax_too(form: str) -> None:
    """Areas of one class with borders between them, as faces have: most cells are not mixed."""
    rows, columns = torch.meshgrid(torch.arange(24.0), torch.arange(40.0), indexing="ij")
    centers = torch.rand(19, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([24.0, 40.0])
    coarse = torch.stack([-torch.hypot(rows - y, columns - x) for y, x in centers]).unsqueeze(0)
    assert torch.equal(
        LABEL_MAPS[form](coarse, 4).long(), F.interpolate(coarse, scale_factor=4, mode="bilinear").argmax(1)
    )


@pytest.mark.parametrize("form", LABEL_MAPS)
def test_equal_logits_give_the_lowest_label(form: str) -> None:
    coarse = torch.zeros(1, 19, 8, 8)
    coarse[:, [3, 7, 18]] = 1.0
    assert bool((LABEL_MAPS[form](coarse, 4) == 3).all())
    assert bool((argmax(coarse, form) == 3).all())


@pytest.mark.parametrize("form", LABEL_MAPS)
@pytest.mark.parametrize("scale", [2, 4])
def test_labels_of_a_pixel_shuffle_are_shuffled_labels(scale: int, form: str) -> None:
    coarse = torch.randn(2, 19 * scale**2, 6, 10, generator=torch.Generator().manual_seed(0))
    reference = F.pixel_shuffle(coarse, scale).argmax(1)
    assert torch.equal(labels_of_shuffled(coarse, scale, form).long(), reference)
    assert torch.equal(argmax(F.pixel_shuffle(coarse, scale), form).long(), reference)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("chosen", ["none", "folded_normalisation", "all"])
def test_serving_takes_pixels_and_gives_labels(engine: str, chosen: str, trained_like: Any) -> None:
    model, spec = trained_like(create_model()), PreprocessSpec(size=(64, 96))
    images = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)
    deployed = to_deploy(model, engine=engine, rewrites=subsets()[chosen])
    with torch.inference_mode():
        reference = Serving(model, spec, "logits")(images)
        labels = Serving(deployed, spec)(images)
        assert_close(ENGINES[engine], Serving(deployed, spec, "logits")(images), reference, 1e-5)
        assert labels.dtype == torch.uint8
        assert labels.shape == (2, 64, 96)
        assert_same_labels(ENGINES[engine], labels, reference)
        assert torch.equal(Serving(model, spec)(images), reference.argmax(1).to(torch.uint8))
