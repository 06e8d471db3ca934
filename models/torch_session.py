"""A network in PyTorch as a Session: the reference that every engine is compared with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fptk.core.classes import CELEBAMASK, ClassSet
from fptk.core.dataset import UInt8Array
from fptk.core.preprocess import PreprocessSpec
from fptk.core.session import Session


class TorchSession(Session):
    """Runs a network that takes normalised float32 (N, 3, H, W) and returns logits (N, C, H, W).

    Args:
        model: moved to ``device``; evaluated in evaluation mode and put back into the mode it was in.
        spec: normalisation and size.
        name: what a table calls it.
        device: where torch runs it.
        threads: CPU threads during a call; ``None`` leaves torch's own setting.
        classes: what its labels mean.
    """

    def __init__(
        self,
        model: nn.Module,
        spec: PreprocessSpec,
        name: str = "pytorch fp32",
        device: str = "cpu",
        threads: int | None = None,
        classes: ClassSet = CELEBAMASK,
    ) -> None:
        super().__init__(name, spec, classes)
        self._device = torch.device(device)
        self._model = model.to(self._device)
        self._threads = threads
        self._mean = torch.tensor(spec.mean, device=self._device)
        self._std = torch.tensor(spec.std, device=self._device)

    def logits(self, images: UInt8Array) -> Tensor:
        """What the network gives before the labels are taken from it: float (N, C, H, W) on its device.

        Args:
            images: uint8 (N, H, W, 3) RGB, (H, W) = ``spec.size``.
        """
        with torch.inference_mode(), _evaluating(self._model), _threads(self._threads):
            pixels = torch.tensor(images, device=self._device, dtype=torch.float32)
            x = (pixels / 255 - self._mean) / self._std
            logits: Tensor = self._model(x.permute(0, 3, 1, 2))
        return logits

    def _infer(self, images: UInt8Array) -> UInt8Array:
        with _threads(self._threads):
            return label_maps(self.logits(images))


def label_maps(logits: Tensor) -> UInt8Array:
    """The likeliest class of each pixel, uint8 (N, H, W), of logits or probabilities (N, C, H, W)."""
    labels: UInt8Array = logits.argmax(dim=1).to(torch.uint8).cpu().numpy()
    return labels


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """torch's thread count belongs to the whole process: set it for one call only."""
    before = torch.get_num_threads()
    if count is not None and count != before:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)
