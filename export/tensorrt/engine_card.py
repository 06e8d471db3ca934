"""What an engine is bound to, kept beside it as ``engine.json``; an engine that is not for this host is refused.

A TensorRT engine holds kernels for one GPU and one version; loading it elsewhere fails late or, at worst, ends the
process (*TensorRT: Version Compatibility*, *Hardware Compatibility*).
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from fptk.core.errors import InputError
from fptk.core.files import read_json, sha256_file
from fptk.export.tensorrt.driver import Gpu

ENGINE_CARD_FILE = "engine.json"


class EngineCard(BaseModel):
    """What an engine was built from and for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: str
    precision: str
    version: str
    """Version of TensorRT or TensorRT-RTX."""
    compute_capabilities: tuple[str, ...]
    """GPUs that it holds kernels for, e.g. ``("8.6",)``."""
    gpu: str | None = None
    """Name of the GPU it was built on, where it was built on one."""
    hardware_compatibility: str = "none"
    version_compatible: bool = False
    input_name: str
    output_name: str
    size: tuple[int, int]
    """Height and width of the input."""
    batch: tuple[int, int]
    """Smallest and largest batch."""
    cuda_graph: bool = False
    """Whether it is launched as one CUDA graph."""
    preprocess_sha256: str
    engine_sha256: str
    rebuild: str
    """Command that builds it anew from the ONNX file beside it."""

    @classmethod
    def read(cls, engine: Path) -> EngineCard:
        """The binding of ``engine``, checked against the engine's content.

        Raises:
            InputError: the engine or its ``engine.json`` is missing, damaged, or they don't belong together.
        """
        if not engine.is_file():
            raise InputError(f"engine {engine} does not exist")
        path = engine.with_name(ENGINE_CARD_FILE)
        try:
            card = cls.model_validate(read_json(path, "engine description"))
        except ValidationError as error:
            raise InputError(f"{path} is no engine description of this fptk: {error.errors()[0]['msg']}") from error
        if sha256_file(engine) != card.engine_sha256:
            raise InputError(
                f"{engine} is damaged or was replaced (its sha256 is not that in {path.name}); {card.again}"
            )
        return card

    @property
    def again(self) -> str:
        """The way out: how to rebuild."""
        return f"rebuild it beside its ONNX file: {self.rebuild}"

    def check_version(self, title: str, version: str) -> None:
        """Refuse another version of TensorRT.

        Raises:
            InputError: ``version`` does not run this engine.
        """
        if version == self.version:
            return
        same_major = version.split(".")[0] == self.version.split(".")[0]
        if self.version_compatible and same_major and _numbers(version) >= _numbers(self.version):
            return
        raise InputError(f"the engine was built with {title} {self.version}, this host has {version}; {self.again}")

    def check_gpu(self, gpu: Gpu) -> None:
        """Refuse another GPU.

        Raises:
            InputError: the engine holds no kernels for ``gpu``.
        """
        here = f"this host has {gpu.name} ({gpu.compute_capability})"
        if self.hardware_compatibility == "ampere_plus":
            if int(gpu.compute_capability.split(".")[0]) < 8:
                raise InputError(f"the engine needs an Ampere or newer GPU (8.0), {here}; {self.again}")
            return
        if gpu.compute_capability not in self.compute_capabilities:
            built = ", ".join(self.compute_capabilities)
            raise InputError(f"the engine is for compute capability {built}, {here}; {self.again}")
        if self.gpu is not None and gpu.name != self.gpu and self.hardware_compatibility == "none":
            raise InputError(f"the engine was built for {self.gpu}, {here}; {self.again}")

    def check_preprocess(self, sha256: str) -> None:
        """Refuse images that were prepared otherwise than the engine expects.

        Raises:
            InputError: the hashes differ.
        """
        if sha256 != self.preprocess_sha256:
            raise InputError(
                f"the engine was built for preprocessing {self.preprocess_sha256[:12]}, asked for {sha256[:12]}; "
                "use the PreprocessSpec of its bundle"
            )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def dotted(compute_capability: int) -> str:
    """86 as ``8.6``."""
    return f"{compute_capability // 10}.{compute_capability % 10}"
