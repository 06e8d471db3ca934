"""The web target as it is used: ONNX Runtime Web in Node.js, and the page in headless Chromium.

Every test needs node, npm and the registry; those of the page need Chromium too. What is missing is the reason of the
skip.
"""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fptk as api
from fptk.core.classes import CELEBAMASK
from fptk.core.dataset import UInt8Array
from fptk.core.errors import TargetUnavailableError
from fptk.core.evaluation import predict
from fptk.core.masks import read_mask
from fptk.core.preprocess import read_image
from fptk.data.synthetic.faces import draw_face
from fptk.export.bundle import checked_bundle, open_bundle, read_bundle
from fptk.export.targets.onnxruntime import OnnxRuntimeSession
from fptk.export.web.page import FP32_BESIDE
from fptk.export.web.runtime import runtime_folder
from fptk.export.web.session import WebSession
from fptk.workflows.serve import make_server
from fptk.workflows.verify import verify_bundle

pytestmark = pytest.mark.slow

PACKAGES = ("playwright-core@1.65.1", "axe-core@4.14.1")
SAME = 0.999
"""Share of pixels that FP32 labels alike wherever it runs, and each engine in Node.js and in Chromium."""
NEAR = 0.003
"""Share of pixels by which INT8 may agree less with FP32 than it does natively."""
FLAGS_WEBGPU = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"]


@pytest.fixture(scope="module")
def _runtime() -> None:
    """Node.js and ONNX Runtime Web are here."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    try:
        runtime_folder()
    except TargetUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def bundles(_runtime: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``web-fp32``, ``web-int8`` and ``onnx-int8`` of the package's weights."""
    out = tmp_path_factory.mktemp("web")
    for target, precisions in (("web", ("fp32", "int8")), ("onnx", ("int8",))):
        api.build(targets=(target,), precisions=precisions, gate=None, out=out, calib_size=16, matrix_images=None)
    return out / "bundles"


@pytest.fixture(scope="module")
def small(_runtime: None, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``web-fp32`` of the untrained network for 64x64 images."""
    out = tmp_path_factory.mktemp("small")
    api.build(checkpoint, targets=("web",), precisions=("fp32",), gate=None, out=out, matrix_images=None)
    return out / "bundles" / "web-fp32"


@pytest.fixture(scope="module")
def browse(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """Takes steps on the page at an address (``browser.mjs``) and returns what was found."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("Chromium is not installed")
    home = tmp_path_factory.mktemp("playwright")
    install = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(home), *PACKAGES]
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"npm does not deliver {' and '.join(PACKAGES)}: {done.stderr.strip().splitlines()[0]}")

    def drive(address: str, *steps: tuple[Any, ...], flags: list[str] | None = None) -> dict[str, Any]:
        script = Path(__file__).with_name("browser.mjs")
        command = ["node", script, home, chromium, address, json.dumps(steps), json.dumps(flags or [])]
        finished = subprocess.run([*map(str, command)], capture_output=True, text=True)
        assert finished.returncode == 0, finished.stderr
        found: dict[str, Any] = json.loads(finished.stdout)
        assert "error" not in found, found
        assert not found["console"]
        assert all(url.removeprefix("blob:").startswith(address) for url in found["requests"])
        return found

    return drive


@contextmanager
def running(server: http.server.HTTPServer) -> Iterator[str]:
    """The address of a server that answers in a thread."""
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    """Plain static files, as any web host serves them."""

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


def labels_of(mask: str) -> UInt8Array:
    """The classes of a picture in their colors."""
    codes = np.array([red << 16 | green << 8 | blue for red, green, blue in CELEBAMASK.palette])
    with Image.open(mask) as picture:
        colors = np.asarray(picture.convert("RGB")).astype(np.int64)
    pixels = colors[..., 0] << 16 | colors[..., 1] << 8 | colors[..., 2]
    order = np.argsort(codes)
    places = np.searchsorted(codes[order], pixels)
    assert np.array_equal(codes[order][places], pixels)
    return order[places].astype(np.uint8)


def golden_of(folder: Path) -> tuple[list[Path], list[UInt8Array]]:
    """The samples of a bundle at the engine's size, and the labels of the FP32 reference."""
    record = read_bundle(folder).golden
    assert record is not None
    numbers = range(1, record.samples + 1)
    return (
        [folder / "golden" / f"{number}.png" for number in numbers],
        [read_mask(folder / "golden" / f"{number}-labels.png") for number in numbers],
    )


def agreement(labels: list[UInt8Array], others: list[UInt8Array]) -> float:
    return float(np.mean([(one == other).mean() for one, other in zip(labels, others, strict=True)]))


def labelled(session: Any, folder: Path) -> list[UInt8Array]:
    with session:
        return [session(read_image(path)[None])[0] for path in golden_of(folder)[0]]


def test_webassembly_in_node_labels_as_onnx_runtime_does(bundles: Path) -> None:
    fp32, int8 = (checked_bundle(bundles / f"web-{precision}") for precision in ("fp32", "int8"))
    found = {each.label: labelled(open_bundle(each.folder, threads=1)[1], each.folder) for each in (fp32, int8)}
    native = labelled(OnnxRuntimeSession(fp32.folder / "model.onnx", fp32.preprocess), fp32.folder)
    assert agreement(found["web fp32"], native) >= SAME
    reference = golden_of(int8.folder)[1]
    exact = OnnxRuntimeSession(int8.folder / "model.onnx", int8.preprocess, float_only=True)
    of_graph = agreement(labelled(exact, int8.folder), reference)
    of_host = agreement(labelled(open_bundle(bundles / "onnx-int8")[1], int8.folder), reference)
    of_web = agreement(found["web int8"], reference)
    print(f"\nINT8 as FP32: web {of_web:.4f}, its graph in float {of_graph:.4f}, onnx int8 on this host {of_host:.4f}")
    assert abs(of_web - of_graph) <= NEAR
    assert of_web >= of_host - NEAR


def test_threads_change_nothing(bundles: Path) -> None:
    folder = bundles / "web-int8"
    one, two = (labelled(open_bundle(folder, threads=threads)[1], folder) for threads in (1, 2))
    assert np.array_equal(one, two)


def test_every_command_of_a_bundle_serves_web(bundles: Path, fptk: Callable[..., Any], tmp_path: Path) -> None:
    verified = verify_bundle(bundles / "web-int8")
    assert verified.passed, verified.reason
    done = fptk("bench", bundles / "web-int8", "--fps", "--rounds", "1", "--json", tmp_path / "bench.json")
    assert done.code == 0, done.err
    (row,) = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert row["target"] == "web"
    assert row["p50_ms"] > 0
    face = tmp_path / "face.png"
    Image.fromarray(draw_face(0, 3, (96, 80))[0]).save(face)
    assert fptk("predict", face, "--model", bundles / "web-fp32", "--out", tmp_path / "out").code == 0
    (bundles / "web-int8" / "model.onnx").touch()
    damaged = shutil.copytree(bundles / "web-int8", tmp_path / "damaged")
    (Path(damaged) / "page" / "app.js").write_text("changed")
    assert fptk("verify", damaged).code == 2


def test_the_page_labels_as_python_does(bundles: Path, browse: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    folder = bundles / "web-int8"
    samples = [Path(shutil.copy(path, tmp_path / f"golden-{path.name}")) for path in golden_of(folder)[0]]
    photo = tmp_path / "photo.jpg"
    picture = Image.fromarray(draw_face(0, 3, (430, 700))[0])
    turned = picture.getexif()
    turned[0x0112] = 6
    picture.save(photo, quality=90, exif=turned)
    steps: list[tuple[Any, ...]] = [("open",)]
    for engine in ("INT8", "FP32"):
        steps.append(("choose", "engine", engine))
        steps += [("labels", str(path), f"{path}.{engine}.png") for path in (*samples, photo)]
    with running(make_server(folder, 0)) as address:
        opened, *found = browse(address, *steps)["results"]
    assert opened["state"] == "good", opened["verdict"]
    assert opened["verdict"].startswith("Verified in this browser: ")
    assert opened["threads"] == str(min(8, int(opened["cores"])))
    spec, reference = read_bundle(folder).preprocess, golden_of(folder)[1]
    for name, results in (("int8", found[1:6]), ("fp32", found[7:12])):
        *labels, photo_labels = (labels_of(result["file"]) for result in results)
        engine = folder / (FP32_BESIDE if name == "fp32" else "model.onnx")
        with WebSession(engine, spec, threads=1) as session:
            in_node = [session(read_image(path)[None])[0] for path in samples]
            photo_in_node = predict(session, read_image(photo))
        # WebAssembly's int8 sums don't saturate, as those of some processors do.
        with OnnxRuntimeSession(engine, spec, float_only=name == "int8") as session:
            native = [session(read_image(path)[None])[0] for path in samples]
        assert photo_labels.shape == photo_in_node.shape == (700, 430)
        assert agreement([*labels, photo_labels], [*in_node, photo_in_node]) >= SAME
        of_web, of_native = agreement(labels, reference), agreement(native, reference)
        print(f"\n{name}: as PyTorch FP32 {of_web:.4f} in Chromium, {of_native:.4f} in Python")
        assert abs(of_web - of_native) <= NEAR
        if name == "fp32":
            assert agreement(labels, native) >= SAME


def test_the_page_answers_in_words_and_serves_everybody(
    small: Path, browse: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "cut.jpg").write_bytes((Path(__file__).parents[3] / "docs" / "face.jpg").read_bytes()[:300])
    Image.new("RGB", (12_000, 9_000), (90, 80, 70)).save(tmp_path / "large.jpg")
    refused = [("refused", str(tmp_path / name)) for name in ("notes.txt", "cut.jpg", "large.jpg")]
    with running(make_server(small, 0)) as address:
        *_, notes, cut, large, camera, wide, light, _, narrow, dark, shot = browse(
            address,
            ("open",),
            *refused,
            ("camera",),
            ("width",),
            ("axe",),
            ("open", 390, 844, "dark"),
            ("width",),
            ("axe",),
            ("screenshot", str(tmp_path / "narrow.png")),
        )["results"]
    with Image.open(shot) as picture:
        assert picture.width == 390
        assert picture.height > 844  # everything below the picture is there
    assert notes == "notes.txt is no picture that this browser can read. Open a JPEG, PNG or WebP file."
    assert cut.startswith("cut.jpg ")
    assert "12,000 × 9,000 pixels. This page takes up to 8,192 a side" in large
    assert camera == "No camera was found. Connect one, or open a photograph."
    assert wide == narrow == 0
    assert light == dark == []


def test_plain_static_files_run_on_one_thread(small: Path, browse: Callable[..., dict[str, Any]]) -> None:
    plain = functools.partial(_Quiet, directory=str(small))
    with running(http.server.ThreadingHTTPServer(("127.0.0.1", 0), plain)) as address:
        opened = browse(address, ("open",))["results"][0]
    assert opened["state"] == "good", opened["verdict"]
    assert opened["threads"] == "1"


def test_an_engine_that_is_wrong_here_is_told_of(
    small: Path, browse: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(small, tmp_path / "wrong"))
    path = folder / "golden" / "1-labels.png"
    with Image.open(path) as picture:
        other = Image.fromarray((np.asarray(picture) + 1) % np.uint8(19))
    other.putpalette(CELEBAMASK.flat_palette())
    other.save(path)
    with running(make_server(folder, 0)) as address:
        opened = browse(address, ("open",))["results"][0]
    assert opened["state"] == "bad"
    assert opened["verdict"].startswith("Not verified in this browser: ")
    assert "of the golden pixels as in PyTorch, at least 99.50 % expected" in opened["verdict"]
    assert "IoU with PyTorch by class: " in opened["verdict"]


def test_webgpu_is_used_only_if_the_check_passes_there(small: Path, browse: Callable[..., dict[str, Any]]) -> None:
    """Chromium's own software GPU takes the part of one; whether it passes is its matter, not a matter of taste."""
    with running(make_server(small, 0)) as address:
        (opened,) = browse(address, ("open",), flags=FLAGS_WEBGPU)["results"]
        if opened["backends"] != ["WebAssembly", "WebGPU"]:
            pytest.skip("this Chromium has no software GPU")
        _, chosen = browse(address, ("open",), ("choose", "backend", "WebGPU"), flags=FLAGS_WEBGPU)["results"]
    if chosen["chosen"] == "WebGPU":
        assert chosen["verdict"].startswith("Verified in this browser: ")
        assert not chosen["message"]
    else:
        assert "FP32 does not work on WebGPU in this browser, so it is not used" in chosen["message"]
        assert chosen["verdict"] == opened["verdict"]
