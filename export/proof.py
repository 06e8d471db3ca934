"""The proof that a bundle takes along: golden samples, how far its engine agreed on them here, and how fast it was."""

from __future__ import annotations

import shutil

from fptk.benchmarks.quick import LatencyFigures, time_quickly
from fptk.core.agreement import compare_labels
from fptk.core.errors import TargetUnavailableError
from fptk.export.attempt import Attempt, open_engine
from fptk.export.golden import GoldenRecord, label_golden, limits_of
from fptk.export.inputs import ExportInputs


def prove(inputs: ExportInputs, done: Attempt) -> tuple[GoldenRecord, LatencyFigures | None]:
    """Put the golden samples into an attempt's folder, label them with its engine, and time an accepted one.

    Returns:
        What the manifest records of the samples, and the latency; ``None`` for an engine that this host cannot run, and
        for one that was refused.

    Raises:
        InputError: evaluation images are asked for as samples, and there are none or too few.
    """
    golden, threads = inputs.golden, inputs.plan.threads
    shutil.copytree(inputs.golden_folder, done.folder / inputs.golden_folder.name)
    record = GoldenRecord(samples=len(golden.images), source=golden.source, license=golden.license)
    if not (done.built.files or done.built.record.simulation):
        return record, None
    try:
        session, simulated_by = open_engine(inputs, done)
    except TargetUnavailableError:  # built for another device
        return record, None
    latency = None
    with session:
        labels, photograph_labels = label_golden(session, golden)
        if simulated_by is None and (done.gate is None or done.gate.passed):
            latency = time_quickly(session, golden.images[0], threads=threads, listener=inputs.listener)
    agreement = compare_labels(labels, [*golden.labels], golden.classes)
    photograph = float((photograph_labels == golden.photograph_labels).mean())
    proven = {
        "agreement": agreement,
        "photograph": photograph,
        "simulated_by": simulated_by,
        "limits": limits_of(agreement, photograph, done.processors, done.precision),
    }
    return record.model_copy(update=proven), latency
