"""``WebSession``: an engine as a browser runs it, in ONNX Runtime Web's WebAssembly, by Node.js in a child process.

Node.js and Chromium share their JavaScript engine, so the same WebAssembly computes the same labels. What a bundle
holds is data here: the code that runs is fptk's own and that of the user's cache (:mod:`fptk.export.web.runtime`).
"""

from __future__ import annotations

import contextlib
import json
import struct
import subprocess
import tempfile
from importlib import resources
from pathlib import Path
from typing import IO, Any

import numpy as np

from fptk.core.dataset import UInt8Array
from fptk.core.errors import InputError
from fptk.core.files import kind_of
from fptk.core.host import usable_cores
from fptk.core.preprocess import PreprocessSpec
from fptk.core.session import Session
from fptk.export.targets.base import in_batches
from fptk.export.web.runtime import NODE_MODULE, find_node, runtime_folder

_CLOSING_SECONDS = 5
"""Time that a child gets to end by itself."""

_LONGEST_ANSWER = 2**30
"""Bytes; more is no answer of :file:`session.mjs`."""


class WebSession(Session):
    """A session over an ONNX file, run by ONNX Runtime Web on WebAssembly.

    Args:
        path: ONNX file, input uint8 (N, H, W, 3), output uint8 (N, H, W).
        spec: preprocessing of the images.
        threads: WebAssembly threads; ``None`` is one per usable core.

    Raises:
        InputError: the file is no ONNX file that ONNX Runtime Web loads, or it does not make one tensor of labels from
            one tensor of images of ``spec``.
        TargetUnavailableError: node is not installed, or ONNX Runtime Web can't be had.
    """

    def __init__(self, path: Path, spec: PreprocessSpec, *, threads: int | None = None) -> None:
        super().__init__("web", spec)
        node, module = find_node(), runtime_folder() / NODE_MODULE
        if kind_of(path, "engine") != "file":
            raise InputError(f"engine {path} does not exist")
        self._path = path
        self._ms: float | None = None
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the session
        program = resources.files(__package__) / "session.mjs"
        with resources.as_file(program) as script:
            self._process = subprocess.Popen(
                [str(node), str(script), str(module), str(path.resolve()), str(threads or usable_cores())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
            )
            try:
                opened = json.loads(self._answer(f"ONNX Runtime Web cannot load {path}"))
                self._batch = self._checked(opened)
            except BaseException:
                self.close()
                raise

    def _checked(self, opened: dict[str, Any]) -> int | None:
        """The engine's batch, ``None`` for an open one; everything else must fit the spec."""
        for what in ("inputs", "outputs"):
            if len(opened[what]) != 1:
                raise InputError(f"{self._path} has {len(opened[what])} {what}, expected one; export the engine again")
        entry, labels = opened["inputs"][0], opened["outputs"][0]
        size = self.spec.size
        if entry["type"] != "uint8" or entry["shape"][1:] != [*size, 3]:
            raise InputError(f"{self._path} takes {entry['type']} {entry['shape']}, not uint8 images of {size}")
        if labels["type"] != "uint8" or len(labels["shape"]) != 3:
            raise InputError(f"{self._path} gives {labels['type']} {labels['shape']}, not uint8 labels of {size}")
        batch = entry["shape"][0]
        return batch if isinstance(batch, int) else None

    def _infer(self, images: UInt8Array) -> UInt8Array:
        return in_batches(images, self._batch, self._run)

    def _run(self, images: UInt8Array) -> UInt8Array:
        count, height, width = images.shape[:3]
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the answer, or the lack of one, says why
            self._process.stdin.write(struct.pack("<3I", count, height, width) + images.tobytes())
            self._process.stdin.flush()
        content = self._answer(f"ONNX Runtime Web cannot run {self._path}")
        self._ms = struct.unpack("<d", content[:8])[0]
        labels = np.frombuffer(content, np.uint8, offset=8)
        if labels.size != count * height * width:
            raise InputError(f"{self._path} gave {labels.size} labels for {count} images of {height}x{width}")
        return labels.reshape(count, height, width)

    def _answer(self, failure: str) -> bytes:
        """The content of the child's next message.

        Raises:
            InputError: it tells of an error, or the child is gone; ``failure`` begins the message.
        """
        header = self._read(8)
        if header is not None:
            status, length = struct.unpack("<2I", header)
            content = self._read(length) if length <= _LONGEST_ANSWER else None
            if content is not None and status == 0:
                return content
            if content is not None:
                raise InputError(f"{failure}: {_first_line(content)}")
        self._end()
        self._stderr.seek(0)
        raise InputError(f"{failure}: node ended ({self._process.returncode}): {_first_line(self._stderr.read(4096))}")

    def _read(self, length: int) -> bytes | None:
        """So many bytes of the child's output; ``None`` where it ends before."""
        assert self._process.stdout is not None
        content = self._process.stdout.read(length)
        return content if len(content) == length else None

    def compute_ms(self) -> float | None:
        """Milliseconds of the last inference inside ONNX Runtime Web: without the way to Node.js and back."""
        return self._ms

    def close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self._end()
        self._stderr.close()

    def _end(self) -> None:
        """Wait until the child has ended; one that does not is killed."""
        try:
            self._process.wait(_CLOSING_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _first_line(content: bytes) -> str:
    lines = [line.strip() for line in content.decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[0][:300] if lines else "it says not why"
