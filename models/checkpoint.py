"""Checkpoints: one safetensors file whose header carries a card that says what the weights are.

The card is JSON under the metadata key ``fptk`` and is written beside the file once more, readable, as
``NAME.json``; the one in the header is the one that counts. Pickles are never loaded: unpickling runs code.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from fptk.core.classes import CELEBAMASK, NUM_CLASSES, ClassSet
from fptk.core.errors import InputError, missing_package
from fptk.core.files import atomic_file, open_regular, parse_json, reason_of, write_text
from fptk.core.palette import Color
from fptk.core.preprocess import PreprocessSpec
from fptk.core.version import __version__
from fptk.models.registry import create_model

if TYPE_CHECKING:
    from torch import Tensor, dtype, nn

    from fptk.models.network import FaceParsingNetwork

SCHEMA_VERSION = 1
METADATA_KEY = "fptk"
_LENGTH_BYTES = 8
_HEADER_LIMIT = 100_000_000
"""The safetensors format allows no longer header."""


class CheckpointCard(BaseModel):
    """What a checkpoint holds and how it came about."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    model: str
    """Name in the registry."""
    options: dict[str, Any]
    """Every option of the network: ``create_model(model, **options)`` rebuilds it."""
    num_parameters: int
    preprocess: PreprocessSpec
    """Preprocessing that the weights were trained with; its size is the one they are meant to run at."""
    classes: tuple[str, ...] = CELEBAMASK.names
    """Names of the labels, in order."""
    palette: tuple[Color, ...] = ()
    """RGB colour of each label; those of CelebAMask-HQ, or drawn ones, where the card is older."""
    swap_pairs: tuple[tuple[int, int], ...] = ()
    """Labels that a horizontal flip exchanges; those of CelebAMask-HQ where the card is older."""
    epoch: int = 0
    """Epochs finished."""
    step: int = 0
    """Optimiser steps finished."""
    metrics: dict[str, FiniteFloat] = Field(default_factory=dict)
    """Scores of these very weights, 0-1; an undefined score is left out, not NaN."""
    recipe: dict[str, Any] = Field(default_factory=dict)
    """The resolved training recipe."""
    training: dict[str, Any] = Field(default_factory=dict)
    """Data sets, sample counts, seed, host and the like."""
    weights: Literal["ema", "raw"] = "raw"
    """Whether these are the running average of the weights or the weights themselves."""
    fptk_version: str = __version__
    created: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    """UTC, ISO 8601."""

    @model_validator(mode="after")
    def _check_classes(self) -> Self:
        count = len(self.class_set)
        built = self.options.get("num_classes", NUM_CLASSES)
        if built != count:
            raise ValueError(f"the network has {built!r} classes, and the card names {count}")
        return self

    @property
    def class_set(self) -> ClassSet:
        """What the labels mean."""
        if not self.palette and self.classes == CELEBAMASK.names:
            return CELEBAMASK
        return ClassSet(names=self.classes, palette=self.palette, swap_pairs=self.swap_pairs)


def first_fault(error: ValidationError) -> str:
    """The first fault that a model found, in one line: where, and what is wrong there."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part)[:80] for part in first["loc"])
    message = " ".join(str(first["msg"]).removeprefix("Value error, ").split())
    return f"{where}: {message}" if where else message


def save_checkpoint(path: Path, state_dict: Mapping[str, Tensor], card: CheckpointCard) -> None:
    """Write weights and card to ``path`` and the card to ``NAME.json`` beside it, each whole or not at all.

    Args:
        path: ends in ``.safetensors``.
        state_dict: tensors of any device; they are written contiguous, in their own dtype.
        card: describes them.

    Raises:
        InputError: the path has another suffix, or cannot be written (disk full, read-only, ...).
    """
    if path.suffix != ".safetensors":
        raise InputError(f"checkpoint {path} must end in .safetensors")
    tensors = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in state_dict.items()}
    # Serialised in memory: the operating system's refusal to write then arrives as an OSError, with its errno.
    content = _safetensors_torch().save(tensors, metadata={METADATA_KEY: card.model_dump_json()})
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)
    write_text(path.with_suffix(".json"), card.model_dump_json(indent=2) + "\n")


def load_checkpoint(path: Path) -> tuple[FaceParsingNetwork, CheckpointCard]:
    """Rebuild the network that ``path`` holds, in evaluation mode on the CPU, and return it with its card.

    Torch's global random generator is left as it was.

    Raises:
        InputError: missing, a pickle, damaged, no fptk checkpoint, of another schema version, of a network or options
            that this fptk does not know, tensors that do not fit the network, or values that are not finite.
    """
    import torch

    card = read_card(path)
    with torch.random.fork_rng(devices=[]):
        model = _create(card, path)
    _load_tensors(model, card, path)
    return model.eval(), card


def _create(card: CheckpointCard, path: Path) -> FaceParsingNetwork:
    """The network of a card, with fresh weights.

    Raises:
        InputError: this fptk does not know the network or an option, or an option has no value of its kind.
    """
    try:
        return create_model(card.model, **card.options)
    except InputError as error:
        raise InputError(f"checkpoint {path}: {error}") from error
    except (TypeError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"checkpoint {path}: {card.model} cannot be built with {_short(card.options)}: {reason}"
        ) from error


def load_weights(model: FaceParsingNetwork, path: Path, classes: ClassSet = CELEBAMASK) -> tuple[str, ...]:
    """Copy the weights of ``path`` into ``model`` (a warm start); the mode is left as it is.

    Args:
        model: where they go.
        path: the checkpoint.
        classes: what the labels of ``model`` mean. Where the checkpoint's mean something else, the tensors whose shape
            depends on the number of classes are left as they are.

    Returns:
        Names of the tensors that were left as they are.

    Raises:
        InputError: as :func:`load_checkpoint`, or ``path`` holds another network.
    """
    card = read_card(path)
    if card.model != model.name:
        raise InputError(f"checkpoint {path} holds {card.model}, expected {model.name}; give weights of that model")
    if card.class_set.difference(classes) is None:
        _load_tensors(model, card, path)
        return ()
    donor, left = load_checkpoint(path)[0], class_tensors(card)
    tensors = {key: tensor for key, tensor in donor.state_dict().items() if key not in left}
    _check_fit({key: tensor for key, tensor in model.state_dict().items() if key not in left}, tensors, card, path)
    model.load_state_dict(tensors, strict=False)
    return left


def class_tensors(card: CheckpointCard) -> tuple[str, ...]:
    """Names of the tensors of a network whose shape depends on its number of classes."""
    import torch

    count = len(card.classes)
    with torch.device("meta"):
        shapes = [
            {key: tensor.shape for key, tensor in create_model(card.model, **options).state_dict().items()}
            for options in ({**card.options, "num_classes": each} for each in (count, count % NUM_CLASSES + 1))
        ]
    return tuple(key for key, shape in shapes[0].items() if shapes[1][key] != shape)


def read_card(path: Path) -> CheckpointCard:
    """The card of a checkpoint, from its header alone: reads no tensor and imports neither torch nor safetensors.

    Raises:
        InputError: missing, a pickle, damaged, no fptk checkpoint, or of another schema version.
    """
    metadata = _read_header(path).get("__metadata__")
    text = metadata.get(METADATA_KEY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise InputError(f"checkpoint {path} is a safetensors file without an fptk card; only fptk's own can be loaded")
    try:
        fields = parse_json(text)
    except ValueError as error:
        raise InputError(f"checkpoint {path} has a damaged fptk card: {error}") from error
    if not isinstance(fields, dict) or "schema_version" not in fields:
        raise InputError(f"checkpoint {path} has a damaged fptk card: it is no JSON object with a schema_version")
    version = fields["schema_version"]
    if type(version) is not int or version != SCHEMA_VERSION:
        raise InputError(
            f"checkpoint {path} has schema version {_short(version)}, this fptk ({__version__}) reads "
            f"{SCHEMA_VERSION}; use the fptk that wrote it"
        )
    try:
        return CheckpointCard.model_validate(fields)
    except ValidationError as error:
        raise InputError(f"checkpoint {path} has a damaged fptk card: {first_fault(error)}") from error


def _read_header(path: Path) -> dict[str, Any]:
    """Parse a safetensors header: its length as 8 bytes little-endian, then that many bytes of JSON."""
    try:
        with open_regular(path) as handle:
            start = handle.read(_LENGTH_BYTES)
            _refuse_pickle(path, start)
            length = int.from_bytes(start, "little")
            if len(start) < _LENGTH_BYTES or not 0 < length <= _HEADER_LIMIT:
                raise InputError(f"checkpoint {path} is no safetensors file")
            text = handle.read(length)
    except FileNotFoundError:
        raise InputError(f"checkpoint {path} does not exist") from None
    except OSError as error:
        raise InputError(f"checkpoint {path} cannot be read: {reason_of(error)}") from error
    if len(text) < length:
        raise InputError(f"checkpoint {path} is truncated inside its header; copy it again")
    try:
        header = parse_json(text)
    except ValueError as error:
        raise InputError(f"checkpoint {path} is no safetensors file: its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise InputError(f"checkpoint {path} is no safetensors file: its header is not a JSON object")
    return header


def _refuse_pickle(path: Path, start: bytes) -> None:
    zipped = start[:4] == b"PK\x03\x04"
    bare = len(start) > 1 and start[0] == 0x80 and 2 <= start[1] <= 5
    # A bare pickle's first two bytes could also be a header length; real headers of that length begin with "{".
    if zipped or (bare and start[2:] != bytes(len(start) - 2)):
        raise InputError(f"checkpoint {path} is a PyTorch pickle; fptk never unpickles weights: re-save as safetensors")


def _load_tensors(model: nn.Module, card: CheckpointCard, path: Path) -> None:
    safetensors_torch = _safetensors_torch()
    from safetensors import SafetensorError

    try:
        with open_regular(path) as handle:
            tensors = safetensors_torch.load(handle.read())
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"checkpoint {path} is damaged or truncated ({reason}); copy it again") from error
    except OSError as error:
        raise InputError(f"checkpoint {path} cannot be read: {reason_of(error)}") from error
    _check_fit(model.state_dict(), tensors, card, path)
    model.load_state_dict(tensors)


def _check_fit(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], card: CheckpointCard, path: Path) -> None:
    about = f"checkpoint {path} ({card.model} {_short(card.options)})"
    for key, tensor in expected.items():
        if key not in tensors:
            raise InputError(f"{about} lacks tensor {key}; it does not fit the expected network")
        found = tensors[key]
        if found.shape != tensor.shape:
            raise InputError(f"{about}: tensor {key} has shape {tuple(found.shape)}, expected {tuple(tensor.shape)}")
        types = _float_types() if tensor.is_floating_point() else (tensor.dtype,)
        if found.dtype not in types:
            names = " or ".join(str(each).removeprefix("torch.") for each in types)
            raise InputError(f"{about}: tensor {key} is {str(found.dtype).removeprefix('torch.')}, expected {names}")
    for key, tensor in tensors.items():
        if key not in expected:
            raise InputError(f"{about} holds tensor {key}, which the expected network has not")
        if not bool(tensor.isfinite().all()):
            raise InputError(f"{about}: tensor {key} holds values that are not finite; the training diverged")


def _float_types() -> tuple[dtype, ...]:
    """Types that weights may be stored in."""
    import torch

    return torch.float32, torch.float64, torch.float16, torch.bfloat16


def _short(value: object) -> str:
    """A value of a card as a message shows it."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:120]}…"


def _safetensors_torch() -> Any:
    try:
        import safetensors.torch
    except ModuleNotFoundError as error:
        raise missing_package("safetensors", "train") from error
    return safetensors.torch
