"""From weights to bundles: every engine of a plan is attempted, described, and put where its verdict belongs.

The data goes one way: :class:`ExportInputs` to :class:`Attempt` to :class:`Bundle`. A bundle appears under its name
only when the engine in it was scored.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, overload

from fptk.calibration.fallback import Attempt as Tried
from fptk.calibration.fallback import Candidate, CandidateSkippedError, FallbackResult, try_in_order
from fptk.calibration.gate import Decision, Verdict
from fptk.calibration.kernel_faults import KernelFault
from fptk.calibration.sensitivity import draw_sensitivity
from fptk.core.errors import InputError
from fptk.core.files import replace_folder, temporary_folder
from fptk.core.precision import Precision
from fptk.core.progress import SILENT, Listener
from fptk.export.attempt import Attempt, EngineBrokenError, Folders, attempt
from fptk.export.bundle import Bundle, check_replaceable, record_files, write_manifest
from fptk.export.inputs import ExportInputs
from fptk.export.manifest import manifest
from fptk.export.plan import ExportPlan
from fptk.export.programs import write_infer
from fptk.export.proof import prove
from fptk.export.record import FallbackRecord
from fptk.export.targets.base import Target
from fptk.runs.folder import RunFolder
from fptk.runs.source import ModelSource


class Bundles(Sequence[Bundle]):
    """The bundles of one export, in the order of its plan. A refused engine is among them, with its verdict."""

    def __init__(self, bundles: Iterable[Bundle]) -> None:
        self._bundles = tuple(bundles)

    @overload
    def __getitem__(self, index: int) -> Bundle: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Bundle]: ...
    def __getitem__(self, index: int | slice) -> Bundle | Sequence[Bundle]:
        return self._bundles[index]

    def __len__(self) -> int:
        return len(self._bundles)

    @property
    def best(self) -> Bundle:
        """The accepted engine that scores the highest mIoU, the smaller one of equals.

        It is about accuracy alone: what is fastest depends on the machine, and ``fptk.benchmark`` measures it.

        Raises:
            ValueError: no engine was accepted.
        """
        accepted = [each for each in self if each.verdict in (Decision.PASS, Decision.NOT_JUDGED)]
        if not accepted:
            reasons = "; ".join(f"{each.label}: {each.verdict}" for each in self)
            raise ValueError(f"no engine was accepted ({reasons})")

        def rank(bundle: Bundle) -> tuple[float, int]:
            return (-bundle.evaluation.engine.miou if bundle.evaluation else 0.0, bundle.size_bytes)

        return min(accepted, key=rank)


def export(source: ModelSource, plan: ExportPlan, listener: Listener = SILENT) -> Bundles:
    """Build, score and judge every target and precision of the plan.

    An engine that this host cannot build, or that the gate refuses, does not stop the others.

    Returns:
        One bundle per engine, in the order of the plan. Refused ones lie in ``rejected/``, the others in ``bundles/``.

    Raises:
        InputError: weights, data or an option are not usable.
    """
    engines = plan.engines(listener)
    for target, precision in engines:
        for home in _homes(plan):
            check_replaceable(home / plan.bundle_name(target, precision))
    with temporary_folder(plan.out, "export") as scratch:
        exporter = _Exporter(ExportInputs(source, plan, scratch, listener))
        return Bundles([exporter.export(target, precision) for target, precision in engines])


def _homes(plan: ExportPlan) -> tuple[Path, Path]:
    """Where accepted and refused bundles go."""
    run = RunFolder(plan.out)
    return run.bundles, run.rejected


class _Exporter:
    """Exports one engine after the other; what is known to be computed wrongly here is told to the next."""

    def __init__(self, inputs: ExportInputs) -> None:
        self.inputs, self.plan, self.listener = inputs, inputs.plan, inputs.listener
        self._faults: dict[str, tuple[KernelFault, ...]] = {}

    def export(self, target: Target, precision: Precision) -> Bundle:
        """One engine into its bundle."""
        name = self.plan.bundle_name(target, precision)
        self.listener.say(f"{name}: building", heading=True)
        with ExitStack() as stack:

            def new_folder() -> Path:
                return stack.enter_context(temporary_folder(self.plan.out, name)).resolve()

            chosen = self._choose(target, precision, new_folder)
            if self.plan.explain and precision is Precision.INT8:
                self._explain(target, chosen)
            if chosen.built.files:
                write_infer(target.name, chosen.folder)
            bundle = manifest(self.inputs, chosen, *prove(self.inputs, chosen))
            if target.complete(chosen.folder, bundle.model_dump(mode="json", by_alias=True)):
                bundle.files = record_files(chosen.folder)
            write_manifest(bundle, chosen.folder)
            accepted, rejected = _homes(self.plan)
            final = (rejected if bundle.verdict is Decision.REFUSED else accepted) / name
            replace_folder(chosen.folder, final)
            return bundle.at(final)

    def _explain(self, target: Target, chosen: Attempt) -> None:
        """Put the ranking of the layer groups on record, and beside the engine as a picture."""
        ranking = self.inputs.sensitivity(target)
        chosen.built.record.sensitivity = ranking
        if ranking.rows:
            title = f"{target.name} INT8, {self.inputs.card.model}"
            draw_sensitivity(ranking, title, chosen.folder / "sensitivity.png")

    def _choose(self, target: Target, precision: Precision, new_folder: Folders) -> Attempt:
        """The engine: the first candidate that passes, or else the one that exceeds the gate's limits by least."""
        candidates = self._candidates(target) if precision is Precision.INT8 else None
        if candidates is None:
            return self._attempt(target, precision, new_folder, {})
        refused: list[Attempt] = []

        def build(candidate: Candidate[Any]) -> tuple[Attempt, Verdict]:
            try:
                done = self._attempt(target, precision, new_folder, _settings(candidate))
            except EngineBrokenError as error:
                raise CandidateSkippedError(str(error)) from error
            if done.refusal:
                refused.append(done)
            if done.verdict is None:
                raise CandidateSkippedError(done.refusal or done.unavailable or "the engine could not be scored")
            return done, done.verdict

        # What the builder itself refuses (too few layers in INT8), no gentler candidate repairs.
        result = try_in_order(itertools.takewhile(lambda _: not refused, candidates), build, self._tell)
        return _recorded(result, refused, target)

    def _candidates(self, target: Target) -> Iterator[Candidate[Any]] | None:
        """What to try one after the other; ``None`` where nothing is judged, or there is nothing to choose from."""
        if self.inputs.dataset is None or self.plan.gate is None:
            return None
        found = target.candidates(lambda: self.inputs.sensitivity(target), self.inputs.options(target))
        return None if found is None else itertools.islice(found, None if self.plan.fallback else 1)

    def _attempt(self, target: Target, precision: Precision, new_folder: Folders, settings: dict[str, Any]) -> Attempt:
        known = self._faults.get(target.name, ())
        try:
            done = attempt(self.inputs, target, precision, new_folder, settings, known)
        except EngineBrokenError as error:
            if precision is Precision.INT8:
                self._faults[target.name] = error.faults
            raise
        if precision is Precision.INT8:
            self._faults[target.name] = done.faults
        return done

    def _tell(self, tried: Tried[Attempt]) -> None:
        outcome = tried.verdict.summary if tried.verdict else f"skipped, {tried.skipped}"
        self.listener.say(f"  {tried.candidate}: {outcome}")


def _settings(candidate: Candidate[Any]) -> dict[str, Any]:
    """What a candidate sets of a target's options."""
    return {**candidate.settings.model_dump(), **candidate.extra}


def _recorded(result: FallbackResult[Attempt], refused: Sequence[Attempt], target: Target) -> Attempt:
    """The attempt that is kept, with the record of all.

    Raises:
        InputError: no candidate gave an engine.
    """
    kept = result.best.artifact if result.best else refused[0] if refused else None
    if kept is None:
        raise InputError(f"no INT8 engine could be built for {target.name}: {result.attempts[-1].skipped}")
    kept.built.record.fallback = FallbackRecord.model_validate(result.as_dict())
    return kept
