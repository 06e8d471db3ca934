"""What an ONNX file does not say about itself: ``network.yaml`` beside it, or ``--network KEY=VALUE``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fptk.core.classes import KNOWN, MAX_CLASSES, ClassSet, check_names
from fptk.core.errors import InputError
from fptk.core.files import kind_of
from fptk.core.preprocess import PreprocessSpec
from fptk.core.yaml_reader import parse_yaml, read_text
from fptk.models.checkpoint import first_fault

FILE = "network.yaml"
"""Name of the description, in the folder of the ONNX file."""

Triple = tuple[float, float, float]
Layout = Literal["NCHW", "NHWC"]
Channels = Literal["rgb", "bgr"]
Upsampling = Literal["bilinear", "align-corners"]
Text = Annotated[str, Field(min_length=1, max_length=200)]


class NetworkDescription(BaseModel):
    """How a network wants its images, and what its output means; a field that is ``None`` is left to the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Text | None = None
    """What tables call the network; else the name of its file."""
    layout: Layout | None = None
    """Order of the input's dimensions; read off its shape where one dimension is 3."""
    channels: Channels | None = None
    """Order of the input's color channels."""
    mean: Triple | None = None
    """Subtracted from pixels scaled to 0-1, in the order of ``channels``."""
    std: Triple | None = None
    """What the difference is divided by, in the order of ``channels``."""
    normalization: Literal["inside"] | None = None
    """``inside``: the network takes pixels of 0-255 and normalizes them itself."""
    size: tuple[int, int] | None = None
    """Height and width of the images, where the file leaves them open."""
    resize: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    """How an image is brought to that size."""
    output: Text | None = None
    """Name of the tensor of scores or labels, where the file has several outputs."""
    upsampling: Upsampling = "bilinear"
    """How scores are brought to the size of the images, where the network leaves that to its caller."""
    classes: int | str | tuple[str, ...] | None = None
    """Names of the classes in the order of the labels, or a list that ships; a number takes the names of the data."""

    @field_validator("mean", "std", mode="before")
    @classmethod
    def _same_for_all(cls, value: Any) -> Any:
        return (value,) * 3 if isinstance(value, int | float) and not isinstance(value, bool) else value

    @field_validator("size", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        return (value, value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("classes", mode="before")
    @classmethod
    def _check_classes(cls, value: Any) -> Any:
        if value is None or (isinstance(value, str) and value in KNOWN):
            return value
        names = isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)
        number = isinstance(value, int) and not isinstance(value, bool)
        if not names and not number:
            raise ValueError(f"give the names of the classes, how many there are, or one of: {', '.join(KNOWN)}")
        count = len(value) if names else value
        if not 2 <= count <= MAX_CLASSES:
            raise ValueError(f"there are {count} of them; 2 to {MAX_CLASSES} fit into a label map")
        if names:
            check_names(value)
        return value

    @model_validator(mode="after")
    def _one_normalization(self) -> NetworkDescription:
        given = [name for name in ("mean", "std") if getattr(self, name) is not None]
        if self.normalization and given:
            raise ValueError(f"normalization is inside the network, and {given[0]} is given too; leave one out")
        if len(given) == 1:
            raise ValueError(f"{given[0]} is given alone; mean and std belong together")
        if self.std and min(self.std) <= 0:
            raise ValueError("std must be positive")
        return self

    @property
    def num_classes(self) -> int | None:
        """How many classes there are; ``None`` where nothing is said of them."""
        if self.classes is None or isinstance(self.classes, int):
            return self.classes
        return len(KNOWN[self.classes] if isinstance(self.classes, str) else self.classes)

    def class_set(self, data: ClassSet | None) -> ClassSet:
        """What the labels mean.

        Args:
            data: classes of the data at hand, whose names a mere number of classes takes where it is theirs.
        """
        if isinstance(self.classes, str):
            return KNOWN[self.classes]
        if isinstance(self.classes, tuple):
            return next((each for each in KNOWN.values() if each.names == self.classes), ClassSet(names=self.classes))
        count = self.classes or 0
        return data if data and len(data) == count else ClassSet(names=[f"class_{index}" for index in range(count)])

    def spec(self, size: tuple[int, int]) -> PreprocessSpec:
        """Preprocessing of images of this height and width.

        Raises:
            InputError: a side is no multiple of 32.
        """
        mean, std = self.rgb_normalization
        try:
            return PreprocessSpec(size=size, resize=self.resize, mean=mean, std=std)
        except ValidationError as error:
            raise InputError(f"the network's input cannot be used: {first_fault(error)}") from error

    @property
    def rgb_normalization(self) -> tuple[Triple, Triple]:
        """Mean and standard deviation of pixels scaled to 0-1, in the order red, green, blue."""
        if self.mean is None or self.std is None:
            return (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)
        return (self.mean, self.std) if self.channels != "bgr" else (self.mean[::-1], self.std[::-1])


def read_description(model: Path, given: Mapping[str, Any]) -> NetworkDescription:
    """The description of an ONNX file: what was given, on top of the ``network.yaml`` in its folder.

    Args:
        model: the ONNX file.
        given: fields of :class:`NetworkDescription`.

    Raises:
        InputError: the file is no YAML, or a field is unknown or has no value of its kind.
    """
    path = model.parent / FILE
    written: Any = {}
    if kind_of(path, "description") is not None:
        written = parse_yaml(read_text(path, "description"), f"description {path}") or {}
    if not isinstance(written, dict):
        raise InputError(f"description {path} holds a {type(written).__name__}; write KEY: VALUE lines")
    try:
        NetworkDescription.model_validate(written)
    except ValidationError as error:
        raise InputError(f"description {path}: {first_fault(error)}; {_fields()}") from error
    if given.get("normalization"):
        written = {key: value for key, value in written.items() if key not in ("mean", "std")}
    elif "mean" in given:
        written = {key: value for key, value in written.items() if key != "normalization"}
    try:
        return NetworkDescription.model_validate({**written, **given})
    except ValidationError as error:
        raise InputError(f"--network {first_fault(error)}; {_fields()}") from error


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """``KEY=VALUE`` words as fields of a description; a value with commas is a list.

    Raises:
        InputError: a word has no ``=``, or its value is no YAML.
    """
    fields: dict[str, Any] = {}
    for word in assignments:
        key, equals, text = word.partition("=")
        if not equals or not text:
            raise InputError(f"--network {word} is no KEY=VALUE; {_fields()}")
        listed = "," in text and not text.startswith("[")
        fields[key] = parse_yaml(f"[{text}]" if listed else text, f"--network {key}")
    return fields


def _fields() -> str:
    return f"the keys are {', '.join(NetworkDescription.model_fields)}"
