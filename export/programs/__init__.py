"""Programs that a bundle carries: each runs the engine beside it without fptk, as real code that is copied."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

INFER = "infer.py"
"""Name of the program in a bundle."""


def write_infer(target: str, folder: Path) -> None:
    """Copy the program that runs an engine of ``target`` into the bundle ``folder``; nothing where there is none."""
    program = resources.files(__name__) / f"infer_{target}.py"
    if program.is_file():
        (folder / INFER).write_bytes(program.read_bytes())
