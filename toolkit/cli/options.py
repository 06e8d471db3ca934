"""Options that several commands share, stated once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

PathType = click.Path(path_type=Path)


def weights_option(function: F) -> F:
    """``--weights``: what a command works on."""
    return click.option(
        "--weights",
        type=PathType,
        help="Checkpoint (.safetensors) or run folder. Default: the newest run below runs/, else the shipped weights.",
    )(function)


def data_option(function: F) -> F:
    """``--data``: what a command evaluates on."""
    return click.option(
        "--data",
        type=PathType,
        help="Evaluation data: a folder of images/ and masks/, or a data set with a val split. "
        "Default: the validation images of the run.",
    )(function)


def images_option(function: F) -> F:
    """``--images``: evaluate on fewer images."""
    return click.option(
        "--images", "eval_images", type=click.IntRange(1), help="Evaluate on N images, evenly spaced. Default: all."
    )(function)


def threads_option(function: F) -> F:
    """``--threads``: CPU threads of one inference."""
    return click.option("--threads", type=click.IntRange(1), help="CPU threads of one inference. Default: all cores.")(
        function
    )


def json_option(function: F) -> F:
    """``--json``: machine-readable result."""
    return click.option(
        "--json", "json_path", type=PathType, help="Write the result as JSON to this file; - is standard output."
    )(function)


def write_result(json_path: Path, value: Any) -> None:
    """Write ``value`` to the file that ``--json`` names, or to standard output for ``-``."""
    import json

    from fptk.files import write_json

    if str(json_path) == "-":
        click.echo(json.dumps(value, indent=2, allow_nan=False))
    else:
        write_json(json_path, value)


def invocation() -> str:
    """The command line of this process, as one would type it."""
    import shlex
    import sys

    return shlex.join(["fptk", *sys.argv[1:]])
