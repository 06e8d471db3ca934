"""``fptk check``: what an engine would get wrong in a graph, before anything is built."""

from __future__ import annotations

from pathlib import Path

import click

from fptk.cli.options import PathType


@click.command("check")
@click.argument("file", type=PathType)
@click.option(
    "--sm", multiple=True, type=int, help="ONNX files: compute capability to check for, e.g. 86 (repeatable)."
)
def command(file: Path, sm: tuple[int, ...]) -> None:
    """Check the graph in FILE for what an engine is known to get wrong.

    An ONNX file is checked for what TensorRT rejects or mis-scales, an OpenVINO .xml file for what OpenVINO computes
    wrongly on some processor. Each finding is one line. An error among them ends the command with exit code 2.
    """
    from fptk.core.console import out
    from fptk.core.errors import InputError
    from fptk.export.openvino.lint import lint_openvino, refuse_known_faults
    from fptk.export.tensorrt.lint import lint_tensorrt, refuse_errors

    is_openvino = file.suffix.lower() == ".xml"
    if is_openvino and sm:
        raise InputError(f"--sm is about TensorRT, and {file.name} is an OpenVINO file; leave it out")
    findings = lint_openvino(file) if is_openvino else lint_tensorrt(file, sm)
    for finding in findings:
        out.print(str(finding), soft_wrap=True)
    if is_openvino:
        refuse_known_faults(file.name, findings, InputError)
        out.print(f"{file}: nothing that OpenVINO is known to compute wrongly", soft_wrap=True)
    else:
        refuse_errors(file, findings)
        out.print(f"{file}: nothing that TensorRT rejects", soft_wrap=True)
