"""The contract of a target: probe the host, build an engine from an ONNX file, load the engine as a Session."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fptk.benchmarks.profile import NodeTime
from fptk.core.dataset import UInt8Array
from fptk.core.errors import InputError, TargetUnavailableError
from fptk.core.precision import Precision
from fptk.core.preprocess import PreprocessSpec
from fptk.core.session import Session

if TYPE_CHECKING:
    from fptk.calibration.fallback import Candidate
    from fptk.calibration.kernel_faults import KernelFault
    from fptk.calibration.range_cache import RangeCache
    from fptk.calibration.sensitivity import Sensitivity


@dataclass(frozen=True)
class Probe:
    """What a target found on this host."""

    can_build: bool
    can_run: bool
    reason: str = ""
    """Why it cannot build or run, in one line; empty where it can do both."""
    remedy: str = ""
    """The command or the step that would add what is missing; empty where nothing is."""
    versions: dict[str, str] = field(default_factory=dict)
    """Version of every package and driver that the target uses."""


ImageStream = Callable[[], Iterable[UInt8Array]]
"""Starts a fresh pass over calibration images: preprocessed uint8 (1, H, W, 3) batches, read one at a time."""


@dataclass(frozen=True)
class CalibrationStream:
    """The calibration set as a builder reads it: a few at a time, as often as it likes."""

    images: ImageStream
    labelled: Callable[[], Iterable[tuple[UInt8Array, UInt8Array]]]
    """Starts a pass over pairs of image, uint8 (1, H, W, 3), and truth, uint8 (H, W)."""
    sha256: str
    """Hash of the list."""
    preprocess_sha256: str
    cache: Path
    """Folder where measured ranges may be kept between builds."""

    def ranges(self) -> RangeCache:
        """The cache for ranges measured on these images."""
        from fptk.calibration.range_cache import RangeCache

        return RangeCache(self.cache, self.sha256, self.preprocess_sha256)


@dataclass(frozen=True)
class BuildRequest:
    """Everything that a build depends on."""

    onnx_path: Path
    """FP32 ONNX file: input ``images`` uint8 (N, H, W, 3), output ``labels`` uint8 (N, H, W)."""
    precision: Precision
    folder: Path
    """Folder that the engine's files are written into."""
    spec: PreprocessSpec
    calibration: CalibrationStream | None = None
    """Calibration images; given for the precisions in :attr:`Target.calibrated`."""
    options: dict[str, Any] = field(default_factory=dict)
    """Target-specific settings, e.g. the rung of the fallback ladder; recorded in the bundle."""

    def calibrate(self) -> CalibrationStream:
        """The calibration images of a request that needs them.

        Raises:
            InputError: the request carries none.
        """
        if self.calibration is None:
            raise InputError(f"{self.precision} needs calibration images; give --calib DIR or --data DIR")
        return self.calibration


@dataclass(frozen=True)
class BuildResult:
    """What a build left."""

    files: tuple[Path, ...]
    """Files of the engine, the one that :meth:`Target.load` takes first."""
    details: dict[str, Any] = field(default_factory=dict)
    """What the bundle records of the build: quantiser settings, layers kept in float and why, layer counts."""
    precision_hint: str | None = None
    """Type of the float arithmetic that :meth:`Target.load` has to be told; ``None`` for what the file itself says."""


def batched(images: UInt8Array, batch: int | None) -> Iterator[UInt8Array]:
    """Cut (N, ...) into parts of ``batch`` for an engine of that fixed batch; ``None`` takes any N at once.

    Raises:
        InputError: N is no multiple of ``batch``.
    """
    if batch is None:
        yield images
        return
    if len(images) % batch:
        raise InputError(f"the engine's batch is {batch}; {len(images)} images are no multiple of it")
    for start in range(0, len(images), batch):
        yield images[start : start + batch]


def in_batches(images: UInt8Array, batch: int | None, run: Callable[[UInt8Array], UInt8Array]) -> UInt8Array:
    """Labels (N, H, W) of images (N, H, W, 3) from an engine of fixed ``batch``; ``None`` takes any N at once."""
    parts = [run(part) for part in batched(images, batch)]
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


class EngineNotBuiltError(TargetUnavailableError):
    """The ONNX file was made and checked, the engine wasn't built (exit code 3).

    Attributes:
        reason: why, in one line.
        kept: files that were made and stay of use.
        rebuild: command that builds the engine from them on a host that can.
        details: what the bundle would have recorded of the build so far.
    """

    def __init__(self, reason: str, kept: tuple[Path, ...], rebuild: str, details: dict[str, Any]) -> None:
        names = " and ".join(path.name for path in kept)
        super().__init__(f"{reason}; kept {names}; on a host that can, run in its folder: {rebuild}")
        self.reason = reason
        self.kept = kept
        self.rebuild = rebuild
        self.details = details


class Target(ABC):
    """An inference engine that fptk can build for.

    Third parties add one through the entry-point group ``fptk.targets``. A subclass imports its engine's packages
    inside its methods only: listing targets must work where they are not installed.
    """

    name: ClassVar[str]
    """Name on the command line, e.g. ``openvino``."""
    precisions: ClassVar[tuple[Precision, ...]] = (Precision.FP32, Precision.INT8)
    """Precisions that :meth:`build` accepts."""
    calibrated: ClassVar[tuple[Precision, ...]] = (Precision.INT8,)
    """Precisions that measure value ranges on calibration images."""
    option_names: ClassVar[frozenset[str]] = frozenset()
    """Keys of :attr:`BuildRequest.options` that the command line may set."""
    graph_form: ClassVar[str] = "onnxruntime"
    """Form of the deploy graph that this engine runs fastest: a key of :data:`fptk.models.deploy.ENGINES`."""
    runs_on_cpu: ClassVar[bool] = False
    """Whether its engines choose their kernels by the processor they run on: what a processor matrix is about."""
    isa_variable: ClassVar[str | None] = None
    """Environment variable that limits the instruction sets of such an engine; ``None`` where there is none."""
    float_layers_option: ClassVar[str] = "float_nodes"
    """Key of :attr:`BuildRequest.options` that names layers to keep in float."""

    @abstractmethod
    def probe(self) -> Probe:
        """Find out, without raising and without loading anything that may crash, what works on this host."""

    @abstractmethod
    def build(self, request: BuildRequest) -> BuildResult:
        """Build the engine.

        Raises:
            TargetUnavailableError: this host cannot; files worth keeping were left in ``request.folder`` and are named.
            InputError: the ONNX file or an option is not what the engine takes.
        """

    def cannot_compute(self, precision: Precision) -> str | None:
        """Why this host has no arithmetic for one of :attr:`precisions`, in one line; ``None`` where it has."""
        return None

    def candidates(
        self, sensitivity: Callable[[], Sensitivity], options: Mapping[str, Any]
    ) -> Iterable[Candidate[Any]] | None:
        """INT8 settings in the order in which the fallback ladder tries them; ``None`` where there is but one.

        The settings of a rung reach :meth:`build` as :attr:`BuildRequest.options`.

        Args:
            sensitivity: measures which layers INT8 costs most; slow, to be called only when the ladder gets that far.
            options: what the user set; see :attr:`option_names`.
        """
        return None

    def simulate(self, path: Path, spec: PreprocessSpec, *, threads: int | None = None) -> Session | None:
        """An INT8 engine's own graph in float arithmetic, every Q/DQ pair executed as it is written.

        ``None`` where the engine has no such mode. Arguments as for :meth:`load`.
        """
        return None

    def find_faults(self, path: Path, images: UInt8Array, *, precision_hint: str | None = None) -> list[KernelFault]:
        """The int8 layers of an engine that this processor computes wrongly, by cutting its graph.

        Args:
            path: the engine file.
            images: uint8 (N, H, W, 3), preprocessed.
            precision_hint: as for :meth:`load`.
        """
        return []

    @abstractmethod
    def load(
        self, path: Path, spec: PreprocessSpec, *, threads: int | None = None, precision_hint: str | None = None
    ) -> Session:
        """Load the first file of an :class:`BuildResult`.

        Args:
            path: the engine file.
            spec: preprocessing the engine was built for.
            threads: CPU threads of one inference; ``None`` leaves the engine its default.
            precision_hint: :attr:`BuildResult.precision_hint` of the build.

        Raises:
            TargetUnavailableError: this host cannot run it.
            InputError: the file is damaged or of another version.
        """

    def profile(
        self,
        path: Path,
        spec: PreprocessSpec,
        images: UInt8Array,
        *,
        threads: int | None,
        precision_hint: str | None = None,
    ) -> list[NodeTime]:
        """Time of every node, each the median over several inferences.

        Args:
            path, spec, threads, precision_hint: as for :meth:`load`.
            images: uint8 (N, H, W, 3), preprocessed.

        Raises:
            InputError: fptk has no profiler for this engine.
        """
        raise InputError(f"target {self.name} cannot be profiled by fptk; use the engine's own profiler")
