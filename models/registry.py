"""The networks by name. Listing them imports no torch; creating one imports that network's file only."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

from fptk.core.errors import InputError, missing_package

if TYPE_CHECKING:
    from torch import nn

    from fptk.models.network import FaceParsingNetwork

_NETWORKS: dict[str, str] = {
    "deeplabv3plus": "fptk.models.deeplabv3plus:DeepLabV3Plus",
    "fastscnn": "fptk.models.fastscnn:FastSCNN",
    "microsegformer": "fptk.models.microsegformer:MicroSegFormer",
    "segformer": "fptk.models.segformer:SegFormer",
    "unet": "fptk.models.unet:UNet",
}
"""Name of each network and where its class stands. A further network is a file of its own and a line here; the
keyword arguments of its ``__init__`` are its options."""


def list_models() -> list[str]:
    """Names that :func:`create_model` takes, sorted."""
    return sorted(_NETWORKS)


def create_model(name: str = "microsegformer", **options: Any) -> FaceParsingNetwork:
    """Build a network with fresh weights (drawn from torch's global generator).

    Args:
        name: one of :func:`list_models`.
        **options: keyword arguments of that network's class; what is left out keeps its default.

    Returns:
        The network in training mode; forward takes float32 (B, 3, H, W), normalised, H and W multiples of 32, and
        returns logits float32 (B, 19, H, W).

    Raises:
        InputError: unknown name, option or value, or torch is not installed.
    """
    if name not in _NETWORKS:
        raise InputError(f"unknown model '{name}'; choose one of: {', '.join(list_models())}")
    network = _load(name)
    known = [option for option in inspect.signature(network.__init__).parameters if option != "self"]
    for option in options:
        if option not in known:
            raise InputError(f"model {name} has no option '{option}'; its options are: {', '.join(known)}")
    built: FaceParsingNetwork = network(**options)
    return built


def _load(name: str) -> Any:
    module, attribute = _NETWORKS[name].split(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name == "torch":
            raise missing_package("torch", "train") from error
        raise


def count_parameters(model: nn.Module) -> int:
    """Number of learnable numbers in ``model``, shared ones counted once (buffers are not parameters)."""
    return sum(parameter.numel() for parameter in model.parameters())
