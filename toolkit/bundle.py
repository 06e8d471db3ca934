"""The bundle: a folder with one engine and ``fptk.json``, which says what it is and how it was proven.

A bundle can be copied to a device as it is. Everything in the manifest is either measured or a hash.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from fptk import __version__
from fptk.benchmarks.processors import ProcessorMatrix
from fptk.calibration.gate import Verdict
from fptk.calibration.isa import Cpu
from fptk.calibration.kernel_faults import KernelFault
from fptk.classes import CLASSES, PALETTE
from fptk.errors import InputError
from fptk.export.targets.base import Precision
from fptk.export.targets.registry import get_target
from fptk.files import read_json, sha256_file, write_text
from fptk.preprocess import PreprocessSpec
from fptk.session import Session

MANIFEST = "fptk.json"
SCHEMA_VERSIONS = (1, 2)
"""Versions of the manifest that can be read; the last one is written."""

Variant = Literal["deploy", "naive"]


class FileRecord(BaseModel):
    """One file of a bundle."""

    model_config = ConfigDict(extra="forbid")

    sha256: str
    bytes: int


class TensorRecord(BaseModel):
    """An input or output of the engine."""

    model_config = ConfigDict(extra="forbid")

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    """``None`` marks an open dimension."""


class Evaluation(BaseModel):
    """What an engine scored, and on what."""

    model_config = ConfigDict(extra="forbid")

    dataset: str
    """Name of the evaluation set."""
    images: int
    content_sha256: str
    """Hash over the content hashes of its images, in order."""
    reference: dict[str, Any]
    """Scores of the PyTorch FP32 reference (:meth:`fptk.metrics.Scores.as_dict`)."""
    engine: dict[str, Any]
    """Scores of this engine as built."""
    simulated_by: str | None = None
    """Name of the engine that the figures come from where this host cannot run the bundle's own."""


class Bundle(BaseModel):
    """Manifest of a bundle (``fptk.json``)."""

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[1, 2] = 2
    """2 added ``precision_hint``, ``cpu``, ``kernel_faults`` and ``processors``, which a version 1 leaves empty."""
    fptk_version: str = __version__
    created: datetime
    target: str
    precision: Precision
    precision_hint: str | None = None
    """Type of the float arithmetic that the engine must be loaded with (OpenVINO); ``None`` where the file says it."""
    variant: Variant
    """``deploy``: the rewritten graph; ``naive``: the network exported as it is written."""
    model: str
    options: dict[str, Any]
    parameters: int
    macs: int | None = None
    """Multiply-adds of one image through the exported graph; ``None`` where they were not counted."""
    classes: tuple[str, ...] = CLASSES
    palette: tuple[tuple[int, int, int], ...] = PALETTE
    preprocess: PreprocessSpec
    preprocess_sha256: str
    input: TensorRecord
    output: TensorRecord
    engine: str | None
    """File that the target loads; ``None`` where this host could not build it (see ``unavailable``)."""
    files: dict[str, FileRecord]
    unavailable: str | None = None
    checkpoint_sha256: str
    calibration: dict[str, Any] | None = None
    """Manifest of the calibration set; ``None`` for float engines."""
    tools: dict[str, str]
    """Version of every package and driver that made the engine."""
    host: dict[str, Any]
    build: dict[str, Any]
    """What the build reported: quantiser settings, layers kept in float and why, layer counts."""
    cpu: Cpu | None = None
    """Processors that the engine is promised to be right on; ``None`` for a GPU's, and unknown in version 1."""
    kernel_faults: tuple[KernelFault, ...] = ()
    """Layers that the exporting host computed wrongly in int8, and that were kept in float for it."""
    processors: ProcessorMatrix | None = None
    """The engine under each instruction set of the exporting host; ``None`` where it was not measured."""
    evaluation: Evaluation | None = None
    gate: dict[str, Any] | None = None
    """Verdict of the accuracy gate; ``None`` where it was not asked."""
    command: str
    """The command that rebuilds this bundle."""

    @property
    def label(self) -> str:
        """Short name in tables, e.g. ``onnx int8``."""
        return f"{self.target} {self.precision}" + (" naive" if self.variant == "naive" else "")

    @property
    def verdict(self) -> str:
        """``pass``, ``refused``, ``not judged`` or ``unavailable``."""
        if self.gate is not None and not self.gate["passed"]:
            return "refused"
        if self.unavailable:
            return "unavailable"
        return "pass" if self.gate else "not judged"

    @property
    def judged(self) -> Verdict | None:
        """The gate's verdict at export with its figures; ``None`` where there is none."""
        return Verdict.model_validate(self.gate) if self.gate and "classes" in self.gate else None

    @property
    def size_bytes(self) -> int:
        """Bytes of all files but the manifest."""
        return sum(record.bytes for record in self.files.values())


def write_manifest(bundle: Bundle, folder: Path) -> None:
    """Write ``fptk.json`` into the bundle's folder."""
    write_text(folder / MANIFEST, bundle.model_dump_json(indent=2) + "\n")


def record_files(folder: Path) -> dict[str, FileRecord]:
    """Hash and size of every file below ``folder``, by relative path; the manifest itself is left out."""
    return {
        path.relative_to(folder).as_posix(): FileRecord(sha256=sha256_file(path), bytes=path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }


def read_bundle(folder: Path) -> Bundle:
    """Parse the manifest of the bundle in ``folder``.

    Raises:
        InputError: there is none, or it is damaged or of another schema version.
    """
    if not folder.is_dir():
        raise InputError(f"bundle {folder} does not exist")
    value = read_json(folder / MANIFEST, "bundle manifest")
    version = value.get("schema_version") if isinstance(value, dict) else None
    if version not in SCHEMA_VERSIONS:
        known = " and ".join(map(str, SCHEMA_VERSIONS))
        raise InputError(
            f"{folder / MANIFEST} has schema version {version}; this fptk reads versions {known}: export it again"
        )
    try:
        return Bundle.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{folder / MANIFEST}: {where}: {first['msg']}; export the bundle again") from error


def open_bundle(folder: Path, *, threads: int | None = None) -> tuple[Bundle, Session]:
    """Read a bundle, check its files against their hashes, and load its engine.

    Raises:
        InputError: a file is missing or differs from its hash, or the bundle holds no engine.
        TargetUnavailableError: this host cannot run it.
    """
    bundle = read_bundle(folder)
    if bundle.engine is None:
        raise InputError(f"bundle {folder} holds no engine: {bundle.unavailable}")
    for name, record in bundle.files.items():
        path = folder / name
        if not path.is_file():
            raise InputError(f"bundle {folder} lacks its file {name}; copy the whole folder again")
        if sha256_file(path) != record.sha256:
            raise InputError(f"{path} differs from the hash in {MANIFEST}; copy the whole folder again")
    session = get_target(bundle.target).load(
        folder / bundle.engine, bundle.preprocess, threads=threads, precision_hint=bundle.precision_hint
    )
    session.name = bundle.label
    return bundle, session


def find_bundles(folder: Path) -> list[Path]:
    """Folders of all bundles in ``folder`` (itself, if it is one), sorted by name."""
    if (folder / MANIFEST).is_file():
        return [folder]
    return sorted(path.parent for path in folder.glob(f"*/{MANIFEST}") if not path.parent.name.startswith("."))
