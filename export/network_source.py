"""What an export needs of a network, whatever it is made of: facts, a graph for each engine, and a reference."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fptk.core.classes import ClassSet
from fptk.core.dataset import UInt8Array
from fptk.core.preprocess import PreprocessSpec
from fptk.core.progress import SILENT, Listener
from fptk.core.session import Session
from fptk.export.engine_metadata import Identity, metadata_of
from fptk.models.engine_form import EngineForm

if TYPE_CHECKING:
    from fptk.export.bundle import Graph


@dataclass(frozen=True)
class NetworkCard:
    """The facts about a network that every bundle of it states."""

    model: str
    """Its name."""
    options: dict[str, Any]
    """What its name leaves open: options of a network of fptk's, the description of an ONNX file."""
    num_parameters: int
    preprocess: PreprocessSpec
    classes: ClassSet
    """What its labels mean."""

    def metadata(self, graph: Graph, checkpoint_sha256: str) -> dict[str, str]:
        """What a graph of the network says about itself."""
        names, palette = self.classes.names, self.classes.palette
        return metadata_of(Identity(self.model, graph, checkpoint_sha256, self.preprocess, names, palette))


@dataclass(frozen=True)
class GraphRequest:
    """Which graph of a network an engine is built from."""

    form: EngineForm
    """How the engine wants it."""
    graph: Graph
    """With exact rewrites, or as it is written."""
    batch: int | None
    """Images in one call; ``None`` leaves it open."""
    images: Callable[[], UInt8Array]
    """Gives a few images, uint8 (N, H, W, 3), that rewrites may be proven on."""
    listener: Listener = SILENT
    """Is told what became of each rewrite."""


class NetworkSource(ABC):
    """A network that engines are built from and held against."""

    card: NetworkCard
    checkpoint_sha256: str
    """Hash of the file that the weights came from."""

    def heeded(self, form: EngineForm) -> EngineForm:
        """The form with defaults in the place of what makes no difference to this network."""
        return form

    @abstractmethod
    def write_onnx(self, path: Path, request: GraphRequest) -> dict[str, Any]:
        """Write the FP32 graph for one engine: uint8 (N, H, W, 3) RGB ``images`` to uint8 (N, H, W) ``labels``.

        Returns:
            What the bundle keeps of how the graph was made, as plain JSON values; empty where there is nothing to tell.

        Raises:
            InputError: a package is not installed, the batch is not possible, or the path cannot be written.
        """

    @abstractmethod
    def session(self, threads: int | None = None) -> Session:
        """The network itself, FP32 and unchanged: the reference of every engine.

        Args:
            threads: CPU threads of one inference; ``None`` for all cores.
        """
