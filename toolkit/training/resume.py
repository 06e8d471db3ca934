"""The resume state: everything a killed training needs to go on bit for bit, in one safetensors file.

Order, augmentation and dropout are functions of the step, so no random generator has a state to keep. Counters stand
as JSON in the file's header. Nothing is pickled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from fptk.core.errors import InputError
from fptk.core.files import atomic_file, kind_of, parse_json
from fptk.core.version import __version__
from fptk.training.optimizers import PipelineState

SCHEMA_VERSION = 1
_KEY = "fptk_resume"


@dataclass
class Counters:
    """What a training knows apart from tensors."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    step: int = 0
    """Optimiser steps finished."""
    best_f1: float = -1.0
    """Highest validation f1 so far; -1 before the first validation."""
    best_step: int = 0
    """Step at which it was reached."""
    best_scores: dict[str, float] = field(default_factory=dict)
    """Scores of that validation."""
    stale: int = 0
    """Validations since then."""
    seconds: float = 0.0
    """Time spent on steps and validations, over all calls."""
    last_loss: float = 0.0
    """Mean loss of the last few steps."""
    window_steps: int = 0
    """Steps since the last validation, for the means in its record."""
    window_images: int = 0
    """Their images."""
    window_seconds: float = 0.0
    """Their time."""
    window_ce: float = 0.0
    """Sum of their cross-entropies."""
    window_dice: float = 0.0
    """Sum of their Dice losses."""
    window_focal: float = 0.0
    """Sum of their focal losses."""
    window_lovasz: float = 0.0
    """Sum of their Lovász losses."""
    peak_bytes: int = 0
    """Most memory in use, over all calls: allocated on a CUDA device, or resident in the process; 0 if unknown."""
    unvalidated: bool = False
    """The last step ended a validation interval, and the validation has not been recorded yet."""
    stopped: bool = False
    """Early stopping has ended the training."""
    scaler: dict[str, Any] = field(default_factory=dict)
    """State of the gradient scaler (fp16 on CUDA only)."""
    pipeline: PipelineState = field(default_factory=PipelineState)
    """State of the optimiser pipeline."""

    def reset_window(self) -> None:
        """Begin a new window."""
        self.window_steps = self.window_images = 0
        self.window_seconds = 0.0
        self.window_ce = self.window_dice = self.window_focal = self.window_lovasz = 0.0

    def add_to_window(self, terms: Mapping[str, float]) -> None:
        """Add sums of the loss's terms, by name."""
        for name, value in terms.items():
            setattr(self, f"window_{name}", getattr(self, f"window_{name}") + value)

    def window_mean(self, term: str) -> float:
        """Mean of one term of the loss over the window's steps."""
        total: float = getattr(self, f"window_{term}")
        return total / max(1, self.window_steps)


def save_state(
    path: Path,
    model: nn.Module,
    ema: nn.Module | None,
    optimizer: torch.optim.Optimizer,
    counters: Counters,
    kept: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the state to ``path``, whole or not at all.

    Args:
        path: the file.
        model: the trained network.
        ema: its average, if there is one.
        optimizer: the one that steps now.
        counters: everything but tensors.
        kept: weights that the pipeline may load again, by name.

    Raises:
        InputError: it cannot be written.
    """
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    if ema is not None:
        tensors |= {f"ema.{name}": value for name, value in ema.state_dict().items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{slot}": value for slot, value in slots.items()}
    tensors |= {f"kept.{name}": value for name, value in (kept or {}).items()}
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    header = json.dumps({"schema_version": SCHEMA_VERSION, **asdict(counters)})
    content = save(plain, metadata={_KEY: header})
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


def load_state(
    path: Path,
    model: nn.Module,
    ema: nn.Module | None,
    optimizer_for: Callable[[Counters], torch.optim.Optimizer],
) -> tuple[Counters, dict[str, Tensor]]:
    """Put the state of ``path`` into network, average and optimiser.

    Args:
        path: the file.
        model: the network to train.
        ema: its average, if there is one.
        optimizer_for: a new optimiser of the kind that steps where the counters stand.

    Returns:
        The counters, and the weights that :func:`save_state` was given as ``kept``.

    Raises:
        InputError: it is damaged, of another schema version, or of another network.
    """
    tensors, header = _read(path)
    version = header.pop("schema_version", None)
    if type(version) is not int or version != SCHEMA_VERSION:
        raise InputError(
            f"resume state {path} has schema version {version!r}, this fptk ({__version__}) reads {SCHEMA_VERSION}; "
            "use the fptk that wrote it, or start anew in another --out"
        )
    try:
        counters = TypeAdapter(Counters).validate_json(json.dumps(header))  # in JSON mode, an object is a dataclass
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"resume state {path} is damaged: {where}: {first['msg']}; start anew in another --out"
        ) from None
    kept = _under(tensors, "kept.")
    try:
        model.load_state_dict(_under(tensors, "model."))
        if ema is not None:
            ema.load_state_dict(_under(tensors, "ema."))
        _load_optimizer(optimizer_for(counters), _under(tensors, "optimizer."))
        if kept:
            _check_shapes({name: (value, kept[name]) for name, value in model.state_dict().items()})
    except (RuntimeError, KeyError, TypeError, ValueError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"resume state {path} does not fit this recipe ({reason}); start anew in another --out"
        ) from error
    return counters, kept


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    kind = kind_of(path, "resume state")
    if kind is None:
        raise InputError(f"resume state {path} is not there; put --out on a disk that all processes see")
    if kind != "file":
        raise InputError(f"resume state {path} is no regular file; start anew in another --out")
    try:
        with safe_open(path, framework="pt") as handle:
            header = parse_json((handle.metadata() or {})[_KEY])
            if not isinstance(header, dict):
                raise ValueError("its header holds no counters")
            return {name: handle.get_tensor(name) for name in handle.keys()}, header  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"resume state {path} is damaged ({reason}); start anew in another --out") from error


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, slot = name.partition(".")
        slots.setdefault(int(index), {})[slot] = value
    groups = optimizer.state_dict()["param_groups"]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    _check_shapes(
        {
            f"{slot} of parameter {index}": (parameters[index], value)
            for index, values in slots.items()
            for slot, value in values.items()
            if value.ndim
        }
    )
    optimizer.load_state_dict({"state": slots, "param_groups": groups})
    for parameter, state in optimizer.state.items():  # a file keeps no layouts, and a fused step wants the weights'
        for name, value in state.items():
            if value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _check_shapes(pairs: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Raises ValueError where two tensors that belong together differ in shape; torch would find out in the step."""
    for name, (expected, found) in pairs.items():
        if expected.shape != found.shape:
            raise ValueError(f"{name} has shape {tuple(found.shape)}, expected {tuple(expected.shape)}")
