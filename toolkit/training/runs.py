"""A run folder: what lies in it, when one may be started, and how an unfinished one is found.

``run.json`` (recipe, data, versions, result), ``best.safetensors`` and ``last.safetensors`` (each with its card as
``.json``), ``resume.safetensors``, ``metrics.jsonl`` and ``curves.png``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fptk import __version__
from fptk.errors import InputError
from fptk.files import make_folder, read_json, write_json, write_text, writing
from fptk.recipes import Recipe, differing_keys, recipe_from

SCHEMA_VERSION = 1
DEFAULT_ROOT = Path("runs")

NOT_TRAINING = ("name", "description", "export", "bench", "checkpoint", "data.workers", "data.cache_gb")
"""Keys of a recipe that may change between the parts of one training: they do not touch its weights."""


@dataclass(frozen=True)
class RunFolder:
    """The files of one training."""

    path: Path

    @property
    def card(self) -> Path:
        """``run.json``."""
        return self.path / "run.json"

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

    def read(self) -> dict[str, Any]:
        """The content of ``run.json``.

        Raises:
            InputError: it is missing or damaged.
        """
        card = read_json(self.card, "run card")
        if not isinstance(card, dict) or card.get("schema_version") != SCHEMA_VERSION:
            raise InputError(f"run card {self.card} is of another fptk version; start anew in another --out")
        return card

    def recipe(self) -> Recipe:
        """The recipe that the run was started with."""
        return recipe_from(self.read()["recipe"], str(self.card))

    def data(self) -> list[Path]:
        """The data folders that the run was started with; empty for synthetic faces."""
        return [Path(folder) for folder in self.read()["data"]]

    def check_free(self) -> None:
        """Refuse a folder that holds something already.

        Raises:
            InputError: it exists and is not empty, or is a file.
        """
        if self.path.is_file():
            raise InputError(f"output folder {self.path} is a file; choose another --out")
        if self.path.is_dir() and any(self.path.iterdir()):
            hint = "holds a run; add --resume to go on with it, or" if self.card.exists() else "is not empty;"
            raise InputError(f"output folder {self.path} {hint} choose another --out")

    def start(self, recipe: Recipe, data: Sequence[Path], facts: dict[str, Any]) -> None:
        """Create the folder and its card.

        Raises:
            InputError: the folder holds something already, or cannot be written.
        """
        self.check_free()
        make_folder(self.path)
        card = {
            "schema_version": SCHEMA_VERSION,
            "fptk_version": __version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": sys.argv,
            "recipe": recipe.model_dump(mode="json"),
            "data": [str(folder.resolve()) for folder in data],
            **facts,
            "result": None,
        }
        write_json(self.card, card)

    def finished(self) -> dict[str, Any] | None:
        """The result of a finished run, None of an unfinished one.

        Raises:
            InputError: it is finished, but its weights have gone.
        """
        result: dict[str, Any] | None = self.read()["result"]
        missing = [path.name for path in (self.best, self.last) if result is not None and not path.exists()]
        if missing:
            raise InputError(f"{self.path} is a finished run without its {missing[0]}; start anew in another --out")
        return result

    def difference(self, recipe: Recipe, data: Sequence[Path]) -> str | None:
        """In what a training of ``recipe`` on ``data`` would differ from this one; ``None`` if in nothing."""
        keys = [key for key in differing_keys(self.recipe(), recipe) if not key.startswith(NOT_TRAINING)]
        if keys:
            return f"the recipe differs in {', '.join(keys[:3])}"
        if [folder.resolve() for folder in data] != [folder.resolve() for folder in self.data()]:
            return "it was started with other --data"
        return None

    def check_same(self, recipe: Recipe, data: Sequence[Path]) -> None:
        """Refuse to resume with anything but what the run was started with: the result would be neither.

        Raises:
            InputError: recipe or data differ.
        """
        difference = self.difference(recipe, data)
        if difference:
            raise InputError(
                f"cannot resume {self.path}: {difference}; resume with the same recipe and data, or start a new run "
                "with --init-weights"
            )

    def finish(self, result: dict[str, Any]) -> None:
        """Write the result into the card."""
        write_json(self.card, {**self.read(), "result": result})

    def append(self, record: dict[str, Any]) -> None:
        """Add one line to the metrics."""
        with writing(self.metrics), self.metrics.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(record, allow_nan=False) + "\n")

    def records(self) -> list[dict[str, Any]]:
        """The metrics' lines; a last line cut short by a kill is left out."""
        if not self.metrics.exists():
            return []
        records = []
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return records

    def rewind(self, step: int) -> None:
        """Drop the metrics of steps after ``step``: they'll be written again."""
        kept = [record for record in self.records() if record["step"] <= step]
        write_text(self.metrics, "".join(json.dumps(record) + "\n" for record in kept))


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
    for card in root.glob("*/run.json"):
        run = RunFolder(card.parent)
        try:
            content = run.read()
        except InputError:
            continue
        if not (unfinished and content["result"]):
            found.append((content["created"], card.stat().st_mtime, run))
    return max(found, key=lambda each: each[:2])[2] if found else None
