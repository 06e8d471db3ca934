"""How close a form comes to its network: equal but for rounding, or as close as the form promises."""

from __future__ import annotations

from torch import Tensor

from fptk.models.engine_form import EngineForm

KEY_STEP = 1 / 8191
"""What a form that compares keys rounds logits to, as a share of the range from the largest to the smallest."""
POLYNOMIAL = 1 / 256
"""Share of the largest logit that the polynomial GELUs may change: bf16 keeps as much."""


def assert_close(form: EngineForm, logits: Tensor, reference: Tensor, exact: float) -> None:
    """The form's logits are the network's, to within ``exact`` of the largest where it promises that."""
    allowed = exact if form.gelu == "exact" else POLYNOMIAL
    assert float((logits - reference).abs().max() / reference.abs().max()) <= allowed


def assert_same_labels(form: EngineForm, labels: Tensor, reference: Tensor) -> None:
    """Labels (N, H, W) are the network's; a form that rounds may choose another class of nearly the same logit.

    ``reference`` are the network's logits (N, C, H, W).
    """
    if form.exact:
        assert float((labels == reference.argmax(1)).float().mean()) >= 0.9999
        return
    chosen = reference.gather(1, labels.long().unsqueeze(1)).squeeze(1)
    behind = reference.amax(1) - chosen
    allowed = KEY_STEP * float((reference.amax(1) - reference.amin(1)).max())
    if form.gelu != "exact":
        allowed += 2 * POLYNOMIAL * float(reference.abs().max())
    assert float(behind.max()) <= 2 * allowed  # interpolation hides some of the range, never half of it
    assert float((labels == reference.argmax(1)).float().mean()) >= 0.97
