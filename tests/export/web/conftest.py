"""A machine without npm and node, and one whose npm and node are small scripts that play their part."""

from __future__ import annotations

import base64
import hashlib
import io
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from fptk.export.web import runtime

NODE = """#!{python}
# Speaks as session.mjs does. What is in the file of the engine says how it behaves.
import json, struct, sys
if sys.argv[1:] == ["--version"]:
    sys.exit(print("v{version}"))
kind = open(sys.argv[3]).read()
size = [1, 64, 64] if "batch" not in kind else ["N", 64, 64]
opened = {{
    "inputs": [{{"name": "images", "type": "uint8", "shape": [*size, 3 if "channels" not in kind else 4]}}],
    "outputs": [{{"name": "labels", "type": "uint8" if "float" not in kind else "float32", "shape": size}}],
}}
if "two" in kind:
    opened["outputs"] *= 2
def answer(status, content):
    sys.stdout.buffer.write(struct.pack("<2I", status, len(content)) + content)
    sys.stdout.buffer.flush()
if "broken" in kind:
    answer(1, b"no such format\\nand a trace")
    sys.exit(0)
answer(0, json.dumps(opened).encode())
while header := sys.stdin.buffer.read(12):
    count, height, width = struct.unpack("<3I", header)
    pixels = sys.stdin.buffer.read(count * height * width * 3)
    if "dies" in kind:
        sys.exit("out of memory")
    if "fails" in kind:
        answer(1, b"a kernel failed")
        continue
    labels = bytes(value % 19 for value in pixels[::3])
    answer(0, struct.pack("<d", 12.5) + (labels if "short" not in kind else labels[1:]))
"""


def script(path: Path, text: str) -> Path:
    """An executable file."""
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture
def empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Neither npm nor node is installed, and the cache is empty; returns the one folder on PATH."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    monkeypatch.setenv("PATH", str(binaries))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return binaries


@pytest.fixture
def with_node(empty_machine: Path) -> Callable[[str], None]:
    """Puts a ``node`` of a version on PATH."""

    def install(version: str = "20.0.0") -> None:
        runtime.node_version.cache_clear()
        script(empty_machine / "node", NODE.format(python=sys.executable, version=version))

    return install


def archive_of(names: tuple[str, ...]) -> bytes:
    """A package as npm packs it; each file holds its own name."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as target:
        for name in names:
            content = name.encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            target.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder with both archives, of a few bytes; fptk takes them for the published ones."""
    folder = tmp_path / "registry"
    folder.mkdir()
    dist = (*runtime.WASM_FILES, *runtime.WEBGPU_FILES, runtime.NODE_MODULE.name, "ort.all.js")
    web = ("package/package.json", "../outside.mjs", *(f"package/dist/{name}" for name in dist))
    common = ("package/package.json", "package/dist/esm/index.js", "package/dist/esm/index.js.map")
    hashes = {}
    for package, names in (("onnxruntime-web", web), ("onnxruntime-common", common)):
        content = archive_of(names)
        (folder / f"{package}-{runtime.VERSION}.tgz").write_bytes(content)
        hashes[package] = base64.b64encode(hashlib.sha512(content).digest()).decode()
    monkeypatch.setattr(runtime, "_INTEGRITY", hashes)
    return folder


@pytest.fixture
def with_npm(empty_machine: Path, archives: Path) -> Path:
    """Puts an ``npm`` on PATH that delivers the archives and writes down what it was asked for; returns that file."""
    asked = empty_machine.parent / "asked"
    text = f"""#!{sys.executable}
import pathlib, shutil, sys
pathlib.Path({str(asked)!r}).open("a").write(" ".join(sys.argv[1:]) + "\\n")
for path in pathlib.Path({str(archives)!r}).iterdir():
    shutil.copy(path, sys.argv[sys.argv.index("--pack-destination") + 1])
"""
    script(empty_machine / "npm", text)
    return asked
