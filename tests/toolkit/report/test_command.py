"""``fptk report``: where the page goes, what it refuses to write over, what it shows of people, and its errors."""

from __future__ import annotations

import base64
import io
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fptk.core.classes import IGNORE
from fptk.report.faces import NothingToLabelError, label_faces
from fptk.report.pictures import BORDER, GROUND, LOST, OTHER, WON, difference_picture
from fptk.report.sources import Material, ReportRequest, default_out, gather

Command = Callable[..., Any]


def assert_one_line(finished: Any, code: int, *words: str) -> None:
    lines = finished.err.strip().splitlines()
    assert finished.code == code, finished.err
    assert "Traceback" not in finished.err
    assert all(word in lines[-1] for word in words), lines[-1]


def test_the_page_goes_into_the_run_and_may_be_made_again(
    full_run: Path, fptk: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    monkeypatch.setattr("fptk.report.page.label_faces", lambda *given: made.append(given) or nothing())
    monkeypatch.setattr("fptk.report.page.assemble", lambda *given: made.append(given))
    monkeypatch.setattr("fptk.report.page.render", lambda page: '<meta name="generator" content="fptk report">')
    run = Path(shutil.copytree(full_run, tmp_path / "run", copy_function=shutil.os.link))  # type: ignore[attr-defined]
    for _ in range(2):
        finished = fptk("report", run)
        assert finished.code == 0, finished.err
        assert str(run / "report.html") in finished.err
    monkeypatch.chdir(tmp_path)
    assert default_out(ReportRequest((run / "bundles" / "onnx-int8",))).resolve() == run / "report.html"
    shutil.copytree(run / "bundles" / "onnx-fp32", tmp_path / "alone", copy_function=shutil.os.link)  # type: ignore[attr-defined]
    assert default_out(ReportRequest((tmp_path / "alone",))) == Path("report.html")


def nothing() -> None:
    raise NothingToLabelError("it was not tried")


def test_what_is_the_users_is_not_written_over(full_run: Path, verified: Path, fptk: Command, tmp_path: Path) -> None:
    mine = tmp_path / "mine.html"
    mine.write_text("<p>my own page</p>")
    assert_one_line(fptk("report", full_run, "--out", mine), 2, "mine.html", "--overwrite")
    assert mine.read_text() == "<p>my own page</p>"
    inside = full_run / "bundles" / "onnx-fp32" / "report.html"
    assert_one_line(fptk("report", full_run, "--out", inside), 2, "inside bundle")
    before = verified.read_bytes()
    options = ("--verified", verified, "--out", verified, "--overwrite")
    assert_one_line(fptk("report", full_run, *options), 2, "is read by this command")
    assert verified.read_bytes() == before
    assert_one_line(fptk("report", full_run, "--out", tmp_path), 2, str(tmp_path))


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_a_missing_package_is_one_line(
    package: str, full_run: Path, fptk: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    out = tmp_path / "report.html"
    assert_one_line(fptk("report", full_run, "--out", out), 2, package, "pip install 'fptk[export]'")
    assert not out.exists()


def test_what_is_no_run_and_no_bundle_is_one_line(
    full_run: Path, fptk: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_one_line(fptk("report"), 2, "no trained run below runs/")
    assert_one_line(fptk("report", tmp_path / "no"), 2, "does not exist")
    assert_one_line(fptk("report", tmp_path), 2, "neither a run", "fptk export")
    wrong = tmp_path / "wrong.json"
    for text in ('{"host": {"isa": 5}, "conditions": {}, "reference": null, "rows": []}', "{}"):
        wrong.write_text(text)
        assert_one_line(fptk("report", full_run, "--bench", wrong), 2, "fptk bench --json")
    assert_one_line(fptk("report", full_run, "--verified", wrong), 2, "fptk verify --json")


def test_photographs_stay_out_unless_asked_for(full_run: Path, faces_folder: Path) -> None:
    found = gather(ReportRequest((full_run,)))
    material = Material(found.training, found.engines[:1], None, ())
    drawn = label_faces(material, ReportRequest((full_run,)))
    assert drawn.images.shown, "faces that fptk drew may be shown"
    assert len(drawn.images.dataset) == 5
    hidden = label_faces(material, ReportRequest(data=faces_folder, eval_images=3))
    assert not hidden.images.shown
    assert {face.image is None for each in hidden.comparisons for face in each.faces} == {True}
    shown = label_faces(material, ReportRequest(data=faces_folder, eval_images=2, with_photos=True))
    assert all(face.image is not None for each in shown.comparisons for face in each.faces)


def test_bundles_of_no_run_show_their_golden_samples(cpu_bundles: Path) -> None:
    material = gather(ReportRequest((cpu_bundles,)))
    labelled = label_faces(material, ReportRequest())
    assert labelled.images.truth == "labels of PyTorch FP32"
    assert [each.engine.name for each in labelled.mistakes] == ["onnx fp32", "openvino fp32"]
    (only,) = labelled.comparisons
    assert only.baseline is None
    assert {face.place for face in only.faces} == {"worst", "median", "best"}
    values = [face.agreement for face in only.faces]
    assert values == sorted(values)
    pixels = int(labelled.mistakes[0].counts.sum())
    assert pixels == 4 * 64 * 64
    assert np.trace(labelled.mistakes[0].counts) / pixels > 0.99


def test_an_engine_that_does_not_load_is_left_out_with_its_reason(
    full_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fptk.core.errors import TargetUnavailableError

    def refuse(folder: Path, **_: object) -> None:
        raise TargetUnavailableError(f"no device for {folder.name}")

    monkeypatch.setattr("fptk.report.faces.open_bundle", refuse)
    with pytest.raises(NothingToLabelError, match="no device for onnx-int8"):
        label_faces(gather(ReportRequest((full_run,))), ReportRequest())
    with pytest.raises(NothingToLabelError, match="there is no engine"):
        label_faces(Material(None, (), None, ()), ReportRequest())


def test_a_difference_says_who_is_right() -> None:
    baseline = np.zeros((4, 4), np.uint8)
    candidate, truth = baseline.copy(), baseline.copy()
    candidate[0] = (1, 1, 1, 0)
    truth[0] = (0, 1, 2, 0)
    candidate[1], truth[1] = 1, IGNORE
    baseline[3] = candidate[3] = truth[3] = 5
    source, size = difference_picture(candidate, baseline, truth)
    data = base64.b64decode(source.partition(",")[2])
    with Image.open(io.BytesIO(data)) as picture:
        pixels = np.array(picture.convert("RGB"))
    assert size == (4, 4)
    assert [tuple(pixel) for pixel in pixels[0]] == [LOST, WON, OTHER, GROUND]
    assert {tuple(pixel) for pixel in pixels[1]} == {GROUND}, "ignored pixels say nothing"
    assert {tuple(pixel) for pixel in pixels[2]} == {BORDER}
    assert {tuple(pixel) for pixel in pixels[3]} == {GROUND}


def test_a_difference_of_one_pixel_is_seen_in_a_small_picture() -> None:
    large = np.zeros((1000, 700), np.uint8)
    other = large.copy()
    other[501, 333] = 1
    source, size = difference_picture(other, large, None)
    assert max(size) <= 256
    with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as picture:
        assert [tuple(color) for _, color in sorted(picture.convert("RGB").getcolors())] == [LOST, GROUND]
