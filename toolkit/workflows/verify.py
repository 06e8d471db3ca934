"""``fptk verify``: a bundle proves on a device that it is right, or says why not.

The checks go from what cannot hurt to what runs the engine: manifest, files, runtime, processor, and then the engine on
the golden samples, on the photograph, against the clock, and with images on the whole gate. Nothing of a bundle is
loaded before its files are known to be those of its manifest. Latency never refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from fptk.benchmarks.quick import LatencyFigures, time_quickly
from fptk.calibration.gate import Decision
from fptk.core.agreement import LabelAgreement, compare_labels
from fptk.core.cpu import cpu_model, family_under, promised_families
from fptk.core.dataset import FaceParsingDataset
from fptk.core.errors import FptkError, GateRefusedError, InputError, TargetUnavailableError
from fptk.core.evaluation import evaluate
from fptk.core.files import read_json, sha256_file
from fptk.core.host import usable_cores
from fptk.core.precision import Precision
from fptk.core.progress import SILENT, Listener
from fptk.core.session import Session
from fptk.data import open_evaluation
from fptk.data.identity import check_files
from fptk.data.splits import limit
from fptk.export.bundle import MANIFEST, Bundle, checked_bundle, find_bundles, load_engine, read_bundle
from fptk.export.golden import GoldenRecord, label_golden, lowest_class, read_golden, shortfalls
from fptk.export.targets.base import Target
from fptk.export.targets.registry import get_target
from fptk.models.checkpoint import first_fault
from fptk.runs.folder import RunFolder
from fptk.workflows.verdicts import Scored, evaluate_gates

T = TypeVar("T")
Word = Literal["pass", "refused", "damaged", "cannot run"]

EXIT_CODES: dict[Word, int] = {
    "refused": GateRefusedError.exit_code,
    "damaged": InputError.exit_code,
    "cannot run": TargetUnavailableError.exit_code,
    "pass": 0,
}
"""Exit code of each verdict, the gravest first: of several bundles the first that occurs decides."""


class Check(BaseModel):
    """One thing that was looked at."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["manifest", "files", "runtime", "processor", "engine", "golden", "photograph", "latency", "gate"]
    outcome: Literal["ok", "failed", "note"]
    """``note``: worth knowing, and no reason to refuse."""
    text: str
    """What was found, in one line."""


class Verification(BaseModel):
    """The verdict on one bundle, and what it stands on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: str
    """Where the bundle lay."""
    label: str = ""
    """What the engine is called, e.g. ``onnx int8``; empty where the manifest cannot be read."""
    manifest_sha256: str | None = None
    """Hash of the manifest: the same for copies of one bundle."""
    verdict: Word
    reason: str
    """Why, in one line."""
    checks: tuple[Check, ...]
    """In the order in which they were made; the last one failed where nothing could follow it."""
    agreement: LabelAgreement | None = None
    """On the golden samples, with the FP32 reference."""
    least_agreement: float | None = None
    """Share of their pixels below which the engine is refused, 0-1."""
    lowest_class: tuple[str, float] | None = None
    """The judged class that agrees least, and its IoU with the reference, 0-1."""
    photograph: float | None = None
    """Share of the photograph's pixels labelled as by the reference, 0-1."""
    latency: LatencyFigures | None = None
    """Here and now."""
    latency_at_export: LatencyFigures | None = None
    """On the exporting host."""
    exported_on: str = ""
    """Processor of the exporting host."""

    @property
    def passed(self) -> bool:
        """Whether the engine may be used here."""
        return self.verdict == "pass"

    @property
    def exit_code(self) -> int:
        """What the command ends with for this bundle alone."""
        return EXIT_CODES[self.verdict]


class VerifyReport(BaseModel):
    """What one machine says of several bundles: the file that ``fptk verify --json`` writes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    host: dict[str, str | int | tuple[str, ...]]
    """Processor, instruction sets, cores and system."""
    tools: dict[str, str]
    """Version of every package that computes."""
    bundles: tuple[Verification, ...]

    @property
    def exit_code(self) -> int:
        """4 where one is refused, else 2 where one is damaged, else 3 where one cannot run here, else 0."""
        found = {each.verdict for each in self.bundles}
        return next((code for word, code in EXIT_CODES.items() if word in found), 0)


@dataclass(frozen=True)
class VerifyPlan:
    """How to verify."""

    data: Path | None = None
    """Evaluation data: run the whole gate on it too."""
    images: int | None = None
    """Of the data so many, evenly spaced; ``None`` is all."""
    threads: int | None = None
    """CPU threads of one inference; ``None`` is the engine's default."""

    @cached_property
    def dataset(self) -> FaceParsingDataset | None:
        """The evaluation images.

        Raises:
            InputError: they cannot be read.
        """
        return limit(open_evaluation(self.data), self.images) if self.data else None

    def checked(self, listener: Listener = SILENT) -> Self:
        """The same, once every file of the evaluation images has been looked at.

        Raises:
            InputError: they cannot be read.
        """
        if self.dataset is not None:
            check_files(self.dataset, workers=usable_cores(), listener=listener)
        return self


def bundles_in(folders: Sequence[Path]) -> list[Path]:
    """The bundles in folders, runs and folders of bundles; what is none of them stays, to be found damaged."""
    return [
        each
        for folder in folders
        for each in find_bundles(folder) or find_bundles(RunFolder(folder).bundles) or [folder]
    ]


def verify_bundle(folder: Path, plan: VerifyPlan | None = None, listener: Listener = SILENT) -> Verification:
    """Verify one bundle. What is wrong with it is no error but its verdict."""
    return _Verifier(folder, plan or VerifyPlan(), listener).verify()


class _Verifier:
    """Goes through the checks of one bundle and keeps what they find."""

    def __init__(self, folder: Path, plan: VerifyPlan, listener: Listener) -> None:
        self.folder, self.plan, self.listener = folder, plan, listener
        self.bundle: Bundle | None = None
        self.checks: list[Check] = []
        self.refusals: list[str] = []
        self.figures: dict[str, Any] = {}

    def verify(self) -> Verification:
        """Make one check after the other until one cannot be made."""
        word: Word = "pass"
        obstacle = ""
        try:
            bundle = self._check("manifest", self._manifest)
            self._check("files", lambda: checked_bundle(self.folder))
            target = self._check("runtime", lambda: self._runtime(bundle))
            self._check("processor", lambda: self._processor(bundle, target))
            self._engine(bundle, target)
        except FptkError as error:
            word = next(each for each, code in EXIT_CODES.items() if code == error.exit_code)
            obstacle = str(error)
        if self.refusals:
            word = "refused"
        reason = "; ".join(filter(None, [*self.refusals, obstacle])) or self._summary()
        return Verification(
            folder=str(self.folder), verdict=word, reason=reason, checks=tuple(self.checks), **self._known()
        )

    def _check(self, name: str, check: Callable[[], T]) -> T:
        """Make a check that the following ones need."""
        try:
            result = check()
        except FptkError as error:
            self._note(name, "failed", str(error))
            raise
        if name not in {each.name for each in self.checks}:
            self._note(name, "ok", "")
        return result

    def _note(self, name: str, outcome: str, text: str) -> None:
        self.checks.append(Check.model_validate({"name": name, "outcome": outcome, "text": text}))

    def _refuse(self, name: str, text: str) -> None:
        """Go on to the other checks, and refuse the bundle at the end."""
        self._note(name, "failed", text)
        self.refusals.append(text)

    def _known(self) -> dict[str, Any]:
        """What the manifest and the checks told, whatever the verdict."""
        return self.figures if self.bundle is None else known_of(self.folder, self.bundle) | self.figures

    def _summary(self) -> str:
        return "; ".join(each.text for each in self.checks if each.name in ("golden", "gate") and each.outcome == "ok")

    def _manifest(self) -> Bundle:
        """The manifest of a bundle that holds an engine.

        Raises:
            GateRefusedError: the builder refused what it had built.
            TargetUnavailableError: the exporting host could not build the engine.
        """
        bundle = self.bundle = read_bundle(self.folder)
        if bundle.verdict is Decision.REFUSED:
            self._refuse("manifest", f"refused at its export: {bundle.gate.summary if bundle.gate else ''}")
        if bundle.engine is None:
            kind = TargetUnavailableError if bundle.unavailable else GateRefusedError
            raise kind(f"bundle {self.folder} holds no engine: {bundle.unavailable or 'it was refused at its export'}")
        if bundle.golden is not None and bundle.golden.limits is None:
            raise InputError(f"bundle {self.folder} has no golden limits; export it again on a host that runs it")
        if bundle.golden is None and self.plan.dataset is None:
            raise InputError(
                f"bundle {self.folder} holds no golden samples (schema version {bundle.schema_version}): export it "
                "again, or give --data DIR to score it"
            )
        return bundle

    def _runtime(self, bundle: Bundle) -> Target:
        """The target, which works here.

        Raises:
            TargetUnavailableError: a package or a device is missing.
        """
        target = get_target(bundle.target)
        probe = target.probe()
        if not probe.can_run:
            raise TargetUnavailableError(f"{probe.reason}; {probe.remedy}" if probe.remedy else probe.reason)
        skewed = _skew(bundle, probe.versions)
        if skewed:
            self._note("runtime", "note", f"other versions than at export: {skewed}")
        return target

    def _processor(self, bundle: Bundle, target: Target) -> None:
        """Whether the engine is promised to be right on this processor.

        Raises:
            TargetUnavailableError: it is not.
            GateRefusedError: its graph holds a form that is known to be computed wrongly here.
        """
        if not target.runs_on_cpu:
            return
        family = family_under(target.isa_variable)
        if bundle.precision is Precision.INT8 and bundle.cpu and family not in promised_families(bundle.cpu):
            raise TargetUnavailableError(
                f"{bundle.label} is promised for processors of kind {bundle.cpu}, and this one ({cpu_model()}) is of "
                f"kind {family}: export it with -o cpu={family} or -o cpu=any"
            )
        if bundle.engine is not None and bundle.engine.endswith(".xml"):
            from fptk.export.openvino.lint import lint_openvino, refuse_known_faults

            refuse_known_faults(bundle.engine, lint_openvino(self.folder / bundle.engine, (family,)))

    def _engine(self, bundle: Bundle, target: Target) -> None:
        """Load the engine and hold it against everything that there is.

        Raises:
            InputError: the engine or a golden sample is not usable.
            TargetUnavailableError: this host cannot run the engine.
        """
        golden = bundle.golden
        with self._check("engine", lambda: self._load(bundle, target)) as session:
            if golden is not None:
                self._check("golden", lambda: self._golden(bundle, golden, session))
            if self.plan.dataset is not None:
                self._check("gate", lambda: self._gate(bundle, session))

    def _load(self, bundle: Bundle, target: Target) -> Session:
        try:
            return load_engine(self.folder, bundle, threads=self.plan.threads)
        except InputError as error:
            skewed = _skew(bundle, target.probe().versions, older=True)
            if skewed:
                raise TargetUnavailableError(
                    f"{error}; this host is older than the bundle ({skewed}): update it"
                ) from error
            raise

    def _golden(self, bundle: Bundle, record: GoldenRecord, session: Session) -> None:
        """Agreement on the samples and the photograph, and the latency.

        Raises:
            InputError: a sample is damaged, or the engine gives no labels.
        """
        golden = read_golden(self.folder, record, bundle.preprocess, bundle.class_set)
        labels, photograph_labels = label_golden(session, golden)
        found = compare_labels(labels, [*golden.labels], golden.classes)
        photograph = float((photograph_labels == golden.photograph_labels).mean())
        limits = record.limits
        assert limits is not None
        self.figures |= {
            "agreement": found,
            "least_agreement": limits.pixels,
            "lowest_class": lowest_class(found, [*limits.classes]),
            "photograph": photograph,
        }
        for name, fault in shortfalls(found, photograph, limits):
            self._refuse(name, fault)
        outcomes = {each.name for each in self.checks}
        if "golden" not in outcomes:
            self._note("golden", "ok", f"{100 * found.pixels:.2f} % of the golden pixels as FP32")
        if "photograph" not in outcomes:
            self._note("photograph", "ok", f"{100 * photograph:.2f} % of the photograph as FP32")
        timed = time_quickly(session, golden.images[0], threads=self.plan.threads, listener=self.listener)
        self.figures["latency"] = timed
        self._note("latency", "note", latency_text(timed, bundle.latency))

    def _gate(self, bundle: Bundle, session: Session) -> None:
        """The whole gate on the given images."""
        dataset = self.plan.dataset
        assert dataset is not None
        scores = evaluate(session, dataset, listener=self.listener)
        (result,) = evaluate_gates([Scored(self.folder, bundle, scores)], dataset, listener=self.listener)
        if result.word is Decision.REFUSED:
            self._refuse("gate", result.reason)
        elif result.word is Decision.PASS:
            self._note("gate", "ok", result.reason)
        elif bundle.golden is None:
            raise InputError(f"bundle {self.folder} cannot be judged here: {result.reason}")
        else:
            self._note("gate", "note", f"not judged: {result.reason}")


def known_of(folder: Path, bundle: Bundle) -> dict[str, Any]:
    """What a manifest tells of a bundle, whatever the verdict: fields of a :class:`Verification`."""
    return {
        "label": bundle.label,
        "manifest_sha256": sha256_file(folder / MANIFEST),
        "latency_at_export": bundle.latency,
        "exported_on": str(bundle.host.get("cpu", "")),
    }


def _skew(bundle: Bundle, here: dict[str, str], *, older: bool = False) -> str:
    """The packages whose version differs from the exporting host's (``older``: is lower), in words."""
    pairs = [(name, bundle.tools.get(name), version) for name, version in here.items()]
    return ", ".join(
        f"{name} {version}, exported with {then}"
        for name, then, version in pairs
        if then is not None and then != version and (not older or _numbers(version) < _numbers(then))
    )


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version."""
    parts = version.partition("+")[0].partition("-")[0].split(".")
    return tuple(int(part) for part in parts if part.isdigit())


def latency_text(here: LatencyFigures, at_export: LatencyFigures | None) -> str:
    """The latency here beside the recorded one, in one line."""
    text = f"{here.p50_ms:.1f} ms a call"
    return f"{text}, {at_export.p50_ms:.1f} ms at export" if at_export else text


def read_reports(paths: Sequence[Path]) -> list[VerifyReport]:
    """Read files that ``fptk verify --json`` wrote.

    Raises:
        InputError: one is missing or no such file.
    """
    return [_read_report(path) for path in paths]


def _read_report(path: Path) -> VerifyReport:
    try:
        return VerifyReport.model_validate(read_json(path, "result of fptk verify"))
    except ValidationError as error:
        raise InputError(f"{path} is no result of `fptk verify --json`: {first_fault(error)}") from error


def same_bundles(reports: Sequence[VerifyReport]) -> Iterator[list[tuple[VerifyReport, Verification]]]:
    """The verdicts of several machines by bundle: those on copies of one bundle stand together, in the order given."""
    groups: dict[str, list[tuple[VerifyReport, Verification]]] = {}
    for report in reports:
        for each in report.bundles:
            groups.setdefault(each.manifest_sha256 or each.folder, []).append((report, each))
    yield from groups.values()
