"""Everything that needs an NVIDIA GPU, in one command on a bare machine without a network.

It is run from a checkout, with the machine's own Python: ``python3 -P toolkit/workflows/gpu_check.py --packs DIR --out
DIR``. fptk isn't installed there, so this file needs only the standard library until it has laid the package out.
"""

from __future__ import annotations

import argparse
import configparser
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""

STORE = Path("/tmp/fptk-gpu")
"""What was received and installed: outside the checkout, which may be replaced between two calls."""

BESIDE = ("models", "export", "calibration", "benchmarks")
"""Packages of fptk that have a folder of their own beside ``toolkit/``."""


def lay_out(root: Path, folder: Path) -> Path:
    """Make fptk importable from ``folder``: links to the checkout's packages, and the metadata with the targets.

    Args:
        root: the checkout.
        folder: made anew.

    Returns:
        ``folder``, to put on ``PYTHONPATH``.
    """
    shutil.rmtree(folder, ignore_errors=True)
    package = folder / "fptk"
    package.mkdir(parents=True)
    for path in (*(root / "toolkit").iterdir(), *(root / name for name in BESIDE)):
        if path.name != "__pycache__":
            (package / path.name).symlink_to(path)
    setup = configparser.ConfigParser()
    setup.read(root / "setup.cfg", encoding="utf-8")
    groups = setup["options.entry_points"]
    metadata = folder / "fptk-0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: fptk\nVersion: 0\n", encoding="utf-8")
    points = "".join(f"[{group}]{lines}\n" for group, lines in groups.items())
    (metadata / "entry_points.txt").write_text(points, encoding="utf-8")
    return folder


def environment(store: Path) -> dict[str, str]:
    """The environment of every stage: fptk and the received packages are importable, the checkout's folders are not."""
    paths = [str(store / "layout"), str(store / "site"), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
    }


def arguments(given: Sequence[str]) -> argparse.Namespace:
    """What the command line says; exits with code 2 where it is wrong."""
    parser = argparse.ArgumentParser(prog="gpu_check", description="Run everything that needs an NVIDIA GPU.")
    parser.add_argument("--receive", nargs="+", type=Path, metavar="PART", help="only take in these parts")
    parser.add_argument("--packs", type=Path, metavar="DIR", help="folder with part-1, part-2 ... to take in first")
    parser.add_argument("--store", type=Path, default=STORE, metavar="DIR", help="where parts and packages are kept")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the result")
    parser.add_argument("--minutes", type=float, default=9.5, metavar="N", help="time for all stages  [default: 9.5]")
    parser.add_argument(
        "--recipe", default="shipped-gpu", metavar="NAME|FILE", help="recipe of the training  [default: shipped-gpu]"
    )
    parser.add_argument("--only", metavar="STAGE,...", help="run only these stages, by the start of their names")
    parser.add_argument("--skip", default="", metavar="STAGE,...", help="leave these stages out")
    parser.add_argument("--rehearse", action="store_true", help="make every stage tiny, on whatever machine this is")
    chosen = parser.parse_args(given)
    if chosen.receive is None and chosen.out is None:
        parser.error("give --out DIR for the result, or --receive PART... to only take parts in")
    if not chosen.minutes > 0:
        parser.error("--minutes must be above 0")
    return chosen


def main(given: Sequence[str]) -> int:
    """Run the command line; the exit code: 0, 1 where a stage failed, 2 for a mistake in what was given."""
    started = time.monotonic()
    chosen = arguments(given)
    if not (ROOT / "setup.cfg").is_file():
        sys.stderr.write(
            f"gpu_check: {ROOT} is no checkout of fptk; run the file toolkit/workflows/gpu_check.py of one\n"
        )
        return 2
    store = chosen.store.absolute()
    (store / "site").mkdir(parents=True, exist_ok=True)
    sys.path[:0] = [str(lay_out(ROOT, store / "layout")), str(store / "site")]
    from fptk.core.errors import FptkError, one_line
    from fptk.core.progress import Listener

    class Plain(Listener):
        def say(self, text: str, *, heading: bool = False) -> None:
            sys.stderr.write(f"[{time.monotonic() - started:5.1f} s] {one_line(text)}\n")

    try:
        if chosen.receive is not None:
            from fptk.workflows.gpu_parts import missing_parts, receive

            for part in chosen.receive:
                Plain().say(f"{part}: {'received' if receive(part, store) else 'was here already'}")
            missing = missing_parts(store)
            Plain().say(f"parts still missing: {', '.join(map(str, missing)) or 'none'}")
            return 0
        from fptk.workflows.gpu_plan import Job, check

        job = Job(
            root=ROOT,
            store=store,
            packs=chosen.packs.absolute() if chosen.packs else None,
            out=chosen.out.absolute(),
            seconds=chosen.minutes * 60,
            recipe=chosen.recipe,
            rehearse=chosen.rehearse,
            env=environment(store),
        )
        only = chosen.only.split(",") if chosen.only else None
        return check(job, only, [name for name in chosen.skip.split(",") if name], Plain())
    except FptkError as error:
        sys.stderr.write(f"gpu_check: {one_line(str(error))}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
