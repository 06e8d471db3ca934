"""The command line: exit codes, one-line errors, and the small way from weights to bundles, table and pictures."""

from __future__ import annotations

import json
import pickle
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fptk.cli import COMMANDS
from fptk.core.version import __version__
from fptk.export.bundle import read_bundle

Command = Callable[..., "object"]


@pytest.fixture(scope="module")
def exported(checkpoint: Path, faces_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles of the untrained network for ONNX Runtime, FP32 and INT8."""
    folder = tmp_path_factory.mktemp("exported")
    command = [sys.executable, "-m", "fptk", "export", "--target", "onnx", str(checkpoint)]
    command += ["--data", str(faces_folder), "--calib-size", "4", "--no-gate", "--out", str(folder)]
    subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)
    return folder


def assert_one_line(finished: object, code: int, *words: str) -> None:
    """The error is one line on stderr, names what it is about, and comes without a traceback."""
    err = finished.err.strip()  # type: ignore[attr-defined]
    assert finished.code == code, err  # type: ignore[attr-defined]
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    assert last.startswith("fptk: ")
    for word in words:
        assert word in last


def test_version(fptk: Command) -> None:
    """The first line is fptk's own; the others are of what computes."""
    from importlib import metadata

    first, *others = fptk("--version").out.splitlines()
    assert first == f"fptk, version {__version__}"
    assert f"onnxruntime {metadata.version('onnxruntime')}" in others


def test_help_lists_every_command_and_starts_fast() -> None:
    """Processor time, not wall time: a busy machine must not decide."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "fptk", "--help"], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    for name in COMMANDS:
        assert f"\n  {name} " in done.stdout
    assert seconds < 0.5


def test_doctor_reports_every_target(fptk: Command) -> None:
    finished = fptk("doctor", "--json", "-")
    report = json.loads(finished.out)
    assert set(report["targets"]) >= {"onnx", "openvino", "trt", "trt-rtx"}
    for probe in report["targets"].values():
        assert (probe["can_build"] and probe["can_run"]) or (probe["reason"] and probe["remedy"])
    assert report["tools"]["fptk"] == __version__
    assert "isa" in report["host"]
    told = {each["what"]: (each["problem"], each["remedy"]) for each in report["problems"]}
    for name, probe in report["targets"].items():
        assert told.get(f"target {name}") == ((probe["reason"], probe["remedy"]) if probe["reason"] else None)


def test_doctor_says_which_command_brings_a_missing_package(fptk: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["numpy>=1", 'torch>=2.6; extra == "train"', "fptk-nowhere>=1; extra == 'train'", 'no-such; extra == "dev"']
    monkeypatch.setattr("importlib.metadata.requires", lambda name: lines)
    problems = json.loads(fptk("doctor", "--json", "-").out)["problems"]
    train = [each for each in problems if each["remedy"] == "pip install 'fptk[train]'"]
    assert [each["problem"] for each in train] == ["not installed: fptk-nowhere"]
    printed = fptk("doctor").out
    assert "not installed: fptk-nowhere" in printed
    assert "to mend: pip install 'fptk[train]'" in printed


def test_export_leaves_whole_bundles(exported: Path, checkpoint: Path) -> None:
    for precision in ("fp32", "int8"):
        folder = exported / "bundles" / f"onnx-{precision}"
        bundle = read_bundle(folder)
        assert bundle.parameters == 1_747_923
        assert bundle.evaluation is not None
        assert bundle.evaluation.images == 4
        assert bundle.verdict == "not judged"
        assert bundle.input.shape == (1, 64, 64, 3)
        assert bundle.golden is not None
        assert set(bundle.files) == {"model.onnx", "infer.py", *bundle.golden.files}
        assert bundle.size_bytes == (folder / "model.onnx").stat().st_size
        assert bundle.command.startswith("fptk export --target onnx")
    assert read_bundle(exported / "bundles" / "onnx-int8").calibration is not None
    assert not list(exported.glob(".*"))


def test_fp32_engine_agrees_with_pytorch(exported: Path) -> None:
    evaluation = read_bundle(exported / "bundles" / "onnx-fp32").evaluation
    assert evaluation is not None
    assert evaluation.engine.miou == pytest.approx(evaluation.reference.miou, abs=1e-3)


def test_bench_measures_and_writes_json(exported: Path, faces_folder: Path, fptk: Command, tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    bundles = sorted((exported / "bundles").iterdir())
    finished = fptk("bench", *bundles, "--data", faces_folder, "--rounds", 2, "--json", path)
    assert finished.code == 0, finished.err
    report = json.loads(path.read_text())
    assert {row["precision"] for row in report["rows"]} == {"fp32", "int8"}
    for row in report["rows"]:
        assert row["accuracy"] == "measured"
        assert row["fps"] == pytest.approx(1e3 / row["p50_ms"])
        assert row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"]
        assert row["size_bytes"] > 1_000_000
        assert row["graph"] == "deploy"
    assert "openvino" not in finished.out


def test_bench_heeds_the_bundles_that_it_is_given(exported: Path, fptk: Command) -> None:
    """Options that could mean the newest run's network instead do not."""
    bundle = exported / "bundles" / "onnx-int8"
    profile = fptk("profile", bundle)
    assert profile.code == 0, profile.err
    assert "onnx int8:" in profile.out
    assert "onnx fp32" not in profile.out
    for options, words in ((["--rewrites", "table.md"], "run or checkpoint"), (["--fps", "--original"], "--reference")):
        refused = fptk("bench", bundle, *options)
        assert refused.code == 2
        assert words in refused.err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--batch", 4), ("batches of 1", "4 calls")),
        (("--rewrites", "table.md", "--data", "faces"), ("--rewrites does not heed --data",)),
        (("--rewrites", "table.md", "--batch", 1), ("--rewrites does not heed --batch",)),
    ],
)
def test_every_option_of_bench_is_heeded_or_refused(
    options: tuple[object, ...], words: tuple[str, ...], exported: Path, fptk: Command
) -> None:
    bundles = () if "--rewrites" in options else (exported / "bundles" / "onnx-fp32",)
    assert_one_line(fptk("bench", *bundles, *options), 2, *words)


@pytest.mark.parametrize("calib", ["nowhere", "/dev/null", "x" * 300])
def test_calibration_data_that_is_not_there_is_refused(calib: str, checkpoint: Path, fptk: Command) -> None:
    finished = fptk("export", "--target", "onnx", "--fp32", checkpoint, "--calib", calib)
    assert_one_line(finished, 2, calib[:100])


def test_a_narrow_terminal_cuts_no_figure(exported: Path, fptk: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from fptk.core import console

    monkeypatch.setattr(console.out, "_width", 40)
    finished = fptk("bench", exported / "bundles", "--fps", "--rounds", 1)
    assert finished.code == 0, finished.err
    assert "…" not in finished.out
    assert "verdict" in finished.out


@pytest.mark.parametrize("broken", ["masks", "images"])
def test_an_export_finds_a_damaged_evaluation_file_before_any_work(
    broken: str, checkpoint: Path, faces_folder: Path, fptk: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    shutil.copytree(faces_folder, data)
    last = sorted((data / "val" / broken).iterdir())[-1]
    last.write_bytes(last.read_bytes()[:100])
    monkeypatch.setattr("fptk.export.sources.export_onnx", lambda *_, **__: pytest.fail("work was begun"))
    finished = fptk("export", "--target", "onnx", checkpoint, "--data", data, "--out", tmp_path / "out")
    assert_one_line(finished, 2, last.name)


def test_damaged_images_are_counted_before_anything_is_scored(
    exported: Path, faces_folder: Path, fptk: Command, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(faces_folder, data)
    first, second, *_ = sorted((data / "val" / "images").iterdir())
    for path in (first, second):
        path.write_bytes(path.read_bytes()[:100])
    bundle = exported / "bundles" / "onnx-fp32"
    for command in (("eval", bundle), ("bench", bundle, "--accuracy")):
        assert_one_line(fptk(*command, "--data", data), 2, first.name, "1 more like it")


def test_eval_json_of_bundle_and_weights_agree(
    exported: Path, checkpoint: Path, faces_folder: Path, fptk: Command, tmp_path: Path
) -> None:
    engine = fptk("eval", exported / "bundles" / "onnx-fp32", "--data", faces_folder, "--json", tmp_path / "a.json")
    network = fptk("eval", checkpoint, "--data", faces_folder, "--json", tmp_path / "b.json")
    assert (engine.code, network.code) == (0, 0), engine.err + network.err
    a, b = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    assert {"miou", "f1", "f1_challenge", "f1_nobg", "pixel_accuracy", "per_class"} <= set(a)
    assert a["miou"] == pytest.approx(b["miou"], abs=1e-3)


def test_eval_draws_a_sheet_of_the_worst(fptk: Command, checkpoint: Path, faces_folder: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    finished = fptk("eval", checkpoint, "--data", faces_folder, "--sheet", sheet, "--sheet-of", "worst")
    assert finished.code == 0
    assert Image.open(sheet).size == (6 * 256, 2 * 256)
    assert "sheet.png:" in finished.err


def test_predict_writes_index_png_at_the_size_of_the_input(exported: Path, fptk: Command, tmp_path: Path) -> None:
    photo = tmp_path / "in" / "face.jpg"
    photo.parent.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)).save(photo)
    finished = fptk("predict", photo.parent, "--model", exported / "bundles" / "onnx-fp32", "--out", tmp_path / "out")
    assert finished.code == 0, finished.err
    with Image.open(tmp_path / "out" / "face.png") as picture:
        assert picture.mode == "P"
        assert picture.size == (70, 50)
        assert np.asarray(picture).max() < 19
    overlay = ("--format", "overlay", "--model", exported / "bundles" / "onnx-fp32", "--out", tmp_path / "tint")
    assert fptk("predict", photo, *overlay).code == 0
    with Image.open(tmp_path / "tint" / "face.png") as picture:
        assert picture.mode == "RGB"
        assert picture.size == (70, 50)


def test_trt_without_gpu_keeps_the_onnx_and_exits_3(
    checkpoint: Path, faces_folder: Path, fptk: Command, tmp_path: Path
) -> None:
    if json.loads(fptk("doctor", "--json", "-").out)["targets"]["trt"]["can_build"]:
        pytest.skip("this host can build for TensorRT")
    options = (checkpoint, "--data", faces_folder, "--calib-size", 4, "--out", tmp_path)
    finished = fptk("export", "--target", "trt", "--int8", *options)
    assert_one_line(finished, 3, "trt int8", str(tmp_path))
    bundle = read_bundle(tmp_path / "bundles" / "trt-int8")
    assert bundle.engine is None
    assert bundle.verdict == "unavailable"
    assert any(name.endswith(".onnx") for name in bundle.files)


def test_gate_refusal_exits_4_and_names_the_folder(
    checkpoint: Path, faces_folder: Path, fptk: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that answers background everywhere is refused."""
    from fptk.export.targets.onnxruntime import OnnxRuntimeSession

    monkeypatch.setattr(OnnxRuntimeSession, "_infer", lambda self, images: np.full(images.shape[:3], 18, np.uint8))
    options = (checkpoint, "--data", faces_folder, "--max-miou-drop", 0, "--max-class-drop", 0)
    finished = fptk("export", "--target", "onnx", "--fp32", *options, "--out", tmp_path)
    assert_one_line(finished, 4, "onnx fp32", "rejected")
    assert read_bundle(tmp_path / "rejected" / "onnx-fp32").verdict == "refused"
    assert not (tmp_path / "bundles").exists()


def test_fallback_repairs_what_its_first_candidate_breaks(
    checkpoint: Path, faces_folder: Path, fptk: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first rung's engine sees a left eye everywhere, however it is run; the second is left alone and passes."""
    from fptk.export.targets.onnxruntime import OnnxRuntimeSession

    real, files = OnnxRuntimeSession._infer, []

    def infer(self: OnnxRuntimeSession, images: np.ndarray) -> np.ndarray:
        files.append(self._path)
        return real(self, images) if self._path != files[0] else np.full(images.shape[:3], 4, np.uint8)

    monkeypatch.setattr(OnnxRuntimeSession, "_infer", infer)
    options = ("--data", faces_folder, "--calib-size", 4, "--max-miou-drop", 0.3, "--max-class-drop", 100)
    finished = fptk("export", checkpoint, "--target", "onnx", "--int8", *options, "--out", tmp_path)
    assert finished.code == 0, finished.err
    bundle = read_bundle(tmp_path / "bundles" / "onnx-int8")
    assert bundle.build.fallback is not None
    first, *_, last = bundle.build.fallback.attempts
    assert not first.passed
    assert last.passed
    assert bundle.build.fallback.passed == last.candidate
    assert first.candidate in finished.err
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_no_fallback_ends_with_the_first_candidate(
    checkpoint: Path, faces_folder: Path, fptk: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fptk.export.targets.onnxruntime import OnnxRuntimeSession

    monkeypatch.setattr(OnnxRuntimeSession, "_infer", lambda self, images: np.full(images.shape[:3], 18, np.uint8))
    options = ("--data", faces_folder, "--calib-size", 4, "--max-miou-drop", 0, "--no-fallback")
    finished = fptk("export", checkpoint, "--target", "onnx", "--int8", *options, "--out", tmp_path)
    assert_one_line(finished, 4, "onnx int8", "rejected")
    fallback = read_bundle(tmp_path / "rejected" / "onnx-int8").build.fallback
    assert fallback is not None
    assert len(fallback.attempts) == 1


@pytest.mark.slow
def test_explain_ranks_layer_groups(checkpoint: Path, faces_folder: Path, fptk: Command, tmp_path: Path) -> None:
    options = ("--data", faces_folder, "--calib-size", 2, "--sensitivity-images", 1, "--no-gate", "--explain")
    finished = fptk("export", checkpoint, "--target", "onnx", "--int8", *options, "--out", tmp_path)
    assert finished.code == 0, finished.err
    ranking = read_bundle(tmp_path / "bundles" / "onnx-int8").build.sensitivity
    assert ranking is not None
    rows = ranking.rows
    assert [row.snr_db for row in rows] == sorted(row.snr_db for row in rows)
    assert rows[0].group in finished.out
    with Image.open(tmp_path / "bundles" / "onnx-int8" / "sensitivity.png") as chart:
        assert chart.height > 20 * len(rows)


class TestBadInput:
    """Each mistake ends in one line and exit code 2."""

    def test_data_folder_is_missing(self, fptk: Command, checkpoint: Path, tmp_path: Path) -> None:
        assert_one_line(fptk("eval", checkpoint, "--data", tmp_path / "no"), 2, "no")

    def test_data_folder_is_empty(self, fptk: Command, checkpoint: Path, tmp_path: Path) -> None:
        assert_one_line(fptk("eval", checkpoint, "--data", tmp_path), 2, str(tmp_path))

    def test_image_has_no_mask(self, fptk: Command, checkpoint: Path, broken: Path) -> None:
        next((broken / "val" / "masks").iterdir()).unlink()
        assert_one_line(fptk("eval", checkpoint, "--data", broken), 2, "mask")

    def test_mask_has_another_size(self, fptk: Command, checkpoint: Path, broken: Path) -> None:
        mask = next((broken / "val" / "masks").iterdir())
        Image.new("L", (32, 64)).save(mask)
        assert_one_line(fptk("eval", checkpoint, "--data", broken), 2, mask.stem)

    @pytest.mark.parametrize("label", [19, 255])
    def test_mask_holds_unknown_label(self, fptk: Command, checkpoint: Path, broken: Path, label: int) -> None:
        mask = next((broken / "val" / "masks").iterdir())
        Image.new("L", (64, 64), label).save(mask)
        assert_one_line(fptk("eval", checkpoint, "--data", broken), 2, mask.name, str(label))

    def test_jpeg_is_truncated(self, fptk: Command, checkpoint: Path, broken: Path) -> None:
        image = next((broken / "val" / "images").iterdir())
        image.write_bytes(image.read_bytes()[:400])
        assert_one_line(fptk("eval", checkpoint, "--data", broken), 2, image.name)

    def test_png_is_a_text_file(self, fptk: Command, checkpoint: Path, broken: Path) -> None:
        mask = next((broken / "val" / "masks").iterdir())
        mask.write_text("not a picture")
        assert_one_line(fptk("eval", checkpoint, "--data", broken), 2, mask.name)

    def test_weights_are_missing(self, fptk: Command, tmp_path: Path) -> None:
        assert_one_line(fptk("export", tmp_path / "no.safetensors"), 2, "no.safetensors")

    def test_weights_are_a_pickle_with_code(self, fptk: Command, tmp_path: Path) -> None:
        """The payload would create a file; nothing may run it."""
        trap, path = tmp_path / "trap", tmp_path / "evil.safetensors"

        class Evil:
            def __reduce__(self) -> tuple[object, tuple[str]]:
                return (Path.touch, (trap,))  # type: ignore[return-value]

        path.write_bytes(pickle.dumps(Evil()))
        assert_one_line(fptk("eval", path, "--data", tmp_path), 2, "pickle")
        assert not trap.exists()

    def test_weights_are_of_another_architecture(self, fptk: Command, checkpoint: Path, tmp_path: Path) -> None:
        start = fptk(
            "train", "--init-weights", checkpoint, "--set", "model.options.lmsa=null", "--out", tmp_path / "run"
        )
        assert_one_line(start, 2, "untrained.safetensors")

    def test_size_is_no_multiple_of_32(self, fptk: Command, tmp_path: Path) -> None:
        assert_one_line(fptk("train", "--size", 100, "--out", tmp_path / "run"), 2, "100")

    def test_output_is_below_a_file(self, fptk: Command, checkpoint: Path, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        finished = fptk("export", checkpoint, "--target", "onnx", "--fp32", "--out", tmp_path / "file" / "x")
        assert_one_line(finished, 2, "file")

    def test_output_is_read_only(self, fptk: Command, checkpoint: Path, tmp_path: Path) -> None:
        with mounted(tmp_path / "fixed", "ro") as folder:
            finished = fptk("export", checkpoint, "--target", "onnx", "--fp32", "--out", folder / "x")
        assert_one_line(finished, 2, "read-only")

    def test_target_is_unknown(self, fptk: Command, checkpoint: Path) -> None:
        assert_one_line(fptk("export", checkpoint, "--target", "tflite"), 2, "tflite", "openvino")

    def test_no_run_and_no_weights(self, fptk: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("fptk.runs.source.shipped_weights", lambda: None)
        assert_one_line(fptk("export"), 2, "fptk train")

    def test_calibration_images_stand_in_the_evaluation_set(
        self, fptk: Command, checkpoint: Path, faces_folder: Path, tmp_path: Path
    ) -> None:
        options = ("--data", faces_folder, "--calib", faces_folder / "val", "--out", tmp_path)
        finished = fptk("export", checkpoint, "--target", "onnx", "--int8", *options)
        assert_one_line(finished, 2, "calibration")

    def test_bundle_file_was_changed(self, fptk: Command, exported: Path, faces_folder: Path, tmp_path: Path) -> None:
        copy = tmp_path / "bundle"
        shutil.copytree(exported / "bundles" / "onnx-fp32", copy)
        with (copy / "model.onnx").open("r+b") as handle:
            handle.seek(-1, 2)
            last = handle.read(1)[0]
            handle.seek(-1, 2)
            handle.write(bytes([last ^ 1]))
        assert_one_line(fptk("eval", copy, "--data", faces_folder), 2, "hash")

    def test_predict_finds_no_image(self, fptk: Command, checkpoint: Path, tmp_path: Path) -> None:
        (tmp_path / "in").mkdir()
        finished = fptk("predict", tmp_path / "in", "--model", checkpoint, "--out", tmp_path / "out")
        assert_one_line(finished, 2, str(tmp_path / "in"))

    @pytest.fixture
    def broken(self, faces_folder: Path, tmp_path: Path) -> Path:
        """A private copy of the data set, to be damaged."""
        return Path(shutil.copytree(faces_folder, tmp_path / "faces"))


@pytest.mark.parametrize(
    ("target", "size", "words"),
    [("onnx", "64k", "no space left"), pytest.param("openvino", "8m", "MB free", marks=pytest.mark.slow)],
)
def test_full_disk_is_one_line_and_leaves_nothing(
    target: str, size: str, words: str, fptk: Command, checkpoint: Path, tmp_path: Path
) -> None:
    with mounted(tmp_path / "small", f"size={size}") as folder:
        finished = fptk("export", checkpoint, "--target", target, "--fp32", "--no-gate", "--out", folder)
        assert_one_line(finished, 2, words)
        assert not any(path.is_file() for path in folder.rglob("*"))


@pytest.mark.slow
def test_bundles_may_lie_on_another_disk(fptk: Command, checkpoint: Path, tmp_path: Path) -> None:
    """And a second export takes the place of the first there."""
    (tmp_path / "out").mkdir()
    with mounted(tmp_path / "out" / "bundles", "size=64m") as folder:
        for _ in range(2):
            options = ("--target", "onnx", "--fp32", "--no-gate", "--out", tmp_path / "out")
            finished = fptk("export", checkpoint, *options)
            assert finished.code == 0, finished.err
            assert [path.name for path in folder.iterdir()] == ["onnx-fp32"]
            assert read_bundle(folder / "onnx-fp32").files


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A real file system in memory with these mount options; the test is skipped where mounting is not allowed."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting a file system to fill needs root: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        # Lazily: an engine that a failed command read may stay mapped until Python collects the error's frames.
        subprocess.run(["umount", "--lazy", folder], check=True)
