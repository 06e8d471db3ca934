"""The module that is exported: uint8 photographs in, normalisation inside, label map out."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from fptk.core.preprocess import PreprocessSpec
from fptk.models.deploy.form import DeployForm


class Serving(nn.Module):
    """A network between the pixels and the labels of :class:`fptk.core.session.Session`.

    Args:
        model: takes normalised float32 (N, 3, H, W), returns logits float32 (N, 19, H, W). What
            :func:`fptk.models.deploy.to_deploy` returns is fed and read in its own, faster way.
        spec: normalisation; H and W are those of the images that it is called with.
        output: ``"labels"``, or ``"logits"`` for float32 (N, 19, H, W).
    """

    scale: Tensor | None
    offset: Tensor

    def __init__(self, model: nn.Module, spec: PreprocessSpec, output: Literal["labels", "logits"] = "labels") -> None:
        super().__init__()
        self.output = output
        scale: Tensor | None = 1 / (255 * torch.tensor(spec.std)[:, None, None])
        offset = -(torch.tensor(spec.mean) / torch.tensor(spec.std))[:, None, None]
        if isinstance(model, DeployForm) and "folded_normalisation" in model.rewrites:
            model, mean = model.on_pixels(spec)
            scale, offset = None, -mean
        self.model = model
        self.register_buffer("scale", scale)
        self.register_buffer("offset", offset)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (N, H, W, 3) RGB to uint8 (N, H, W), the lowest label of equal logits; or to the logits."""
        x = self._normalized(images)
        if isinstance(self.model, DeployForm) and self.output == "labels":
            return self.model.labels(x).to(torch.uint8)
        logits: Tensor = self.model(x)
        return logits if self.output == "logits" else logits.argmax(dim=1).to(torch.uint8)

    def _normalized(self, images: Tensor) -> Tensor:
        """uint8 (N, H, W, 3) to float (N, 3, H, W)."""
        by_rows = isinstance(self.model, DeployForm) and self.model.form.channels_last
        # Whole rows: an innermost axis of three numbers would leave vector registers all but empty. Else transposed as
        # bytes, a quarter of the traffic.
        x = (images.flatten(2) if by_rows else images.permute(0, 3, 1, 2)).float()
        width = images.shape[2]
        if self.scale is not None:
            x = x * (self.scale.flatten().repeat(width) if by_rows else self.scale)
        x = x + (self.offset.flatten().repeat(width) if by_rows else self.offset)
        return x.reshape(images.shape).permute(0, 3, 1, 2) if by_rows else x
