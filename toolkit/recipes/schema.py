"""The sections of a recipe: one per concern, every key typed, bounded and explained."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from fptk.core.preprocess import IMAGENET_MEAN, IMAGENET_STD, SIZE_MULTIPLE

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Strength = Annotated[float, Field(ge=0.0, lt=1.0)]
PositiveInt = Annotated[int, Field(ge=1, le=10**9)]
NaturalInt = Annotated[int, Field(ge=0, lt=2**63)]
Weight = Annotated[float, Field(ge=0.0, le=1e6)]
Epochs = Annotated[float, Field(ge=1e-6, le=1e6)]
Channel = Annotated[float, Field(ge=-1e6, le=1e6)]
Points = Annotated[float, Field(ge=0.0, le=100.0)]

MAX_SIDE = 4096
"""Longest side of an image, in pixels: far above what a face needs and any of the networks is made for."""
MAX_BATCH = 4096
MAX_THREADS = 1024
MAX_NAME = 100
"""Longest name of a recipe: it is a part of file names."""


def _square(value: Any) -> Any:
    """``256`` means 256x256."""
    return (value, value) if isinstance(value, int) and not isinstance(value, bool) else value


def _check_sides(size: tuple[int, int]) -> tuple[int, int]:
    if any(side < SIZE_MULTIPLE or side % SIZE_MULTIPLE for side in size):
        raise ValueError(f"{size[0]}x{size[1]} is no positive multiple of {SIZE_MULTIPLE}")
    if max(size) > MAX_SIDE:
        raise ValueError(f"{size[0]}x{size[1]} is too large; a side has at most {MAX_SIDE} pixels")
    return size


def _check_interval(interval: tuple[float, float]) -> tuple[float, float]:
    if not 0 < interval[0] <= interval[1]:
        raise ValueError(f"expected 0 < low <= high, got {list(interval)}")
    if interval[0] < 0.01 or interval[1] > 100:
        raise ValueError(f"expected factors of 0.01 to 100, got {list(interval)}")
    return interval


def check_name(name: str) -> str:
    """A name that becomes a part of paths: one visible, printable file name.

    Raises:
        ValueError: it could lead elsewhere, or no file system would take it.
    """
    plain = name.isprintable() and name.strip() == name and not set(name) & set("/\\") and not name.startswith(".")
    if not name or not plain:
        raise ValueError(f"expected a plain file name (no slash, no leading dot), found {name[:60]!r}")
    if len(name.encode()) > MAX_NAME:
        raise ValueError(f"expected at most {MAX_NAME} bytes, found {len(name.encode())}")
    return name


Size = Annotated[tuple[int, int], BeforeValidator(_square), Field(description="height and width")]


def _is_number(annotation: Any) -> bool:
    """Whether a key's type is a number, perhaps a bounded one, or nothing."""
    if get_origin(annotation) is tuple:
        return False
    return annotation in (int, float) or any(_is_number(part) for part in get_args(annotation))


class Section(BaseModel):
    """Base of all sections: frozen; an unknown key, an infinite number, or true and false for a number is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields[info.field_name or ""]
        if isinstance(value, bool) and _is_number(field.annotation):
            raise ValueError(f"expected a number, found {str(value).lower()}")
        if isinstance(value, (list, tuple)) and any(isinstance(each, bool) for each in value):
            raise ValueError("expected no true or false in this list")
        return value


class ModelSection(Section):
    """Which network."""

    name: str = "microsegformer"
    """Name in the registry of ``fptk.models``."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of ``create_model``, e.g. ``lmsa: compact`` and ``dropout: 0.15``."""
    param_budget: PositiveInt = 1_821_085
    """Largest number of parameters; more is an error before the first step. The default is what the CE7454 challenge
    allows."""

    @field_validator("options")
    @classmethod
    def _plain_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        for key, value in options.items():
            if key == "name":
                raise ValueError("'name' is no option of a network; name the network with model.name")
            if not (value is None or isinstance(value, (str, bool, int, float))):
                raise ValueError(f"'{key}' takes a word or a number, found {str(value)[:60]}")
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"'{key}' takes a finite number, found {value}")
        return options


class SyntheticSection(Section):
    """The procedural faces that stand in where no ``--data`` is given."""

    train: Annotated[int, Field(ge=1, le=10**7)] = 2000
    """Number of training faces."""
    val: Annotated[int, Field(ge=1, le=10**7)] = 200
    """Number of held-out faces; their indices follow those of the training faces."""
    size: Size = (128, 128)
    """Pixels of a drawn face."""
    seed: NaturalInt = 0
    """Seed of the generator."""

    _sides = field_validator("size")(_check_sides)


class PhaseSection(Section):
    """A part of the training with its own resolution (progressive resolution)."""

    until: Annotated[float, Field(gt=0.0, le=1.0)]
    """Share of all training images at which the phase ends; the last phase ends at 1.0."""
    size: Size
    """Pixels of a training image in this phase."""
    batch: Annotated[int, Field(ge=1, le=MAX_BATCH)] | None = None
    """Images a step in this phase; null for ``data.batch``."""

    _sides = field_validator("size")(_check_sides)


class DataSection(Section):
    """Which images, how large, in which order."""

    size: Size = (512, 512)
    """Pixels of a training image, and the size written into the checkpoint's preprocessing; multiples of 32."""
    batch: Annotated[int, Field(ge=1, le=MAX_BATCH)] = 32
    """Images a step, over all processes together."""
    phases: Annotated[tuple[PhaseSection, ...], Field(max_length=100)] = ()
    """Progressive resolution: phases in order, under one learning-rate schedule; empty for ``size`` throughout."""
    multiscale: tuple[float, float] = (1.0, 1.0)
    """Each step's size is its phase's times a factor uniform between the two, to the nearest multiple of 32."""
    val_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Share of the training images held out where a data set brings no validation split."""
    train_images: PositiveInt | None = None
    """Train on so many of the images, evenly spaced; null for all."""
    seed: NaturalInt = 42
    """Seed of that split; not touched by ``--seed``, so runs of different seeds share their validation images."""
    eval_size: Size | None = None
    """Size at which validation runs; null for ``size``."""
    eval_every: Annotated[float, Field(ge=1e-6, le=1e6)] = 1.0
    """Epochs between validations; the end of the training is always validated."""
    val_images: PositiveInt | None = None
    """Validate on this many images, evenly spaced over the validation split; null for all."""
    sampling: Literal["uniform", "rare"] = "uniform"
    """``uniform``: each image once an epoch. ``rare``: images that hold rare classes are drawn more often, by the
    repeat factor max_c max(1, sqrt(rare_threshold / f_c)), f_c = share of training images that hold class c (Gupta et
    al., LVIS, 2019)."""
    rare_threshold: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """Image share below which a class counts as rare."""
    synthetic: SyntheticSection = SyntheticSection()
    """The faces to train on where no data folder is given."""
    workers: Annotated[int, Field(ge=1, le=MAX_THREADS)] | None = None
    """Threads that decode and warp ahead of the step; null for one per two cores, at most 8."""
    cache_gb: Annotated[float, Field(ge=0.0, le=1e5)] = 8.0
    """Decoded images kept in memory, in GB; the rest is decoded each time."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the decoded training images lie and are augmented. ``cuda``: in the memory of the GPU that trains, decoded
    once. ``cpu``: threads decode and augment ahead of the step. ``auto``: ``cuda`` where a GPU trains and they take at
    most 0.4 of its free memory."""

    _interval = field_validator("multiscale")(_check_interval)

    @model_validator(mode="after")
    def _scaled(self) -> Self:
        largest = max(side for size in (self.size, *(phase.size for phase in self.phases)) for side in size)
        if largest * self.multiscale[1] > MAX_SIDE:
            raise ValueError(
                f"multiscale {self.multiscale[1]:g} times {largest} pixels is too large; a side has at most {MAX_SIDE}"
            )
        return self

    @field_validator("size", "eval_size")
    @classmethod
    def _sides(cls, size: tuple[int, int] | None) -> tuple[int, int] | None:
        return size if size is None else _check_sides(size)

    @field_validator("phases")
    @classmethod
    def _ordered(cls, phases: tuple[PhaseSection, ...]) -> tuple[PhaseSection, ...]:
        ends = [phase.until for phase in phases]
        if phases and (ends != sorted(set(ends)) or ends[-1] != 1.0):
            raise ValueError(f"the phases' 'until' must rise and end at 1.0, got {ends}")
        return phases


class AugmentSection(Section):
    """Random changes of a training image; validation images are never changed."""

    flip: Literal["none", "swapped", "unswapped"] = "swapped"
    """Horizontal flip of half the images. ``swapped`` exchanges left and right labels (4-5, 6-7, 8-9) with it, which is
    right; ``unswapped`` leaves them and exists only to measure that known bug."""
    rotate_deg: Annotated[float, Field(ge=0.0, le=180.0)] = 15.0
    """Rotation, uniform in +-degrees."""
    scale: tuple[float, float] = (0.9, 1.1)
    """Zoom, log-uniform between the two; above 1 the face grows and its surroundings are cropped."""
    translate: Strength = 0.0
    """Shift in each direction, uniform in +- this share of the side (a random crop where ``scale`` is above 1)."""
    crop: Annotated[float, Field(ge=0.01, le=1.0)] = 1.0
    """Random crop and re-scale: side of the part that is shown, uniform between this share of the photograph's and 1,
    anywhere inside it; 1 for no crop."""
    crop_on_class: Fraction = 0.0
    """Share of the crops that are centred on a pixel of a class drawn evenly from those in the image, so that small and
    rare parts are seen large."""
    brightness: Strength = 0.2
    """Factor on all channels, uniform in 1 +- this."""
    exposure: Annotated[float, Field(ge=0.0, le=4.0)] = 0.0
    """Exposure in stops: a further factor of 2**s, s uniform in +- this."""
    contrast: Strength = 0.2
    """Factor on the distance from the image's mean grey, uniform in 1 +- this."""
    saturation: Strength = 0.1
    """Factor on the distance from each pixel's grey, uniform in 1 +- this."""
    sharpness: Strength = 0.0
    """Factor on the distance from a smoothed image, uniform in 1 +- this."""
    blur: Annotated[float, Field(ge=0.0, le=20.0)] = 0.0
    """Gaussian blur: standard deviation in pixels of the training image, uniform from 0 to this."""
    noise: Strength = 0.0
    """Gaussian noise: standard deviation as a share of white, uniform from 0 to this."""

    _interval = field_validator("scale")(_check_interval)

    @model_validator(mode="after")
    def _crops(self) -> Self:
        if self.crop_on_class and self.crop == 1:
            raise ValueError("crop_on_class centres crops, and crop 1 makes none; set crop below 1")
        return self


class MixSection(Section):
    """Training images made of two; the second one is drawn from the whole training set, with its own augmentation."""

    cutmix: Fraction = 0.0
    """Share of the images into which a rectangle of another one is pasted, labels and all (Yun et al., 2019)."""
    cutmix_alpha: Annotated[float, Field(ge=1e-3, le=1e3)] = 1.0
    """The rectangle's share of the area is 1 - Beta(this, this)."""
    mixup: Fraction = 0.0
    """Share of the steps in which every image is blended with another one and learnt with both label maps, the loss
    being shared like the pixels (Zhang et al., 2018). Such a step is not cut and pasted too; its loss costs double."""
    mixup_alpha: Annotated[float, Field(ge=1e-3, le=1e3)] = 0.2
    """The share of an image in a blend is Beta(this, this), one draw a step."""


class LossSection(Section):
    """ce * cross-entropy + dice * Dice + focal * focal + lovasz * Lovász; ``fptk.training.losses`` has the formulas."""

    ce: Weight = 1.0
    """Weight of the cross-entropy."""
    dice: Weight = 1.0
    """Weight of the Dice loss."""
    dice_over: Literal["batch", "image"] = "batch"
    """Sum numerator and denominator over the whole (global) batch, or per image and average over images."""
    dice_classes: Literal["all", "present"] = "all"
    """Average the Dice of all 19 classes, or of those present in the truth it is summed over."""
    focal: Weight = 0.0
    """Weight of the focal loss."""
    focal_gamma: Annotated[float, Field(ge=0.0, le=100.0)] = 2.0
    """Exponent of (1 - p): how little a pixel counts that is right already."""
    focal_alpha: Annotated[float, Field(gt=0.0, le=1e6)] = 0.25
    """Factor on the focal loss (Lin et al. use 0.25 beside a gamma of 2)."""
    lovasz: Weight = 0.0
    """Weight of the Lovász-softmax, per image over the classes present. It sorts all pixels: slow on a CPU."""
    boundary: Weight = 0.0
    """How much more a pixel near the border of two classes counts in the cross-entropy: 1 + this, others 1."""
    boundary_width: Annotated[int, Field(ge=1, le=MAX_SIDE)] = 2
    """Pixels of the training image up to which a pixel is near."""
    class_weights: Literal["none", "sqrt_median_frequency", "inverse_log_frequency"] = "none"
    """Weight of each class in the cross-entropy, from its share f of the training pixels: 1; sqrt(median f / f);
    or 1 / log(f + class_weight_eps), scaled to sum to 1."""
    class_weight_eps: Annotated[float, Field(gt=0.0, le=1e6)] = 1e-6
    """Of ``inverse_log_frequency``. A small one, as the formula reads, weighs *frequent* classes most; one above 1,
    e.g. 1.02, weighs rare classes most. See ``fptk.training.class_balance.inverse_log_frequency``."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.ce == self.dice == self.focal == self.lovasz == 0:
            raise ValueError("ce, dice, focal and lovasz are all 0; nothing would be learnt")
        return self

    @model_validator(mode="after")
    def _weighs_something(self) -> Self:
        weighing = [key for key, off in (("boundary", 0.0), ("class_weights", "none")) if getattr(self, key) != off]
        if self.ce == 0 and weighing:
            raise ValueError(f"{weighing[0]} weighs the cross-entropy, whose weight ce is 0; set ce above 0")
        return self


class OptimSection(Section):
    """Optimiser and schedule."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    """Optimiser."""
    momentum: Strength = 0.9
    """Of sgd, also of the one that a dynamic schedule switches to."""
    lr: Annotated[float, Field(gt=0.0)] = 8e-4
    """Peak learning rate."""
    weight_decay: Weight = 1e-4
    """Weight decay: decoupled for adamw, an L2 term of the gradient for adam and sgd."""
    clip: Annotated[float, Field(gt=0.0)] | None = 1.0
    """Largest norm of the whole gradient; null for no clipping."""
    epochs: Epochs = 80
    """Passes over the training images."""
    max_steps: PositiveInt | None = None
    """Upper bound on optimiser steps; the schedule is fitted to it, so the training still ends at its lowest rate."""
    warmup_epochs: Annotated[float, Field(ge=0.0, le=1e6)] = 5.0
    """Epochs of linear warm-up, at most a fifth of the training."""
    schedule: Literal["cosine", "constant", "dynamic"] = "cosine"
    """What follows the warm-up: half a cosine to zero, the peak rate throughout, or what the validation loss decides
    (section ``dynamic``)."""
    ema: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Decay a step of the exponential moving average of the weights, which is then what is validated and saved as
    ``best``; null for none."""
    accumulate: Annotated[int, Field(ge=1, le=MAX_BATCH)] = 1
    """Split each batch into this many parts that are run one after the other (memory). A Dice loss over the batch is
    then one over each part."""

    @model_validator(mode="after")
    def _switches(self) -> Self:
        if self.schedule == "dynamic" and self.name == "sgd":
            raise ValueError("schedule dynamic switches to sgd by itself; set name to adam or adamw")
        return self


class DynamicSection(Section):
    """Algorithm 1 of the first paper, where ``optim.schedule`` is ``dynamic``: see ``fptk.training.optimizers``."""

    patience: PositiveInt = 5
    """Validations without a lower loss after which the best weights are loaded and the rate changes."""
    sgd_lr: Annotated[float, Field(gt=0.0)] = 1e-2
    """Peak rate of SGD when it takes over; halved at each further event."""
    threshold: Annotated[float, Field(gt=0.0)] = 1e-4
    """The training ends instead of halving the rate to less than this."""
    cycle_epochs: Epochs | None = None
    """Epochs from an event in which the rate falls from its peak to half of it; null for those of ``patience``
    validations."""

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.threshold > self.sgd_lr:
            raise ValueError(f"threshold {self.threshold:g} is above sgd_lr {self.sgd_lr:g}, so SGD could never run")
        return self


class EarlyStopSection(Section):
    """When to stop before the end."""

    patience: PositiveInt | None = None
    """Validations without a better f1 after which the training stops; null for never."""


class PrecisionSection(Section):
    """Arithmetic of the training."""

    amp: Literal["auto", "off", "fp16", "bf16"] = "auto"
    """``auto``: fp16 autocast with gradient scaling on CUDA, float32 on CPU. ``fp16`` needs CUDA."""
    compile: bool = False
    """Whether ``torch.compile`` makes the network's steps; the first step of each image size then takes a minute."""


class PreprocessSection(Section):
    """Normalisation of the input, per channel, of pixels scaled to 0-1."""

    statistics: Literal["given", "measured"] = "given"
    """``given``: ``mean`` and ``std`` below. ``measured``: those of the training images (data whitening), which the
    checkpoint's preprocessing then carries."""
    mean: tuple[Channel, Channel, Channel] = IMAGENET_MEAN
    """Subtracted."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Divided by; positive."""

    @field_validator("std")
    @classmethod
    def _positive(cls, std: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(std) <= 0:
            raise ValueError(f"must be positive, got {list(std)}")
        if min(std) < 1e-6 or max(std) > 1e6:
            raise ValueError(f"expected deviations of 1e-6 to 1e6, got {list(std)}")
        return std

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.statistics == "measured" and (self.mean, self.std) != (IMAGENET_MEAN, IMAGENET_STD):
            raise ValueError("statistics is 'measured' and mean or std is given; leave one of them out")
        return self


class CheckpointSection(Section):
    """How much work a killed training may lose."""

    every_steps: PositiveInt = 200
    """Steps between saves of the resume state; each validation saves it too."""


class ExportSection(Section):
    """What ``fptk run`` exports."""

    targets: Annotated[tuple[str, ...], Field(max_length=100)] = ("onnx", "openvino")
    """Engines to build, by name."""
    precisions: Annotated[tuple[Literal["fp32", "bf16", "fp16", "int8"], ...], Field(max_length=100)] = (
        "fp32",
        "int8",
    )
    """Precisions; each is built by the targets that have it."""
    calibration_images: Annotated[int, Field(ge=1, le=10**6)] = 64
    """Training images the quantiser sees."""
    max_miou_drop: Points = 0.5
    """Points of mIoU an engine may lose to the FP32 reference."""
    max_class_drop: Points = 3.0
    """Points of IoU a single class may lose."""


class BenchSection(Section):
    """How ``fptk run`` measures speed."""

    threads: Annotated[int, Field(ge=1, le=MAX_THREADS)] | None = None
    """Threads of an engine; null for all cores."""
    rounds: Annotated[int, Field(ge=1, le=10**6)] = 15
    """Interleaved rounds: each engine takes one turn a round."""
    calls: Annotated[int, Field(ge=1, le=10**6)] = 4
    """Timed calls in a turn."""
