"""The contract of a target: probe the host, build an engine from an ONNX file, load the engine as a Session."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict

from fptk.benchmarks.profile import NodeTime
from fptk.benchmarks.throughput import Concurrency, Mode, RequestPool
from fptk.calibration.images import CalibrationStream
from fptk.core.cpu import Cpu, Family, promised_families
from fptk.core.dataset import UInt8Array
from fptk.core.errors import InputError, TargetUnavailableError
from fptk.core.precision import Precision
from fptk.core.preprocess import PreprocessSpec
from fptk.core.session import Session
from fptk.models.engine_form import ENGINES, EngineForm

if TYPE_CHECKING:
    from fptk.calibration.fallback import Candidate
    from fptk.calibration.kernel_faults import KernelFault
    from fptk.calibration.sensitivity import Sensitivity
    from fptk.export.record import BuildRecord


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


class TargetOptions(BaseModel):
    """Settings that a target takes; a target with some subclasses it.

    Every field needs a default and a docstring. A user sets one with ``fptk export -o KEY=VALUE``, a program with
    ``fptk.build(options={TARGET: {KEY: value}})``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CpuOptions(TargetOptions):
    """Settings of a target whose engines choose their kernels by the processor they run on."""

    cpu: Cpu = "any"
    """Processors that INT8 must be right on: ``avx2`` without VNNI, ``vnni`` with it, ``amx``, or ``any``."""

    @property
    def promised(self) -> tuple[Family, ...]:
        """The kinds of processors behind :attr:`cpu`."""
        return promised_families(self.cpu)


SettingsT = TypeVar("SettingsT", bound=BaseModel)
OptionsT = TypeVar("OptionsT", bound=TargetOptions)


def settings_of(options: BaseModel, defaults: SettingsT) -> SettingsT:
    """``defaults``, with the values of the fields that were set in ``options``.

    The best defaults of a quantizer depend on other options, such as the promised processors.
    """
    chosen = {name: getattr(options, name) for name in options.model_fields_set & type(defaults).model_fields.keys()}
    return defaults.model_copy(update=chosen)


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
    options: TargetOptions = field(default_factory=lambda: TargetOptions())
    """Settings of the target: an instance of :attr:`Target.options`."""

    def options_as(self, kind: type[OptionsT]) -> OptionsT:
        """The options as those of one target; its defaults where a caller gave none."""
        given = self.options
        return given if isinstance(given, kind) else kind.model_validate(given.model_dump(exclude_unset=True))

    def calibrate(self) -> CalibrationStream:
        """The calibration images of a request that needs them.

        Raises:
            InputError: the request carries none.
        """
        if self.calibration is None:
            raise InputError(f"{self.precision} needs calibration images; give --calib DIR or --data DIR")
        return self.calibration


def _empty_record() -> BuildRecord:
    from fptk.export.record import BuildRecord  # a process that only runs an engine needs no words for a build

    return BuildRecord()


@dataclass(frozen=True)
class BuildResult:
    """What a build left."""

    files: tuple[Path, ...]
    """Files of the engine, the one that :meth:`Target.load` takes first."""
    record: BuildRecord = field(default_factory=lambda: _empty_record())
    """What the bundle keeps of the build."""
    precision_hint: str | None = None
    """Type of the float arithmetic that :meth:`Target.load` has to be told; ``None`` for what the file itself says."""


@dataclass(frozen=True)
class Timing:
    """How ``fptk bench`` times an engine: what the engine's own tool has to be told to do the same."""

    mode: Mode = "latency"
    batch: int = 1
    """Images per call."""
    transfers: bool = True
    """Count the copies to and from a device."""
    threads: int | None = None
    """As for :meth:`Target.load`."""
    precision_hint: str | None = None
    """As for :meth:`Target.load`."""
    concurrency: Concurrency | None = None
    """What was in flight; ``None`` for latency, and where fptk does not measure the throughput."""


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
        record: what the bundle keeps of the build so far.
    """

    def __init__(self, reason: str, kept: tuple[Path, ...], rebuild: str, record: BuildRecord) -> None:
        names = " and ".join(path.name for path in kept)
        super().__init__(f"{reason}; kept {names}; on a host that can, run in its folder: {rebuild}")
        self.reason = reason
        self.kept = kept
        self.rebuild = rebuild
        self.record = record


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
    options: ClassVar[type[TargetOptions]] = TargetOptions
    """What a user may set: a model whose fields are the options."""
    form: ClassVar[EngineForm] = ENGINES["onnxruntime"]
    """Form of the deploy graph that this engine runs fastest."""
    own_forms: ClassVar[Mapping[Precision, EngineForm]] = MappingProxyType({})
    """Those of the precisions that have a graph of their own; the others' is :attr:`form`."""
    runs_on_cpu: ClassVar[bool] = False
    """Whether its engines choose their kernels by the processor they run on: what a processor matrix is about."""
    isa_variable: ClassVar[str | None] = None
    """Environment variable that limits the instruction sets of such an engine; ``None`` where there is none."""
    float_layers_option: ClassVar[str] = "float_nodes"
    """Field of :attr:`options` that names layers to keep in float."""

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

    def complete(self, folder: Path, manifest: Mapping[str, Any]) -> bool:
        """Write into a bundle what can only be written once everything about its engine is known.

        Args:
            folder: holds the engine, proven, and the golden samples.
            manifest: what ``fptk.json`` says up to here.

        Returns:
            Whether anything was written.
        """
        return False

    def cannot_compute(self, precision: Precision) -> str | None:
        """Why this host has no arithmetic for one of :attr:`precisions`, in one line; ``None`` where it has."""
        return None

    def form_of(self, precision: Precision) -> EngineForm:
        """Form of the graph that :meth:`build` gets for one of :attr:`precisions`."""
        return self.own_forms.get(precision, self.form)

    def batch(self, options: TargetOptions) -> int | None:
        """Batch of the ONNX file that :meth:`build` wants; ``None`` for an open one."""
        return 1

    def promise(self, precision: Precision, options: TargetOptions) -> Cpu | None:
        """Processors that an engine is promised to be right on; ``None`` for one that runs on no CPU.

        Only the kernels of int8 products differ between processors.
        """
        if not self.runs_on_cpu:
            return None
        return options.cpu if precision is Precision.INT8 and isinstance(options, CpuOptions) else "any"

    def candidates(self, sensitivity: Callable[[], Sensitivity], options: Any) -> Iterable[Candidate[Any]] | None:
        """INT8 settings in the order in which the fallback tries them; ``None`` where there is but one.

        The settings of a rung reach :meth:`build` as :attr:`BuildRequest.options`.

        Args:
            sensitivity: measures which layers INT8 costs most; slow, to be called only when the ladder gets that far.
            options: an instance of :attr:`options`, as the user set them.
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

    def load_pool(
        self, path: Path, spec: PreprocessSpec, *, threads: int | None = None, precision_hint: str | None = None
    ) -> RequestPool | None:
        """Load an engine for several requests at once; ``None`` where fptk does not measure that.

        Args:
            path, spec, precision_hint: as for :meth:`load`, which has checked them.
            threads: CPU threads of all requests together; ``None`` leaves the engine its default.

        Raises:
            TargetUnavailableError: this host cannot run it.
            InputError: the file is damaged or of another version.
        """
        return None

    def measure_command(self, path: Path, timing: Timing) -> str | None:
        """A command of the engine's own tool that times ``path`` as ``fptk bench`` does; ``None`` where it has none.

        It is run in the folder of the engine.

        Args:
            path: as for :meth:`load`.
            timing: what is measured.
        """
        return None

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
