"""How close a form comes to its network: equal but for rounding, or as close as the form promises."""

from __future__ import annotations

from torch import Tensor

from fptk.models.deploy.label_map import KEY_BITS
from fptk.models.engine_form import EngineForm

KEY_STEP = 1 / (2**KEY_BITS - 1)
"""What a form that compares keys rounds logits to, as a share of the range from the largest to the smallest."""
POLYNOMIAL = 1 / 256
"""Share of the largest logit that the polynomial GELUs may change: bf16 keeps as much."""


def relative_error(ours: Tensor, reference: Tensor) -> float:
    """The largest difference, as a share of the largest value."""
    return float((ours - reference).detach().abs().max() / reference.detach().abs().max())


def assert_close(form: EngineForm, logits: Tensor, reference: Tensor, exact: float, what: str = "") -> None:
    """MicroSegFormer's form has the network's logits, to within ``exact`` of the largest where it promises that."""
    assert relative_error(logits, reference) <= (exact if form.gelu == "exact" else POLYNOMIAL), what


def assert_same_labels(form: EngineForm, labels: Tensor, reference: Tensor, what: str = "") -> None:
    """Labels (N, H, W) are the network's; a form that rounds may choose another class of nearly the same logit.

    ``reference`` are the network's logits (N, C, H, W).
    """
    if form.exact:
        assert float((labels == reference.argmax(1)).float().mean()) >= 0.9999, what
        return
    chosen = reference.gather(1, labels.long().unsqueeze(1)).squeeze(1)
    behind = reference.amax(1) - chosen
    allowed = KEY_STEP * float((reference.amax(1) - reference.amin(1)).max())
    if form.gelu != "exact":
        allowed += 2 * POLYNOMIAL * float(reference.abs().max())
    assert float(behind.max()) <= 2 * allowed, what  # interpolation hides some of the range, never half of it
    assert float((labels == reference.argmax(1)).float().mean()) >= 0.97, what
