"""The deploy form: a network rewritten to compute the same function with far less work.

The rewrites are those of :mod:`fptk.models.deploy.rewrites`. A network names the class that puts them together for it
(:attr:`fptk.models.network.FaceParsingNetwork.deploy_form`); :func:`to_deploy` builds it.
"""

from __future__ import annotations

import copy
import pkgutil
from collections.abc import Callable, Collection

import torch

from fptk.core.errors import InputError
from fptk.models.deploy.form import DeployForm
from fptk.models.engine_form import ENGINES, EngineForm
from fptk.models.network import FaceParsingNetwork

REWRITES: dict[str, str] = {
    "classifier_first": "1: classify at stride 4, upsample 19 channels instead of 128",
    "merged_decoder": "2: one linear map per stage at its own resolution; no map of all stages' channels",
    "folded_attention": "3: query and output projections moved to the short key side",
    "collapsed_lmsa": "4: pointwise, gate, BatchNorm and classifier as one 19x128 matrix per image",
    "folded_norms": "5: LayerNorm's affine map folded into what follows",
    "folded_normalisation": "5: division by 255 and by the standard deviation folded into the first convolution",
    "label_map": "6: upsampling and argmax in the form that the engine runs fastest",
    "folded_batchnorms": "7: BatchNorm folded into the convolution before it",
    "shuffled_upsampling": "8: transposed convolutions as 1x1 convolutions and a pixel shuffle",
    "split_context": "9: pooled branches of a pyramid fused at their own size, means and upsampling as matrices",
}
"""Name of each rewrite and what it does; ``to_deploy(rewrites=...)`` takes any of them."""

REQUIRES = {
    "collapsed_lmsa": "classifier_first",
    "label_map": "classifier_first",
    "split_context": "folded_batchnorms",
}
"""Rewrites that only hold after another one."""


def to_deploy(
    model: FaceParsingNetwork, *, engine: EngineForm | str = "onnxruntime", rewrites: Collection[str] | None = None
) -> DeployForm:
    """A network that computes the logits of ``model`` in evaluation mode with less work; ``model`` is left alone.

    Args:
        model: any network; its ``deploy_form`` says how it is rewritten.
        engine: how the engine wants the graph, or a key of :data:`ENGINES`.
        rewrites: names out of :data:`REWRITES`; ``None`` applies all of them. Those outside the form's ``applies``
            change nothing.

    Returns:
        Takes normalised float (N, 3, H, W), returns logits float (N, 19, H, W).
        :class:`fptk.models.deploy.serving.Serving` knows how to feed it with pixels and to read its labels.

    Raises:
        InputError: unknown engine or rewrite, a rewrite without the one it needs, or a deploy form of another package
            that cannot be imported.
    """
    chosen = frozenset(REWRITES if rewrites is None else rewrites)
    if isinstance(engine, str):
        if engine not in ENGINES:
            raise InputError(f"unknown engine '{engine}'; choose one of: {', '.join(ENGINES)}")
        engine = ENGINES[engine]
    for name in sorted(chosen):
        if name not in REWRITES:
            raise InputError(f"unknown rewrite '{name}'; choose from: {', '.join(REWRITES)}")
        if name in REQUIRES and REQUIRES[name] not in chosen:
            raise InputError(f"rewrite '{name}' needs rewrite '{REQUIRES[name]}'")
    form_class = _form_of(model)
    with torch.no_grad():
        form = form_class(copy.deepcopy(model).eval(), engine, chosen)
    return form.eval().requires_grad_(False)


def _form_of(model: FaceParsingNetwork) -> Callable[[FaceParsingNetwork, EngineForm, frozenset[str]], DeployForm]:
    """The class that the network names."""
    try:
        found = pkgutil.resolve_name(model.deploy_form)
    except (ImportError, AttributeError, ValueError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"the deploy form of {model.name} cannot be imported: {reason}") from error
    if not (isinstance(found, type) and issubclass(found, DeployForm)):
        raise InputError(f"the deploy form of {model.name} is {model.deploy_form}, which is no subclass of DeployForm")
    return found
