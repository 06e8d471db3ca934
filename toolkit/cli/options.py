"""Options that several commands share, stated once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

PathType = click.Path(path_type=Path)

JSON = "--json"

RECORDS = frozenset({"fptk.json", "run.json", "stages.json", "engine.json"})
"""Names of the JSON files that fptk itself reads again: of a bundle, a run, and an engine."""

MAX_IMAGES = 10_000_000
"""More than any data set holds."""

MAX_ROUNDS = 1_000_000

MAX_BATCH = 4096

MAX_THREADS = 1024
"""More than any processor has; far more end some engines in a crash."""


class FiniteRange(click.FloatRange):
    """A ``click.FloatRange`` without NaN, which is neither below a limit nor above it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        import math

        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


def model_argument(function: F) -> F:
    """``MODEL``: what a command works on."""
    return click.argument("model", required=False, type=PathType, metavar="[MODEL]")(function)


def reference_option(function: F) -> F:
    """``--reference``: whose scores a bundle is held against."""
    return click.option(
        "--reference",
        type=PathType,
        metavar="MODEL",
        help="Run or checkpoint that the bundles came from, for the PyTorch FP32 reference. Default: found by hash.",
    )(function)


def data_option(function: F) -> F:
    """``--data``: what a command evaluates on."""
    return click.option(
        "--data",
        type=PathType,
        help="Evaluation data: a folder of images/ and masks/, a data set with a val split, or a list of pairs. "
        "Default: the validation images of the run.",
    )(function)


def images_option(function: F) -> F:
    """``--eval-images``: evaluate on fewer images."""
    return click.option(
        "--eval-images",
        type=click.IntRange(1, MAX_IMAGES),
        help="Evaluate on N images, evenly spaced. Default: all.",
    )(function)


def threads_option(function: F) -> F:
    """``--threads``: CPU threads of one inference."""
    return click.option(
        "--threads",
        type=click.IntRange(1, MAX_THREADS),
        help="CPU threads of one inference. Default: all cores.",
    )(function)


def check_json(context: click.Context, parameter: click.Parameter, json_path: Path | None) -> Path | None:
    """Callback of ``--json``: refuse before any work what the result could not be written to.

    Raises:
        InputError: it is a folder or the like, one of fptk's own records, or a file that holds no JSON.
    """
    if json_path is None or str(json_path) == "-":
        return json_path
    from fptk.core.errors import InputError
    from fptk.core.files import check_destination, kind_of, open_regular, writing

    check_destination(json_path, JSON)
    if kind_of(json_path) == "file":
        real = json_path.resolve()
        if real.name in RECORDS or real.with_suffix(".safetensors").exists():
            raise InputError(f"{json_path} is a record that fptk keeps; choose another {JSON}")
        with writing(json_path, JSON), open_regular(json_path) as handle:
            start = handle.read(64).lstrip()
        if start and start[:1] not in (b"{", b"["):
            raise InputError(f"{json_path} exists and holds no JSON; choose another {JSON}, or remove it")
    return json_path


def json_option(function: F) -> F:
    """``--json``: machine-readable result."""
    return click.option(
        JSON,
        "json_path",
        type=PathType,
        callback=check_json,
        help="Write the result as JSON to this file; - is standard output.",
    )(function)


def write_result(json_path: Path, value: Any) -> None:
    """Write ``value`` to the file that ``--json`` names, or to standard output for ``-``."""
    import json

    from fptk.core.files import write_json

    if str(json_path) == "-":
        click.echo(json.dumps(value, indent=2, allow_nan=False))
    else:
        write_json(json_path, value, option=JSON)


def invocation() -> str:
    """The command line of this process, as one would type it."""
    import shlex
    import sys

    return shlex.join(["fptk", *sys.argv[1:]])
