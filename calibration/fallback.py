"""Fallback: quantizer settings, tried one after another until an engine passes the gate."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from fptk.calibration.gate import Verdict
from fptk.calibration.onnx_quantizer import OnnxQuantSettings
from fptk.calibration.openvino_quantizer import OpenVinoQuantSettings
from fptk.calibration.sensitivity import Sensitivity

S = TypeVar("S", bound=BaseModel)
A = TypeVar("A")


@dataclasses.dataclass(frozen=True)
class Candidate(Generic[S]):
    """One thing to try."""

    name: str
    settings: S
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Options of the target beside its quantizer's settings."""


class CandidateSkippedError(Exception):
    """Raised by the builder where a candidate does not apply to this network; the message says why."""


@dataclasses.dataclass(frozen=True)
class Attempt(Generic[A]):
    """What became of one candidate."""

    candidate: str
    settings: dict[str, Any]
    verdict: Verdict | None
    """``None`` where the candidate was skipped."""
    skipped: str
    """Why it was skipped; empty where it was built."""
    seconds: float
    artifact: A | None

    @property
    def passed(self) -> bool:
        return self.verdict is not None and self.verdict.passed

    def as_dict(self) -> dict[str, Any]:
        """JSON values of everything but the artifact."""
        return {
            "rung": self.candidate,
            "settings": self.settings,
            "passed": self.passed,
            "skipped": self.skipped,
            "seconds": round(self.seconds, 3),
            "verdict": self.verdict.model_dump(mode="json") if self.verdict else None,
        }


@dataclasses.dataclass(frozen=True)
class FallbackResult(Generic[A]):
    """Every candidate that was tried, in order."""

    attempts: tuple[Attempt[A], ...]

    @property
    def winner(self) -> Attempt[A] | None:
        """The attempt that passed; only the last one can."""
        return self.attempts[-1] if self.attempts and self.attempts[-1].passed else None

    @property
    def best(self) -> Attempt[A] | None:
        """The winner, or else the built attempt that exceeds the gate's limits by least."""
        built = [attempt for attempt in self.attempts if attempt.verdict is not None]
        return self.winner or min(built, key=lambda attempt: _excess(attempt.verdict), default=None)

    def as_dict(self) -> dict[str, Any]:
        """What a bundle keeps: the figures of every candidate, and the name of the one that passed."""
        return {
            "passed": self.winner.candidate if self.winner else None,
            "attempts": [attempt.as_dict() for attempt in self.attempts],
        }


def try_in_order(
    candidates: Iterable[Candidate[S]],
    build: Callable[[Candidate[S]], tuple[A, Verdict]],
    on_attempt: Callable[[Attempt[A]], None] | None = None,
) -> FallbackResult[A]:
    """Try the candidates in order and stop at the first whose engine passes.

    Args:
        candidates: what to try; a generator may measure sensitivities only when it gets that far.
        build: builds the engine of a candidate, scores it as built and asks the gate.
        on_attempt: called with what became of each candidate, as soon as it is known.

    Raises:
        Whatever ``build`` raises, except :class:`CandidateSkippedError`, which is recorded.
    """
    attempts: list[Attempt[A]] = []
    for candidate in candidates:
        started = time.monotonic()
        artifact, verdict, skipped = None, None, ""
        try:
            artifact, verdict = build(candidate)
        except CandidateSkippedError as error:
            skipped = str(error)
        settings = {**candidate.settings.model_dump(mode="json"), **candidate.extra}
        attempts.append(Attempt(candidate.name, settings, verdict, skipped, time.monotonic() - started, artifact))
        if on_attempt:
            on_attempt(attempts[-1])
        if attempts[-1].passed:
            break
    return FallbackResult(tuple(attempts))


def onnx_candidates(
    first: OnnxQuantSettings,
    sensitivity: Callable[[], Sensitivity] | None = None,
    *,
    saturates: bool = False,
) -> Iterator[Candidate[OnnxQuantSettings]]:
    """Candidates for ONNX files: the settings asked for, then ever gentler ones.

    Args:
        first: the settings to try first; the others keep its recipe.
        sensitivity: measures the ranking; called only when nothing before it passed. ``None`` ends there.
        saturates: whether sums of full-range int8 products may saturate where the engine runs. Where they cannot,
            7-bit weights only lose and are not tried.
    """
    yield Candidate(first.name, first)
    base = first
    if saturates and not first.reduce_range:
        seven_bits = _changed(base, "7-bit weights", reduce_range=True)
        base = seven_bits.settings
        yield seven_bits
    if base.range_estimator != "percentile":
        yield _changed(base, "percentile ranges", range_estimator="percentile")
    if base.range_estimator != "mse":
        yield _changed(base, "least-squares ranges", range_estimator="mse")
    if not base.smooth_quant:
        yield _changed(base, "SmoothQuant", smooth_quant=True)
    if sensitivity is not None:
        ranking = sensitivity()
        for count in _growing(len(ranking.rows)):
            nodes = tuple(dict.fromkeys((*base.float_nodes, *ranking.nodes_of_worst(count))))
            yield _changed(base, f"{count} most sensitive groups in float", float_nodes=nodes)


def openvino_candidates(
    first: OpenVinoQuantSettings,
    sensitivity: Callable[[], Sensitivity] | None = None,
) -> Iterator[Candidate[OpenVinoQuantSettings]]:
    """Candidates for OpenVINO: the settings asked for, overflow-safe ones, gentler ones, and NNCF's accuracy control.

    Args:
        first: the settings to try first.
        sensitivity: ranking on the ONNX file that the OpenVINO model was converted from (layers keep their names; see
            ``openvino_layer_names``); called only when nothing before it passed. ``None`` leaves those candidates out.
    """
    yield Candidate(first.name, first)
    safe = _changed(first, "mixed, overflow fix", preset="mixed", overflow_fix="enable")
    base = safe.settings
    if base.model_copy(update={"name": first.name}) != first:
        yield safe
    if not first.transformer:
        yield _changed(base, "transformer", transformer=True)
    if first.range_estimator != "percentile":
        yield _changed(base, "percentile ranges", range_estimator="percentile")
    if first.smooth_quant_alpha is None:
        yield _changed(base, "SmoothQuant", transformer=True, smooth_quant_alpha=0.5)
    if sensitivity is not None:
        ranking = sensitivity()
        for count in _growing(len(ranking.rows)):
            names = tuple(dict.fromkeys((*base.ignored_names, *ranking.nodes_of_worst(count))))
            yield _changed(base, f"{count} most sensitive groups in float", ignored_names=names)
    yield dataclasses.replace(_changed(base, "accuracy control"), extra={"accuracy_control": True})


def _changed(base: S, name: str, **changes: Any) -> Candidate[S]:
    """``base`` under another name, with other values in some fields."""
    return Candidate(name, base.model_copy(update={"name": name, **changes}))


def _growing(groups: int) -> Iterator[int]:
    """1, 2, 4, 8 … up to half of the groups: with more in float there is little int8 left to win by."""
    count = 1
    while count <= max(1, groups // 2):
        yield count
        count *= 2


def _excess(verdict: Verdict | None) -> float:
    """By how many points the worst figure exceeds what the gate allows."""
    if verdict is None:
        return float("inf")
    drops = [row.drop - verdict.policy.max_class_drop for row in verdict.classes if row.judged and row.drop is not None]
    return max([verdict.miou_drop - verdict.policy.max_miou_drop, *drops])
