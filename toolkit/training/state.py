"""What the steps of a training change: network, average, optimizer and counters, saved and restored as one."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator
from torch import Tensor

from fptk.core.errors import InputError
from fptk.core.host import resident_peak
from fptk.models.network import FaceParsingNetwork
from fptk.recipes import Recipe
from fptk.training.ema import Ema
from fptk.training.optimizers import RELOADS, Event, Pipeline
from fptk.training.resume import Counters, load_state, save_state
from fptk.training.schedule import Plan


class TrainingState:
    """Network, moving average, optimizer, optimizer pipeline, counters and kept weights of one process.

    Args:
        recipe: sections ``optim`` and ``dynamic``.
        plan: steps and images.
        model: the network with its initial weights.
        accelerator: device, arithmetic and the other processes.
    """

    def __init__(self, recipe: Recipe, plan: Plan, model: FaceParsingNetwork, accelerator: Accelerator) -> None:
        self.recipe, self.plan, self.accelerator = recipe, plan, accelerator
        self.device: torch.device = accelerator.device
        if self.device.type == "cuda":
            # As the images come, and as tensor cores want it. torch's own types leave this keyword out.
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = Ema(model.to(self.device), recipe.optim.ema) if recipe.optim.ema else None
        if accelerator.num_processes > 1 and self.device.type == "cuda":
            model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        self.model = model.to(self.device)
        """The trained network."""
        self.net = accelerator.prepare(self.model)
        """The same, as a step calls it: with autocast, compiled, and joined with the other processes."""
        if recipe.precision.compile:
            self.net.compile(dynamic=False)
        self.kept: dict[str, Tensor] = {}
        """Weights of the lowest validation loss, by name; only a dynamic schedule keeps them."""
        self.saved_step = 0
        """Step of the last save."""
        self._move_to(Counters())

    @property
    def averaged(self) -> FaceParsingNetwork:
        """The network that is validated and saved: the moving average where there is one."""
        return cast(FaceParsingNetwork, self.ema.model) if self.ema else self.model

    def _move_to(self, counters: Counters) -> torch.optim.Optimizer:
        """Go to where ``counters`` stand, and make the optimizer that steps there."""
        self.counters = counters
        self.pipeline = Pipeline(self.recipe, self.plan, counters.pipeline)
        return self._renew_optimizer()

    def _renew_optimizer(self) -> torch.optim.Optimizer:
        """Make the optimizer that the pipeline asks for now, without a memory of steps."""
        self.optimizer = self.pipeline.optimizer(self.model.parameters())
        self.accelerator._optimizers.clear()  # with fp16, clipping would unscale by a retired one as well
        self.stepper = self.accelerator.prepare_optimizer(self.optimizer)
        return self.optimizer

    def load(self, path: Path) -> None:
        """Go back to what :meth:`save` wrote.

        Raises:
            InputError: the file is missing, damaged, or of another training.
        """
        average = self.ema.model if self.ema else None
        self.counters, self.kept = load_state(path, self.model, average, self._move_to)
        if not self.counters.unvalidated <= self.counters.step <= self.plan.total_steps:
            raise InputError(
                f"resume state {path} is of step {self.counters.step}, and this training has {self.plan.total_steps}; "
                "start anew in another --out"
            )
        self.saved_step = self.counters.step
        if self.accelerator.scaler is not None and self.counters.scaler:
            self.accelerator.scaler.load_state_dict(self.counters.scaler)

    def save(self, path: Path) -> None:
        """Write the state to ``path``, whole or not at all; only the first process writes.

        Raises:
            InputError: it cannot be written.
        """
        self.counters.peak_bytes = max(self.counters.peak_bytes, self._memory())
        if self.accelerator.is_main_process:
            if self.accelerator.scaler is not None:
                self.counters.scaler = self.accelerator.scaler.state_dict()
            average = self.ema.model if self.ema else None
            save_state(path, self.model, average, self.optimizer, self.counters, self.kept)
        self.saved_step = self.counters.step

    def _memory(self) -> int:
        """Peak of this process so far, bytes; 0 if unknown."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return resident_peak() or 0

    def observe(self, loss: float) -> Event:
        """Take in the loss of the validation after the last step, and do what the pipeline makes of it.

        Returns:
            What that was: weights were kept, or were loaded again, perhaps under another optimizer, or nothing.
        """
        event = self.pipeline.observe(loss, self.counters.step)
        if event is Event.IMPROVED:
            self.kept = {name: value.detach().clone() for name, value in self.averaged.state_dict().items()}
        if event in RELOADS and self.kept:  # it is empty where no validation had a finite loss
            self.model.load_state_dict(self.kept)
            self.averaged.load_state_dict(self.kept)
        if event is Event.SWITCHED:
            self._renew_optimizer()
        self.counters.stopped |= event is Event.ENDED
        return event
