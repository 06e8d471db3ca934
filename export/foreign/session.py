"""The reference of a foreign network: its file as it is in ONNX Runtime, fed and read by hand in numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fptk.calibration.onnx_cpu import open_cpu_session
from fptk.core.classes import ClassSet
from fptk.core.dataset import UInt8Array
from fptk.core.errors import InputError
from fptk.core.preprocess import PreprocessSpec
from fptk.core.session import Session
from fptk.export.foreign.file import Interface

Float32 = npt.NDArray[np.float32]


class FileSession(Session):
    """A foreign network in FP32, without any rewrite and without ONNX Runtime's own.

    Args:
        path: the ONNX file.
        interface: how it is fed and read.
        spec: preprocessing of the images.
        classes: what its labels mean.
        threads: CPU threads of one inference; ``None`` for all cores.
    """

    def __init__(
        self, path: Path, interface: Interface, spec: PreprocessSpec, classes: ClassSet, threads: int | None = None
    ) -> None:
        super().__init__("onnx file fp32", spec, classes)
        self._path, self._interface = path, interface
        self._session: Any = open_cpu_session(path, threads=threads, optimized=False)

    def raw(self, image: UInt8Array) -> npt.NDArray[Any]:
        """The network's own output for one image, uint8 (1, H, W, 3)."""
        fed = feed(image, self._interface)
        try:
            return np.asarray(self._session.run([self._interface.output], {self._interface.input: fed})[0])
        except Exception as error:  # onnxruntime's exception classes share no public base
            raise InputError(f"ONNX Runtime cannot run {self._path}: {str(error).splitlines()[0][:300]}") from error

    def _infer(self, images: UInt8Array) -> UInt8Array:
        return np.concatenate([labels_of(self.raw(image[None]), self._interface) for image in images])

    def close(self) -> None:
        self._session = None


def feed(images: UInt8Array, interface: Interface) -> npt.NDArray[Any]:
    """Images uint8 (N, H, W, 3) RGB as the network takes them."""
    x: npt.NDArray[Any] = images
    if interface.pixels == "float32":
        x = images.astype(np.float32)
        if interface.mean is not None and interface.std is not None:
            mean, std = np.array(interface.mean, np.float32), np.array(interface.std, np.float32)
            x = (x / np.float32(255) - mean) / std
    if interface.channels == "bgr":
        x = x[..., ::-1]
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2) if interface.layout == "NCHW" else x)


def labels_of(raw: npt.NDArray[Any], interface: Interface) -> UInt8Array:
    """Labels uint8 (N, H, W) of the network's output: scores upsampled, then the lowest class of equal scores."""
    if interface.kind == "labels":
        return raw.reshape(-1, *interface.size).astype(np.uint8)
    scores = full_scores(raw, interface)
    labels: UInt8Array = scores.argmax(axis=1).astype(np.uint8)
    return labels


def full_scores(raw: npt.NDArray[Any], interface: Interface) -> Float32:
    """Scores of every pixel, float32 (N, C, H, W), of scores as the network gives them."""
    scores = raw.transpose(0, 3, 1, 2) if interface.class_axis == 3 else raw
    if interface.is_full_size:
        return np.asarray(scores, np.float32)
    return upsample(scores, interface.size, aligned=interface.upsampling == "align-corners")


def upsample(maps: npt.NDArray[Any], size: tuple[int, int], *, aligned: bool = False) -> Float32:
    """Bilinear upsampling of float (N, C, h, w) to ``size``, with half-pixel centers or with corners aligned."""
    rows = _mix(np.moveaxis(maps, 2, -1), size[0], aligned)  # (N, C, w, H)
    return _mix(np.moveaxis(rows, 2, -1), size[1], aligned)


def _mix(values: npt.NDArray[Any], length: int, aligned: bool) -> Float32:
    """Linear interpolation along the last axis."""
    given = values.shape[-1]
    at = np.arange(length, dtype=np.float64)
    at = at * ((given - 1) / max(1, length - 1)) if aligned else (at + 0.5) * (given / length) - 0.5
    at = at.clip(0, given - 1)
    low = np.floor(at).astype(np.int64).clip(0, max(0, given - 2))
    high = np.minimum(low + 1, given - 1)
    share = (at - low).astype(np.float32)
    return np.asarray(values[..., low] * (1 - share) + values[..., high] * share, np.float32)
