"""Which networks there are, and which weights: what ``--model NAME`` and MODEL can name."""

from __future__ import annotations

import inspect
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fptk.core.errors import InputError
from fptk.models.checkpoint import CheckpointCard, read_card
from fptk.models.registry import count_parameters, create_model, list_models
from fptk.runs.folder import CARD, DEFAULT_ROOT, RunFolder
from fptk.runs.source import shipped_weights


@dataclass(frozen=True)
class NetworkInfo:
    """A network of the registry."""

    name: str
    about: str
    """The first sentence of its docstring."""
    parameters: int | None
    """Learnable numbers with the default options; ``None`` where it cannot be built here."""
    options: dict[str, Any]
    """Every option with its default."""
    problem: str = ""
    """Why it cannot be built here."""


@dataclass(frozen=True)
class WeightsInfo:
    """Weights that are here."""

    name: str
    """``shipped``, or the run's folder."""
    path: str
    model: str
    parameters: int
    size: tuple[int, int]
    """Height and width that they are meant for."""
    scores: dict[str, float]
    """On the images that chose them, 0-1."""


@dataclass(frozen=True)
class Models:
    """All of it."""

    networks: tuple[NetworkInfo, ...]
    weights: tuple[WeightsInfo, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


def list_all(root: Path = DEFAULT_ROOT) -> Models:
    """Every network, the weights in the package, and those of the runs below ``root``."""
    return Models(tuple(map(_network, list_models())), tuple(_weights(root)))


def _network(name: str) -> NetworkInfo:
    try:
        import torch

        with torch.random.fork_rng(devices=[]):
            network = create_model(name)
    except (ImportError, InputError) as error:
        missing = isinstance(error, ImportError)
        reason = "torch is not installed; run: pip install 'fptk[train]'" if missing else str(error)
        return NetworkInfo(name, "", None, {}, reason)
    about = (inspect.getdoc(type(network)) or "").partition("\n\n")[0]
    return NetworkInfo(name, " ".join(about.split()), count_parameters(network), network.options)


def _weights(root: Path) -> list[WeightsInfo]:
    shipped = shipped_weights()
    found = [_info("shipped", shipped, read_card(shipped))] if shipped else []
    for card in sorted(root.glob(f"*/{CARD}")):
        run = RunFolder(card.parent)
        try:
            found.append(_info(str(run.path), run.best, read_card(run.best)))
        except InputError:  # no validation yet, or damaged: the command that uses it says so
            continue
    return found


def _info(name: str, path: Path, card: CheckpointCard) -> WeightsInfo:
    return WeightsInfo(name, str(path), card.model, card.num_parameters, card.preprocess.size, dict(card.metrics))
