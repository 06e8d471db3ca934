"""What every network of fptk has in common: its name, its resolved options, its input and output."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from fptk.core.classes import MAX_CLASSES
from fptk.core.errors import InputError
from fptk.core.preprocess import check_size


class FaceParsingNetwork(nn.Module):
    """Base of the registry's networks.

    ``logits = network(images)``: images float32 (B, 3, H, W), normalised, H and W multiples of 32; logits float32
    (B, C, H, W) of C classes, unbounded. A subclass overrides :meth:`coarse`; what stands between it and the logits is
    ``upsample``.

    Args:
        name: its name in the registry.
        options: every option with its value.
        upsample: from :meth:`coarse` to the size of the images.
    """

    min_training_batch: ClassVar[int] = 1
    """Images that a training step needs: two where a BatchNorm sees one value per image and channel."""

    deploy_form: ClassVar[str] = "fptk.models.deploy.generic:GenericForm"
    """The network rewritten for engines: module and class of a :class:`fptk.models.deploy.form.DeployForm`, which is
    called with a copy of the network, an ``EngineForm`` and the names of the rewrites. The default is right for every
    network that calls its ``nn.Sequential`` modules as a whole. It is a name and no class because a deploy form knows
    its network, and not the other way round."""

    def __init__(self, name: str, options: Mapping[str, Any], upsample: nn.Module) -> None:
        super().__init__()
        self.name = name
        """Name in the registry."""
        self.options = dict(options)
        """Every option with its value, JSON-able: ``create_model(name, **options)`` builds this network again."""
        self.upsample = upsample

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch.

        Args:
            images: float (B, 3, H, W), normalised per channel.

        Returns:
            float (B, C, H, W).

        Raises:
            InputError: H or W is no positive multiple of 32, or B is below :attr:`min_training_batch` in training mode.
        """
        check_size(int(images.shape[2]), int(images.shape[3]))
        if self.training and int(images.shape[0]) < self.min_training_batch:
            raise InputError(
                f"{self.name} normalises means of whole images over the batch: a training step needs at least "
                f"{self.min_training_batch} images, got {images.shape[0]}"
            )
        return self.logits(images)

    def logits(self, images: Tensor) -> Tensor:
        """Logits, (B, C, H, W), of images whose size was checked."""
        logits: Tensor = self.upsample(self.coarse(images))
        return logits

    def original(self) -> Self:
        """A copy that computes in the order in which the paper writes it: the baseline of every speed-up.

        A network whose own order is another one overrides this; the logits are the same up to rounding.
        """
        return copy.deepcopy(self)

    def coarse(self, images: Tensor) -> Tensor:
        """Logits before ``upsample``, (B, C, h, w), of images whose size was checked."""
        raise TypeError(f"{type(self).__name__} does not define coarse()")


def check_num_classes(num_classes: object) -> None:
    """Check an option that is the number of classes.

    Raises:
        InputError: it is no whole number from 1 to 255.
    """
    if type(num_classes) is not int or not 1 <= num_classes <= MAX_CLASSES:
        raise InputError(f"num_classes {num_classes!r} is no whole number from 1 to {MAX_CLASSES}")


def check_dropout(dropout: object) -> None:
    """Check an option that is the probability of a dropout.

    Raises:
        InputError: it is no number in [0, 1).
    """
    if not isinstance(dropout, (int, float)) or not 0.0 <= dropout < 1.0:
        raise InputError(f"dropout {dropout!r} is no probability; expected 0 <= dropout < 1")


def init_weights(module: nn.Module) -> None:
    """Initialise one module as SegFormer does: Linear truncated normal 0.02, convolutions Kaiming fan-out.

    Use with ``network.apply(init_weights)``. A depthwise convolution's fan-out counts one group. A transposed
    convolution whose kernel is its stride is a linear map of each pixel's channels and keeps their variance.
    """
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        with torch.no_grad():
            module.weight.normal_(0.0, (2.0 / fan_out) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.ConvTranspose2d):
        nn.init.normal_(module.weight, std=module.in_channels**-0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, (nn.LayerNorm, nn.BatchNorm2d)):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
