"""The prepared folder: faces of several roots arrive as a data set, with every label as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from fptk.core.errors import InputError
from fptk.core.progress import Listener
from fptk.data import FolderDataset
from fptk.data.splits import ConcatDataset, limit, open_training
from fptk.data.synthetic.faces import SyntheticFaces
from fptk.data.writer import write_dataset
from fptk.workflows import gpu_packs, gpu_wheels
from fptk.workflows.gpu_faces import write_faces
from fptk.workflows.gpu_packs import Packing, describe, pack
from fptk.workflows.gpu_parts import receive, write_parts
from fptk.workflows.gpu_wheels import fetch_wheels


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Two training splits whose names clash, 3 faces each, and a root with 5 validation faces."""
    write_dataset(SyntheticFaces(3, (64, 64)), tmp_path / "one", "train")
    other = write_dataset(SyntheticFaces(3, (64, 64), start=3), tmp_path / "two", "train")
    for number, path in enumerate(sorted((tmp_path / "one" / "train" / "images").iterdir())):
        for kind in ("images", "masks"):
            twin = sorted((other / kind).iterdir())[number]
            twin.rename(twin.with_stem(path.stem))
    write_dataset(SyntheticFaces(5, (64, 64), start=6), tmp_path / "three", "val")
    return tmp_path / "one" / "train", other, tmp_path / "three"


def test_faces_make_the_round_trip(roots: tuple[Path, Path, Path], tmp_path: Path) -> None:
    train = ConcatDataset([FolderDataset(roots[0]), FolderDataset(roots[1])])
    stage = tmp_path / "stage"
    keys = write_faces(train, stage / "faces" / "train")
    val = limit(FolderDataset(roots[2] / "val"), 3)
    write_faces(val, stage / "faces" / "val")
    names = sorted(path.relative_to(stage).as_posix() for path in stage.rglob("*.webp"))
    store = tmp_path / "store"
    parts = write_parts(stage, names, tmp_path / "packs", 64 * 1024)
    for part in parts:
        receive(part, store)
    arrived, chosen = open_training([store / "faces"])
    assert (len(arrived), len(chosen)) == (6, 3)
    assert len(set(keys)) == 6
    for found, sent in ((arrived, train), (chosen, val)):
        expected = {sent[index].key: sent[index] for index in range(len(sent))}
        for index in range(len(found)):
            sample = found[index]
            assert np.array_equal(sample.mask, expected[sample.key].mask)
            assert np.abs(sample.image.astype(int) - expected[sample.key].image).mean() < 8


def test_encoding_goes_on_where_it_stopped(roots: tuple[Path, Path, Path], tmp_path: Path) -> None:
    train = FolderDataset(roots[0])
    folder = tmp_path / "faces"
    first, *_ = write_faces(train, folder)
    kept = folder / "images" / f"{first}.webp"
    kept.write_bytes(b"as it was")
    (folder / "masks" / f"{train.key(1)}.webp").unlink()
    (folder / "images" / f"{train.key(1)}.webp").write_bytes(b"killed here")
    (folder / "images" / "stale.webp").touch()
    write_faces(train, folder)
    assert kept.read_bytes() == b"as it was"
    kept.unlink()
    (folder / "masks" / f"{first}.webp").unlink()
    write_faces(train, folder)
    arrived = FolderDataset(folder)
    assert [arrived.key(index) for index in range(len(arrived))] == [train.key(index) for index in range(3)]
    assert all(np.array_equal(arrived[index].mask, train[index].mask) for index in range(3))


def test_a_validation_face_among_the_training_faces_is_refused(
    roots: tuple[Path, Path, Path], checkpoint: Path, tmp_path: Path
) -> None:
    packing = Packing(data=roots[:2], val=roots[1], out=tmp_path / "packs", weights=checkpoint, wheels=False)
    with pytest.raises(InputError, match="is also validation face"):
        pack(packing)


@pytest.mark.slow
def test_the_whole_folder(
    roots: tuple[Path, Path, Path], checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packing = Packing(
        data=roots[:2],
        val=roots[2],
        out=tmp_path / "packs",
        weights=checkpoint,
        part_bytes=4 * 2**20,
        val_faces=2,
        calibration_images=2,
        wheels=False,
    )
    parts = pack(packing)
    assert all((part / "files.tar").stat().st_size <= packing.part_bytes for part in parts)
    lines = list(describe(parts))
    assert len(lines) == len(parts) > 1
    assert "weights" in lines[0]
    assert "faces/train/images 6" in lines[-1]
    store = tmp_path / "store"
    for part in parts:
        receive(part, store)
    there = {path.relative_to(store).as_posix() for path in store.rglob("*") if path.is_file()}
    graphs = {f"onnx/deploy-{precision}.onnx" for precision in ("fp32", "fp16", "int8")}
    assert graphs | {"weights/start.safetensors", "weights/start.json", "validation.txt"} <= there
    _, val = open_training([store / "faces"])
    assert (store / "validation.txt").read_text().split() == [val[index].key for index in range(2)]

    import onnx

    model = onnx.load(str(store / "onnx" / "deploy-int8.onnx"))
    assert "QuantizeLinear" in {node.op_type for node in model.graph.node}

    monkeypatch.setattr("fptk.workflows.gpu_packs._export", lambda *_: pytest.fail("the graphs were there already"))
    assert pack(packing) == parts


def test_the_command_line_packs_and_prints_the_order(
    roots: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Packing] = []

    def fake(packing: Packing, listener: Listener) -> list[Path]:
        given.append(packing)
        names = [path.relative_to(roots[0]).as_posix() for path in sorted(roots[0].rglob("*.*g"))]
        return write_parts(roots[0], names, packing.out, packing.part_bytes, listener)

    monkeypatch.setattr(gpu_packs, "pack", fake)
    folders = [
        "--data",
        str(roots[0]),
        "--data",
        str(roots[1]),
        "--val",
        str(roots[2]),
        "--out",
        str(tmp_path / "packs"),
    ]
    done = CliRunner().invoke(gpu_packs.command, [*folders, "--part-mib", "0.5", "--no-wheels"])
    assert done.exit_code == 0, done.output
    (packing,) = given
    assert (packing.data, packing.val, packing.out) == (roots[:2], roots[2], tmp_path / "packs")
    assert (packing.part_bytes, packing.wheels, packing.tensorrt_rtx) == (2**19, False, None)
    assert "part-1  " in done.output
    assert "images 3, masks 3" in done.output
    assert "training" in done.output


def test_a_mistake_on_the_command_line_is_one_line(
    roots: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = ["--data", str(tmp_path / "none"), "--val", str(roots[2]), "--out", str(tmp_path / "packs")]
    monkeypatch.setattr("sys.argv", ["gpu_packs", *folders])
    with pytest.raises(SystemExit) as stop:
        gpu_packs.main()
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("gpu_packs: data folder")


def fake_pip(monkeypatch: pytest.MonkeyPatch, answer: Callable[[list[str]], Any]) -> list[list[str]]:
    calls: list[list[str]] = []

    def run(command: list[str], **_: Any) -> Any:
        calls.append(command)
        return answer(command)

    monkeypatch.setattr(gpu_wheels.subprocess, "run", run)
    return calls


class Done:
    def __init__(self, code: int = 0, stderr: str = "") -> None:
        self.returncode, self.stderr = code, stderr


def test_wheels_are_fetched_once_in_the_versions_of_this_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pydantic

    def answer(command: list[str]) -> Done:
        (tmp_path / f"pydantic-{pydantic.VERSION}-py3-none-any.whl").write_bytes(b"wheel")
        return Done()

    calls = fake_pip(monkeypatch, answer)
    (tmp_path / "pydantic-1.0-py3-none-any.whl").write_bytes(b"old")
    wheels = fetch_wheels(["pydantic"], tmp_path)
    assert wheels == fetch_wheels(["pydantic"], tmp_path) == sorted(tmp_path.glob("*.whl"))
    assert len(calls) == 1
    assert calls[0][-1] == f"pydantic=={pydantic.VERSION}"
    assert calls[0][calls[0].index("--python-version") + 1] == "3.12"


def test_what_pip_cannot_fetch_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "WARNING: Retrying\nERROR: No matching distribution found for pydantic\n"
    fake_pip(monkeypatch, lambda _: Done(1, said))
    with pytest.raises(InputError, match=r"cannot fetch pydantic .*: No matching distribution found") as caught:
        fetch_wheels(["pydantic"], tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="'no-such-package' is not installed"):
        fetch_wheels(["no-such-package"], tmp_path)
