"""The registry: exact parameter counts, shapes, and one-line errors."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from fptk.errors import InputError
from fptk.models import count_parameters, create_model, list_models


@pytest.mark.parametrize(("lmsa", "parameters"), [("compact", 1_747_923), ("multiscale", 1_818_579), (None, 1_721_939)])
def test_microsegformer_has_the_exact_parameter_count(lmsa: str | None, parameters: int) -> None:
    assert count_parameters(create_model("microsegformer", lmsa=lmsa)) == parameters


def test_default_model_is_compact_microsegformer() -> None:
    model = create_model()
    assert model.name == "microsegformer"
    assert model.options == {"lmsa": "compact", "dropout": 0.15}
    assert "microsegformer" in list_models()


def test_options_rebuild_the_same_architecture() -> None:
    model = create_model(lmsa="multiscale", dropout=0.3)
    again = create_model(model.name, **model.options)
    again.load_state_dict(model.state_dict())
    assert again.options == model.options


@pytest.mark.parametrize("size", [(64, 64), (96, 160), (256, 256), (512, 512)])
def test_logits_have_the_images_size(size: tuple[int, int]) -> None:
    model = create_model().eval()
    with torch.inference_mode():
        logits = model(torch.randn(1, 3, *size))
    assert logits.shape == (1, 19, *size)
    assert logits.dtype == torch.float32
    assert bool(logits.isfinite().all())


@pytest.mark.parametrize("size", [(100, 64), (64, 33), (16, 64)])
def test_size_that_is_no_multiple_of_32_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="multiple of 32"):
        create_model()(torch.zeros(1, 3, *size))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet", {}, "unknown model 'resnet'; choose one of: .*microsegformer"),
        ("microsegformer", {"width": 2}, "no option 'width'; its options are: lmsa, dropout"),
        ("microsegformer", {"lmsa": "huge"}, "choose one of: compact, multiscale, None"),
        ("microsegformer", {"dropout": 1.5}, "expected 0 <= dropout < 1"),
    ],
)
def test_bad_name_or_option_is_one_line_with_the_choices(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        create_model(name, **options)
    assert "\n" not in str(caught.value)


def test_listing_models_and_reading_cards_import_no_torch() -> None:
    code = "import sys, fptk.models as m; m.list_models(); m.read_card; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
