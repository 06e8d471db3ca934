"""Static int8 quantization of an OpenVINO model by NNCF."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from fptk.calibration.images import ImageStream
from fptk.calibration.openvino_forms import float_layers, reads_fake_quantize
from fptk.calibration.openvino_streams import stream_starts
from fptk.calibration.report import FloatLayer, QuantReport
from fptk.core.classes import CELEBAMASK, ClassSet
from fptk.core.cpu import FAMILIES, Family
from fptk.core.dataset import UInt8Array
from fptk.core.errors import InputError, missing_package
from fptk.core.host import tool_versions
from fptk.core.metrics import ConfusionMatrix

_ARITHMETIC_OPS = frozenset(
    {"Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul", "ScaledDotProductAttention"}
)


class OpenVinoQuantSettings(BaseModel):
    """How an OpenVINO model is quantized; the fields are NNCF's.

    Raises:
        ValidationError: (pydantic's) a field is unknown or its value out of range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "default"
    """What a table calls this setting."""
    preset: Literal["performance", "mixed"] = "mixed"
    """``performance``: symmetric activations; ``mixed``: asymmetric ones. Weights are symmetric per channel."""
    overflow_fix: Literal["enable", "first_layer_only", "disable"] = "enable"
    """Half-range weights, which cannot saturate the 16-bit sums of x86 processors without VNNI."""
    transformer: bool = True
    """NNCF's ``model_type=TRANSFORMER``: attentions stay in float, so that OpenVINO runs each as one fused kernel. With
    their products in int8, MicroSegFormer at 512x512 was slower (44.7 against 37.0 ms, float 52.3) and further from the
    float labels (98.7 against 99.5 % of pixels, eight faces)."""
    smooth_quant_alpha: float | None = Field(default=None, ge=0, le=1)
    """SmoothQuant's migration strength (0-1) for matrix products; ``None`` switches it off."""
    range_estimator: Literal["default", "minmax", "percentile", "mean_minmax"] = "minmax"
    """Statistics of activations over images; ``default`` is NNCF's choice for the preset, the mean of the images'
    extremes, which cut a class (clothes) by 3.5 points where the extremes over all images cut it by 0.4."""
    percentile: float = Field(default=0.001, ge=0, lt=0.5)
    """Share cut from each tail by ``percentile``, as a fraction."""
    fast_bias_correction: bool = True
    """Correct the shift of the mean that rounding causes from one pass of statistics."""
    families: tuple[Family, ...] = FAMILIES
    """Processors that the engine must be right on: forms that OpenVINO computes wrongly on one of them stay in float
    (see :func:`fptk.calibration.openvino_forms.float_layers`)."""
    ignored_names: tuple[str, ...] = ()
    """Further layers kept in float, by friendly name."""
    max_images: int = Field(default=1000, ge=1)
    """Images read at most."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of what NNCF draws."""


def settings_for(families: Sequence[Family]) -> OpenVinoQuantSettings:
    """The default settings of an engine that must be right on these processors.

    Half-range weights are for processors without VNNI; elsewhere they only cost a bit.
    """
    return OpenVinoQuantSettings(families=tuple(families), overflow_fix="enable" if "avx2" in families else "disable")


def quantize_openvino(
    model: Any,
    images: ImageStream,
    settings: OpenVinoQuantSettings | None = None,
    *,
    calibration_sha256: str | None = None,
) -> tuple[Any, QuantReport]:
    """Quantize a float OpenVINO model.

    Args:
        model: ``openvino.Model`` with one input, uint8 (N, H, W, 3). It is not changed.
        images: starts a pass over the calibration images, uint8 (1, H, W, 3) each.
        settings: how; ``None`` is the default.
        calibration_sha256: hash of the calibration list, for the report.

    Returns:
        The quantized model and the record of what was done.

    Raises:
        InputError: the model is already quantized, the set is empty, or an ignored name is not in the model.
    """
    nncf = _nncf()
    started = time.monotonic()
    settings = settings or OpenVinoQuantSettings()
    refuse_quantized_openvino(model)
    _check_names(model, settings.ignored_names)
    ignored = _ignored(model, settings)
    source = _Source(images, settings.max_images)
    random.seed(settings.seed)
    np.random.seed(settings.seed)  # NNCF draws from numpy's legacy generator
    try:
        with quiet_nncf():
            quantized = nncf.quantize(
                model.clone(),
                nncf.Dataset(source),
                subset_size=settings.max_images,
                **nncf_arguments(settings, ignored),
            )
    except nncf.ValidationError:
        if source.images == 0:
            raise InputError("the calibration set is empty: no ranges can be measured") from None
        raise
    layers = layers_by_precision(quantized, ignored)
    return quantized, _report(
        model, settings.model_dump(mode="json"), layers, source.images, calibration_sha256, started
    )


def quantize_openvino_with_accuracy_control(
    model: Any,
    images: ImageStream,
    validation: Callable[[], Iterable[tuple[UInt8Array, UInt8Array]]],
    max_miou_drop: float,
    settings: OpenVinoQuantSettings | None = None,
    *,
    calibration_sha256: str | None = None,
    classes: ClassSet = CELEBAMASK,
) -> tuple[Any, QuantReport]:
    """Quantize, then let NNCF put layers back to float, the costliest first, until mIoU is within the allowed drop.

    The last resort: every layer that is tried costs a pass over the validation images.

    Args:
        model: as for :func:`quantize_openvino`.
        images: as for :func:`quantize_openvino`.
        validation: starts a pass over pairs of image, uint8 (1, H, W, 3), and truth, uint8 (H, W). Not the evaluation
            split: an engine that was chosen on it is not judged by it.
        max_miou_drop: allowed drop of mIoU against the float model, in points.
        settings: how; ``None`` is the default.
        calibration_sha256: hash of the calibration list, for the report.
        classes: what the truth's labels mean.

    Raises:
        InputError: as for :func:`quantize_openvino`.
    """
    nncf = _nncf()
    started = time.monotonic()
    settings = settings or OpenVinoQuantSettings()
    refuse_quantized_openvino(model)
    ignored = _ignored(model, settings)
    source = _Source(images, settings.max_images)
    arguments = nncf_arguments(settings, ignored)
    arguments["advanced_quantization_parameters"] = arguments.pop("advanced_parameters")
    with quiet_nncf():
        quantized = nncf.quantize_with_accuracy_control(
            model.clone(),
            nncf.Dataset(source),
            nncf.Dataset(_Pairs(validation), lambda pair: pair[0]),
            lambda compiled, pairs: (_miou(compiled, pairs, classes), None),
            max_drop=max_miou_drop / 100,
            drop_type=nncf.DropType.ABSOLUTE,
            subset_size=settings.max_images,
            **arguments,
        )
    layers = layers_by_precision(quantized, ignored, "put back to float by accuracy control")
    used = {**settings.model_dump(mode="json"), "accuracy_control_max_miou_drop": max_miou_drop}
    return quantized, _report(model, used, layers, source.images, calibration_sha256, started)


def _report(
    model: Any,
    settings: dict[str, Any],
    layers: tuple[Iterable[str], Iterable[FloatLayer]],
    images: int,
    calibration_sha256: str | None,
    started: float,
) -> QuantReport:
    """Record of a quantization of ``model`` that began at ``started`` (monotonic seconds)."""
    int8, kept = layers
    return QuantReport(
        engine="openvino",
        settings=settings,
        quantised=tuple(int8),
        kept_float=tuple(kept),
        images=images,
        calibration_sha256=calibration_sha256,
        source_sha256=model_sha256(model),
        seconds=round(time.monotonic() - started, 3),
        versions=tool_versions("openvino", "nncf"),
    )


def openvino_layer_names(model: Any, onnx_names: Iterable[str]) -> tuple[str, ...]:
    """Friendly names of the OpenVINO layers that the ONNX nodes of these names became.

    The converter keeps a node's name, or adds a suffix where one node becomes several layers (``NAME/WithoutBiases``);
    nodes that it folded away or fused are left out.
    """
    wanted = set(onnx_names)
    names = (operation.get_friendly_name() for operation in model.get_ordered_ops())
    return tuple(name for name in names if name in wanted or name.partition("/")[0] in wanted)


def _ignored(model: Any, settings: OpenVinoQuantSettings) -> dict[str, str]:
    """Layers that stay float, and why."""
    asked = dict.fromkeys(settings.ignored_names, "kept in float by the settings")
    streams = dict.fromkeys(stream_starts(model), "it begins a residual stream, which would carry its rounding on")
    return asked | streams | float_layers(model, settings.families)


def nncf_arguments(settings: OpenVinoQuantSettings, ignored: Iterable[str] = ()) -> dict[str, Any]:
    """The keyword arguments of ``nncf.quantize`` that ``settings`` stands for, with the layers ``ignored``."""
    nncf = _nncf()
    names = list(ignored)
    from nncf.quantization.advanced_parameters import AdvancedSmoothQuantParameters, OverflowFix

    alpha = -1.0 if settings.smooth_quant_alpha is None else settings.smooth_quant_alpha
    advanced = nncf.AdvancedQuantizationParameters(
        overflow_fix=OverflowFix(settings.overflow_fix),
        smooth_quant_alphas=AdvancedSmoothQuantParameters(matmul=alpha, convolution=-1.0),
        **_range_arguments(settings),
    )
    return {
        "preset": nncf.QuantizationPreset(settings.preset),
        "model_type": nncf.ModelType.TRANSFORMER if settings.transformer else None,
        "fast_bias_correction": settings.fast_bias_correction,
        "ignored_scope": nncf.IgnoredScope(names=names) if names else None,
        "advanced_parameters": advanced,
    }


def _range_arguments(settings: OpenVinoQuantSettings) -> dict[str, Any]:
    from nncf.quantization.range_estimator import (
        AggregatorType,
        RangeEstimatorParameters,
        StatisticsCollectorParameters,
        StatisticsType,
    )

    if settings.range_estimator == "default":
        return {}
    quantile = settings.range_estimator == "percentile"
    mean = settings.range_estimator == "mean_minmax"
    low = StatisticsCollectorParameters(
        statistics_type=StatisticsType.QUANTILE if quantile else StatisticsType.MIN,
        aggregator_type=AggregatorType.MEAN if quantile or mean else AggregatorType.MIN,
        quantile_outlier_prob=settings.percentile,
    )
    high = StatisticsCollectorParameters(
        statistics_type=StatisticsType.QUANTILE if quantile else StatisticsType.MAX,
        aggregator_type=AggregatorType.MEAN if quantile or mean else AggregatorType.MAX,
        quantile_outlier_prob=settings.percentile,
    )
    return {"activations_range_estimator_params": RangeEstimatorParameters(min=low, max=high)}


def refuse_quantized_openvino(model: Any) -> None:
    """Check that the model is float.

    Raises:
        InputError: it holds FakeQuantize operations or int8 weights.
    """
    for operation in model.get_ops():
        if operation.get_type_name() == "FakeQuantize":
            raise InputError(
                "the OpenVINO model is already quantised (it holds FakeQuantize); quantise the float model"
            )


def layers_by_precision(
    model: Any, ignored: Mapping[str, str] | None = None, otherwise: str = "NNCF found no int8 form for it"
) -> tuple[list[str], list[FloatLayer]]:
    """Convolutions, matrix products and attentions of a quantized model: int8 names, and float ones with the reason.

    Args:
        model: what NNCF returned.
        ignored: layers that were kept in float, and why.
        otherwise: reason of the other float layers.
    """
    ignored = ignored or {}
    int8, kept = [], []
    for operation in model.get_ordered_ops():
        kind, name = operation.get_type_name(), operation.get_friendly_name()
        if kind not in _ARITHMETIC_OPS:
            continue
        inputs = (0, 1) if kind == "ScaledDotProductAttention" else (0,)
        if all(reads_fake_quantize(operation, port) for port in inputs):
            int8.append(name)
        else:
            kept.append(FloatLayer(name=name, op_type=kind, reason=ignored.get(name, otherwise)))
    return int8, kept


def model_sha256(model: Any) -> str:
    """Hash of the model's graph and weights."""
    import openvino

    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory(prefix="fptk-") as folder:
        xml = Path(folder) / "model.xml"
        openvino.serialize(model, xml)
        for part in (xml, xml.with_suffix(".bin")):
            digest.update(part.read_bytes())
    return digest.hexdigest()


@contextlib.contextmanager
def quiet_nncf() -> Iterator[None]:
    """Keep NNCF's progress bars off standard output and its log at errors.

    Its warnings are about what the report states anyway: fewer images than it may read, layers left in float.
    """
    nncf = _nncf()
    logger = logging.getLogger("nncf")
    level = logger.level
    nncf.set_log_level(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


class _Source:
    """Calibration images as NNCF wants them: an object that can be iterated more than once."""

    def __init__(self, images: ImageStream, limit: int) -> None:
        self._start, self._limit = images, limit
        self.images = 0
        """Images of the longest pass."""

    def __iter__(self) -> Iterator[UInt8Array]:
        for count, image in enumerate(self._start(), start=1):
            if count > self._limit:
                return
            self.images = max(self.images, count)
            yield image


class _Pairs:
    """Validation pairs that can be iterated more than once."""

    def __init__(self, start: Callable[[], Iterable[tuple[UInt8Array, UInt8Array]]]) -> None:
        self._start = start
        self._length: int | None = None

    def __iter__(self) -> Iterator[tuple[UInt8Array, UInt8Array]]:
        yield from self._start()

    def __len__(self) -> int:
        if self._length is None:  # NNCF ranks layers on a subset and must know of how many
            self._length = sum(1 for _ in self._start())
        return self._length


def _miou(compiled: Any, pairs: Iterable[tuple[UInt8Array, UInt8Array]], classes: ClassSet) -> float:
    """Mean IoU of a compiled model, 0-1."""
    matrix = ConfusionMatrix(classes)
    for image, truth in pairs:
        matrix.add(truth, compiled(image)[0][0])
    return matrix.scores().miou


def _check_names(model: Any, names: Iterable[str]) -> None:
    known = {operation.get_friendly_name() for operation in model.get_ops()}
    for name in names:
        if name not in known:
            raise InputError(f"the OpenVINO model has no layer '{name}' to keep in float")


def _nncf() -> Any:
    try:
        import nncf
    except ImportError:
        raise missing_package("nncf", "export") from None
    return nncf
