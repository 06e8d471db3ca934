"""A run folder: what lies in it, when one may be started, and how an unfinished one is found.

A training leaves ``run.json`` (recipe, data, versions, result), ``best.safetensors`` and ``last.safetensors`` (each
with its card as ``.json``), ``resume.safetensors``, ``metrics.jsonl`` and ``curves.png``. Later stages add
``bundles/``, ``rejected/``, ``calibration/``, ``baseline/``, ``bench.json``, ``stages.json`` and ``report.html``.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fptk.core.errors import InputError
from fptk.core.files import (
    kind_of,
    make_folder,
    open_regular,
    parse_json,
    read_json,
    reason_of,
    write_json,
    write_text,
    writing,
)
from fptk.core.version import __version__
from fptk.data.identity import Identity, difference_of, identity_of
from fptk.recipes import Recipe, differing_keys, recipe_from
from fptk.runs.data import open_data
from fptk.runs.lock import NAME as LOCK

SCHEMA_VERSION = 1
DEFAULT_ROOT = Path("runs")

CARD = "run.json"

NOT_TRAINING = (
    *("name", "description", "export", "bench", "checkpoint"),
    *("data.workers", "data.cache_gb", "data.device", "precision.compile"),
)
"""Keys of a recipe that may change between the parts of one training: they touch its weights by rounding at most."""


_LEFTOVER = re.compile(r"\.(?:run|best|last|resume|metrics|curves)\.(?:[\d-]+\.)?tmp\.\w+")
"""Names of what :func:`fptk.core.files.atomic_file` may leave where a training is killed."""

_Count = Annotated[int, Field(ge=0)]


class _Checked(BaseModel):
    """What a file of a run must hold; further keys are taken as they are."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class _Result(_Checked):
    """How a finished training ended; see :class:`TrainResult`."""

    finished: bool
    step: _Count
    parameters: _Count
    best_f1: float
    best_step: _Count
    scores: dict[str, float]
    seconds: float
    peak_bytes: _Count | None = None


class _SetIdentity(_Checked):
    images: _Count
    names: str
    contents: str


class _Card(_Checked):
    """``run.json``."""

    created: str
    recipe: dict[str, Any]
    data: list[Annotated[str, Field(pattern=r"^[^\x00]+$")]]
    result: _Result | None
    data_identity: dict[str, _SetIdentity] | None = None
    parameters: _Count = 0
    train_set: str = ""
    train_images: _Count = 1
    val_set: str = ""
    val_images: _Count = 1
    init_weights: str | None = None
    init_sha256: str | None = None


class _Record(_Checked):
    """A line of ``metrics.jsonl``."""

    __pydantic_extra__: dict[str, float | None]

    step: Annotated[int, Field(ge=1)]
    epoch: float
    images: Annotated[int, Field(ge=1)]
    size: Annotated[int, Field(ge=1)]
    lr: float
    loss: float
    images_per_s: Annotated[float, Field(gt=0.0)]
    seconds: float
    f1: float
    f1_challenge: float
    miou: float
    f1_nobg: float
    pixel_accuracy: float


@dataclass(frozen=True)
class RunFolder:
    """The files of one training, and of what was made of its weights.

    Weights of no run have such a folder too, without the training's files: see ``ModelSource.folder``.
    """

    path: Path

    @property
    def card(self) -> Path:
        """``run.json``."""
        return self.path / CARD

    @property
    def best(self) -> Path:
        """Weights of the best validation."""
        return self.path / "best.safetensors"

    @property
    def last(self) -> Path:
        """Weights of the last step; it exists only when the training has ended."""
        return self.path / "last.safetensors"

    @property
    def resume(self) -> Path:
        """State to go on from."""
        return self.path / "resume.safetensors"

    @property
    def metrics(self) -> Path:
        """One JSON object a line, one line a validation."""
        return self.path / "metrics.jsonl"

    @property
    def curves(self) -> Path:
        """Loss, scores and learning rate over the steps."""
        return self.path / "curves.png"

    @property
    def bundles(self) -> Path:
        """The exported bundles, a folder each."""
        return self.path / "bundles"

    @property
    def rejected(self) -> Path:
        """Engines that the accuracy gate refused, a bundle each."""
        return self.path / "rejected"

    @property
    def original(self) -> Path:
        """A folder like this one, of engines of the network as it is written, which bench compares with."""
        return self.path / "original"

    @property
    def calibration(self) -> Path:
        """Measured ranges and sensitivities, keyed by everything that they depend on."""
        return self.path / "calibration"

    @property
    def calibration_list(self) -> Path:
        """The calibration set of the last export; ``--calib`` takes it."""
        return self.calibration / "images.json"

    @property
    def bench(self) -> Path:
        """Measurements of the bundles."""
        return self.path / "bench.json"

    @property
    def report(self) -> Path:
        """The page about all of this, for people."""
        return self.path / "report.html"

    @property
    def stages(self) -> Path:
        """What the finished stages of ``fptk run`` were made of."""
        return self.path / "stages.json"

    def read(self) -> dict[str, Any]:
        """The content of ``run.json``.

        Raises:
            InputError: it is missing or damaged.
        """
        card = read_json(self.card, "run card")
        version = card.get("schema_version") if isinstance(card, dict) else None
        if type(version) is not int:
            raise InputError(f"run card {self.card} is damaged: it has no schema version; start anew in another --out")
        if version != SCHEMA_VERSION:
            raise InputError(
                f"run card {self.card} has schema version {version}, this fptk ({__version__}) reads {SCHEMA_VERSION}; "
                "use the fptk that wrote it, or start anew in another --out"
            )
        try:
            _Card.model_validate(card)
        except ValidationError as error:
            raise InputError(f"run card {self.card} is damaged: {_first(error)}; start anew in another --out") from None
        content: dict[str, Any] = card
        return content

    def recipe(self) -> Recipe:
        """The recipe that the run was started with."""
        return recipe_from(self.read()["recipe"], str(self.card))

    def data(self) -> list[Path]:
        """The data folders that the run was started with; empty for synthetic faces."""
        return [Path(folder) for folder in self.read()["data"]]

    def check_free(self) -> None:
        """Refuse a folder that holds something already; what a killed training left half written is nothing.

        Raises:
            InputError: it exists and is not empty, is a file, or may not be read.
        """
        kind = kind_of(self.path, "output folder")
        if kind is None:
            return
        if kind != "folder":
            raise InputError(f"output folder {self.path} is a file; choose another --out")
        try:
            names = [path.name for path in self.path.iterdir()]
        except OSError as error:
            raise InputError(
                f"output folder {self.path} cannot be read: {reason_of(error)}; choose another --out"
            ) from error
        if any(name != LOCK and not _LEFTOVER.fullmatch(name) for name in names):
            hint = "holds a run; add --resume to go on with it, or" if self.card.exists() else "is not empty;"
            raise InputError(f"output folder {self.path} {hint} choose another --out")

    def sweep(self) -> None:
        """Remove what killed trainings left half written; whoever calls it holds the folder's lock."""
        with writing(self.path):
            for path in self.path.iterdir():
                if _LEFTOVER.fullmatch(path.name):
                    path.unlink(missing_ok=True)

    def start(self, recipe: Recipe, data: Sequence[Path], facts: dict[str, Any]) -> None:
        """Create the folder and its card.

        Raises:
            InputError: the folder holds something already, or cannot be written.
        """
        self.check_free()
        make_folder(self.path)
        self.sweep()
        card = {
            "schema_version": SCHEMA_VERSION,
            "fptk_version": __version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": sys.argv,
            "recipe": recipe.model_dump(mode="json"),
            "data": _real(data),
            **facts,
            "result": None,
        }
        write_json(self.card, card)

    def finished(self) -> dict[str, Any] | None:
        """The result of a finished run, None of an unfinished one.

        Raises:
            InputError: it is finished, but its weights have gone.
        """
        found = self.read()["result"]
        result = None if found is None else _Result.model_validate(found).model_dump(include=set(_Result.model_fields))
        missing = [path.name for path in (self.best, self.last) if result is not None and not path.exists()]
        if missing:
            raise InputError(f"{self.path} is a finished run without its {missing[0]}; start anew in another --out")
        return result

    def difference(self, recipe: Recipe, data: Sequence[Path]) -> str | None:
        """In what a training of ``recipe`` on ``data`` would differ from this one; ``None`` if in nothing.

        Raises:
            InputError: ``data`` is no data set, or a file of it cannot be read.
        """
        return self.recipe_difference(recipe, data) or (
            self.data_difference(data, identity_of(*open_data(recipe, data))) if data else None
        )

    def recipe_difference(self, recipe: Recipe, data: Sequence[Path]) -> str | None:
        """In what ``recipe`` differs from the run's; faces from folders and drawn ones differ too."""
        keys = [key for key in differing_keys(self.recipe(), recipe) if not key.startswith(NOT_TRAINING)]
        if keys:
            return f"the recipe differs in {', '.join(keys[:3])}"
        return "it was started with other --data" if bool(data) != bool(self.data()) else None

    def data_difference(self, data: Sequence[Path], identity: Identity | None) -> str | None:
        """In what the faces of ``data`` differ from those at the start: by name and content, not by folder."""
        before: Identity | None = self.read().get("data_identity")
        if before is not None and identity is not None:
            return difference_of(before, identity)
        return None if self.has_paths(data) else "it was started with other --data"  # a run of an older fptk

    def has_paths(self, data: Sequence[Path]) -> bool:
        """Whether the run was started with these folders."""
        return _real(data) == _real(self.data())

    def check_same(self, difference: str | None) -> None:
        """Refuse to resume with anything but what the run was started with: the result would be neither.

        Raises:
            InputError: there is a difference.
        """
        if difference:
            raise InputError(
                f"cannot resume {self.path}: {difference}; resume with the same recipe and data, or start a new run "
                "with --init-weights"
            )

    def move_data(self, data: Sequence[Path]) -> None:
        """Write down where the faces lie now."""
        if not self.has_paths(data):
            write_json(self.card, {**self.read(), "data": _real(data)})

    def finish(self, result: dict[str, Any]) -> None:
        """Write the result into the card."""
        write_json(self.card, {**self.read(), "result": result})

    def append(self, record: dict[str, Any]) -> None:
        """Add one line to the metrics."""
        with writing(self.metrics), self.metrics.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(record, allow_nan=False) + "\n")

    def records(self) -> list[dict[str, Any]]:
        """The metrics' lines; a last line cut short by a kill is left out.

        Raises:
            InputError: the file cannot be read, or another line is no record.
        """
        if kind_of(self.metrics, "metrics") is None:
            return []
        try:
            with open_regular(self.metrics) as handle:
                *lines, _ = handle.read().split(b"\n")
        except OSError as error:
            raise InputError(f"metrics {self.metrics} cannot be read: {reason_of(error)}") from error
        return [self._record(number, line) for number, line in enumerate(lines, start=1)]

    def _record(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            record: dict[str, Any] = parse_json(line)
            _Record.model_validate(record)
        except ValueError as error:  # a ValidationError is one
            reason = _first(error) if isinstance(error, ValidationError) else str(error)
            raise InputError(
                f"metrics {self.metrics} is damaged in line {number}: {reason}; mend or remove that line"
            ) from None
        return record

    def rewind(self, step: int) -> None:
        """Drop the metrics of steps after ``step``: they'll be written again."""
        kept = [record for record in self.records() if record["step"] <= step]
        write_text(self.metrics, "".join(json.dumps(record) + "\n" for record in kept))


def _real(folders: Sequence[Path]) -> list[str]:
    """Paths without links, also of folders that are not there or whose links lead in a circle."""
    return [os.path.realpath(folder) for folder in folders]


def _first(error: ValidationError) -> str:
    """The first of a validation's errors: key, what was expected, what was found."""
    first = error.errors(include_url=False)[0]
    keys = [str(part) for part in first["loc"]]
    message = first["msg"][:1].lower() + first["msg"][1:]
    found = repr(first["input"])
    shown = "" if first["type"] == "missing" else f", found {found if len(found) <= 60 else found[:57] + '...'}"
    return f"key '{'.'.join(keys)}': {message}{shown}" if keys else message


@dataclass(frozen=True)
class TrainResult:
    """How a call of :func:`train` ended."""

    out: Path
    """The run folder."""
    finished: bool
    """False where ``stop_after`` ended it; it can be resumed."""
    step: int
    """Optimiser steps done, over all calls."""
    parameters: int
    """Of the network."""
    best_f1: float
    """Highest validation f1; -1 before the first validation."""
    best_step: int
    """Step of it."""
    scores: dict[str, float]
    """All scores of that validation."""
    seconds: float
    """Training time over all calls, validation included."""
    peak_bytes: int | None = None
    """Most memory in use: allocated on the CUDA device, or resident in the process; ``None`` if unknown."""

    @property
    def best(self) -> Path:
        """Checkpoint of the best validation."""
        return RunFolder(self.out).best

    @property
    def last(self) -> Path:
        """Checkpoint of the end."""
        return RunFolder(self.out).last


def default_folder(recipe: Recipe, root: Path = DEFAULT_ROOT) -> Path:
    """``runs/<recipe>-<YYYYmmdd-HHMMSS>``, local time."""
    return root / f"{recipe.name}-{datetime.now().astimezone():%Y%m%d-%H%M%S}"


def newest_run(root: Path = DEFAULT_ROOT, *, unfinished: bool = False) -> RunFolder | None:
    """The run folder under ``root`` that was started last; with ``unfinished`` only those without a result."""
    found = []
    for card in root.glob(f"*/{CARD}"):
        run = RunFolder(card.parent)
        try:
            content = run.read()
        except InputError:
            continue
        if not (unfinished and content["result"]):
            found.append((content["created"], card.stat().st_mtime, run))
    return max(found, key=lambda each: each[:2])[2] if found else None
