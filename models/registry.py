"""The networks by name: ours, and those of other packages. Listing them imports no network and no torch.

Ours stand in a table here, so that a new file and a new line are enough. Another package names its networks in its own
metadata, under the entry-point group ``fptk.models``::

    [project.entry-points."fptk.models"]
    tiny = "their_package.tiny:Tiny"
"""

from __future__ import annotations

import functools
import inspect
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from fptk.core.errors import InputError, missing_package

if TYPE_CHECKING:
    from torch import nn

    from fptk.models.network import FaceParsingNetwork

GROUP = "fptk.models"

_OURS: dict[str, str] = {
    "deeplabv3plus": "fptk.models.deeplabv3plus:DeepLabV3Plus",
    "fastscnn": "fptk.models.fastscnn:FastSCNN",
    "microsegformer": "fptk.models.microsegformer:MicroSegFormer",
    "segformer": "fptk.models.segformer:SegFormer",
    "unet": "fptk.models.unet:UNet",
}
"""Name of each network of fptk and where its class stands; the keyword arguments of its ``__init__`` are its
options."""


@functools.cache
def _entries() -> dict[str, tuple[EntryPoint, ...]]:
    """Every network by name; one that several packages register has several entries."""
    ours = [EntryPoint(name, value, GROUP) for name, value in _OURS.items()]
    found: dict[str, dict[str, EntryPoint]] = {}
    for entry in (*ours, *entry_points(group=GROUP)):
        found.setdefault(entry.name, {}).setdefault(entry.value, entry)
    return {name: tuple(entries.values()) for name, entries in found.items()}


def list_models() -> list[str]:
    """Names that :func:`create_model` takes, sorted."""
    return sorted(_entries())


def create_model(name: str = "microsegformer", **options: Any) -> FaceParsingNetwork:
    """Build a network with fresh weights (drawn from torch's global generator).

    Args:
        name: one of :func:`list_models`.
        **options: keyword arguments of that network's class; what is left out keeps its default.

    Returns:
        The network in training mode; forward takes float32 (B, 3, H, W), normalised, H and W multiples of 32, and
        returns logits float32 (B, C, H, W).

    Raises:
        InputError: unknown name, option or value; two packages register the name; another package's network cannot be
            imported or breaks the contract of :class:`fptk.models.network.FaceParsingNetwork`; torch is not installed.
    """
    network = _class_of(name)
    known = [option for option in inspect.signature(network.__init__).parameters if option != "self"]
    for option in options:
        if option not in known:
            raise InputError(f"model {name} has no option '{option}'; its options are: {', '.join(known)}")
    built = network(**options)
    if built.name != name:
        raise InputError(
            f"model '{name}' calls itself '{built.name}': its checkpoints would not load; name it '{name}'"
        )
    return built


def _class_of(name: str) -> type[FaceParsingNetwork]:
    entries = _entries().get(name)
    if entries is None:
        raise InputError(f"unknown model '{name}'; choose one of: {', '.join(list_models())}")
    first, *others = entries
    if others:
        raise InputError(
            f"two packages register the model '{name}': {first.value} and {others[0].value}; uninstall one"
        )
    return _load(first)


def _load(entry: EntryPoint) -> type[FaceParsingNetwork]:
    """Import the class of a network; a fault of another package's is told in one line, one of ours is a bug."""
    try:
        found = entry.load()
    except Exception as error:  # other packages raise what they like
        if isinstance(error, ModuleNotFoundError) and error.name == "torch":
            raise missing_package("torch", "train") from error
        if _OURS.get(entry.name) == entry.value:
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"model '{entry.name}' cannot be imported from {entry.value}: {reason}") from error
    from fptk.models.network import FaceParsingNetwork

    if not (isinstance(found, type) and issubclass(found, FaceParsingNetwork)):
        raise InputError(f"model '{entry.name}' is no network: {entry.value} is no subclass of FaceParsingNetwork")
    return found


def count_parameters(model: nn.Module) -> int:
    """Number of learnable numbers in ``model``, shared ones counted once (buffers are not parameters)."""
    return sum(parameter.numel() for parameter in model.parameters())
