"""Lightweight multi-scale attention (LMSA), the module between MicroSegFormer's decoder and its classifier.

There are two of them because the paper describes one and counts another. Its equations 13-20 describe three
branches and cost 96,640 parameters, 1,818,579 for the whole network; the 1,747,923 parameters that it reports are
those of one 3x3 branch with a batch normalisation (25,984). Both stand here under their own names, ``multiscale``
and ``compact``, and a checkpoint's card says which one its weights belong to.

Both take and return float (B, 128, H, W) at stride 4, and neither has an activation between the convolutions and
the gate: everything except the gate's own value is linear, which ``fptk.models.deploy`` makes use of.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SqueezeExcitation(nn.Module):
    """Channel gate z = sigmoid(W2 relu(W1 s)) of the spatial mean s, without biases."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // reduction, bias=False)
        self.excite = nn.Linear(channels // reduction, channels, bias=False)

    def forward(self, mean: Tensor) -> Tensor:
        """Gate in (0, 1), float (B, C), from the spatial mean of each channel, float (B, C)."""
        return torch.sigmoid(self.excite(F.relu(self.squeeze(mean))))


class CompactLMSA(nn.Module):
    """One branch: y = x + z * f with f = BN(PW(DW3x3(x))) and z = SE(mean(f)), reduction 4.

    The single-branch case of equations 13-20 with a batch normalisation after the pointwise convolution: 25,984
    parameters at 128 channels, the increase that the paper's parameter table shows.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.gate = SqueezeExcitation(channels, reduction=4)

    def forward(self, x: Tensor) -> Tensor:
        """Float (B, C, H, W) to the same shape."""
        f = self.norm(self.pointwise(self.depthwise(x)))
        z = self.gate(f.mean(dim=(2, 3)))
        y: Tensor = x + f * z[:, :, None, None]
        return y


class MultiscaleLMSA(nn.Module):
    """Three branches, the paper's equations 13-20 taken literally.

    13-15. f_k = PW_k(DW_kxk(x)) for k = 3, 5, 7: a depthwise and a pointwise convolution per scale, no bias.
    16.    f = concat(f_3, f_5, f_7), 384 channels.
    17.    s = mean of f over H and W.
    18.    z = sigmoid(W2 relu(W1 s)), 384 to 48 to 384, no bias (reduction 8).
    19.    z is split into z_3, z_5, z_7; each branch is scaled by its gate, z_k * f_k.
    20.    y = x + sum over k of z_k * f_k.

    The concatenation itself is never made: s is the concatenation of the branches' means.
    """

    KERNELS = (3, 5, 7)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.ModuleList(
            nn.Conv2d(channels, channels, k, padding=k // 2, groups=channels, bias=False) for k in self.KERNELS
        )
        self.pointwise = nn.ModuleList(nn.Conv2d(channels, channels, 1, bias=False) for _ in self.KERNELS)
        self.gate = SqueezeExcitation(channels * len(self.KERNELS), reduction=8)

    def forward(self, x: Tensor) -> Tensor:
        """Float (B, C, H, W) to the same shape."""
        branches = [pw(dw(x)) for dw, pw in zip(self.depthwise, self.pointwise, strict=True)]
        z = self.gate(torch.cat([f.mean(dim=(2, 3)) for f in branches], dim=1))
        y = x
        for f, gate in zip(branches, z.chunk(len(branches), dim=1), strict=True):
            y = y + f * gate[:, :, None, None]
        return y
