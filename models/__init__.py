"""The networks, their registry, their checkpoints and their exact deploy-time rewrites.

Importing this package imports no torch; a name that needs it is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fptk.models.registry import count_parameters, create_model, list_models

if TYPE_CHECKING:
    from fptk.models.checkpoint import CheckpointCard, load_checkpoint, load_weights, read_card, save_checkpoint
    from fptk.models.torch_session import TorchSession

_LAZY = {
    "CheckpointCard": "fptk.models.checkpoint",
    "TorchSession": "fptk.models.torch_session",
    "load_checkpoint": "fptk.models.checkpoint",
    "load_weights": "fptk.models.checkpoint",
    "read_card": "fptk.models.checkpoint",
    "save_checkpoint": "fptk.models.checkpoint",
}

__all__ = [
    "CheckpointCard",
    "TorchSession",
    "count_parameters",
    "create_model",
    "list_models",
    "load_checkpoint",
    "load_weights",
    "read_card",
    "save_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
