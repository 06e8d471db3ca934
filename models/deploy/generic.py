"""The deploy form of a network that names none of its own: what is exact whatever the network computes."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from fptk.models.deploy.form import NetworkForm
from fptk.models.engine_form import EngineForm
from fptk.models.network import FaceParsingNetwork


class GenericForm(NetworkForm):
    """Any network, with BatchNorms folded and the label map in the engine's form.

    A BatchNorm is folded where it follows a convolution inside an ``nn.Sequential``. Only a network that reads the
    layers of a Sequential one by one, and uses what stands between these two, needs a form of its own.
    """

    applies: ClassVar[tuple[str, ...]] = ("label_map", "folded_batchnorms")

    def __init__(self, model: FaceParsingNetwork, form: EngineForm, chosen: frozenset[str]) -> None:
        super().__init__(model if _has_coarse_logits(model) else WholeNetwork(model), form, chosen)


class WholeNetwork(FaceParsingNetwork):
    """A network that computes its logits in a way of its own, seen as one whose coarse logits are the logits."""

    def __init__(self, inner: FaceParsingNetwork) -> None:
        super().__init__(inner.name, inner.options, nn.Identity())
        self.inner = inner

    def coarse(self, images: Tensor) -> Tensor:
        """Logits, (B, 19, H, W), of float (B, 3, H, W)."""
        logits: Tensor = self.inner(images)
        return logits


def _has_coarse_logits(model: FaceParsingNetwork) -> bool:
    """Whether the logits are ``model.upsample`` of ``model.coarse``, as the base class has it."""
    kind = type(model)
    return kind.forward is FaceParsingNetwork.forward and kind.logits is FaceParsingNetwork.logits
