"""The deploy form of a network that names none: exact for networks that do what ours do not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fptk.core.preprocess import PreprocessSpec
from fptk.models.blocks import BilinearUpsample, ConvBN
from fptk.models.deploy import to_deploy
from fptk.models.deploy.generic import GenericForm
from fptk.models.deploy.serving import Serving
from fptk.models.engine_form import ENGINES
from fptk.models.network import FaceParsingNetwork

from .closeness import assert_same_labels


class Plain(FaceParsingNetwork):
    """Coarse logits at stride 4 and bilinear upsampling."""

    def __init__(self, upsample: nn.Module | None = None, classes: int = 19) -> None:
        super().__init__("plain", {}, upsample or BilinearUpsample(4))
        self.stem = ConvBN(3, 8, 3, stride=4)
        self.classifier = nn.Conv2d(8, classes, 1)

    def coarse(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.stem(images))
        return logits


class OwnLogits(Plain):
    """Classifies behind the upsampling."""

    def logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.upsample(self.stem(images)))
        return logits


class OwnForward(Plain):
    """Adds something to the logits."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + images.mean(dim=1, keepdim=True).expand(-1, 19, -1, -1).square().cumsum(1)


class NormalizedImage(Plain):
    """The image is read by two convolutions and by the head itself, and another convolution takes three channels."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze = nn.Sequential(nn.Conv2d(8, 3, 1), nn.ReLU(), nn.Conv2d(3, 8, 1))
        self.side = nn.Conv2d(3, 8, 1, 4)

    def coarse(self, images: Tensor) -> Tensor:
        small = F.avg_pool2d(images, 4).mean(dim=1, keepdim=True)
        logits: Tensor = self.classifier(self.squeeze(self.stem(images)) + self.side(images)) + small
        return logits


class OwnNorms(Plain):
    """BatchNorms that cannot be folded, or have no affine map; a weight of two parts; a Sequential of its own order."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(8, 8, 1),
            nn.BatchNorm2d(8, track_running_stats=False),
            nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
            nn.BatchNorm2d(8, affine=False),
            nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 1)),
            nn.BatchNorm2d(8),
        )
        self.backwards = Backwards(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))

    def coarse(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.backwards(self.layers(self.stem(images))))
        return logits


class Backwards(nn.Sequential):
    """Its last layer comes first."""

    def forward(self, input: Tensor) -> Tensor:
        for layer in reversed(self):
            input = layer(input)
        return input


NETWORKS: dict[str, Any] = {
    "plain": Plain,
    "logits of its own": OwnLogits,
    "forward of its own": OwnForward,
    "image read in several places": NormalizedImage,
    "norms of its own": OwnNorms,
    "upsampling by an odd factor": lambda: Plain(BilinearUpsample(3)),
    "nearest neighbour": lambda: Plain(nn.Upsample(scale_factor=4)),
    "pixel shuffle": lambda: Plain(nn.PixelShuffle(4), 19 * 16),
    "transposed convolution with overlap": lambda: Plain(nn.ConvTranspose2d(19, 19, 8, 4, 2)),
    "transposed convolution": lambda: Plain(nn.ConvTranspose2d(19, 19, 4, 4)),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_exact(name: str, engine: str, trained_like: Any) -> None:
    model = trained_like(NETWORKS[name]()).double()
    form = to_deploy(model, engine=engine)
    assert type(form) is GenericForm
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    with torch.inference_mode():
        reference = model(images)
        torch.testing.assert_close(form(images), reference, rtol=0, atol=1e-12 * float(reference.abs().max()))
        assert_same_labels(ENGINES[engine], form.labels(images), reference)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_fed_with_pixels(name: str, engine: str, trained_like: Any) -> None:
    model, spec = trained_like(NETWORKS[name]()), PreprocessSpec(size=(64, 96))
    images = torch.randint(0, 256, (2, 64, 96, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    deployed = to_deploy(model, engine=engine)
    with torch.inference_mode():
        reference = Serving(model, spec, "logits")(images)
        ours = Serving(deployed, spec, "logits")(images)
        torch.testing.assert_close(ours, reference, rtol=0, atol=1e-5 * float(reference.abs().max()))
        assert_same_labels(ENGINES[engine], Serving(deployed, spec)(images), reference)


def test_what_can_be_folded_is_folded(trained_like: Any) -> None:
    def norms(module: nn.Module) -> int:
        return sum(isinstance(each, nn.BatchNorm2d) for each in module.modules())

    model = trained_like(OwnNorms())
    assert (norms(model), norms(to_deploy(model)), norms(to_deploy(model, rewrites=()))) == (5, 3, 5)


def test_the_original_of_most_networks_is_a_copy(trained_like: Any) -> None:
    model = trained_like(Plain())
    copied = model.original()
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(copied(images), model(images))
    with torch.no_grad():
        copied.classifier.weight.zero_()
    assert bool(model.classifier.weight.any())
