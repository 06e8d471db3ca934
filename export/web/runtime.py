"""ONNX Runtime Web: fetched from npm once, in one pinned version, and kept in the user's cache folder.

npm packs; nothing is installed and no script of a package is run. A machine without a network takes the two archives
from its cache folder, where a person may put them.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from fptk.core.errors import InputError, TargetUnavailableError
from fptk.core.files import atomic_folder, kind_of, read_json, sha256_file, write_json, writing
from fptk.data.statistics import default_cache

VERSION = "1.30.0"
"""Of both packages."""

_INTEGRITY = {
    "onnxruntime-web": "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
    "onnxruntime-common": "7fdVWjAID1dVhH/G8qK3APARunV4VkBFoCQAP7qp4Wkab0mrorvmc+sqiT+mKXOzDqdjN5j+/Z9nb4gzNPWcyA==",
}
"""sha512 of the archives in base64, as npm publishes it."""

WASM_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""What a page needs for WebAssembly."""
WEBGPU_FILES = (
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
"""What it needs for WebGPU beside that."""

_NODE_FILE = "ort.node.min.mjs"
DIST = PurePosixPath("node_modules/onnxruntime-web/dist")
"""Folder of all these below :func:`runtime_folder`."""
NODE_MODULE = DIST / _NODE_FILE
"""Module that Node.js imports, below :func:`runtime_folder`."""

_HASHES = "sha256.json"
"""File in the cached folder: hash of each of the others."""

OLDEST_NODE = 18
"""Major version of Node.js from which on everything works that is used here."""

_NPM_SECONDS = 900


def runtime_home() -> Path:
    """Folder that holds the cached files, there or not."""
    return default_cache() / f"onnxruntime-web-{VERSION}"


def runtime_folder() -> Path:
    """The cached files, fetched from npm where they are not there yet or are damaged.

    Raises:
        TargetUnavailableError: they are not there, and npm is not installed or does not deliver.
        InputError: the cache folder can't be read or written.
    """
    home = runtime_home()
    if _intact(home):
        return home
    with writing(home, "XDG_CACHE_HOME"):
        home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fptk-npm-") as scratch:
        archives = _archives(Path(scratch))
        with atomic_folder(home) as folder:
            for package, archive in archives.items():
                _extract(archive, folder / "node_modules" / package)
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            write_json(folder / _HASHES, {path.relative_to(folder).as_posix(): sha256_file(path) for path in files})
    return home


def runtime_remedy() -> tuple[str, str] | None:
    """Why :func:`runtime_folder` would fail and what to do, as far as can be told quickly; ``None`` where it works."""
    home = runtime_home()
    try:
        there = kind_of(home / _HASHES) == "file" or all(
            kind_of(home.parent / _archive_name(package)) == "file" for package in _INTEGRITY
        )
    except InputError as error:
        return str(error), "set XDG_CACHE_HOME to a folder that can be read"
    if there or shutil.which("npm"):
        return None
    return "npm is not installed", _remedy()


def _remedy() -> str:
    packages = " ".join(f"{package}@{VERSION}" for package in _INTEGRITY)
    return (
        f"install Node.js {OLDEST_NODE} or newer with npm, or on a machine that has it run: npm pack {packages}, and "
        f"copy the two files to {default_cache()}"
    )


def _archive_name(package: str) -> str:
    return f"{package}-{VERSION}.tgz"


def _intact(home: Path) -> bool:
    """Whether every file is there as it was extracted."""
    if kind_of(home / _HASHES, "cache") != "file":
        return False
    try:
        hashes = read_json(home / _HASHES, "cache")
        return bool(hashes) and all(sha256_file(home / name) == digest for name, digest in hashes.items())
    except (OSError, AttributeError, InputError):
        return False


def _archives(scratch: Path) -> dict[str, Path]:
    """The archive of each package: from the cache folder, or else from npm.

    Raises:
        TargetUnavailableError: npm is not installed or does not deliver, or an archive is not what was published.
    """
    given = {package: default_cache() / _archive_name(package) for package in _INTEGRITY}
    if not all(kind_of(path, "archive") == "file" for path in given.values()):
        _pack(scratch)
        given = {package: scratch / _archive_name(package) for package in _INTEGRITY}
    for package, path in given.items():
        with path.open("rb") as handle:
            digest = hashlib.file_digest(handle, "sha512").digest()
        if base64.b64encode(digest).decode() != _INTEGRITY[package]:
            raise TargetUnavailableError(
                f"{path} is not {package} {VERSION} as npm publishes it (sha512 differs); remove it, or set npm's "
                "registry to one that delivers it unchanged"
            )
    return given


def _pack(scratch: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise TargetUnavailableError(
            f"onnxruntime-web {VERSION} is not in {default_cache()} and npm is not installed; {_remedy()}"
        )
    packages = [f"{package}@{VERSION}" for package in _INTEGRITY]
    try:
        done = subprocess.run(
            [npm, "pack", "--ignore-scripts", "--pack-destination", str(scratch), *packages],
            cwd=scratch,
            capture_output=True,
            text=True,
            timeout=_NPM_SECONDS,
        )
        reason = "" if done.returncode == 0 else _npm_reason(done.stderr)
    except subprocess.TimeoutExpired:
        reason = f"no answer within {_NPM_SECONDS} s"
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise TargetUnavailableError(f"npm does not deliver onnxruntime-web {VERSION} ({reason}); {_remedy()}")


def _npm_reason(stderr: str) -> str:
    """The line that says most: npm prints a code first and then a sentence."""
    lines = [line.partition("npm error ")[2].strip() for line in stderr.splitlines() if line.startswith("npm error ")]
    told = [line for line in lines if line and not line.startswith("A complete log")]
    return ": ".join(told[:2])[:200] or "it says not why"


def _extract(archive: Path, folder: Path) -> None:
    """Write the files of a package that are needed into ``folder``."""
    with tarfile.open(archive) as source:
        for member in source:
            name = PurePosixPath(member.name.removeprefix("package/"))
            content = source.extractfile(member) if member.isfile() and _is_needed(folder.name, name) else None
            if content is not None:
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.read())


def _is_needed(package: str, name: PurePosixPath) -> bool:
    if str(name) == "package.json":
        return True
    if package == "onnxruntime-common":
        return (name.suffix == ".js" and name.parts[:2] == ("dist", "esm")) or name.parts[-2:] == (
            "esm",
            "package.json",
        )
    return name.parent.name == "dist" and name.name in (*WASM_FILES, *WEBGPU_FILES, _NODE_FILE)


def browser_files(home: Path, *, webgpu: bool) -> Iterator[Path]:
    """The files that a page needs, out of :func:`runtime_folder`."""
    for name in (*WASM_FILES, *(WEBGPU_FILES if webgpu else ())):
        yield home / DIST / name


def find_node() -> Path:
    """Node.js.

    Raises:
        TargetUnavailableError: it is not installed, or too old.
    """
    found = shutil.which("node")
    if found is None:
        raise TargetUnavailableError(f"node is not installed; install Node.js {OLDEST_NODE} or newer")
    version = node_version(Path(found))
    major = version.partition(".")[0]
    if not major.isdigit() or int(major) < OLDEST_NODE:
        raise TargetUnavailableError(
            f"node is {version or 'of no known version'}; install Node.js {OLDEST_NODE} or newer"
        )
    return Path(found)


@functools.cache
def node_version(node: Path) -> str:
    """Version of a Node.js, e.g. ``20.20.2``; empty where it does not tell."""
    try:
        done = subprocess.run([str(node), "--version"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip().removeprefix("v") if done.returncode == 0 else ""
