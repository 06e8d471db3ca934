"""The folder that ``gpu_check`` needs on a bare, offline machine, in parts of a given size.

``python -m fptk.workflows.gpu_packs --data DIR --val DIR --out build/gpu-packs`` prepares it.
"""

from __future__ import annotations

import random
import shutil
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from fptk.calibration.calibration_set import CalibrationSet, select_calibration_set
from fptk.calibration.images import CalibrationStream
from fptk.core.console import TERMINAL, log, out
from fptk.core.dataset import FaceParsingDataset
from fptk.core.errors import FptkError, InputError
from fptk.core.files import kind_of, make_folder, read_json, sha256_file, write_json, write_text
from fptk.core.precision import Precision
from fptk.core.progress import SILENT, Listener, track
from fptk.data.splits import ConcatDataset, find_duplicates, limit, open_calibration, open_evaluation
from fptk.runs.source import shipped_weights
from fptk.workflows.gpu_faces import write_faces
from fptk.workflows.gpu_parts import SLICE, TAR, plan_parts, write_parts
from fptk.workflows.gpu_plan import planned
from fptk.workflows.gpu_wheels import NEEDED, TENSORRT_RTX, fetch_wheels

MIB = 2**20
VALIDATION_LIST = "validation.txt"
"""Names of the validation faces, one a line."""

GRAPHS = (Precision.FP32, Precision.FP16, Precision.INT8)

RTX_PARTS = 2
"""Parts up to which TensorRT-RTX's wheels are packed unasked."""


@dataclass(frozen=True)
class Packing:
    """What to pack.

    Attributes:
        data: folders with training faces.
        val: folder with validation faces.
        out: the parts go here, and the files that they're made of into ``out/stage``.
        weights: checkpoint that the training starts from.
        part_bytes: size of a part.
        faces: training faces, evenly spaced over all; None for all.
        val_faces: validation faces, evenly spaced.
        calibration_images: training faces that the INT8 graph is calibrated on.
        wheels: fetch wheels.
        tensorrt_rtx: pack the wheels of TensorRT-RTX; None where they fill at most two parts.
    """

    data: tuple[Path, ...]
    val: Path
    out: Path
    weights: Path
    part_bytes: int = 45 * MIB
    faces: int | None = 4000
    val_faces: int = 130
    calibration_images: int = 64
    wheels: bool = True
    tensorrt_rtx: bool | None = None

    @property
    def stage(self) -> Path:
        """Folder of the files that the parts are made of."""
        return self.out / "stage"


def pack(packing: Packing, listener: Listener = SILENT) -> list[Path]:
    """Prepare the files, as far as they aren't there yet, and write the parts.

    Returns:
        The folders of the parts, in the order in which to send them.

    Raises:
        InputError: faces, weights or packages cannot be used, or a validation face is a training face too.
    """
    stage = make_folder(packing.stage)
    train, val = _faces(packing, listener)
    small: list[Path] = []
    if packing.wheels:
        small += fetch_wheels(NEEDED, stage / "wheels", listener)
    small += _weights(packing.weights, stage / "weights")
    small += write_graphs(packing.weights, train, stage / "onnx", packing.calibration_images, listener)
    val_keys = write_faces(val, stage / "faces" / "val", listener)
    write_text(stage / VALIDATION_LIST, "".join(f"{key}\n" for key in val_keys))
    small += [stage / VALIDATION_LIST, *_files(stage, "val", val_keys)]
    keys = write_faces(train, stage / "faces" / "train", listener)
    # Whichever parts arrive, their faces are a fair sample of all.
    random.Random(0).shuffle(keys)
    last = _tensorrt_rtx(packing, listener)
    names = [path.relative_to(stage).as_posix() for path in (*small, *_files(stage, "train", keys), *last)]
    return write_parts(stage, names, packing.out, packing.part_bytes, listener)


def _faces(packing: Packing, listener: Listener) -> tuple[FaceParsingDataset, FaceParsingDataset]:
    """Training and validation faces; the validation ones are those that ``data.val_images`` would choose."""
    sets = [open_calibration(folder) for folder in packing.data]
    train = limit(sets[0] if len(sets) == 1 else ConcatDataset(sets), packing.faces)
    val = limit(open_evaluation(packing.val), packing.val_faces)
    for key, twin in find_duplicates(train, val, listener):
        raise InputError(f"training face '{key}' is also validation face '{twin}'; choose another --val")
    return train, val


def _files(stage: Path, split: str, keys: Sequence[str]) -> list[Path]:
    """Image and mask of each face, side by side."""
    folder = stage / "faces" / split
    return [folder / kind / f"{key}.webp" for key in keys for kind in ("images", "masks")]


def _weights(weights: Path, folder: Path) -> list[Path]:
    """The start weights with their card."""
    make_folder(folder)
    copies = [folder / f"start{suffix}" for suffix in (".safetensors", ".json")]
    for copy in copies:
        source = weights.with_suffix(copy.suffix)
        if kind_of(source, "weights") != "file":
            raise InputError(f"weights {source} are not there; give a checkpoint with its card beside it")
        shutil.copyfile(source, copy)
    return copies


def _tensorrt_rtx(packing: Packing, listener: Listener) -> list[Path]:
    """TensorRT-RTX's wheels, where they're wanted; a network without them can still give the faces away."""
    if not packing.wheels or packing.tensorrt_rtx is False:
        return []
    wheels = fetch_wheels(TENSORRT_RTX, packing.stage / "wheels", listener)
    size = sum(wheel.stat().st_size for wheel in wheels)
    parts = len(plan_parts([(wheel.name, wheel.stat().st_size) for wheel in wheels], packing.part_bytes))
    if packing.tensorrt_rtx is None and parts > RTX_PARTS:
        listener.say(f"TensorRT-RTX: {size / MIB:.0f} MiB would fill {parts} parts; left out without --tensorrt-rtx")
        return []
    return wheels


def write_graphs(
    weights: Path, train: FaceParsingDataset, folder: Path, count: int, listener: Listener = SILENT
) -> list[Path]:
    """Write the deploy form for TensorRT as ONNX: fp32, fp16, and INT8 with simulated quantization.

    They are kept where they were made of the same weights and calibration images.

    Args:
        weights: checkpoint.
        train: faces to calibrate on.
        folder: where the files go.
        count: calibration images.
        listener: told of the work.

    Returns:
        The files, their card ``graphs.json`` last.

    Raises:
        InputError: the weights cannot be used, or the export packages are missing.
    """
    make_folder(folder)
    chosen = select_calibration_set(train, count, listener=listener)
    made_of = {"weights": sha256_file(weights), "calibration": chosen.sha256, "calibration images": len(chosen)}
    paths = [folder / f"deploy-{precision}.onnx" for precision in GRAPHS]
    card = folder / "graphs.json"
    if not (card.is_file() and all(path.is_file() for path in paths) and read_json(card, "card") == made_of):
        _export(weights, train, chosen, dict(zip(GRAPHS, paths, strict=True)), listener)
        write_json(card, made_of)
    return [*paths, card]


def _export(
    weights: Path,
    train: FaceParsingDataset,
    chosen: CalibrationSet,
    paths: Mapping[Precision, Path],
    listener: Listener,
) -> None:
    from fptk.export.onnx import export_onnx, serving_module
    from fptk.export.targets.base import BuildRequest
    from fptk.export.targets.tensorrt import TensorRTTarget, TrtOptions
    from fptk.export.tensorrt.precision import write_precision_onnx
    from fptk.models import load_checkpoint

    network, model = load_checkpoint(weights)
    spec, options = model.preprocess, TrtOptions()
    stream = chosen.stream(train, spec)
    with tempfile.TemporaryDirectory(prefix="fptk-") as scratch:
        calibration = CalibrationStream(
            images=lambda: track(listener, stream(), "calibrating", total=len(chosen)),
            labelled=tuple,
            sha256=chosen.sha256,
            preprocess_sha256=spec.sha256,
            cache=Path(scratch),
        )
        module = serving_module(network, spec, "deploy", TensorRTTarget.form)
        source = export_onnx(module, Path(scratch) / "source.onnx", spec, metadata={"fptk.model": model.model})
        for precision, path in paths.items():
            listener.say(f"writing {path.name}")
            request = BuildRequest(source, precision, path.parent, spec, calibration, options)
            write_precision_onnx(request, options.builder, options.quantizer, path)


def describe(parts: Sequence[Path]) -> Iterator[str]:
    """One line a part: its size, and how many files of which folder it holds."""
    for part in parts:
        with tarfile.open(part / TAR) as tar:
            kinds = Counter(name.rpartition(SLICE)[0] or name for name in tar.getnames())
        folders = Counter("/".join(name.split("/")[:-1]) or name for name in kinds)
        held = ", ".join(f"{name} {count}" for name, count in folders.items())
        yield f"{part}  {(part / TAR).stat().st_size / MIB:.1f} MiB  {held}"


@click.command()
@click.option("--data", multiple=True, required=True, type=click.Path(path_type=Path), help="Training faces.")
@click.option("--val", required=True, type=click.Path(path_type=Path), help="Validation faces.")
@click.option("--out", "folder", default="build/gpu-packs", type=click.Path(path_type=Path), show_default=True)
@click.option("--part-mib", default=45.0, type=click.FloatRange(min=0.1), show_default=True, help="Size of a part.")
@click.option("--faces", default=4000, type=click.IntRange(min=1), show_default=True, help="Training faces.")
@click.option("--val-faces", default=130, type=click.IntRange(min=1), show_default=True, help="Validation faces.")
@click.option("--calibration-images", default=64, type=click.IntRange(min=1), show_default=True)
@click.option("--weights", type=click.Path(path_type=Path), help="Start weights.  [default: the package's]")
@click.option("--wheels/--no-wheels", default=True, help="Fetch the packages that the other machine lacks.")
@click.option("--tensorrt-rtx/--no-tensorrt-rtx", default=None, help="Its wheels.  [default: if at most 2 parts]")
@click.option("--minutes", default=9.5, type=click.FloatRange(min=1), show_default=True, help="Time of the check.")
def command(
    data: tuple[Path, ...], folder: Path, weights: Path | None, part_mib: float, minutes: float, **more: Any
) -> None:
    """Prepare the folder for gpu_check, and print which parts to send in which order."""
    weights = weights or shipped_weights()
    if weights is None:
        raise InputError("this fptk holds no weights; give some with --weights")
    parts = pack(Packing(data=data, out=folder, weights=weights, part_bytes=int(part_mib * MIB), **more), TERMINAL)
    out.print("parts, in the order in which to send them:")
    for line in describe(parts):
        out.print(f"  {line}", soft_wrap=True)
    out.print(f"at most so many seconds per stage, of {minutes:g} minutes:")
    for name, seconds in planned(minutes):
        out.print(f"  {seconds:4d}  {name}")


def main() -> None:
    """Run the command line; a user's mistake is one line."""
    try:
        command()
    except FptkError as error:
        log.print(f"gpu_packs: {error}", soft_wrap=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
