"""DeepLabV3Plus: a plain convolutional encoder, atrous spatial pyramid pooling, and a decoder on an early map.

Chen, Zhu, Papandreou, Schroff and Adam, "Encoder-Decoder with Atrous Separable Convolution for Semantic Image
Segmentation" (2018), with a small encoder of convolution pairs in place of a pretrained backbone.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fptk.core.classes import NUM_CLASSES
from fptk.models.blocks import ConvBN, resize
from fptk.models.network import FaceParsingNetwork, check_num_classes, init_weights

ENCODER = ((32, 64), (64, 128), (192, 256))
"""Channels of the two convolutions of each encoder stage; a stage halves the size at its end."""
RATES = (6, 12, 18)
"""Dilations of the 3x3 convolutions of the pyramid, in pixels at stride 8."""
PYRAMID = 128
"""Channels of the pyramid, inside each branch and behind it."""
SKIP = 32
"""Channels that the decoder takes of the first stage's map."""
DECODER = 64


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: a 1x1 and three dilated 3x3 convolutions and the image's mean, fused by a 1x1."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                ConvBN(in_channels, channels, bias=True),
                *(ConvBN(in_channels, channels, 3, dilation=rate, bias=True) for rate in RATES),
            ]
        )
        self.pool = ConvBN(in_channels, channels, bias=True)
        self.project = ConvBN(channels * (len(self.branches) + 1), channels, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, h, w) to (B, C, h, w)."""
        mean = self.pool(x.mean(dim=(2, 3), keepdim=True))
        maps = [*(branch(x) for branch in self.branches), mean.expand(-1, -1, *x.shape[2:])]
        out: Tensor = self.project(torch.cat(maps, dim=1))
        return out


class DeepLabV3Plus(FaceParsingNetwork):
    """DeepLabV3Plus for the 19 classes of CelebAMask-HQ, 1,964,394 parameters.

    The count is that of a bias in every convolution, those before a BatchNorm and the pyramid's included. The early map
    of 64 channels stands at stride 2, behind the first max-pooling: only there the closing 2x2 transposed convolution
    ends at the images' size. The original fixes its sizes for 256x256 images; here the mean and the interpolation
    follow the image.

    The pyramid's BatchNorm on the image's mean sees one value per image: a training step needs two images.

    Args:
        num_classes: length of the class list, 1 to 255.

    Raises:
        InputError: ``num_classes`` has another value.
    """

    min_training_batch: ClassVar[int] = 2
    deploy_form: ClassVar[str] = "fptk.models.deploy.convolutional:ConvolutionalForm"

    def __init__(self, num_classes: int = NUM_CLASSES) -> None:
        check_num_classes(num_classes)
        upsample = nn.ConvTranspose2d(num_classes, num_classes, 2, 2)
        super().__init__("deeplabv3plus", {"num_classes": num_classes}, upsample)
        inputs = (3, *(last for _, last in ENCODER[:-1]))
        self.encoder = nn.ModuleList(
            nn.Sequential(ConvBN(before, first, 3, bias=True), ConvBN(first, last, 3, bias=True))
            for before, (first, last) in zip(inputs, ENCODER, strict=True)
        )
        self.aspp: nn.Module = ASPP(ENCODER[-1][1], PYRAMID)
        self.skip = ConvBN(ENCODER[0][1], SKIP, bias=True)
        self.decoder = nn.Sequential(
            ConvBN(PYRAMID + SKIP, DECODER, 3, bias=True), ConvBN(DECODER, DECODER, 3, bias=True)
        )
        self.classifier = nn.Conv2d(DECODER, num_classes, 1)
        self.apply(init_weights)

    def coarse(self, images: Tensor) -> Tensor:
        """Logits at stride 2, (B, C, H / 2, W / 2), of float (B, 3, H, W)."""
        maps, x = [], images
        for stage in self.encoder:
            x = F.max_pool2d(stage(x), 2)
            maps.append(x)
        early = self.skip(maps[0])
        deep = resize(self.aspp(x), early.shape[2:])
        logits: Tensor = self.classifier(self.decoder(torch.cat([deep, early], dim=1)))
        return logits
