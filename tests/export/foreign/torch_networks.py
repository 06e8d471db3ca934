"""Networks of other people's making, in PyTorch: what a team would bring. None of it uses fptk's own blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fptk.core.dataset import FaceParsingDataset


def conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU."""
    pad = dilation * (kernel // 2)
    conv = nn.Conv2d(inputs, outputs, kernel, stride, pad, dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class BasicBlock(nn.Module):
    """ResNet's block of two convolutions."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv1 = conv_bn(inputs, outputs, stride=stride, dilation=dilation)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.down: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.down = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(self.conv1(x))) + self.down(x))


class ResNet18(nn.Module):
    """Strides 8, 16 and 32; with ``dilated`` the last two stay at 8."""

    def __init__(self, width: int = 64, dilated: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, width, 7, 2), nn.MaxPool2d(3, 2, 1))
        widths, strides = (width, 2 * width, 4 * width, 8 * width), (1, 2, *((1, 1) if dilated else (2, 2)))
        dilations = (1, 1, 2, 4) if dilated else (1, 1, 1, 1)
        stages, inputs = [], width
        for outputs, stride, dilation in zip(widths, strides, dilations, strict=True):
            block = BasicBlock(inputs, outputs, stride, dilation)
            stages.append(nn.Sequential(block, BasicBlock(outputs, outputs, dilation=dilation)))
            inputs = outputs
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps[1:]


class Attention(nn.Module):
    """BiSeNet's attention refinement."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = conv_bn(inputs, outputs)
        self.gate = nn.Sequential(nn.Conv2d(outputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        gate: Tensor = self.gate(F.adaptive_avg_pool2d(x, 1))
        return x * gate


class BiSeNet(nn.Module):
    """BiSeNet (Yu et al. 2018) on a ResNet-18, as face-parsing.PyTorch has it: auxiliary heads and aligned corners."""

    def __init__(self, classes: int = 19, width: int = 64) -> None:
        super().__init__()
        self.backbone, head = ResNet18(width), 2 * width
        self.arm16, self.arm32 = Attention(4 * width, head), Attention(8 * width, head)
        self.head16, self.head32 = conv_bn(head, head), conv_bn(head, head)
        self.pool = conv_bn(8 * width, head, 1)
        self.fuse = conv_bn(2 * head, 2 * head, 1)
        self.squeeze, self.excite = nn.Conv2d(2 * head, head // 2, 1), nn.Conv2d(head // 2, 2 * head, 1)
        self.out = nn.Sequential(conv_bn(2 * head, 2 * head), nn.Conv2d(2 * head, classes, 1, bias=False))
        self.aux = nn.Sequential(conv_bn(head, head), nn.Conv2d(head, classes, 1, bias=False))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        stride8, stride16, stride32 = self.backbone(x)
        pooled = self.pool(F.adaptive_avg_pool2d(stride32, 1))
        deep = self.arm32(stride32) + pooled
        deep = self.head32(F.interpolate(deep, scale_factor=2.0, mode="nearest"))
        middle = self.head16(F.interpolate(self.arm16(stride16) + deep, scale_factor=2.0, mode="nearest"))
        fused = self.fuse(torch.cat([stride8, middle], dim=1))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(fused, 1)))))
        size = (int(x.shape[2]), int(x.shape[3]))
        heads = (self.out(fused + fused * gate), self.aux(middle))
        one, other = (F.interpolate(each, size, mode="bilinear", align_corners=True) for each in heads)
        return one, other


class DeepLabV3(nn.Module):
    """DeepLabV3 (Chen et al. 2017) on a dilated ResNet-18, as torchvision has it: a pyramid of dilations, stride 8."""

    def __init__(self, classes: int = 19, width: int = 64) -> None:
        super().__init__()
        inner = 2 * width
        self.backbone = ResNet18(width, dilated=True)
        self.branches = nn.ModuleList(
            [conv_bn(8 * width, inner, 1), *(conv_bn(8 * width, inner, dilation=rate) for rate in (2, 4, 6))]
        )
        self.pool = conv_bn(8 * width, inner, 1)
        self.project = nn.Sequential(conv_bn(5 * inner, inner, 1), nn.Dropout(0.5))
        self.head = nn.Sequential(conv_bn(inner, inner), nn.Conv2d(inner, classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        deep = self.backbone(x)[-1]
        pooled = self.pool(F.adaptive_avg_pool2d(deep, 1))
        pooled = F.interpolate(pooled, deep.shape[-2:], mode="bilinear", align_corners=False)
        maps = torch.cat([*(branch(deep) for branch in self.branches), pooled], dim=1)
        logits = self.head(self.project(maps))
        return F.interpolate(logits, x.shape[-2:], mode="bilinear", align_corners=False)


class SegFormer(nn.Module):
    """SegFormer (Xie et al. 2021) of Hugging Face's transformers; it gives scores at a quarter of the size.

    Args:
        classes: number of labels.
        options: of ``transformers.SegformerConfig``; those of MiT-B0 where nothing else is said.
    """

    def __init__(self, classes: int = 19, **options: Any) -> None:
        from transformers import SegformerConfig, SegformerForSemanticSegmentation

        super().__init__()
        self.inner = SegformerForSemanticSegmentation(SegformerConfig(num_labels=classes, **options))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inner(images).logits
        if self.training:
            return F.interpolate(logits, images.shape[-2:], mode="bilinear")
        return logits


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def train(
    network: nn.Module, faces: FaceParsingDataset, steps: int, batch: int = 4, every: int = 1, bf16: bool = False
) -> nn.Module:
    """Train on all faces in turn, at one size: that of every ``every``-th pixel. The network in evaluation mode."""
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    for step in range(steps):
        part = [faces[(step * batch + index) % len(faces)] for index in range(batch)]
        images = normalized(np.stack([sample.image[::every, ::every] for sample in part]))
        truth = torch.from_numpy(np.stack([sample.mask[::every, ::every] for sample in part])).long()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            result: Any = network(images)
        heads = result if isinstance(result, tuple) else (result,)
        optimizer.zero_grad()
        sum((F.cross_entropy(head.float(), truth) for head in heads), torch.zeros(())).backward()
        optimizer.step()
    return network.eval()


def normalized(images: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
    """Images uint8 (N, H, W, 3) as the networks take them, float (N, 3, H, W)."""
    x = torch.from_numpy(images.astype(np.float32)).permute(0, 3, 1, 2) / 255
    return (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def export_plainly(network: nn.Module, path: Path, size: tuple[int, int], outputs: list[str]) -> Path:
    """Export as the documentation of PyTorch shows it."""
    torch.onnx.export(
        network.eval(),
        (torch.zeros(1, 3, *size),),
        str(path),
        dynamo=True,
        opset_version=18,
        input_names=["input"],
        output_names=outputs,
        external_data=False,
        verbose=False,
    )
    return path
