"""Wheels for a machine without a network, in the versions that are installed here."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from fptk.core.errors import InputError
from fptk.core.files import make_folder
from fptk.core.progress import SILENT, Listener, track

NEEDED = ("annotated-types", "pydantic", "pydantic-core", "typing-extensions", "typing-inspection")
"""What fptk needs and a machine with PyTorch, ONNX Runtime and pytest lacks."""

TENSORRT_RTX = ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu13-libs", "tensorrt-rtx", "tensorrt-rtx-cu13")

SOURCE_ONLY = ("tensorrt-rtx", "tensorrt-rtx-cu13")
"""Packages without a wheel on the index: a few lines of Python, which pip makes a wheel of."""

PYTHON = "3.12"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def fetch_wheels(packages: Sequence[str], folder: Path, listener: Listener = SILENT) -> list[Path]:
    """Fetch the wheels of packages for Linux on x86-64 from the index that pip is set up with.

    Args:
        packages: names of packages that are installed here; theirs are the versions.
        folder: where the wheels go; what is there already is not fetched again, and other versions are removed.
        listener: told of each package.

    Returns:
        The wheels, in the order of the packages.

    Raises:
        InputError: a package isn't installed here, or pip cannot fetch it.
    """
    make_folder(folder)
    return [_fetch(package, folder) for package in track(listener, packages, "fetching wheels")]


def _fetch(package: str, folder: Path) -> Path:
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise InputError(f"the package '{package}' is not installed, which says what version to fetch") from None
    stem = package.replace("-", "_")
    for wheel in folder.glob(f"{stem}-*.whl"):
        if wheel.name.split("-")[1] == version:
            return wheel
        wheel.unlink()
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    if package in SOURCE_ONLY:
        command = [*pip, "wheel", "--no-deps", "--wheel-dir", str(folder)]
    else:
        platforms = [part for platform in PLATFORMS for part in ("--platform", platform)]
        kind = ["--no-deps", "--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp", *platforms]
        command = [*pip, "download", *kind, "--dest", str(folder)]
    done = subprocess.run([*command, f"{package}=={version}"], capture_output=True, text=True, check=False)
    found = next(folder.glob(f"{stem}-{version}-*.whl"), None)
    if done.returncode or found is None:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        said = errors[-1].removeprefix("ERROR: ") if errors else f"exit code {done.returncode}"
        raise InputError(f"pip cannot fetch {package} {version} for Python {PYTHON}: {said}; check pip's index")
    return found
