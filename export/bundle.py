"""The bundle: a folder with one engine and ``fptk.json``, which says what it is and how it was proven.

A bundle can be copied to a device as it is. Everything in the manifest is either measured or a hash.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    PrivateAttr,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)

from fptk.benchmarks.processors import ProcessorMatrix
from fptk.benchmarks.quick import LatencyFigures
from fptk.calibration.gate import BuilderRefusal, Decision, Verdict
from fptk.calibration.kernel_faults import KernelFault
from fptk.core.classes import CELEBAMASK, ClassSet, check_names
from fptk.core.cpu import Cpu
from fptk.core.errors import InputError
from fptk.core.files import kind_of, open_regular, read_json, reason_of, sha256_file, write_text
from fptk.core.metrics import MEANS, Scores
from fptk.core.palette import Color
from fptk.core.precision import Precision
from fptk.core.preprocess import PreprocessSpec
from fptk.core.session import Session
from fptk.core.version import __version__
from fptk.export.engine_metadata import Identity, check_metadata
from fptk.export.golden import FOLDER as GOLDEN_FOLDER
from fptk.export.golden import GoldenRecord
from fptk.export.onnx_external import external_data
from fptk.export.openvino.operations import refuse_custom_operations
from fptk.export.programs import INFER
from fptk.export.record import BuildRecord
from fptk.export.targets.registry import get_target
from fptk.export.web import INDEX, PAGE
from fptk.models.checkpoint import first_fault

MANIFEST = "fptk.json"
OWN_FILES = "a bundle holds its own files: copy it with cp -rL"

SCHEMA_VERSIONS = (1, 2, 3)
"""Versions of the manifest that can be read; the last one is written."""

ENGINE_CARD_FILE = "engine.json"
"""What a TensorRT engine is read with (``fptk.export.tensorrt.engine_card``)."""

ENGINE_SUFFIXES = {"onnx": (".onnx",), "openvino": (".xml", ".onnx"), "web": (".onnx",)}
"""By target, for those whose packages guess the format of a file, and with it the other files that they open."""

Graph = Literal["deploy", "original"]
"""The network rewritten to compute the same function faster, or as the paper writes it."""

_ON_DISK = {"original": "naive"}
"""Names of graphs as the manifest has them, where they differ."""

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def _inside(name: str) -> str:
    """A name of a file in the bundle's folder or below it: relative, with ``/``, without ``..``, printable."""
    path = PurePosixPath(name)
    plain = name.isprintable() and not set(name) & set("\\:") and str(path) == name
    if not plain or not path.name or path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name[:80]!r} is no plain name of a file inside the bundle")
    if path.name == MANIFEST:
        raise ValueError(f"{name!r} is the manifest itself")
    return name


FileName = Annotated[str, AfterValidator(_inside)]


class FileRecord(BaseModel):
    """One file of a bundle."""

    model_config = ConfigDict(extra="forbid")

    sha256: Sha256
    """Of its content."""
    bytes: NonNegativeInt
    """Its size."""


class TensorRecord(BaseModel):
    """An input or output of the engine."""

    model_config = ConfigDict(extra="forbid")

    name: str
    """Its name in the graph."""
    dtype: str
    """Always ``uint8``."""
    shape: tuple[PositiveInt | None, ...]
    """``None`` marks an open dimension."""


class Evaluation(BaseModel):
    """What an engine scored, and on what."""

    model_config = ConfigDict(extra="forbid")

    dataset: str
    """Name of the evaluation set."""
    images: NonNegativeInt
    """How many were scored."""
    content_sha256: str
    """Hash over the content hashes of its images, in order."""
    reference: Scores
    """Scores of the network itself in FP32: in PyTorch, or the ONNX file that it came as."""
    engine: Scores
    """Scores of this engine as built."""
    simulated_by: str | None = None
    """Name of the engine that the figures come from where this host cannot run the bundle's own."""

    @field_validator("reference", "engine", mode="before")
    @classmethod
    def _check_scores(cls, scores: Any) -> Any:
        for name in MEANS if isinstance(scores, dict) else ():
            value = scores.get(name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise ValueError(f"{name} is {repr(value)[:40]}, not a number from 0 to 1")
        return scores


class Bundle(BaseModel):
    """Manifest of a bundle (``fptk.json``)."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    schema_version: Literal[1, 2, 3] = 3
    """2 added ``precision_hint``, ``cpu``, ``kernel_faults`` and ``processors``, 3 ``golden`` and ``latency``; earlier
    versions leave them empty."""
    fptk_version: str = __version__
    """Version of fptk that wrote the bundle."""
    created: datetime
    """When, in UTC."""
    target: str
    """Name of the engine's target, e.g. ``openvino``."""
    precision: Precision
    """What it was built in."""
    precision_hint: str | None = None
    """Type of the float arithmetic that the engine must be loaded with (OpenVINO): ``f32``, ``bf16``, or
    ``bf16-or-f32``, which is bf16 on a processor that has it, else float32. ``None`` where the file says it."""
    graph: Graph = Field(alias="variant")
    """Which form of the network the engine computes; ``variant`` in the file, with ``naive`` for ``original``."""
    model: str
    """Name of the network in the registry."""
    options: dict[str, Any]
    """Options of the network, all of them."""
    parameters: NonNegativeInt
    """Learnable numbers of the network."""
    macs: NonNegativeInt | None = None
    """Multiply-adds of one image through the exported graph; ``None`` where they were not counted."""
    classes: tuple[str, ...] = CELEBAMASK.names
    """Names of the labels, in order."""
    palette: tuple[Color, ...] = CELEBAMASK.palette
    """Color of each label, RGB."""
    preprocess: PreprocessSpec
    """What an image goes through before the engine, and the normalization inside it."""
    preprocess_sha256: str
    """Hash of ``preprocess``: the same for every engine that sees the same numbers."""
    input: TensorRecord
    """The images, uint8 (N, H, W, 3) RGB."""
    output: TensorRecord
    """The labels, uint8 (N, H, W)."""
    engine: FileName | None
    """File that the target loads; ``None`` where this host could not build it (see ``unavailable``)."""
    files: dict[FileName, FileRecord]
    """Every file of the bundle but the manifest, by its name relative to the folder."""
    unavailable: str | None = None
    """Why this host could not build the engine; ``None`` where it could."""
    checkpoint_sha256: str
    """Hash of the file that the weights came from."""
    calibration: dict[str, Any] | None = None
    """Manifest of the calibration set; ``None`` for float engines."""
    tools: dict[str, str]
    """Version of every package and driver that made the engine."""
    host: dict[str, Any]
    """Processor, instruction sets, cores and system of the exporting host."""
    build: BuildRecord
    """What the build left on record."""
    cpu: Cpu | None = None
    """Processors that the engine is promised to be right on; ``None`` for a GPU's, and unknown in version 1."""
    kernel_faults: tuple[KernelFault, ...] = ()
    """Layers that the exporting host computed wrongly in int8, and that were kept in float for it."""
    processors: ProcessorMatrix | None = None
    """The engine under each instruction set of the exporting host; ``None`` where it was not measured."""
    evaluation: Evaluation | None = None
    """Scores beside the reference; ``None`` where there was nothing to score on."""
    gate: Verdict | BuilderRefusal | None = None
    """Verdict of the accuracy gate; ``None`` where it was not asked."""
    golden: GoldenRecord | None = None
    """Samples that the bundle takes along, and what ``fptk verify`` holds the engine against; ``None`` before version
    3."""
    latency: LatencyFigures | None = None
    """Of the accepted engine on the exporting host, alone, for about a second; ``None`` where it did not run there."""
    command: str
    """The command that rebuilds this bundle."""

    @field_validator("classes")
    @classmethod
    def _check_classes(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        check_names(classes)
        return classes

    _folder: Path | None = PrivateAttr(default=None)

    @field_validator("graph", mode="before")
    @classmethod
    def _read_graph(cls, graph: Any) -> Any:
        return "original" if graph == "naive" else graph

    @field_serializer("graph")
    def _write_graph(self, graph: Graph) -> str:
        return _ON_DISK.get(graph, graph)

    @field_validator("gate", mode="before")
    @classmethod
    def _read_gate(cls, gate: Any) -> Any:
        """One of the two kinds, so that a fault is told of that kind alone."""
        if not isinstance(gate, dict):
            return gate
        if not (isinstance(gate.get("passed"), bool) and isinstance(gate.get("summary"), str)):
            raise ValueError("it must say passed, true or false, and summary, a text")
        try:
            return (Verdict if gate.keys() - {"passed", "summary"} else BuilderRefusal).model_validate(gate)
        except ValidationError as error:
            raise ValueError(first_fault(error)) from error

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        size = self.preprocess.size
        if self.preprocess_sha256 != self.preprocess.sha256:
            raise ValueError("preprocess does not have the hash preprocess_sha256: one of them was changed")
        for what, tensor, sides in (("input", self.input, (*size, 3)), ("output", self.output, size)):
            if tensor.dtype != "uint8" or tensor.shape[1:] != sides:
                raise ValueError(f"{what} is {tensor.dtype} {list(tensor.shape)}; expected uint8 [N, {_sides(sides)}]")
        if self.input.shape[0] != self.output.shape[0]:
            raise ValueError(f"input is of batch {self.input.shape[0]}, output of batch {self.output.shape[0]}")
        ClassSet(names=self.classes, palette=self.palette)
        if self.engine is None and not (self.unavailable or self.verdict == "refused"):
            raise ValueError("engine is null, and neither unavailable nor gate says why")
        if self.engine is not None and self.engine not in self.files:
            raise ValueError(f"engine {self.engine} is not among files")
        for name in self.golden.files if self.golden else ():
            if name not in self.files:
                raise ValueError(f"golden sample {name} is not among files")
        return self

    @property
    def label(self) -> str:
        """Short name in tables, e.g. ``onnx int8``."""
        return f"{self.target} {self.precision}" + (" original" if self.graph == "original" else "")

    @property
    def verdict(self) -> Decision:
        """What became of the engine at its export."""
        if self.gate is not None and not self.gate.passed:
            return Decision.REFUSED
        if self.unavailable:
            return Decision.UNAVAILABLE
        return Decision.PASS if self.gate else Decision.NOT_JUDGED

    @property
    def message(self) -> str:
        """One line: what the engine scored, what the gate said, and why there is none where there is none."""
        parts = [self.unavailable] if self.unavailable else []
        if self.evaluation:
            engine, reference, by = self.evaluation.engine, self.evaluation.reference, self.evaluation.simulated_by
            simulated = f", simulated by {by}" if by else ""
            parts.append(f"mIoU {100 * engine.miou:.2f}, FP32 reference {100 * reference.miou:.2f}{simulated}")
        if self.gate:
            parts.append(self.gate.summary)
        if self.kernel_faults:
            parts.append("in float for a kernel fault here: " + ", ".join(each.layer for each in self.kernel_faults))
        if self.build.layers:
            parts.append(self.build.layers.summary)
        if not (self.unavailable or self.gate or self.evaluation):
            parts.insert(0, "built, not judged: there was no evaluation data")
        return "; ".join(parts)

    @property
    def judged(self) -> Verdict | None:
        """The gate's verdict at export with its figures; ``None`` where there is none."""
        return self.gate if isinstance(self.gate, Verdict) else None

    @property
    def folder(self) -> Path:
        """Where the bundle lies.

        Raises:
            ValueError: it was neither read from a folder nor written to one.
        """
        if self._folder is None:
            raise ValueError(f"bundle {self.label} lies in no folder yet")
        return self._folder

    def at(self, folder: Path) -> Self:
        """The same bundle, known to lie in ``folder``."""
        self._folder = folder
        return self

    @property
    def class_set(self) -> ClassSet:
        """What the labels mean."""
        return ClassSet(names=self.classes, palette=self.palette)

    @property
    def identity(self) -> Identity:
        """What the engine's file must say about itself, where it says anything."""
        return Identity(self.model, self.graph, self.checkpoint_sha256, self.preprocess, self.classes, self.palette)

    @property
    def size_bytes(self) -> int:
        """Bytes of the engine: of all files but the manifest, the golden samples, ``infer.py`` and a page."""
        return sum(
            record.bytes
            for name, record in self.files.items()
            if name not in (INFER, INDEX) and not name.startswith((f"{GOLDEN_FOLDER}/", f"{PAGE}/"))
        )


def _sides(sides: tuple[int, ...]) -> str:
    return ", ".join(map(str, sides))


def write_manifest(bundle: Bundle, folder: Path) -> None:
    """Write ``fptk.json`` into the bundle's folder."""
    write_text(folder / MANIFEST, bundle.model_dump_json(indent=2, by_alias=True) + "\n")
    bundle.at(folder)


def record_files(folder: Path) -> dict[str, FileRecord]:
    """Hash and size of every file below ``folder``, by relative path; the manifest itself is left out."""
    return {
        path.relative_to(folder).as_posix(): FileRecord(sha256=sha256_file(path), bytes=path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }


def versions_read() -> str:
    """The schema versions of manifests that this fptk reads, in words."""
    *others, last = map(str, SCHEMA_VERSIONS)
    return f"{', '.join(others)} and {last}"


def read_bundle(folder: Path) -> Bundle:
    """Parse the manifest of the bundle in ``folder``; its other files are not looked at (see :func:`checked_bundle`).

    Raises:
        InputError: there is none, or it is damaged, contradicts itself or is of another schema version.
    """
    kind = kind_of(folder, "bundle")
    if kind != "folder":
        raise InputError(f"bundle {folder} {'is no folder' if kind else 'does not exist'}")
    path = folder / MANIFEST
    if path.is_symlink():
        raise InputError(f"{path} is a link; {OWN_FILES}")
    value = read_json(path, "bundle manifest")
    if not isinstance(value, dict):
        raise InputError(f"{path} is no JSON object; export the bundle again")
    version = value.get("schema_version")
    if type(version) is not int or version not in SCHEMA_VERSIONS:
        newer = type(version) is int and version > SCHEMA_VERSIONS[-1]
        remedy = "a newer fptk wrote it: update this one" if newer else "export it again"
        raise InputError(
            f"{path} has schema version {repr(version)[:40]}; this fptk reads versions {versions_read()}: {remedy}"
        )
    try:
        return Bundle.model_validate(value).at(folder)
    except ValidationError as error:
        raise InputError(f"{path}: {first_fault(error)}; export the bundle again") from error


def checked_bundle(folder: Path) -> Bundle:
    """Parse the manifest of a bundle and check its files: to be called before any of them is loaded.

    Every file of the manifest must be there, a regular file reached through no link, of the recorded size and hash.
    What the engine reads beside its own file must be in the manifest: the weights of an OpenVINO file, the external
    data of an ONNX file, the description of a TensorRT engine. What the engine's file says about itself must be what
    the manifest says. Other files in the folder are left alone.

    Raises:
        InputError: as :func:`read_bundle`, or a file is missing, a link, no regular file, changed or not listed, or the
            engine is of another network, preprocessing or palette than the manifest.
    """
    bundle = read_bundle(folder)
    for name, record in bundle.files.items():
        _check_file(folder, name, record)
    if bundle.engine is not None:
        suffixes = ENGINE_SUFFIXES.get(bundle.target, ("",))
        if not bundle.engine.endswith(suffixes):
            known = " or ".join(suffixes)
            raise InputError(
                f"bundle {folder}: an engine of target {bundle.target} ends in {known}, not {bundle.engine}"
            )
        for name in _read_with(folder, bundle.engine):
            if name not in bundle.files:
                raise InputError(
                    f"bundle {folder}: the engine {bundle.engine} reads {name!r}, which {MANIFEST} does not list; "
                    "export the bundle again"
                )
        check_metadata(folder / bundle.engine, bundle.identity)
    return bundle


def open_bundle(folder: Path, *, threads: int | None = None) -> tuple[Bundle, Session]:
    """Read a bundle, check its files (:func:`checked_bundle`), and load its engine.

    Raises:
        InputError: a file is missing or differs from its record, or the bundle holds no engine.
        TargetUnavailableError: this host cannot run it.
    """
    bundle = read_bundle(folder)
    if bundle.engine is None:
        reason = bundle.unavailable or (bundle.gate.summary if bundle.gate else "it says not why")
        raise InputError(f"bundle {folder} holds no engine: {reason}")
    bundle = checked_bundle(folder)
    return bundle, load_engine(folder, bundle, threads=threads)


def load_engine(folder: Path, bundle: Bundle, *, threads: int | None = None) -> Session:
    """Load the engine of a bundle whose files were checked.

    Raises:
        InputError: the runtime refuses the engine.
        TargetUnavailableError: this host cannot run it.
    """
    session = get_target(bundle.target).load(
        folder / str(bundle.engine), bundle.preprocess, threads=threads, precision_hint=bundle.precision_hint
    )
    session.name, session.classes = bundle.label, bundle.class_set
    return session


def _check_file(folder: Path, name: str, record: FileRecord) -> None:
    """Compare one file with its record.

    Raises:
        InputError: it is missing, reached through a link, no regular file, of another size, or of another content.
    """
    path = folder
    try:
        for part in PurePosixPath(name).parts:
            path = path / part
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                raise InputError(f"{path} is a link; {OWN_FILES}")
        if not stat.S_ISREG(mode):
            raise InputError(f"{path} is no regular file; copy the whole folder again")
        size = path.stat().st_size
        changed = size == record.bytes and sha256_file(path) != record.sha256
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"bundle {folder} lacks its file {name}; copy the whole folder again") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {reason_of(error)}") from error
    if size != record.bytes:
        raise InputError(f"{path} has {size} bytes, {MANIFEST} says {record.bytes}; copy the whole folder again")
    if changed:
        raise InputError(f"{path} differs from the hash in {MANIFEST}; copy the whole folder again")


def _read_with(folder: Path, engine: str) -> Iterator[str]:
    """Names of the files that an engine is read from, its own first.

    Raises:
        InputError: it is no file of the format that its suffix says (OpenVINO goes by the content), or it has custom
            operations.
    """
    own = PurePosixPath(engine)
    yield engine
    if own.suffix == ".xml":
        with open_regular(folder / engine) as handle:
            if not handle.read(64).lstrip().startswith(b"<"):
                raise InputError(f"{folder / engine} is no XML file; export the bundle again")
        refuse_custom_operations(folder / engine)
    if own.suffix == ".onnx":
        yield from (str(own.parent / location) for location in external_data(folder / engine))
    beside = own.with_suffix(".bin") if own.suffix == ".xml" else own.with_name(ENGINE_CARD_FILE)
    if own.suffix != ".onnx" and os.path.lexists(folder / beside):
        yield str(beside)


def check_replaceable(folder: Path) -> None:
    """Check before an export that nothing of the user's is lost when a new bundle takes the place of ``folder``.

    Raises:
        InputError: the folder holds a file that is not of the bundle in it, or it holds files and is no bundle.
    """
    if kind_of(folder) != "folder":
        return
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    if not found:
        return
    own = set()
    if MANIFEST in found:
        try:
            own = {MANIFEST, *read_bundle(folder).files}
        except InputError:  # a damaged bundle is there to be replaced
            return
    foreign = [name for name in found if name not in own]
    if foreign:
        raise InputError(
            f"{folder} would be replaced and its file {foreign[0]} is not of a bundle; move it or choose another --out"
        )


def find_bundles(folder: Path) -> list[Path]:
    """Folders of all bundles in ``folder`` (itself, if it is one), sorted by name."""
    if kind_of(folder / MANIFEST, "bundle manifest") == "file":
        return [folder]
    return sorted(path.parent for path in folder.glob(f"*/{MANIFEST}") if not path.parent.name.startswith("."))
