"""Bundles that lie: every one ends in one line and exit code 2 before anything of it is loaded."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from fptk.core.errors import InputError
from fptk.export.bundle import check_replaceable, checked_bundle, open_bundle, read_bundle, record_files
from fptk.export.onnx_external import external_data

VERSION_1 = Path(__file__).parents[1] / "fixtures" / "bundles" / "version-1"
SIDE = 64
Manifest = dict[str, Any]


def tiny_model(
    *,
    inputs: int = 1,
    outputs: int = 1,
    taken: int = TensorProto.UINT8,
    given: int = TensorProto.UINT8,
    largest: int = 15,
    rank: int = 3,
) -> onnx.ModelProto:
    """A network that takes the smaller of ``largest`` and the red channel for the class."""
    index = [0] if rank == 4 else 0
    constants = [
        numpy_helper.from_array(np.array(index, np.int64), "index"),
        numpy_helper.from_array(np.array(largest, np.float32), "largest"),
    ]
    images = [helper.make_tensor_value_info(f"images{i or ''}", taken, (1, SIDE, SIDE, 3)) for i in range(inputs)]
    sides = (1, SIDE, SIDE, 1)[:rank]
    labels = [helper.make_tensor_value_info(f"labels{i or ''}", given, sides) for i in range(outputs)]
    nodes = []
    if inputs:
        nodes += [helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT)]
        nodes += [helper.make_node("Gather", ["pixels", "index"], ["red"], axis=3)]
    else:
        nodes += [
            helper.make_node("Constant", [], ["red"], value=numpy_helper.from_array(np.ones(sides, np.float32), "ones"))
        ]
    source = "red"
    for i in range(1, inputs):
        nodes += [helper.make_node("Cast", [f"images{i}"], [f"pixels{i}"], to=TensorProto.FLOAT)]
        nodes += [helper.make_node("Gather", [f"pixels{i}", "index"], [f"red{i}"], axis=3)]
        nodes += [helper.make_node("Add", [source, f"red{i}"], [f"sum{i}"])]
        source = f"sum{i}"
    nodes += [helper.make_node("Min", [source, "largest"], ["least"])]
    nodes += [helper.make_node("Cast", ["least"], [f"labels{i or ''}"], to=given) for i in range(outputs)]
    graph = helper.make_graph(nodes, "tiny", images, labels, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def with_sides(*sides: int | str) -> onnx.ModelProto:
    """The tiny network with other sides of its input; a name stands for an open one, and no side for none known."""
    model = tiny_model()
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("images", TensorProto.UINT8, sides or None))
    return model


def write_bundle(folder: Path, model: onnx.ModelProto | None = None, **changes: Any) -> Path:
    """A bundle of the tiny network with a manifest as an export writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    if model is not None:
        onnx.save(model, folder / "model.onnx")
    values = read_bundle(VERSION_1).model_dump(mode="json") | {"evaluation": None, "gate": None, "calibration": None}
    values["preprocess"]["size"] = [SIDE, SIDE]
    values["input"]["shape"], values["output"]["shape"] = [1, SIDE, SIDE, 3], [1, SIDE, SIDE]
    values |= {"files": {name: record.model_dump() for name, record in record_files(folder).items()}, **changes}
    values["preprocess_sha256"] = changes.get("preprocess_sha256", spec_hash(values["preprocess"]))
    (folder / "fptk.json").write_text(json.dumps(values))
    return folder


def spec_hash(values: Manifest) -> str:
    from fptk.core.preprocess import PreprocessSpec

    return PreprocessSpec.model_validate(values).sha256


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("sound") / "bundle", tiny_model())


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "face.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), np.uint8)).save(path)
    return path


@pytest.fixture
def bundle(sound: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    shutil.copy(sound / "model.onnx", tmp_path / "outside.onnx")
    return Path(shutil.copytree(sound, tmp_path / "bundle"))


def edited(change: Callable[[Manifest], Any]) -> Callable[[Path], None]:
    """Break the manifest by changing its values in place."""

    def breaks(folder: Path) -> None:
        values = json.loads((folder / "fptk.json").read_text())
        change(values)
        (folder / "fptk.json").write_text(json.dumps(values))

    return breaks


def set_to(**changes: Any) -> Callable[[Path], None]:
    return edited(lambda values: values.update(changes))


def text(content: str | bytes) -> Callable[[Path], None]:
    """Replace the whole manifest."""
    return lambda folder: (folder / "fptk.json").write_bytes(
        content if isinstance(content, bytes) else content.encode()
    )


def instead(content: str) -> Callable[[Path], None]:
    """Replace the value of ``build`` by JSON that Python would not write."""

    def breaks(folder: Path) -> None:
        values = json.loads((folder / "fptk.json").read_text()) | {"build": "HERE"}
        (folder / "fptk.json").write_text(json.dumps(values).replace('"HERE"', content))

    return breaks


def listed(name: str) -> Callable[[Path], None]:
    """List the engine under another name, and take it for the engine."""

    def change(values: Manifest) -> None:
        values["files"][name] = values["files"]["model.onnx"]
        values["engine"] = name

    return edited(change)


def link_engine(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").symlink_to(folder.parent / "outside.onnx")


def link_folder(folder: Path) -> None:
    """A listed file below a folder that is a link."""
    outside = folder.parent / "elsewhere"
    outside.mkdir()
    (outside / "extra").write_bytes(b"")
    (folder / "sub").symlink_to(outside)
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    edited(lambda values: values["files"].update({"sub/extra": {"sha256": empty, "bytes": 0}}))(folder)


def fifo(name: str) -> Callable[[Path], None]:
    def breaks(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return breaks


def folder_instead(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").mkdir()


def flip_byte(folder: Path) -> None:
    content = bytearray((folder / "model.onnx").read_bytes())
    content[-1] ^= 1
    (folder / "model.onnx").write_bytes(content)


def with_model(model: onnx.ModelProto) -> Callable[[Path], None]:
    def breaks(folder: Path) -> None:
        write_bundle(folder, model)

    return breaks


def external(location: str, *, create: bool = True) -> Callable[[Path], None]:
    """Weights in another file that the manifest does not list."""

    def breaks(folder: Path) -> None:
        model = tiny_model()
        constant = model.graph.initializer[1]
        constant.ClearField("raw_data")
        constant.ClearField("float_data")
        constant.data_location = TensorProto.EXTERNAL
        constant.external_data.add(key="location", value=location)
        constant.external_data.add(key="length", value="4")
        onnx.save(model, folder / "model.onnx")
        write_bundle(folder)
        if create:
            path = folder / location
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(np.float32(15).tobytes())

    return breaks


def write_openvino(folder: Path, model: onnx.ModelProto, *, weights: bool = True) -> None:
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    onnx.save(model, folder / "model.onnx")
    openvino.save_model(openvino.convert_model(folder / "model.onnx"), folder / "model.xml")
    (folder / "model.onnx").unlink()
    values: Manifest = {"target": "openvino", "engine": "model.xml"}
    if weights:
        write_bundle(folder, **values)
        return
    content = (folder / "model.bin").read_bytes()
    (folder / "model.bin").unlink()
    write_bundle(folder, **values)
    (folder / "model.bin").write_bytes(content)


def openvino(model: onnx.ModelProto, *, weights: bool = True) -> Callable[[Path], None]:
    return lambda folder: write_openvino(folder, model, weights=weights)


OUT_OF_PLACE = "no plain name of a file inside the bundle"

BROKEN: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    # names that lead elsewhere
    "engine above": (listed("../outside.onnx"), (OUT_OF_PLACE,)),
    "engine above, unlisted": (set_to(engine="../outside.onnx"), ("engine", OUT_OF_PLACE)),
    "engine absolute": (listed("/etc/passwd"), (OUT_OF_PLACE,)),
    "engine through the folder": (listed("sub/../../outside.onnx"), (OUT_OF_PLACE,)),
    "engine with a dot": (listed("./model.onnx"), (OUT_OF_PLACE,)),
    "engine of Windows": (listed("..\\outside.onnx"), (OUT_OF_PLACE,)),
    "engine of a drive": (listed("C:model.onnx"), (OUT_OF_PLACE,)),
    "engine without a name": (listed(""), (OUT_OF_PLACE,)),
    "engine is the folder": (listed("."), (OUT_OF_PLACE,)),
    "engine of two lines": (listed("model\n.onnx"), (OUT_OF_PLACE,)),
    "engine with an escape code": (listed("\x1b[31mmodel.onnx"), (OUT_OF_PLACE,)),
    "engine with a null": (listed("model\0.onnx"), (OUT_OF_PLACE,)),
    "engine is the manifest": (listed("fptk.json"), ("the manifest itself",)),
    "engine is a number": (set_to(engine=3), ("engine",)),
    "engine unlisted": (set_to(files={}), ("engine model.onnx is not among files",)),
    "engine null without a reason": (set_to(engine=None), ("neither unavailable nor gate says why",)),
    "engine null": (set_to(engine=None, unavailable="no GPU"), ("holds no engine: no GPU",)),
    # files
    "engine a link": (link_engine, ("model.onnx is a link",)),
    "manifest a link": (
        lambda folder: (
            (folder / "fptk.json").rename(folder.parent / "fptk.json"),
            (folder / "fptk.json").symlink_to(folder.parent / "fptk.json"),
        ),
        ("fptk.json is a link",),
    ),
    "file below a link": (link_folder, ("sub is a link",)),
    "engine a FIFO": (fifo("model.onnx"), ("no regular file",)),
    "engine a folder": (folder_instead, ("no regular file",)),
    "manifest a FIFO": (fifo("fptk.json"), ("fptk.json", "FIFO")),
    "engine missing": (lambda folder: (folder / "model.onnx").unlink(), ("lacks its file model.onnx",)),
    "manifest missing": (lambda folder: (folder / "fptk.json").unlink(), ("neither a bundle (no fptk.json)",)),
    "engine changed": (flip_byte, ("model.onnx differs from the hash",)),
    "engine longer": (
        lambda folder: (folder / "model.onnx").open("ab").write(b"x"),
        ("model.onnx has", "bytes, fptk.json says"),
    ),
    "bytes changed": (
        edited(lambda values: values["files"]["model.onnx"].update(bytes=7)),
        ("model.onnx has", "says 7"),
    ),
    "bytes negative": (edited(lambda values: values["files"]["model.onnx"].update(bytes=-1)), ("bytes",)),
    "hash no hash": (edited(lambda values: values["files"]["model.onnx"].update(sha256="x")), ("sha256",)),
    "file of too long a name": (
        edited(lambda values: values["files"].update({"n" * 300: values["files"]["model.onnx"]})),
        ("cannot be read", "too long"),
    ),
    "engine of another suffix": (
        lambda folder: (
            (folder / "model.onnx").rename(folder / "model.ort"),
            write_bundle(folder, engine="model.ort"),
        ),
        ("an engine of target onnx ends in .onnx",),
    ),
    "external data unlisted": (external("weights.bin"), ("reads 'weights.bin'", "does not list")),
    "external data in a folder": (external("sub/weights.bin"), ("reads 'sub/weights.bin'", "does not list")),
    "external data above": (external("../weights.bin"), ("reads '../weights.bin'", "does not list")),
    "external data absolute": (external("/etc/passwd", create=False), ("reads '/etc/passwd'", "does not list")),
    "external data of an ONNX file in disguise": (
        lambda folder: (
            external("../weights.bin")(folder),
            (folder / "model.onnx").rename(folder / "model.xml"),
            write_bundle(folder, target="openvino", engine="model.xml"),
        ),
        ("model.xml is no XML file",),
    ),
    "OpenVINO weights unlisted": (openvino(tiny_model(), weights=False), ("reads 'model.bin'", "does not list")),
    # fields that contradict each other
    "preprocess changed": (
        edited(lambda values: values["preprocess"].update(mean=[0, 0, 0])),
        ("preprocess_sha256", "changed"),
    ),
    "preprocess of another size": (
        lambda folder: write_bundle(
            folder, preprocess=read_bundle(folder).preprocess.model_dump(mode="json") | {"size": [96, 64]}
        ),
        ("input is uint8 [1, 64, 64, 3]", "[N, 96, 64, 3]"),
    ),
    "preprocess of no size": (edited(lambda values: values["preprocess"].update(size=[3, 3])), ("preprocess.size",)),
    "input of floats": (edited(lambda values: values["input"].update(dtype="float32")), ("input is float32",)),
    "output of another shape": (edited(lambda values: values["output"].update(shape=[1, 32, 32])), ("output is",)),
    "output of another batch": (edited(lambda values: values["output"].update(shape=[4, 64, 64])), ("batch 4",)),
    "input without shape": (edited(lambda values: values["input"].update(shape=[])), ("input is uint8 []",)),
    "classes renamed": (
        edited(lambda values: values["classes"].__setitem__(1, "fur")),
        ("classes[1] is 'skin'", "fptk.json says 'fur'"),
    ),
    "classes too few": (edited(lambda values: values["classes"].pop()), ("18 classes",)),
    "palette too short": (edited(lambda values: values["palette"].pop()), ("18 colours for 19 classes",)),
    "palette out of range": (edited(lambda values: values["palette"][0].__setitem__(0, 256)), ("palette.0.0",)),
    "target unknown": (set_to(target="tflite"), ("tflite",)),
    "precision unknown": (set_to(precision="int3"), ("precision",)),
    "precision hint unknown": (
        lambda folder: (write_openvino(folder, tiny_model()), set_to(precision_hint="f8")(folder)),
        ("f8",),
    ),
    "gate empty": (set_to(gate={}), ("gate",)),
    "gate without figures": (
        edited(lambda values: values.update(gate={"passed": True, "summary": "", "classes": [{}]})),
        ("gate", "Field required"),
    ),
    "gate no object": (set_to(gate=[1]), ("gate",)),
    "evaluation without scores": (
        set_to(evaluation={"dataset": "x", "images": 1, "content_sha256": "", "reference": {}, "engine": {}}),
        ("evaluation.reference", "miou"),
    ),
    "field unknown": (set_to(colour="red"), ("colour",)),
    # manifests that are no manifest
    "version of the future": (
        set_to(schema_version=4),
        ("schema version 4", "versions 1, 2 and 3: a newer fptk wrote it"),
    ),
    "version a text": (set_to(schema_version="2"), ("schema version '2'",)),
    "version a truth": (set_to(schema_version=True), ("schema version True",)),
    "version a list": (set_to(schema_version=[2]), ("schema version [2]",)),
    "version a huge number": (set_to(schema_version=10**39), ("schema version 1000",)),
    "manifest empty": (text(""), ("not a readable JSON file",)),
    "manifest cut": (text('{"schema_version": 2,'), ("not a readable JSON file",)),
    "manifest a list": (text("[]"), ("no JSON object",)),
    "manifest null": (text("null"), ("no JSON object",)),
    "manifest not UTF-8": (text(b'{"\xff": 1}'), ("not a readable JSON file",)),
    "manifest deep": (text("[" * 100_000 + "]" * 100_000), ("nests deeper than 64",)),
    "manifest deeper than 64": (instead("[" * 80 + "]" * 80), ("nests deeper than 64",)),
    "manifest with NaN": (instead("NaN"), ("NaN is no JSON number",)),
    "manifest with infinity": (instead("-Infinity"), ("-Infinity is no JSON number",)),
    "manifest with 1e999": (instead("1e999"), ("1e999 is too large",)),
    "manifest with 5000 digits": (instead("9" * 5000), ("is too long",)),
    "manifest too large": (
        lambda folder: os.truncate(folder / "fptk.json", 65 * 2**20),
        ("larger than 64 MiB",),
    ),
    # engines that are no engine
    "engine no ONNX file": (
        lambda folder: ((folder / "model.onnx").write_bytes(b"hello"), write_bundle(folder)),
        ("model.onnx is no ONNX file",),
    ),
    "engine empty": (
        lambda folder: ((folder / "model.onnx").write_bytes(b""), write_bundle(folder)),
        ("cannot load", "model.onnx"),
    ),
    "engine of two inputs": (with_model(tiny_model(inputs=2)), ("model.onnx has 2 inputs",)),
    "engine without input": (with_model(tiny_model(inputs=0)), ("model.onnx has 0 inputs",)),
    "engine of two outputs": (with_model(tiny_model(outputs=2)), ("model.onnx has 2 outputs",)),
    "engine of float output": (with_model(tiny_model(given=TensorProto.FLOAT)), ("gives tensor(float)",)),
    "engine of float input": (with_model(tiny_model(taken=TensorProto.FLOAT)), ("takes tensor(float)",)),
    "engine of four sides": (with_model(tiny_model(rank=4)), ("gives tensor(uint8) [1, 64, 64, 1]",)),
    "engine of label 19": (with_model(tiny_model(largest=19)), ("gave label 19", "it has 19 classes")),
    "engine of batch 0": (with_model(with_sides(0, SIDE, SIDE, 3)), ("takes tensor(uint8) [0, 64, 64, 3]",)),
    "engine of open sides": (with_model(with_sides(1, "h", "w", 3)), ("takes tensor(uint8) [1, 'h', 'w', 3]",)),
    "engine of unknown sides": (with_model(with_sides()), ("takes tensor(uint8) []",)),
    "OpenVINO of batch 0": (openvino(with_sides(0, SIDE, SIDE, 3)), ("takes u8 [0,64,64,3]",)),
    "OpenVINO of open sides": (openvino(with_sides(1, "h", "w", 3)), ("takes u8 [1,?,?,3]",)),
    "OpenVINO of unknown sides": (openvino(with_sides()), ("takes u8 [...]",)),
    "OpenVINO of two inputs": (openvino(tiny_model(inputs=2)), ("model.xml has 2 inputs",)),
    "OpenVINO without input": (openvino(tiny_model(inputs=0)), ("model.xml has 0 inputs",)),
    "OpenVINO of two outputs": (openvino(tiny_model(outputs=2)), ("model.xml has 2 outputs",)),
    "OpenVINO of float output": (openvino(tiny_model(given=TensorProto.FLOAT)), ("gives f32",)),
    "OpenVINO of float input": (openvino(tiny_model(taken=TensorProto.FLOAT)), ("takes f32",)),
    "OpenVINO of label 200": (openvino(tiny_model(largest=200)), ("gave label", "it has 19 classes")),
    "OpenVINO no file of it": (
        lambda folder: (
            (folder / "model.onnx").unlink(),
            (folder / "model.xml").write_text("<net"),
            write_bundle(folder, target="openvino", engine="model.xml"),
        ),
        ("damaged XML", "model.xml"),
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_bundle_is_one_line(
    name: str, bundle: Path, photo: Path, fptk: Callable[..., Any], tmp_path: Path
) -> None:
    break_it, words = BROKEN[name]
    break_it(bundle)
    finished = fptk("predict", photo, "--model", bundle, "--out", tmp_path / "out")
    assert finished.code == 2, finished.err
    lines = [line for line in finished.err.splitlines() if line]
    assert len(lines) == 1, finished.err
    assert lines[0].startswith("fptk: ")
    for word in words:
        assert word in lines[0]
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize("name", ["engine above", "engine a link", "engine changed", "external data unlisted"])
@pytest.mark.parametrize("command", [("eval",), ("bench", "--rounds", 1)])
def test_every_command_checks_before_it_loads(
    name: str, command: tuple[str, ...], bundle: Path, faces_folder: Path, fptk: Callable[..., Any]
) -> None:
    break_it, words = BROKEN[name]
    break_it(bundle)
    first, *options = command
    finished = fptk(first, bundle, "--data", faces_folder, *options)
    assert finished.code == 2, finished.err
    assert all(word in finished.err.splitlines()[-1] for word in words)


def test_label_above_the_classes_ends_eval_in_one_line(
    tmp_path: Path, faces_folder: Path, fptk: Callable[..., Any]
) -> None:
    folder = write_bundle(tmp_path / "bundle", tiny_model(largest=255))
    finished = fptk("eval", folder, "--data", faces_folder)
    assert finished.code == 2
    assert "onnx int8 gave label" in finished.err.splitlines()[-1]


def test_sound_bundle_predicts(sound: Path, photo: Path, fptk: Callable[..., Any], tmp_path: Path) -> None:
    finished = fptk("predict", photo, "--model", sound, "--out", tmp_path / "out")
    assert finished.code == 0, finished.err
    with Image.open(photo) as image, Image.open(tmp_path / "out" / "face.png") as labels:
        assert np.array_equal(np.minimum(np.asarray(image)[..., 0], 15), np.asarray(labels))


def test_bundle_itself_may_be_a_link_and_hold_other_files(sound: Path, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(bundle)
    (bundle / "notes.txt").write_text("mine")
    (bundle / "._model.onnx").write_text("of another system")
    _, session = open_bundle(tmp_path / "link")
    with session:
        assert session(np.zeros((1, SIDE, SIDE, 3), np.uint8)).max() == 0


def test_files_below_the_bundle_are_checked_too(tmp_path: Path) -> None:
    (tmp_path / "bundle" / "layers").mkdir(parents=True)
    (tmp_path / "bundle" / "layers" / "all.json").write_text("{}")
    folder = write_bundle(tmp_path / "bundle", tiny_model())
    assert set(checked_bundle(folder).files) == {"model.onnx", "layers/all.json"}
    (folder / "layers" / "all.json").write_text("[]")
    with pytest.raises(InputError, match=r"layers/all\.json differs from the hash"):
        checked_bundle(folder)


def test_only_a_bundle_without_other_files_may_be_replaced(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (bundle, tmp_path / "empty", tmp_path / "none"):
        check_replaceable(folder)
    (bundle / "deep").mkdir()
    (bundle / "deep" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"its file deep/notes\.txt is not of a bundle"):
        check_replaceable(bundle)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(InputError, match=r"its file a\.jpg is not of a bundle"):
        check_replaceable(tmp_path / "photos")


def test_version_1_still_passes_its_checks() -> None:
    assert checked_bundle(VERSION_1).schema_version == 1


def test_external_data_is_found_wherever_a_tensor_stands(tmp_path: Path) -> None:
    def outside(name: str) -> onnx.TensorProto:
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="offset", value="0")
        tensor.external_data.add(key="location", value=name)
        return tensor

    inner = helper.make_graph([], "inner", [], [], [outside("in-a-branch")])
    nodes = [
        helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner),
        helper.make_node("Constant", [], ["z"], value=outside("in-an-attribute")),
    ]
    model = helper.make_model(helper.make_graph(nodes, "outer", [], [], [outside("ä")]))
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(outside("sparse"))
    model.functions.add(name="f", node=[helper.make_node("Constant", [], ["c"], value=outside("in-a-function"))])
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    found = external_data(tmp_path / "a.onnx")
    assert found == ["in-a-branch", "in-a-function", "in-an-attribute", "sparse", "ä"]


def test_external_data_of_damaged_files_is_refused_not_hung(tmp_path: Path) -> None:
    content = tiny_model().SerializeToString()
    path = tmp_path / "a.onnx"
    random = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(content[: int(random.integers(len(content)))])
        for at in random.integers(max(1, len(damaged)), size=3):
            if damaged:
                damaged[at] = int(random.integers(256))
        path.write_bytes(damaged)
        try:
            external_data(path)
        except InputError as error:
            assert "is no ONNX file" in str(error)  # noqa: PT017 - most of the files are, some happen to be whole
    nested = b""
    for _ in range(200):  # an attribute that holds a graph that holds a node that holds an attribute ...
        for number in (6, 5, 1):
            nested = bytes([number << 3 | 2]) + _varint(len(nested)) + nested
    path.write_bytes(b"\x3a" + _varint(len(nested)) + nested)
    with pytest.raises(InputError, match="nest deeper"):
        external_data(path)


def _varint(value: int) -> bytes:
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])
