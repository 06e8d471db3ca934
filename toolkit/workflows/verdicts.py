"""Verdicts on engines that were scored here: what each is held against, and what the gate then says.

A verdict belongs to a machine and to a measurement, so ``fptk bench`` and ``fptk eval`` judge what they have just
scored, by the gate policy of the bundle. The reference is the first of these that can be had:

1. the PyTorch FP32 scores in the manifest, if images and truth are those that the export was judged on;
2. PyTorch FP32, scored now on the same images, if torch and the bundle's own weights are here;
3. the best other FP32 engine of the same weights that was scored beside this one.

Without any of them an engine is not judged.

A reference alone does not prove that the labels are right. On wrong labels it scores as badly as the engine, and the
difference between the two is small. So the FP32 network must first reach a share of the mIoU that is on record for it
(:data:`OTHER_IMAGES_SHARE`, :data:`SAME_IMAGES_SHARE`). If it does not, every engine of it is refused.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fptk.calibration.gate import Decision, GatePolicy, Verdict, evaluate_gate
from fptk.core.dataset import FaceParsingDataset
from fptk.core.errors import InputError
from fptk.core.evaluation import evaluate
from fptk.core.files import sha256_file
from fptk.core.host import describe_host
from fptk.core.metrics import Scores
from fptk.core.precision import Precision
from fptk.core.progress import SILENT, Listener
from fptk.core.session import Session
from fptk.export.bundle import Bundle
from fptk.export.inputs import content_sha256
from fptk.export.plan import recipe_gate
from fptk.export.targets.registry import get_target, list_targets
from fptk.models.checkpoint import read_card
from fptk.runs.source import ModelSource, find_source, run_of, shipped_weights, torch_session
from fptk.workflows.sessions import network_session

OTHER_IMAGES_SHARE = 0.5
"""Share of its recorded mIoU that the FP32 network must reach on images of another set.

Honest sets differ, down to a few faces; masks of the wrong face, mirrored, or in another class order fall below."""

SAME_IMAGES_SHARE = 0.9
"""The same for the images of the record with other masks: a mask that was corrected moves the score by little."""

MANIFEST = "manifest"
"""Name of a reference whose scores stand in the bundle's manifest."""

PYTORCH = "pytorch fp32"
NETWORKS = (PYTORCH, "onnx file fp32")
"""Names of the sessions that are a network itself, and no engine."""

NO_REFERENCE = (
    "no FP32 reference here: these are not the images of its export, and neither torch with the bundle's weights nor "
    "another FP32 engine of them is at hand"
)


@dataclass(frozen=True)
class Scored:
    """A bundle, and what its engine has just scored."""

    folder: Path
    bundle: Bundle
    scores: Scores


@dataclass(frozen=True)
class Reference:
    """What an engine is held against."""

    name: str
    """:data:`MANIFEST`, one of :data:`NETWORKS`, or the label of an FP32 engine."""
    scores: Scores


def describe(reference: str) -> str:
    """The name of a reference in words."""
    if reference == MANIFEST:
        return "the manifest's FP32 scores of these very images"
    return f"{reference}, scored on the same images"


@dataclass(frozen=True)
class GateResult:
    """What is known about an engine's accuracy."""

    word: Decision
    reason: str
    """Why, in one line."""
    reference: Reference | None = None
    verdict: Verdict | None = None
    """The gate's figures; ``None`` where there was no reference."""

    @property
    def judged_classes(self) -> tuple[str, ...]:
        """Names, in class order."""
        return tuple(row.name for row in self.verdict.classes if row.judged) if self.verdict else ()

    @property
    def unjudged_classes(self) -> tuple[str, ...]:
        """Names of the classes that the images show nothing or too little of."""
        return self.verdict.unjudged_classes if self.verdict else ()


def evaluate_gates(
    scored: Sequence[Scored],
    dataset: FaceParsingDataset,
    given: ModelSource | None = None,
    listener: Listener = SILENT,
) -> list[GateResult]:
    """Judge engines by what they have just scored; scores PyTorch FP32 where that is the reference.

    Args:
        scored: engines, all scored on ``dataset``.
        dataset: the evaluation images.
        given: where to look for the bundles' weights first, before their runs and the package.
        listener: hears of the reference being scored.

    Returns:
        One result per engine, in order.

    Raises:
        InputError: an image cannot be read.
    """
    gate = _Gate(scored, dataset, given, listener)
    return [gate.evaluate(engine) for engine in scored]


def carried(bundle: Bundle) -> GateResult:
    """What a bundle brings along from its export."""
    return GateResult(bundle.verdict, bundle.gate.summary if bundle.gate else "", verdict=bundle.judged)


def same_machine(bundle: Bundle) -> bool:
    """Whether the bundle was exported here: same processor, instruction sets, and version of the engine's packages."""
    here = describe_host()
    if bundle.target not in list_targets() or any(bundle.host.get(key) != here[key] for key in ("cpu", "isa")):
        return False
    versions = get_target(bundle.target).probe().versions
    return all(bundle.tools.get(package) == version for package, version in versions.items())


class _Gate:
    """Judges engines that were scored on one set of images; what several of them need is found once."""

    def __init__(
        self, scored: Sequence[Scored], dataset: FaceParsingDataset, given: ModelSource | None, listener: Listener
    ) -> None:
        self.scored, self.dataset, self.given, self.listener = scored, dataset, given, listener
        self.images_sha256 = content_sha256(dataset)
        self._sources: dict[str, ModelSource | None] = {}
        self._networks: dict[str, Reference | None] = {}

    def evaluate(self, engine: Scored) -> GateResult:
        """Find the reference, ask the gate, and refuse what the gate cannot see."""
        reference, objection = self._reference(engine)
        objection = objection or _standing_refusal(engine.bundle)
        if reference is None:
            return GateResult(Decision.REFUSED if objection else Decision.NOT_JUDGED, objection or NO_REFERENCE)
        verdict = evaluate_gate(reference.scores, engine.scores, self._policy(engine.bundle))
        if objection:
            return GateResult(Decision.REFUSED, objection, reference, verdict.refused_because(objection))
        word = Decision.PASS if verdict.passed else Decision.REFUSED
        return GateResult(word, verdict.summary, reference, verdict)

    def _reference(self, engine: Scored) -> tuple[Reference | None, str | None]:
        """What the engine is held against, and why nothing may pass on these labels if that is so."""
        recorded = engine.bundle.evaluation.reference if engine.bundle.evaluation else None
        if recorded and self._same_images(engine.bundle) and _same_truth(recorded, engine.scores):
            return Reference(MANIFEST, recorded), None
        network = self._network(engine.bundle)
        if network:
            return network, self._doubt(engine, network)
        floats = [each for each in self._siblings(engine) if each.bundle.precision is Precision.FP32]
        doubt = self._doubt(engine, _best(floats or [engine]))
        others = [each for each in floats if each is not engine]
        reference = _best(others) if others else None
        if reference and not doubt and self._doubt(engine, reference):
            reference = None  # that engine is wrong here, and this one is not
        return reference, doubt

    def _doubt(self, engine: Scored, witness: Reference) -> str | None:
        """Why these labels cannot be those that the network was trained on; ``None`` where they may be.

        Args:
            engine: whose network is meant.
            witness: the best FP32 scores of that network on these labels.
        """
        recorded = self._recorded_miou(engine)
        if recorded is None:
            return _worse_than_one_class(witness)
        least = SAME_IMAGES_SHARE if self._same_images(engine.bundle) else OTHER_IMAGES_SHARE
        if witness.scores.miou >= least * recorded:
            return None
        subject = "the FP32 reference itself" if witness.name in NETWORKS else witness.name
        return (
            f"{subject} scores mIoU {100 * witness.scores.miou:.2f} here, where {100 * recorded:.2f} is on record for "
            f"the FP32 network: {_suspects(witness)}"
        )

    def _recorded_miou(self, engine: Scored) -> float | None:
        """mIoU of the FP32 network at export, or else in its training; ``None`` where nothing tells."""
        for each in (engine, *self._siblings(engine)):
            if each.bundle.evaluation:
                return each.bundle.evaluation.reference.miou
        source = self._source(engine.bundle.checkpoint_sha256)
        return read_card(source.weights).metrics.get("miou") if source and not source.is_onnx else None

    def _siblings(self, engine: Scored) -> list[Scored]:
        """All engines of the same weights, this one among them."""
        return [each for each in self.scored if each.bundle.checkpoint_sha256 == engine.bundle.checkpoint_sha256]

    def _same_images(self, bundle: Bundle) -> bool:
        evaluation = bundle.evaluation
        return evaluation is not None and (evaluation.images, evaluation.content_sha256) == (
            len(self.dataset),
            self.images_sha256,
        )

    def _policy(self, bundle: Bundle) -> GatePolicy:
        """The bundle's own gate, or else that of its recipe, or else the default."""
        if bundle.judged:
            return bundle.judged.policy
        source = self._source(bundle.checkpoint_sha256)
        return recipe_gate(source.recipe.export) if source else GatePolicy()

    def _network(self, bundle: Bundle) -> Reference | None:
        """PyTorch FP32 on the same images; ``None`` where torch or the weights are not here."""
        sha256 = bundle.checkpoint_sha256
        if sha256 not in self._networks:
            source = self._source(sha256)
            session = _itself(source) if source else None
            if session:
                session.classes = bundle.class_set
            self._networks[sha256] = self._score(session) if session else None
        return self._networks[sha256]

    def _score(self, session: Session) -> Reference:
        with session:
            return Reference(session.name, evaluate(session, self.dataset, listener=self.listener))

    def _source(self, checkpoint_sha256: str) -> ModelSource | None:
        """Where these very weights lie, known by their hash."""
        if checkpoint_sha256 not in self._sources:
            shipped = shipped_weights()
            engines = [each for each in self.scored if each.bundle.checkpoint_sha256 == checkpoint_sha256]
            runs = [run_of(each.folder) for each in engines]
            places = [self.given, *runs, find_source(shipped) if shipped else None]
            found = [place for place in places if place and sha256_file(place.weights) == checkpoint_sha256]
            if self.given and self.given not in found:
                labels = ", ".join(each.bundle.label for each in engines)
                self.listener.say(f"{self.given.weights} are not the weights of {labels}: they are no reference there")
            self._sources[checkpoint_sha256] = found[0] if found else None
        return self._sources[checkpoint_sha256]


def _best(engines: Sequence[Scored]) -> Reference:
    """The engine with the highest mIoU."""
    best = max(engines, key=lambda each: each.scores.miou)
    return Reference(best.bundle.label, best.scores)


def _worse_than_one_class(witness: Reference) -> str | None:
    """The objection where nothing is on record: one answer for every pixel would be right more often."""
    pixels = {name: score.pixels for name, score in witness.scores.per_class.items()}
    name = max(pixels, key=lambda each: pixels[each])
    share = pixels[name] / max(1, sum(pixels.values()))
    if witness.scores.pixel_accuracy >= share:
        return None
    return (
        f"{witness.name} labels {witness.scores.pixel_accuracy:.1%} of the pixels right here, and '{name}' everywhere "
        f"would be right for {share:.1%}: {_suspects(witness)}"
    )


def _suspects(witness: Reference) -> str:
    """What may be wrong where a network does this badly."""
    labels = "these labels are not what the network was trained on, or the images are damaged or of another kind"
    return labels if witness.name in NETWORKS else f"{labels}, or this processor computes the engine wrongly"


def _standing_refusal(bundle: Bundle) -> str | None:
    """A refusal at export for a reason that no score shows: too few int8 layers, wrong on a promised processor."""
    verdict = bundle.judged
    if bundle.verdict is not Decision.REFUSED or (verdict and (verdict.miou_failed or verdict.failed_classes)):
        return None
    return f"refused at its export: {bundle.gate.summary.removeprefix('refused: ') if bundle.gate else ''}"


def _same_truth(recorded: Scores, scores: Scores) -> bool:
    """Whether each class has as many pixels; changed masks show there, the hash of the images tells nothing of them."""
    return {name: each.pixels for name, each in recorded.per_class.items()} == {
        name: each.pixels for name, each in scores.per_class.items()
    }


def _itself(source: ModelSource) -> Session | None:
    """The network, an ONNX file or in PyTorch; ``None`` where what it needs is not installed."""
    if source.is_onnx:
        return network_session(source)
    try:
        return torch_session(source.weights) if importlib.util.find_spec("torch") else None
    except ImportError:
        return None
    except InputError as error:
        if isinstance(error.__cause__, ImportError):
            return None
        raise
