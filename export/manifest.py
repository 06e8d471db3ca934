"""The manifest of an attempt: everything that is known about an engine, measured or hashed."""

from __future__ import annotations

from datetime import UTC, datetime

from fptk.benchmarks.quick import LatencyFigures
from fptk.core.host import describe_host, tool_versions
from fptk.core.precision import Precision
from fptk.export.attempt import Attempt
from fptk.export.bundle import Bundle, TensorRecord, record_files
from fptk.export.golden import GoldenRecord
from fptk.export.inputs import ExportInputs
from fptk.export.macs import count_macs
from fptk.export.onnx import INPUT_NAME, OUTPUT_NAME


def manifest(
    inputs: ExportInputs, attempt: Attempt, golden: GoldenRecord, latency: LatencyFigures | None = None
) -> Bundle:
    """Describe what was built; the files in the attempt's folder are hashed as they are now.

    Args:
        inputs: what the engines of this export share.
        attempt: what was built and proven.
        golden: the samples in the attempt's folder.
        latency: of the engine on this host.
    """
    target, precision, built, spec, card = attempt.target, attempt.precision, attempt.built, inputs.spec, inputs.card
    batch = inputs.batch(target)
    if made := inputs.graph_record(target, precision):
        built.record.details["graph"] = made
    return Bundle(
        created=datetime.now(UTC),
        target=target.name,
        precision=precision,
        precision_hint=built.precision_hint,
        graph=inputs.plan.graph,
        model=card.model,
        options=card.options,
        parameters=card.num_parameters,
        macs=count_macs(inputs.onnx(target, precision)) if batch else None,
        classes=inputs.classes.names,
        palette=inputs.classes.palette,
        preprocess=spec,
        preprocess_sha256=spec.sha256,
        input=TensorRecord(name=INPUT_NAME, dtype="uint8", shape=(batch, *spec.size, 3)),
        output=TensorRecord(name=OUTPUT_NAME, dtype="uint8", shape=(batch, *spec.size)),
        engine=built.files[0].relative_to(attempt.folder).as_posix() if built.files else None,
        files=record_files(attempt.folder),
        unavailable=attempt.unavailable,
        checkpoint_sha256=inputs.checkpoint_sha256,
        calibration=inputs.calibration_set.manifest() if precision in target.calibrated else None,
        tools={**tool_versions(), **target.probe().versions},
        host=describe_host(),
        build=built.record,
        cpu=target.promise(precision, inputs.options(target)),
        kernel_faults=attempt.faults if precision is Precision.INT8 else (),
        processors=attempt.processors,
        evaluation=attempt.evaluation,
        gate=attempt.gate,
        golden=golden,
        latency=latency,
        command=inputs.plan.command,
    )
