"""The loop: steps, validations and saves of one training in one process."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor

from fptk.core.dataset import FaceParsingDataset
from fptk.core.errors import FptkError, InputError
from fptk.core.host import resident_peak
from fptk.core.preprocess import PreprocessSpec
from fptk.data.splits import limit
from fptk.data.statistics import StatisticsCache, mean_and_std
from fptk.models import count_parameters
from fptk.models.network import FaceParsingNetwork
from fptk.recipes import Recipe
from fptk.runs.folder import RunFolder, TrainResult
from fptk.training.augment import normalized
from fptk.training.batches import AHEAD, Batch, Batches, DecodedCache, Order, default_workers
from fptk.training.class_balance import class_pixels, class_weights, measure_all, repeat_factors
from fptk.training.curves import draw_curves
from fptk.training.ema import Ema
from fptk.training.interrupt import Interrupt, TrainingInterruptedError
from fptk.training.losses import TERMS, SegmentationLoss
from fptk.training.machine import machine_memory
from fptk.training.optimizers import RELOADS, Event, Pipeline
from fptk.training.processes import by_first
from fptk.training.progress import Listener
from fptk.training.resume import Counters, load_state, save_state
from fptk.training.schedule import make_plan
from fptk.training.seeds import Stream, torch_seed
from fptk.training.validation import SCORES, save_weights, score

ALWAYS_RECORDED = ("ce", "dice")
"""Terms of the loss that a record holds even where their weight is 0."""
BYTES_A_PIXEL = 4 * (AHEAD + 1) + 12
"""Memory that a training needs for its images alone: the batches prepared ahead as uint8, and one as float32."""
LOG_EVERY = 10
"""Steps between looks at the loss: each look waits for the device."""


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
        self.counters = Counters()
        self.pipeline = Pipeline(recipe, self.plan, self.counters.pipeline)
        self.kept: dict[str, Tensor] = {}
        self.net = accelerator.prepare(self.model)
        self._renew_optimizer()
        self.spec = recipe.spec  # replaced by the measured one, for whitening
        self.batches, self.loss = self._prepare_data()
        self.pending: list[Tensor] = []
        self.saved_step = 0

    def _check_batches(self) -> None:
        world = self.accelerator.num_processes
        memory, scale = machine_memory(), self.recipe.data.multiscale[1]
        for phase in self.plan.phases:
            if phase.batch % world:
                raise InputError(f"batch {phase.batch} cannot be divided among {world} processes; choose a multiple")
            height, width = (round(scale * side) for side in phase.size)
            fitting = int(memory / (height * width * BYTES_A_PIXEL)) if memory else phase.batch
            if phase.batch > fitting:
                raise InputError(
                    f"{phase.batch} images of {height}x{width} do not fit into this machine's {memory / 1e9:.0f} GB; "
                    f"choose a data.batch of at most {fitting}, and far less for the network itself"
                )

    def _prepare_data(self) -> tuple[Batches, SegmentationLoss]:
        """Batches and loss; looks at all training images where sampling, loss or whitening depends on them."""
        recipe, world = self.recipe, self.accelerator.num_processes
        read = DecodedCache(self.train_set, int(recipe.data.cache_gb * 1e9))
        weighted, rare = recipe.loss.class_weights != "none", recipe.data.sampling == "rare"
        factors = weights = None
        if weighted or rare or recipe.preprocess.statistics == "measured":
            self.listener.say(f"counting classes and colours of {len(self.train_set)} training images")
            workers = recipe.data.workers or default_workers(world) + 1
            found = measure_all(self.train_set, read, workers, StatisticsCache())
            pixels = class_pixels(found)
            factors = repeat_factors(pixels, recipe.data.rare_threshold) if rare else None
            if weighted:
                weights = torch.tensor(class_weights(recipe.loss, pixels), dtype=torch.float32)
            if recipe.preprocess.statistics == "measured":
                mean, std = mean_and_std(found)
                self.spec = recipe.spec.model_copy(update={"mean": mean, "std": std})
        order = Order(len(self.train_set), recipe.seed, factors)
        batches = Batches(recipe, self.plan, read, order, self.accelerator.process_index, world, self.spec)
        return batches, SegmentationLoss(recipe.loss, weights).to(self.device)

    def _renew_optimizer(self) -> None:
        """Make the optimiser that the pipeline asks for now, without a memory of steps."""
        self.optimizer = self.pipeline.optimizer(self.model.parameters())
        self.accelerator._optimizers.clear()  # with fp16, clipping would unscale by a retired one as well
        self.stepper = self.accelerator.prepare_optimizer(self.optimizer)

    def _optimizer_at(self, counters: Counters) -> torch.optim.Optimizer:
        """Go to where ``counters`` stand, and make the optimiser that steps there."""
        self.counters = counters
        self.pipeline = Pipeline(self.recipe, self.plan, counters.pipeline)
        self._renew_optimizer()
        return self.optimizer

    def restore(self) -> None:
        """Go back to the saved state, or save the state of step 0 so that even a run killed at once can be resumed."""
        average = self.ema.model if self.ema else None
        if by_first(self.accelerator, self.run.resume.exists):
            self.counters, self.kept = load_state(self.run.resume, self.model, average, self._optimizer_at)
            if not self.counters.unvalidated <= self.counters.step <= self.plan.total_steps:
                raise InputError(
                    f"resume state {self.run.resume} is of step {self.counters.step}, and this training has "
                    f"{self.plan.total_steps}; start anew in another --out"
                )
            self.saved_step = self.counters.step
            if self.accelerator.scaler is not None and self.counters.scaler:
                self.accelerator.scaler.load_state_dict(self.counters.scaler)
            if self.accelerator.is_main_process:
                self.run.rewind(self.counters.step - self.counters.unvalidated)
            self.listener.say(f"resuming {self.run.path} at step {self.counters.step} of {self.plan.total_steps}")
        elif by_first(self.accelerator, self.run.records):
            raise InputError(f"{self.run.path} has lost its {self.run.resume.name}; start anew in another --out")
        else:
            self.save()
        self.accelerator.wait_for_everyone()

    def save(self) -> None:
        """Write the resume state."""
        self.counters.peak_bytes = max(self.counters.peak_bytes, self._memory())
        if self.accelerator.is_main_process:
            if self.accelerator.scaler is not None:
                self.counters.scaler = self.accelerator.scaler.state_dict()
            average = self.ema.model if self.ema else None
            save_state(self.run.resume, self.model, average, self.optimizer, self.counters, self.kept)
        self.saved_step = self.counters.step

    def _memory(self) -> int:
        """Peak of this process so far, bytes; 0 if unknown."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return resident_peak() or 0

    def run_to(self, stop_after: int | None) -> TrainResult:
        """Train to the end, or for ``stop_after`` steps."""
        self.listener.say(self.describe())
        first = self.counters.step
        end = self.plan.total_steps if stop_after is None else min(self.plan.total_steps, first + stop_after)
        self.listener.start(self.plan.total_images, self.plan.images_before(first))
        try:
            with Interrupt() as interrupt, contextlib.closing(self.batches.iterate(first)) as batches:
                self.model.train()
                if self.counters.unvalidated:
                    self.validate_last()
                started = time.perf_counter()
                while self.counters.step < end and not self.counters.stopped:
                    self.step(next(batches))
                    now = time.perf_counter()
                    self.counters.seconds += now - started
                    self.counters.window_seconds += now - started
                    self.after_step()
                    started = time.perf_counter()
                    if self._asks_the_others() and (number := interrupt.agreed(self.device)) is not None:
                        self.leave(number)
            if self.counters.step < self.plan.total_steps and not self.counters.stopped:
                self.flush()
                self.save()
                return self.result(finished=False)
            return self.finish()
        finally:
            self.listener.stop()

    def _asks_the_others(self) -> bool:
        """Whether to look for a signal now: with several processes it waits for the device, so not after each step."""
        return self.accelerator.num_processes == 1 or self.counters.step % LOG_EVERY == 0

    def step(self, batch: Batch) -> None:
        """One optimiser step."""
        recipe = self.recipe
        torch.manual_seed(torch_seed(recipe.seed, Stream.STEP, batch.step, self.accelerator.process_index))
        for group in self.optimizer.param_groups:
            group["lr"] = self.pipeline.rate(batch.step)
        images = normalized(batch.images.to(self.device), batch.color.to(self.device), self.spec)
        target = batch.masks.to(self.device).long()
        count = min(recipe.optim.accumulate, len(images))
        partners = target if batch.partners is None else batch.partners.to(self.device).long()
        chunks = list(zip(*(each.tensor_split(count) for each in (images, target, partners)), strict=True))
        losses = torch.zeros(len(TERMS), device=self.device)
        for number, (part, labels, others) in enumerate(chunks):
            last = number == len(chunks) - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.net):
                loss = self.loss(self.net(part), labels, None if batch.partners is None else others, batch.share)
                share = len(part) / len(images)
                self.accelerator.backward(loss.total * share)
            losses += loss.terms * share
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
            # Saved before, so that a validation that fails or is killed costs no step: it is done again.
            self.counters.unvalidated = True
            self.save()
            self.validate_last()
        elif self.counters.step % self.recipe.checkpoint.every_steps == 0:
            self.flush()
            self.save()

    def validate_last(self) -> None:
        """Validate after the last step, and save what became of it."""
        self.validate(self.plan.phase_of(self.counters.step - 1).size)
        self.counters.unvalidated = False
        self.save()

    def flush(self) -> None:
        """Fetch the losses of the last steps and add them to the window since the last validation.

        Raises:
            FptkError: one is not finite.
        """
        if not self.pending:
            return
        sums = torch.stack(self.pending).double().sum(dim=0).tolist()
        steps = len(self.pending)
        self.pending = []
        if not math.isfinite(sum(sums)):
            raise FptkError(
                f"the loss is no longer finite at step {self.counters.step}; try a lower optim.lr, or precision.amp=off"
            )
        counters = self.counters
        counters.window_steps += steps
        counters.add_to_window(dict(zip(TERMS, sums, strict=True)))
        counters.last_loss = self._weighted(sums) / steps

    def _weighted(self, terms: list[float]) -> float:
        """The loss of its terms."""
        return math.fsum(getattr(self.recipe.loss, name) * value for name, value in zip(TERMS, terms, strict=True))

    def validates_after(self, step: int) -> bool:
        """Whether ``step`` ends a validation interval or the training."""
        interval = self.recipe.data.eval_every * self.plan.epoch_images
        before, after = self.plan.images_before(step), self.plan.images_before(step + 1)
        return bool(after // interval > before // interval) or step + 1 == self.plan.total_steps

    def validate(self, size: tuple[int, int]) -> None:
        """Score the (averaged) weights, record it, keep them if they are the best so far, and stop if it's time."""
        started = time.perf_counter()
        counters = self.counters
        values, loss = by_first(
            self.accelerator,
            lambda: score(self.averaged, self.eval_spec, self.val_set, self.device, self.listener, self.loss),
        )
        best = values["f1"] > counters.best_f1
        counters.stale = 0 if best else counters.stale + 1
        record = {**self._window_record(size), "val_loss": loss if math.isfinite(loss) else None, **values}
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
        self.follow(self.pipeline.observe(loss, counters.step))
        counters.reset_window()

    def follow(self, event: Event) -> None:
        """Do what the pipeline makes of a validation."""
        if event is Event.IMPROVED:
            self.kept = {name: value.detach().clone() for name, value in self.averaged.state_dict().items()}
        if event not in RELOADS:
            return
        for network in (self.model, self.averaged) if self.kept else ():  # no validation had a finite loss
            network.load_state_dict(self.kept)
        if event is Event.SWITCHED:
            self._renew_optimizer()
        self.counters.stopped |= event is Event.ENDED
        peak = f"{self.pipeline.optimizer_name} at a peak rate of {self.pipeline.peak:g}"
        self.listener.say(f"step {self.counters.step}: {event}; best weights loaded again, {peak}")

    def _window_record(self, size: tuple[int, int]) -> dict[str, Any]:
        """What is known of the steps since the last validation."""
        counters = self.counters
        means = [counters.window_mean(name) for name in TERMS]
        used = {name: mean for name, mean in zip(TERMS, means, strict=True) if name in ALWAYS_RECORDED or mean}
        return {
            "step": counters.step,
            "epoch": round(self.plan.epoch_before(counters.step), 4),
            "images": self.plan.images_before(counters.step),
            "size": size[0],
            "lr": self.pipeline.rate(counters.step - 1),
            "loss": self._weighted(means),
            **used,
            "images_per_s": round(counters.window_images / max(1e-9, counters.window_seconds), 2),
            "seconds": round(counters.seconds, 1),
        }

    @property
    def eval_spec(self) -> PreprocessSpec:
        """Preprocessing of the validation."""
        size = self.recipe.data.eval_size
        return self.spec.model_copy(update={"size": size}) if size else self.spec

    @property
    def averaged(self) -> FaceParsingNetwork:
        """The network that is validated and saved: the moving average where there is one."""
        return cast(FaceParsingNetwork, self.ema.model) if self.ema else self.model

    def save_weights(self, path: Path, scores: dict[str, float]) -> None:
        """Write a checkpoint of :attr:`averaged`."""
        save_weights(path, self.averaged, self.recipe, self.spec, self.plan, self.run, self.counters, scores)

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
            peak_bytes=counters.peak_bytes or None,
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
