"""The module that is exported: uint8 photographs in, normalisation inside, label map out."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from fptk.preprocess import PreprocessSpec


class Serving(nn.Module):
    """A network between the pixels and the labels of :class:`fptk.session.Session`.

    Args:
        model: takes normalised float32 (N, 3, H, W), returns logits float32 (N, 19, H, W).
        spec: normalisation; H and W are those of the images that it is called with.
        output: ``"labels"``, or ``"logits"`` for float32 (N, 19, H, W).
    """

    def __init__(self, model: nn.Module, spec: PreprocessSpec, output: Literal["labels", "logits"] = "labels") -> None:
        super().__init__()
        self.model = model
        self.output = output
        self.register_buffer("scale", 1 / (255 * torch.tensor(spec.std)))
        self.register_buffer("offset", -torch.tensor(spec.mean) / torch.tensor(spec.std))

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (N, H, W, 3) RGB to uint8 (N, H, W), the lowest label of equal logits; or to the logits."""
        x = images.float() * self.get_buffer("scale") + self.get_buffer("offset")
        logits: Tensor = self.model(x.permute(0, 3, 1, 2))
        return logits if self.output == "logits" else logits.argmax(dim=1).to(torch.uint8)
