"""Results go where the user said and replace nothing of theirs; names reach the terminal as they are."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from fptk.core.console import PlainConsole
from fptk.export.bundle import TensorRecord, read_bundle, record_files, write_manifest

VERSION_1 = Path(__file__).parents[2] / "fixtures" / "bundles" / "version-1"

SCORED = 4
"""Exit code of ``score``: the gate refuses what the tiny bundle computes, after all results are written."""

Command = Callable[..., Any]


def draw(path: Path, seed: int = 0, size: tuple[int, int] = (64, 64)) -> Path:
    """A photograph of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)).save(path)
    return path


def assert_refused(finished: Any, *words: str) -> None:
    """One line on stderr, exit code 2."""
    assert finished.code == 2, finished.err
    assert "Traceback" not in finished.err
    last = finished.err.strip().splitlines()[-1]
    assert last.startswith("fptk: ")
    for word in words:
        assert word in last


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that takes the red channel, 15 at most, for the class: nothing here is about what engines compute."""
    folder = tmp_path_factory.mktemp("tiny")
    sides = (1, 64, 64)
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["images", "index"], ["red"], axis=3),
            helper.make_node("Min", ["red", "largest"], ["labels"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, (*sides, 3))],
        [helper.make_tensor_value_info("labels", TensorProto.UINT8, sides)],
        [
            numpy_helper.from_array(np.array(0, np.int64), "index"),
            numpy_helper.from_array(np.array(15, np.uint8), "largest"),
        ],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "model.onnx"
    )
    known = read_bundle(VERSION_1)
    spec = known.preprocess.model_copy(update={"size": sides[1:]})
    manifest = known.model_copy(
        update={
            "preprocess": spec,
            "preprocess_sha256": spec.sha256,
            "input": TensorRecord(name="images", dtype="uint8", shape=(*sides, 3)),
            "output": TensorRecord(name="labels", dtype="uint8", shape=sides),
            "files": record_files(folder),
            "evaluation": None,
            "gate": None,
        }
    )
    write_manifest(manifest, folder)
    return folder


@pytest.fixture
def predict(fptk: Command, bundle: Path) -> Command:
    return lambda *arguments: fptk("predict", *arguments, "--model", bundle)


@pytest.fixture
def score(fptk: Command, bundle: Path, faces_folder: Path) -> Command:
    return lambda *arguments: fptk("eval", bundle, "--data", faces_folder, "--eval-images", 1, *arguments)


class TestPredict:
    def test_photographs_are_never_replaced(self, predict: Command, tmp_path: Path) -> None:
        draw(tmp_path / "p" / "a.png"), draw(tmp_path / "p" / "b.jpg")
        before = contents(tmp_path)
        for options in ((), ("--overwrite",)):
            assert_refused(predict(tmp_path / "p", "--out", tmp_path / "p", *options), "a.png is read by this command")
        assert contents(tmp_path) == before

    @pytest.mark.parametrize("way", [os.link, os.symlink])
    def test_nor_under_another_name(self, way: Callable[..., None], predict: Command, tmp_path: Path) -> None:
        photo = draw(tmp_path / "p" / "a.png")
        (tmp_path / "out").mkdir()
        way(photo, tmp_path / "out" / "a.png")
        before = photo.read_bytes()
        assert_refused(predict(photo, "--out", tmp_path / "out", "--overwrite"), "is read by this command")
        assert photo.read_bytes() == before

    def test_a_file_of_the_users_is_replaced_only_if_asked(self, predict: Command, tmp_path: Path) -> None:
        photo, mine = draw(tmp_path / "a.jpg"), draw(tmp_path / "out" / "a.png", seed=1)
        before = mine.read_bytes()
        assert_refused(predict(photo, "--out", tmp_path / "out"), "is not by fptk predict", "--out", "--overwrite")
        assert mine.read_bytes() == before
        assert predict(photo, "--out", tmp_path / "out", "--overwrite").code == 0
        with Image.open(mine) as picture:
            assert picture.info["Software"] == "fptk predict"

    def test_its_own_results_are_replaced_freely(self, predict: Command, tmp_path: Path) -> None:
        photo = draw(tmp_path / "a.jpg")
        for style in ("labels", "overlay", "labels"):
            assert predict(photo, "--out", tmp_path / "out", "--format", style).code == 0
        with Image.open(tmp_path / "out" / "a.png") as picture:
            assert picture.mode == "P"

    @pytest.mark.parametrize("there", ["text", "damaged", "empty", "truth"])
    def test_what_only_looks_like_a_result_stays(self, there: str, predict: Command, tmp_path: Path) -> None:
        from PIL.PngImagePlugin import PngInfo

        photo, result = draw(tmp_path / "a.jpg"), tmp_path / "out" / "a.png"
        result.parent.mkdir()
        mark = PngInfo()
        mark.add_text("Software", "fptk data synth")
        Image.new("P", (64, 64)).save(result, pnginfo=mark)
        changed = {"text": b"labels", "damaged": result.read_bytes()[:20], "empty": b"", "truth": result.read_bytes()}
        result.write_bytes(changed[there])
        assert_refused(predict(photo, "--out", tmp_path / "out"), "is not by fptk predict")
        assert result.read_bytes() == changed[there]

    def test_a_damaged_photograph_stops_nothing(self, predict: Command, tmp_path: Path) -> None:
        folder = tmp_path / "p"
        for name in ("a", "c", "e"):
            draw(folder / f"{name}.jpg")
        (folder / "b.jpg").write_bytes((folder / "a.jpg").read_bytes()[:300])
        (folder / "d.png").write_text("no picture")
        (folder / "._a.jpg").write_bytes(b"\0\5\x16\7")
        finished = predict(folder, "--out", tmp_path / "out")
        assert_refused(finished, "2 of 5 images could not be read", "3 labels written")
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "c.png", "e.png"]
        *listed, _ = finished.err.strip().splitlines()
        assert len(listed) == 2
        assert "b.jpg" in listed[0]
        assert "d.png is not an image file" in listed[1]

    def test_what_no_photograph_is_stops_nothing(self, predict: Command, tmp_path: Path) -> None:
        draw(tmp_path / "p" / "a.jpg")
        (tmp_path / "p" / "folder.jpg").mkdir()
        (tmp_path / "p" / "lost.jpg").symlink_to(tmp_path / "nowhere")
        (tmp_path / "p" / "loop.jpg").symlink_to(tmp_path / "p" / "loop.jpg")
        os.mkfifo(tmp_path / "p" / "pipe.jpg")
        finished = predict(tmp_path / "p", "--out", tmp_path / "out")
        assert_refused(finished, "4 of 5 images could not be read", "1 labels written")

    def test_a_file_named_twice_is_done_once(self, predict: Command, tmp_path: Path) -> None:
        photo = draw(tmp_path / "p" / "a.jpg")
        finished = predict(photo, tmp_path / "p", "--out", tmp_path / "out")
        assert finished.code == 0
        assert "1 labels written" in finished.err

    def test_two_photographs_of_one_stem(self, predict: Command, tmp_path: Path) -> None:
        draw(tmp_path / "a.jpg"), draw(tmp_path / "b" / "a.jpg")
        assert_refused(predict(tmp_path / "a.jpg", tmp_path / "b", "--out", tmp_path / "out"), "both", "a.png")
        assert not (tmp_path / "out").exists()

    BAD: ClassVar[dict[str, tuple[Callable[[Path], tuple[Any, ...]], tuple[str, ...]]]] = {
        "input missing": (lambda p: (p / "no.jpg", "--out", p / "out"), ("no.jpg does not exist",)),
        "input a device": (lambda p: ("/dev/zero", "--out", p / "out"), ("/dev/zero is a FIFO, device or socket",)),
        "input a long name": (lambda p: (p / ("n" * 300), "--out", p / "out"), ("the name is too long",)),
        "input a loop": (lambda p: (p / "loop", "--out", p / "out"), ("links lead in a circle",)),
        "only hidden": (lambda p: (p / "hidden", "--out", p / "out"), ("holds no image",)),
        "out a file": (lambda p: (p / "a.jpg", "--out", p / "a.jpg"), ("a part of the path is a file",)),
        "out below a file": (lambda p: (p / "a.jpg", "--out", p / "a.jpg" / "x"), ("a part of the path is a file",)),
        "out a long name": (lambda p: (p / "a.jpg", "--out", p / ("n" * 300)), ("the name is too long", "--out")),
        "out a loop": (lambda p: (p / "a.jpg", "--out", p / "loop"), ("links lead in a circle", "--out")),
        "result a folder": (lambda p: (p / "a.jpg", "--out", p / "taken"), ("a folder is in the way", "--out")),
    }

    @pytest.mark.parametrize("name", BAD)
    def test_bad_arguments(self, name: str, predict: Command, tmp_path: Path) -> None:
        draw(tmp_path / "a.jpg")
        (tmp_path / "hidden").mkdir()
        (tmp_path / "hidden" / ".a.jpg").touch()
        (tmp_path / "taken" / "a.png").mkdir(parents=True)
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        arguments, words = self.BAD[name]
        assert_refused(predict(*arguments(tmp_path)), *words)
        assert not (tmp_path / "out").exists()


class TestSheet:
    def test_a_picture_of_the_users_stays(self, score: Command, tmp_path: Path) -> None:
        sheet = draw(tmp_path / "sheet.png")
        before = sheet.read_bytes()
        assert_refused(score("--sheet", sheet), "sheet.png exists", "choose another --sheet", "--overwrite")
        assert sheet.read_bytes() == before
        for options in (("--overwrite",), ()):
            assert score("--sheet", sheet, *options).code == SCORED
        with Image.open(sheet) as picture:
            assert picture.info["Software"] == "fptk eval"

    @pytest.mark.parametrize("what", ["image", "mask", "weights"])
    def test_what_is_read_stays(
        self, what: str, score: Command, fptk: Command, checkpoint: Path, faces_folder: Path, tmp_path: Path
    ) -> None:
        data = Path(shutil.copytree(faces_folder, tmp_path / "faces"))
        weights = Path(shutil.copy(checkpoint, tmp_path))
        read = {"image": next(data.glob("val/images/*")), "mask": next(data.glob("val/masks/*")), "weights": weights}
        before = contents(tmp_path)
        options = (weights, "--data", data, "--sheet", read[what], "--overwrite")
        assert_refused(fptk("eval", *options), "is read by this command", "choose another --sheet")
        assert contents(tmp_path) == before

    @pytest.mark.parametrize(
        ("name", "reason"),
        [("", "a folder is in the way"), ("n" * 300, "the name is too long"), ("loop", "its links lead in a circle")],
    )
    def test_errors_name_the_option(self, name: str, reason: str, score: Command, tmp_path: Path) -> None:
        (tmp_path / "loop").symlink_to("loop")
        assert_refused(score("--sheet", tmp_path / name), reason, "choose another --sheet")

    def test_weights_that_do_not_exist_beside_a_bundle(
        self, fptk: Command, bundle: Path, faces_folder: Path, tmp_path: Path
    ) -> None:
        missing = tmp_path / "no.safetensors"
        assert_refused(fptk("eval", bundle, "--reference", missing, "--data", faces_folder), "no.safetensors")


class TestJson:
    def test_a_link_stays_and_its_file_is_written(self, score: Command, tmp_path: Path) -> None:
        (tmp_path / "deep").mkdir()
        target, link = tmp_path / "deep" / "a.json", tmp_path / "link.json"
        target.write_text("{}")
        target.chmod(0o640)
        link.symlink_to("deep/a.json")
        assert score("--json", link).code == SCORED
        assert link.is_symlink()
        assert "miou" in json.loads(target.read_text())
        assert stat.S_IMODE(target.stat().st_mode) == 0o640
        target.unlink()
        assert score("--json", link).code == SCORED
        assert link.is_symlink()
        assert "miou" in json.loads(target.read_text())

    def test_a_fifo_is_written_to(self, score: Command, tmp_path: Path) -> None:
        path, read = tmp_path / "pipe", []
        os.mkfifo(path)
        reader = threading.Thread(target=lambda: read.append(path.read_text()), daemon=True)
        reader.start()
        assert score("--json", path).code == SCORED
        reader.join(5)
        assert "miou" in json.loads(read[0])
        assert path.is_fifo()

    def test_devices_stay(self, score: Command) -> None:
        assert score("--json", "/dev/null").code == SCORED
        assert Path("/dev/null").is_char_device()
        assert_refused(score("--json", "/dev/full"), "no space left", "choose another --json")
        assert Path("/dev/full").is_char_device()

    @pytest.mark.slow
    def test_a_shells_own_pipe_is_written_to(self, tmp_path: Path) -> None:
        command = f"{sys.executable} -m fptk doctor --json >(cat > piped) && {sys.executable} -m fptk doctor --json"
        subprocess.run(["bash", "-c", f"{command} /dev/stdout | cat > printed; wait"], check=True, cwd=tmp_path)
        for _ in range(50):
            if (tmp_path / "piped").stat().st_size:
                break
            time.sleep(0.1)
        assert "targets" in json.loads((tmp_path / "piped").read_text())
        assert '"targets"' in (tmp_path / "printed").read_text()

    @pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
    def test_standard_output_is_no_file_to_replace(self, name: str, tmp_path: Path) -> None:
        """Redirected into a file, which a replacing would cut off from what is printed later."""
        (tmp_path / "link").symlink_to("/dev/stdout")
        program = (
            "import sys, fptk.core.files as f, pathlib; print('before'); f.write_json(pathlib.Path(sys.argv[1]), [1])"
        )
        with (tmp_path / "captured").open("wb") as file:
            command = [sys.executable, "-c", f"{program}; print('after')", name]
            subprocess.run(command, check=True, stdout=file, cwd=tmp_path)
        assert (tmp_path / "captured").read_text().split() == ["before", "[", "1", "]", "after"]
        assert (tmp_path / "link").is_symlink()

    BAD: ClassVar[dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]]] = {
        "a folder": (lambda p: p, ("a folder is in the way",)),
        "below a file": (lambda p: p / "photo.jpg" / "a.json", ("a part of the path is a file",)),
        "a photograph": (lambda p: p / "photo.jpg", ("exists and holds no JSON",)),
        "a link to a photograph": (lambda p: p / "to-photo", ("exists and holds no JSON",)),
        "the weights": (lambda p: p / "w.safetensors", ("w.safetensors",)),
        "the card of the weights": (lambda p: p / "w.json", ("is a record that fptk keeps",)),
        "the sheet": (lambda p: p / "sheet.png", ("--sheet and --json are both",)),
        "a loop": (lambda p: p / "loop", ("links lead in a circle",)),
        "a closed descriptor": (lambda p: "/dev/fd/99", ("nothing listens there",)),
        "a long name": (lambda p: p / ("n" * 300), ("the name is too long",)),
        "in /proc": (lambda p: "/proc/x/a.json", ("/proc/x/a.json",)),
    }

    @pytest.mark.parametrize("name", BAD)
    def test_bad_places(self, name: str, fptk: Command, checkpoint: Path, faces_folder: Path, tmp_path: Path) -> None:
        draw(tmp_path / "photo.jpg")
        (tmp_path / "to-photo").symlink_to("photo.jpg")
        (tmp_path / "loop").symlink_to("loop")
        weights = Path(shutil.copy(checkpoint, tmp_path / "w.safetensors"))
        shutil.copy(checkpoint.with_suffix(".json"), tmp_path / "w.json")
        before = contents(tmp_path)
        path, words = self.BAD[name]
        options = ("--data", faces_folder, "--sheet", tmp_path / "sheet.png", "--json", path(tmp_path))
        finished = fptk("eval", weights, *options)
        assert_refused(finished, "choose another --json", *words)
        assert finished.out == "", "it was refused after the work"
        assert contents(tmp_path) == before

    def test_an_older_result_and_an_empty_file_are_replaced(self, score: Command, tmp_path: Path) -> None:
        for content in ("", '{"miou": 1}', "\n[]"):
            (tmp_path / "a.json").write_text(content)
            assert score("--json", tmp_path / "a.json").code == SCORED

    @pytest.mark.parametrize("command", [("eval",), ("bench",), ("doctor",), ("ablate", "--out", "x")])
    @pytest.mark.parametrize("name", ["fptk.json", "link.json"])
    def test_records_of_fptk_stay(self, command: tuple[str, ...], name: str, fptk: Command, tmp_path: Path) -> None:
        copy = shutil.copytree(VERSION_1, tmp_path / "bundle")
        (copy / "link.json").symlink_to("fptk.json")
        before = contents(tmp_path)
        finished = fptk(*command, *([copy] if command[0] in ("eval", "bench") else []), "--json", copy / name)
        assert_refused(finished, "is a record that fptk keeps", "choose another --json")
        assert contents(tmp_path) == before

    def test_other_files_of_the_bundle_stay(self, fptk: Command, bundle: Path, tmp_path: Path) -> None:
        copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
        (copy / "notes.json").write_text("{}")
        write_manifest(read_bundle(copy).model_copy(update={"files": record_files(copy)}), copy)
        before = contents(tmp_path)
        assert_refused(fptk("eval", copy, "--json", copy / "notes.json"), "is read by this command", "--json")
        assert contents(tmp_path) == before


NAMES = ["o[v2]", "[/red]", "[bold]o", ":smile:", "o\nfptk: forged", "o\x1b[31mred", "o\u202etxt", "o\\[x]"]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_printed_as_they_are(name: str, predict: Command, tmp_path: Path) -> None:
    folder = tmp_path / name
    photo = draw(tmp_path / "p" / "a.jpg")
    finished = predict(photo, "--out", folder)
    assert finished.code == 0
    shown = name.replace("\n", "\\n").replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
    assert finished.err == f"1 labels written to {tmp_path}/{shown}\n"
    assert (folder / "a.png").is_file()


@pytest.mark.parametrize("name", NAMES)
def test_names_in_failures_and_sheets(name: str, predict: Command, score: Command, tmp_path: Path) -> None:
    draw(tmp_path / "p" / "a.jpg")
    (tmp_path / "p" / f"{name}.jpg").parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "p" / f"{name}.jpg").write_text("no picture")
    shown = name.replace("\n", "\\n").replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
    finished = predict(tmp_path / "p", tmp_path / "p" / f"{name}.jpg", "--out", tmp_path / "out")
    assert finished.code == 2
    assert shown in finished.err.splitlines()[0]
    assert not any(each in finished.err for each in ("\x1b", "\u202e", "\nfptk: forged"))
    finished = score("--sheet", tmp_path / f"{name}.png")
    assert finished.code == SCORED
    assert f"{shown}.png: " in finished.err


def test_tables_and_bars_know_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table

    from fptk.core.console import ConsoleListener

    console = PlainConsole(width=60)
    table = Table("[bold]head[/bold]", title="title [/red] \x1b[31m")
    table.add_row("cell [x] :smile:\x07\nsecond")
    console.print(table)
    console.print_lines("# one\n[/two]")
    shown = capsys.readouterr().out
    for text in ("[bold]head[/bold]", "title [/red] \\x1b[31m", "cell [x] :smile:\\x07", "second", "# one\n[/two]\n"):
        assert text in shown
    with ConsoleListener().counting("[/red]", 1) as done:
        done(1)


def test_no_code_uses_markup() -> None:
    """The consoles know none, so a tag or an escape would be seen."""
    tag = re.compile(r"rich\.markup|from_markup|\[/?(bold|italic|red|green|yellow|cyan)\b")
    files = sorted((Path(__file__).parents[3] / "toolkit").rglob("*.py"))
    assert len(files) > 50
    assert not [file.name for file in files if tag.search(file.read_text())]
