"""The training itself: a recipe and images in, a run folder with the best weights out."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from torch import Tensor

from fptk.data.splits import limit
from fptk.dataset import FaceParsingDataset
from fptk.errors import FptkError, InputError
from fptk.evaluate import evaluate
from fptk.files import sha256_file
from fptk.metrics import Scores
from fptk.models import (
    CheckpointCard,
    TorchSession,
    count_parameters,
    create_model,
    load_weights,
    save_checkpoint,
)
from fptk.models.network import FaceParsingNetwork
from fptk.recipes import Recipe
from fptk.training.allocator import keep_freed_memory
from fptk.training.augment import normalised
from fptk.training.batches import Batch, Batches, DecodedCache, Order, default_workers
from fptk.training.curves import draw_curves
from fptk.training.ema import Ema
from fptk.training.interrupt import Interrupt, TrainingInterruptedError
from fptk.training.losses import SegmentationLoss
from fptk.training.progress import ConsoleListener, Listener, Silent
from fptk.training.runs import RunFolder
from fptk.training.schedule import learning_rate, make_plan
from fptk.training.seeds import Stream, torch_seed
from fptk.training.sources import open_data
from fptk.training.state import Counters, load_state, save_state
from fptk.training.statistics import class_pixels, repeat_factors, sqrt_median_frequency

PARAM_BUDGET = 1_821_085
"""Parameters that the CE7454 challenge, and so the paper, allows."""

LOG_EVERY = 10
"""Steps between looks at the loss: each look waits for the device."""

SCORES = ("f1", "f1_challenge", "miou", "f1_nobg", "pixel_accuracy")
"""Validation scores that are recorded."""


@dataclass(frozen=True)
class TrainResult:
    """How a call of :func:`train` ended."""

    out: Path
    """The run folder."""
    finished: bool
    """False where ``stop_after`` ended it; it can be resumed."""
    step: int
    """Optimiser steps done, over all calls."""
    parameters: int
    """Of the network."""
    best_f1: float
    """Highest validation f1; -1 before the first validation."""
    best_step: int
    """Step of it."""
    scores: dict[str, float]
    """All scores of that validation."""
    seconds: float
    """Training time over all calls, validation included."""

    @property
    def best(self) -> Path:
        """Checkpoint of the best validation."""
        return RunFolder(self.out).best

    @property
    def last(self) -> Path:
        """Checkpoint of the end."""
        return RunFolder(self.out).last


def train(
    recipe: Recipe,
    data: Sequence[Path],
    out: Path,
    *,
    resume: bool = False,
    init_weights: Path | None = None,
    param_budget: int = PARAM_BUDGET,
    stop_after: int | None = None,
    listener: Listener | None = None,
) -> TrainResult:
    """Train a network.

    Under ``torchrun`` or ``accelerate launch`` every process calls this; the batch is divided among them.

    Args:
        recipe: what to do.
        data: data set roots or split folders; empty for the recipe's synthetic faces.
        out: run folder, new or empty.
        resume: go on with the run in ``out`` where there is one (a finished one is only reported).
        init_weights: checkpoint, or run folder with a ``best`` one, to start from instead of random weights.
        param_budget: largest number of parameters allowed.
        stop_after: end after this many steps of this call, with the state saved.
        listener: told of the progress; None for log lines and a bar on stderr.

    Raises:
        InputError: data, recipe, weights or folder are not usable, or the network is over the budget.
        TrainingInterruptedError: SIGINT or SIGTERM came; the state is saved.
        FptkError: the loss is no longer finite.
    """
    keep_freed_memory()
    accelerator = make_accelerator(recipe)
    run = RunFolder(out)
    resume = resume and run.card.exists()
    if resume:
        run.check_same(recipe, data)
        if (result := run.read()["result"]) is not None:
            return TrainResult(out=out, **result)
    else:
        run.check_free()
    model = make_model(recipe, param_budget, None if resume else init_weights)
    train_set, val_set = open_data(recipe, data)
    if accelerator.is_main_process and not resume:
        run.start(recipe, data, _facts(model, train_set, val_set, init_weights))
    accelerator.wait_for_everyone()
    speaker: Listener = (listener or ConsoleListener()) if accelerator.is_main_process else Silent()
    trainer = Trainer(recipe, run, model, train_set, val_set, accelerator, speaker)
    trainer.restore()
    return trainer.run_to(stop_after)


def make_accelerator(recipe: Recipe) -> Accelerator:
    """Device, arithmetic and process group for this recipe.

    Raises:
        InputError: fp16 was asked for on a CPU.
    """
    cpu = not torch.cuda.is_available()
    amp = {"auto": "no" if cpu else "fp16", "off": "no"}.get(recipe.precision.amp, recipe.precision.amp)
    if cpu and amp == "fp16":
        raise InputError("precision.amp fp16 needs a CUDA GPU; on this CPU use bf16, auto or off")
    # accelerate keeps one state per process and would refuse a second training of another precision.
    AcceleratorState._reset_state()
    return Accelerator(cpu=cpu, mixed_precision=amp)


def make_model(recipe: Recipe, param_budget: int, init_weights: Path | None) -> FaceParsingNetwork:
    """The recipe's network, with seeded or given weights, inside the budget.

    Raises:
        InputError: unknown network or option, over the budget, or weights that do not fit.
    """
    torch.manual_seed(torch_seed(recipe.seed, Stream.WEIGHTS))
    model = create_model(recipe.model.name, **recipe.model.options)
    count = count_parameters(model)
    if count > param_budget:
        raise InputError(
            f"{recipe.model.name} has {count:,} parameters, {count - param_budget:,} over the budget of "
            f"{param_budget:,}; choose a smaller network, or allow it with --param-budget {count}"
        )
    if init_weights is not None:
        load_weights(model, checkpoint_of(init_weights))
    return model


def checkpoint_of(path: Path) -> Path:
    """``path`` itself, or the best checkpoint of the run folder ``path``."""
    return RunFolder(path).best if path.is_dir() else path


def _facts(
    model: FaceParsingNetwork, train_set: FaceParsingDataset, val_set: FaceParsingDataset, init_weights: Path | None
) -> dict[str, Any]:
    return {
        "parameters": count_parameters(model),
        "train_set": train_set.name,
        "train_images": len(train_set),
        "val_set": val_set.name,
        "val_images": len(val_set),
        "init_weights": None if init_weights is None else str(init_weights),
        "init_sha256": None if init_weights is None else sha256_file(checkpoint_of(init_weights)),
    }


class Trainer:
    """One training in one process."""

    def __init__(
        self,
        recipe: Recipe,
        run: RunFolder,
        model: FaceParsingNetwork,
        train_set: FaceParsingDataset,
        val_set: FaceParsingDataset,
        accelerator: Accelerator,
        listener: Listener,
    ) -> None:
        self.recipe, self.run, self.accelerator, self.listener = recipe, run, accelerator, listener
        self.device: torch.device = accelerator.device
        self.train_set, self.val_set = train_set, limit(val_set, recipe.data.val_images)
        self.plan = make_plan(recipe, len(train_set))
        self._check_batches()
        self.ema = Ema(model.to(self.device), recipe.optim.ema) if recipe.optim.ema else None
        if accelerator.num_processes > 1 and self.device.type == "cuda":
            model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        self.model = model.to(self.device)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=recipe.optim.lr, weight_decay=recipe.optim.weight_decay, fused=True
        )
        self.net, self.stepper = accelerator.prepare(self.model, self.optimizer)
        self.batches, self.loss = self._prepare_data()
        self.counters = Counters()
        self.pending: list[Tensor] = []

    def _check_batches(self) -> None:
        world = self.accelerator.num_processes
        for phase in self.plan.phases:
            if phase.batch % world:
                raise InputError(f"batch {phase.batch} cannot be divided among {world} processes; choose a multiple")

    def _prepare_data(self) -> tuple[Batches, SegmentationLoss]:
        """Batches and loss; counts the classes of all training images where sampling or loss depends on them."""
        recipe, world = self.recipe, self.accelerator.num_processes
        read = DecodedCache(self.train_set, int(recipe.data.cache_gb * 1e9))
        weighted, rare = recipe.loss.class_weights != "none", recipe.data.sampling == "rare"
        pixels = None
        if weighted or rare:
            self.listener.say(f"counting the classes of {len(self.train_set)} training images")
            pixels = class_pixels(read, len(self.train_set), recipe.data.workers or default_workers(world) + 1)
        factors = repeat_factors(pixels, recipe.data.rare_threshold) if rare and pixels is not None else None
        weights = None
        if weighted and pixels is not None:
            weights = torch.tensor(sqrt_median_frequency(pixels), dtype=torch.float32)
        order = Order(len(self.train_set), recipe.seed, factors)
        batches = Batches(recipe, self.plan, read, order, self.accelerator.process_index, world)
        return batches, SegmentationLoss(recipe.loss, weights).to(self.device)

    def restore(self) -> None:
        """Go back to the saved state, or save the state of step 0 so that even a run killed at once can be resumed."""
        average = self.ema.model if self.ema else None
        if self.run.resume.exists():
            self.counters = load_state(self.run.resume, self.model, average, self.optimizer)
            if self.accelerator.scaler is not None and self.counters.scaler:
                self.accelerator.scaler.load_state_dict(self.counters.scaler)
            if self.accelerator.is_main_process:
                self.run.rewind(self.counters.step)
            self.listener.say(f"resuming {self.run.path} at step {self.counters.step} of {self.plan.total_steps}")
        else:
            self.save()
        self.accelerator.wait_for_everyone()

    def save(self) -> None:
        """Write the resume state."""
        if self.accelerator.is_main_process:
            if self.accelerator.scaler is not None:
                self.counters.scaler = self.accelerator.scaler.state_dict()
            save_state(self.run.resume, self.model, self.ema.model if self.ema else None, self.optimizer, self.counters)

    def run_to(self, stop_after: int | None) -> TrainResult:
        """Train to the end, or for ``stop_after`` steps."""
        self.listener.say(self.describe())
        first = self.counters.step
        limit = self.plan.total_steps if stop_after is None else min(self.plan.total_steps, first + stop_after)
        self.listener.start(self.plan.total_images, self.plan.images_before(first))
        try:
            with Interrupt() as interrupt, contextlib.closing(self.batches.iterate(first)) as batches:
                self.model.train()
                started = time.perf_counter()
                while self.counters.step < limit and not self.counters.stopped:
                    self.step(next(batches))
                    now = time.perf_counter()
                    self.counters.seconds += now - started
                    self.counters.window_seconds += now - started
                    self.after_step()
                    started = time.perf_counter()
                    if (number := interrupt.agreed(self.device)) is not None:
                        self.leave(number)
            if self.counters.step < self.plan.total_steps and not self.counters.stopped:
                self.flush()
                self.save()
                return self.result(finished=False)
            return self.finish()
        finally:
            self.listener.stop()

    def step(self, batch: Batch) -> None:
        """One optimiser step."""
        recipe = self.recipe
        torch.manual_seed(torch_seed(recipe.seed, Stream.STEP, batch.step, self.accelerator.process_index))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(recipe, self.plan, batch.step)
        images = normalised(batch.images.to(self.device), batch.colour.to(self.device), recipe.spec)
        target = batch.masks.to(self.device).long()
        count = min(recipe.optim.accumulate, len(images))
        chunks = list(zip(images.tensor_split(count), target.tensor_split(count), strict=True))
        losses = torch.zeros(2, device=self.device)
        for number, (part, labels) in enumerate(chunks):
            last = number == len(chunks) - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.net):
                loss = self.loss(self.net(part), labels)
                share = len(part) / len(images)
                self.accelerator.backward(loss.total * share)
            losses += torch.stack([loss.ce, loss.dice]) * share
        self.pending.append(losses)
        if recipe.optim.clip is not None:
            self.accelerator.clip_grad_norm_(self.net.parameters(), recipe.optim.clip)
        self.stepper.step()
        self.stepper.zero_grad()
        if self.ema:
            self.ema.update(self.model, batch.step)

    def after_step(self) -> None:
        """Count the step; look at the loss, validate and save where it is time."""
        step = self.counters.step
        phase = self.plan.phase_of(step)
        self.counters.step = step + 1
        self.counters.window_images += phase.batch
        if self.counters.step % LOG_EVERY == 0:
            self.flush()
        self.listener.step(phase.batch, f"epoch {self.plan.epoch_before(step):.1f} loss {self.counters.last_loss:.3f}")
        if self.validates_after(step):
            self.flush()
            self.validate(phase.size)
            self.save()
        elif self.counters.step % self.recipe.checkpoint.every_steps == 0:
            self.flush()
            self.save()

    def flush(self) -> None:
        """Fetch the losses of the last steps and add them to the window since the last validation.

        Raises:
            FptkError: one is not finite.
        """
        if not self.pending:
            return
        ce, dice = (float(value) for value in torch.stack(self.pending).double().sum(dim=0).cpu())
        steps = len(self.pending)
        self.pending = []
        if not math.isfinite(ce + dice):
            raise FptkError(
                f"the loss is no longer finite at step {self.counters.step}; try a lower optim.lr, or precision.amp=off"
            )
        self.counters.window_steps += steps
        self.counters.window_ce += ce
        self.counters.window_dice += dice
        self.counters.last_loss = (self.recipe.loss.ce * ce + self.recipe.loss.dice * dice) / steps

    def validates_after(self, step: int) -> bool:
        """Whether ``step`` ends a validation interval or the training."""
        interval = self.recipe.data.eval_every * self.plan.epoch_images
        before, after = self.plan.images_before(step), self.plan.images_before(step + 1)
        return bool(after // interval > before // interval) or step + 1 == self.plan.total_steps

    def validate(self, size: tuple[int, int]) -> None:
        """Score the (averaged) weights, record it, keep them if they are the best so far, and stop if it's time."""
        started = time.perf_counter()
        counters = self.counters
        values = self._score()
        best = values["f1"] > counters.best_f1
        counters.stale = 0 if best else counters.stale + 1
        record = {**self._window_record(size), **values}
        if best:
            counters.best_f1, counters.best_step, counters.best_scores = values["f1"], counters.step, values
        patience = self.recipe.early_stop.patience
        counters.stopped = patience is not None and counters.stale >= patience
        counters.seconds += time.perf_counter() - started
        if self.accelerator.is_main_process:
            if best:
                self.save_weights(self.run.best, values)
            self.run.append(record)
            draw_curves(self.run.records(), self.run.curves)
        self.listener.validated(record, best)
        counters.reset_window()

    def _score(self) -> dict[str, float]:
        """Scores of the current weights, computed by the first process."""
        found: list[dict[str, float] | None] = [None]
        if self.accelerator.is_main_process:
            spec = self.recipe.spec
            if self.recipe.data.eval_size:
                spec = spec.model_copy(update={"size": self.recipe.data.eval_size})
            model = self.ema.model if self.ema else self.model
            total = len(self.val_set)
            with TorchSession(model, spec, device=str(self.device)) as session:
                scores: Scores = evaluate(
                    session, self.val_set, on_image=lambda done: self.listener.step(0, f"validating {done}/{total}")
                )
            found = [{name: getattr(scores, name) for name in SCORES}]
        if self.accelerator.num_processes > 1:
            broadcast_object_list(found)
        assert found[0] is not None
        return found[0]

    def _window_record(self, size: tuple[int, int]) -> dict[str, Any]:
        """What is known of the steps since the last validation."""
        counters, weights = self.counters, self.recipe.loss
        steps = max(1, counters.window_steps)
        ce, dice = counters.window_ce / steps, counters.window_dice / steps
        return {
            "step": counters.step,
            "epoch": round(self.plan.epoch_before(counters.step), 4),
            "images": self.plan.images_before(counters.step),
            "size": size[0],
            "lr": learning_rate(self.recipe, self.plan, counters.step - 1),
            "loss": weights.ce * ce + weights.dice * dice,
            "ce": ce,
            "dice": dice,
            "images_per_s": round(counters.window_images / max(1e-9, counters.window_seconds), 2),
            "seconds": round(counters.seconds, 1),
        }

    def save_weights(self, path: Path, scores: dict[str, float]) -> None:
        """Write a checkpoint of the (averaged) weights with its card."""
        counters, model = self.counters, self.ema.model if self.ema else self.model
        card = CheckpointCard(
            model=self.recipe.model.name,
            options=self.model.options,
            num_parameters=count_parameters(self.model),
            preprocess=self.recipe.spec,
            epoch=int(self.plan.epoch_before(counters.step)),
            step=counters.step,
            metrics=scores,
            recipe=self.recipe.model_dump(mode="json"),
            weights="ema" if self.ema else "raw",
            training={
                "train_set": self.train_set.name,
                "train_images": len(self.train_set),
                "val_set": self.val_set.name,
                "val_images": len(self.val_set),
                "images_seen": self.plan.images_before(counters.step),
                "seconds": round(counters.seconds, 1),
                "device": str(self.device),
                "processes": self.accelerator.num_processes,
            },
        )
        save_checkpoint(path, model.state_dict(), card)

    def leave(self, number: int) -> None:
        """Save and end because of a signal."""
        self.flush()
        self.save()
        raise TrainingInterruptedError(
            f"training stopped after step {self.counters.step} of {self.plan.total_steps}; go on with: "
            f"fptk train --resume --out {self.run.path}",
            number,
        )

    def finish(self) -> TrainResult:
        """Write the last weights and the result."""
        result = self.result(finished=True)
        if self.accelerator.is_main_process:
            self.save_weights(self.run.last, self._last_scores())
            self.run.finish({key: value for key, value in asdict(result).items() if key != "out"})
        self.accelerator.wait_for_everyone()
        return result

    def _last_scores(self) -> dict[str, float]:
        records = self.run.records()
        return {name: records[-1][name] for name in SCORES} if records else {}

    def result(self, finished: bool) -> TrainResult:
        """The state of affairs."""
        counters = self.counters
        return TrainResult(
            out=self.run.path,
            finished=finished,
            step=counters.step,
            parameters=count_parameters(self.model),
            best_f1=counters.best_f1,
            best_step=counters.best_step,
            scores=counters.best_scores,
            seconds=round(counters.seconds, 1),
        )

    def describe(self) -> str:
        """One line on what is about to happen."""
        phases = ", ".join(
            f"{phase.steps} steps of {phase.batch} at {phase.size[0]}x{phase.size[1]}" for phase in self.plan.phases
        )
        amp = self.accelerator.mixed_precision
        return (
            f"{self.recipe.model.name}, {count_parameters(self.model):,} parameters, on {self.device} "
            f"({'float32' if amp == 'no' else amp}, {self.accelerator.num_processes} process(es)) · "
            f"{len(self.train_set)} training images ({self.train_set.name}), {len(self.val_set)} for validation · "
            f"{phases} · {self.run.path}"
        )
