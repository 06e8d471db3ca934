"""The loop: steps, validations and saves of one training in one process."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import asdict

import torch
from accelerate import Accelerator
from torch import Tensor

from fptk.core.dataset import FaceParsingDataset
from fptk.core.errors import FptkError, InputError
from fptk.core.progress import SILENT, Listener, Update
from fptk.data.splits import limit
from fptk.models import count_parameters
from fptk.models.network import FaceParsingNetwork
from fptk.recipes import Recipe
from fptk.runs.folder import RunFolder, TrainResult
from fptk.training.augment import normalized
from fptk.training.batches import Batch
from fptk.training.interrupt import Interrupt, TrainingInterruptedError
from fptk.training.losses import TERMS, weighted
from fptk.training.optimizers import RELOADS
from fptk.training.preparation import check_batches, prepare
from fptk.training.processes import by_first
from fptk.training.schedule import make_plan
from fptk.training.seeds import Stream, torch_seed
from fptk.training.state import TrainingState
from fptk.training.step_times import StepTimes
from fptk.training.validation import SCORES, Validation, save_weights

LOG_EVERY = 10
"""Steps between looks at the loss: each look waits for the device."""


class Trainer:
    """One training in one process.

    Args:
        recipe: what to do.
        run: folder that the training was started in.
        model: the network with its initial weights.
        train_set: training images.
        val_set: validation images.
        accelerator: device, arithmetic and the other processes.
        listener: told of the progress; of several processes, only the first should have one that speaks.
        profile: whether to tell, at the end, where the time of a step went.

    Raises:
        InputError: the recipe's batches do not suit this machine or the number of processes, or data are damaged.
    """

    def __init__(
        self,
        recipe: Recipe,
        run: RunFolder,
        model: FaceParsingNetwork,
        train_set: FaceParsingDataset,
        val_set: FaceParsingDataset,
        accelerator: Accelerator,
        listener: Listener = SILENT,
        profile: bool = False,
    ) -> None:
        self.recipe, self.run, self.accelerator, self.listener = recipe, run, accelerator, listener
        self.train_set, self.val_set = train_set, limit(val_set, recipe.data.val_images)
        self.plan = make_plan(recipe, len(train_set))
        rank, world = accelerator.process_index, accelerator.num_processes
        check_batches(recipe, self.plan, world)
        self.state = TrainingState(recipe, self.plan, model, accelerator)
        device = self.state.device
        prepared = prepare(recipe, self.plan, train_set, device=device, rank=rank, world=world, listener=listener)
        self.batches, self.spec = prepared.batches, prepared.spec
        self.loss = prepared.loss.to(device)
        self.validation = Validation(self.state, run, self.val_set, self.loss, self.spec)
        self.times = StepTimes(device, profile)
        self._pending: list[Tensor] = []

    def restore(self) -> None:
        """Go back to the saved state, or save the state of step 0 so that even a run killed at once can be resumed.

        Raises:
            InputError: the saved state is missing where there should be one, damaged, or of another training.
        """
        if by_first(self.accelerator, self.run.resume.exists):
            self.state.load(self.run.resume)
            counters = self.state.counters
            if self.accelerator.is_main_process:
                self.run.rewind(counters.step - counters.unvalidated)
            self.listener.say(f"resuming {self.run.path} at step {counters.step} of {self.plan.total_steps}")
        elif by_first(self.accelerator, self.run.records):
            raise InputError(f"{self.run.path} has lost its {self.run.resume.name}; start anew in another --out")
        else:
            self.save()
        self.accelerator.wait_for_everyone()

    def save(self) -> None:
        """Write the resume state."""
        self.state.save(self.run.resume)

    def run_to(self, stop_after: int | None) -> TrainResult:
        """Train to the end, or for ``stop_after`` steps.

        Raises:
            TrainingInterruptedError: a signal came; the state is saved.
            FptkError: the loss is no longer finite, or data or folder cannot be used.
        """
        self.listener.say(self.describe())
        counters = self.state.counters
        first = counters.step
        end = self.plan.total_steps if stop_after is None else min(self.plan.total_steps, first + stop_after)
        with self.listener.counting("training", self.plan.total_images) as update:
            update(self.plan.images_before(first))
            with Interrupt() as interrupt, contextlib.closing(self.batches.iterate(first)) as batches:
                self.state.model.train()
                if counters.unvalidated:
                    self.validate(update)
                started = time.perf_counter()
                while counters.step < end and not counters.stopped:
                    self.times.begin()
                    self.step(next(batches))
                    self.count_step()
                    now = time.perf_counter()
                    counters.seconds += now - started
                    counters.window_seconds += now - started
                    self.after_step(update)
                    started = time.perf_counter()
                    if self._asks_the_others() and (number := interrupt.agreed(self.state.device)) is not None:
                        self.leave(number)
            for line in self.times.lines():
                self.listener.say(line)
            if counters.step < self.plan.total_steps and not counters.stopped:
                self.flush()
                self.save()
                return self.result(finished=False)
            return self.finish()

    def _asks_the_others(self) -> bool:
        """Whether to look for a signal now: with several processes it waits for the device, so not after each step."""
        return self.accelerator.num_processes == 1 or self.state.counters.step % LOG_EVERY == 0

    def step(self, batch: Batch) -> None:
        """One optimiser step."""
        recipe, state, times = self.recipe, self.state, self.times
        times.mark("data")
        torch.manual_seed(torch_seed(recipe.seed, Stream.STEP, batch.step, self.accelerator.process_index))
        for group in state.optimizer.param_groups:
            group["lr"] = state.pipeline.rate(batch.step)
        batch = batch.to(state.device)
        images = normalized(batch.images, batch.color, self.spec)
        target = batch.masks.long()
        count = min(recipe.optim.accumulate, len(images))
        partners = target if batch.partners is None else batch.partners.long()
        chunks = list(zip(*(each.tensor_split(count) for each in (images, target, partners)), strict=True))
        losses = torch.zeros(len(TERMS), device=state.device)
        times.mark("color")
        for number, (part, labels, others) in enumerate(chunks):
            last = number == len(chunks) - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(state.net):
                logits = state.net(part)
                times.mark("forward")
                loss = self.loss(logits, labels, None if batch.partners is None else others, batch.share)
                times.mark("loss")
                share = len(part) / len(images)
                self.accelerator.backward(loss.total * share)
                times.mark("backward")
            losses += loss.terms * share
        self._pending.append(losses)
        if recipe.optim.clip is not None:
            self.accelerator.clip_grad_norm_(state.net.parameters(), recipe.optim.clip)
        state.stepper.step()
        state.stepper.zero_grad()
        times.mark("optimizer")
        if state.ema:
            state.ema.update(state.model, batch.step)
            times.mark("average")
        times.end(len(images) * self.accelerator.num_processes)

    def count_step(self) -> None:
        """Count the step, and look at the loss where it is time. To wait for the device there belongs to the steps."""
        counters = self.state.counters
        counters.window_images += self.plan.phase_of(counters.step).batch
        counters.step += 1
        if counters.step % LOG_EVERY == 0 or self.validates_after(counters.step - 1):
            self.flush()

    def after_step(self, update: Update) -> None:
        """Tell of the last step; validate and save where it is time."""
        counters = self.state.counters
        step = counters.step - 1
        text = f"epoch {self.plan.epoch_before(step):.1f} loss {counters.last_loss:.3f}"
        update(self.plan.images_before(counters.step), text)
        if self.validates_after(step):
            # Saved before, so that a validation that fails or is killed costs no step: it is done again.
            counters.unvalidated = True
            self.save()
            self.validate(update)
        elif counters.step % self.recipe.checkpoint.every_steps == 0:
            self.flush()
            self.save()

    def validate(self, update: Update) -> None:
        """Validate after the last step, follow the optimizer pipeline, and save what became of it."""
        state, counters = self.state, self.state.counters
        images, total = self.plan.images_before(counters.step), len(self.val_set)
        found = self.validation.validate(lambda done, text=None: update(images, f"validating {done}/{total}"))
        self.listener.say(str(found))
        event = state.observe(found.loss)
        if event in RELOADS:
            peak = f"{state.pipeline.optimizer_name} at a peak rate of {state.pipeline.peak:g}"
            self.listener.say(f"step {counters.step}: {event}; best weights loaded again, {peak}")
        counters.reset_window()
        counters.unvalidated = False
        self.save()

    def flush(self) -> None:
        """Fetch the losses of the last steps and add them to the window since the last validation.

        Raises:
            FptkError: one is not finite.
        """
        if not self._pending:
            return
        sums = torch.stack(self._pending).double().sum(dim=0).tolist()
        steps = len(self._pending)
        self._pending = []
        counters = self.state.counters
        if not math.isfinite(sum(sums)):
            raise FptkError(
                f"the loss is no longer finite at step {counters.step}; try a lower optim.lr, or precision.amp=off"
            )
        counters.window_steps += steps
        counters.add_to_window(dict(zip(TERMS, sums, strict=True)))
        counters.last_loss = weighted(self.recipe.loss, sums) / steps

    def validates_after(self, step: int) -> bool:
        """Whether ``step`` ends a validation interval or the training."""
        interval = self.recipe.data.eval_every * self.plan.epoch_images
        before, after = self.plan.images_before(step), self.plan.images_before(step + 1)
        return bool(after // interval > before // interval) or step + 1 == self.plan.total_steps

    def leave(self, number: int) -> None:
        """Save and end because of a signal."""
        self.flush()
        self.save()
        raise TrainingInterruptedError(
            f"training stopped after step {self.state.counters.step} of {self.plan.total_steps}; go on with: "
            f"fptk train --resume --out {self.run.path}",
            number,
        )

    def finish(self) -> TrainResult:
        """Write the last weights and the result."""
        result = self.result(finished=True)
        if self.accelerator.is_main_process:
            records = self.run.records()
            scores = {name: records[-1][name] for name in SCORES} if records else {}
            save_weights(self.run.last, self.state, self.spec, self.run, scores, self.train_set.classes)
            self.run.finish({key: value for key, value in asdict(result).items() if key != "out"})
        self.accelerator.wait_for_everyone()
        return result

    def result(self, finished: bool) -> TrainResult:
        """The state of affairs."""
        counters = self.state.counters
        return TrainResult(
            out=self.run.path,
            finished=finished,
            step=counters.step,
            parameters=count_parameters(self.state.model),
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
            f"{self.recipe.model.name}, {count_parameters(self.state.model):,} parameters, on {self.state.device} "
            f"({'float32' if amp == 'no' else amp}, {self.accelerator.num_processes} process(es)) · "
            f"{len(self.train_set)} training images ({self.train_set.name}), {len(self.val_set)} for validation · "
            f"{phases} · {self.run.path}"
        )
