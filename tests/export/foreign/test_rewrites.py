"""Rewrites of a foreign network: exact where they apply, dropped and named where they are not."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fptk.core.dataset import UInt8Array
from fptk.core.errors import InputError
from fptk.export.foreign import source as foreign
from fptk.export.foreign.label_map import LABEL_MAPS, Coarse, argmax
from fptk.export.foreign.nodes import Nodes
from fptk.export.foreign.rewrites import REWRITES, Work
from fptk.export.foreign.source import OnnxSource
from fptk.export.network_source import GraphRequest
from fptk.models.engine_form import ENGINES

from .networks import DESCRIPTION, Small


def written(network: Small, folder: Path, images: UInt8Array, form: str = "tensorrt", **fields: Any) -> tuple[Any, Any]:
    """The graph for an engine, and what its bundle keeps of it."""
    import onnx

    source = OnnxSource(network.save(folder / "net.onnx"), {**DESCRIPTION, **fields})
    record = source.write_onnx(folder / "graph.onnx", GraphRequest(ENGINES[form], "deploy", 1, lambda: images))
    return onnx.load(folder / "graph.onnx"), record


def test_what_is_rewritten_is_on_record(images: UInt8Array, tmp_path: Path) -> None:
    model, record = written(Small(), tmp_path, images, channels="bgr")
    assert record["file"] == "net.onnx"
    assert "graph optimizations off" in record["reference"]
    names = ["folded_batchnorms", "classifier_first", "folded_input", "label_map"]
    assert [each["name"] for each in record["rewrites"]] == names
    assert all(each["kept"] and each["images"] == len(images) for each in record["rewrites"])
    assert all(0 < each["relative_error"] < 1e-5 for each in record["rewrites"][:3])
    operators = Counter(node.op_type for node in model.graph.node)
    assert operators["BatchNormalization"] == operators["Mul"] == operators["Gather"] == 0
    classifier = [node.op_type for node in model.graph.node].index("Resize") - 1
    assert model.graph.node[classifier].name == "c"


def test_the_graph_as_it_is_written_keeps_every_operator(images: UInt8Array, tmp_path: Path) -> None:
    import onnx

    source = OnnxSource(Small().save(tmp_path / "net.onnx"), DESCRIPTION)
    record = source.write_onnx(
        tmp_path / "graph.onnx", GraphRequest(ENGINES["onnxruntime"], "original", 1, lambda: images)
    )
    operators = Counter(node.op_type for node in onnx.load(tmp_path / "graph.onnx").graph.node)
    assert (operators["BatchNormalization"], operators["Resize"], operators["ArgMax"]) == (2, 2, 1)
    assert [each["name"] for each in record["rewrites"]] == ["wrapper"]


def test_a_rewrite_that_is_not_exact_is_dropped_and_named(
    images: UInt8Array, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnx import numpy_helper

    def wrong(work: Work) -> bool:
        for entry in work.model.graph.initializer:
            if entry.name == "w3":
                entry.CopyFrom(numpy_helper.from_array(1.001 * numpy_helper.to_array(entry), "w3"))
        return True

    monkeypatch.setitem(REWRITES, "wrong", ("scales the classifier", wrong))
    model, record = written(Small(), tmp_path, images)
    dropped = next(each for each in record["rewrites"] if each["name"] == "wrong")
    assert not dropped["kept"]
    assert dropped["summary"].startswith("dropped: its scores are off by ")
    (weights,) = (entry for entry in model.graph.initializer if entry.name == "w3")
    assert np.array_equal(numpy_helper.to_array(weights), Small()._weights()["w3"])


def test_a_form_of_the_label_map_that_turns_pixels_is_dropped(
    images: UInt8Array, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def transposed(nodes: Nodes, coarse: Coarse) -> str:
        return nodes.transpose(LABEL_MAPS["plain"](nodes, coarse), 0, 2, 1)

    monkeypatch.setitem(LABEL_MAPS, "mixed_cells", transposed)
    _, record = written(Small(), tmp_path, images, "onnxruntime")
    first, second = [each for each in record["rewrites"] if each["name"] == "label_map"]
    assert "pixels that are no ties" in first["summary"]
    assert (first["kept"], second["kept"]) == (False, True)
    assert "'plain'" in second["summary"]


def test_a_file_whose_labels_differ_behind_the_wrapper_is_refused(
    images: UInt8Array, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swapped(model: Any, interface: Any, form: Any, batch: int | None) -> Any:
        return wrap(model, interface.__class__(**{**vars(interface), "channels": "bgr"}), form, batch)

    wrap = foreign.wrap
    monkeypatch.setattr(foreign, "wrap", swapped)
    with pytest.raises(InputError, match=r"net\.onnx does not give the same labels twice: it turns \d+ pixels"):
        written(Small(), tmp_path, images)


def test_weights_that_two_layers_share_are_folded_for_each(images: UInt8Array, tmp_path: Path) -> None:
    """One of them has a BatchNorm behind it, and the other must not change with it."""
    from onnx import helper

    class Shared(Small):
        def _body(self) -> list[Any]:
            *nodes, _ = super()._body()
            strided = {"strides": [2, 2], "pads": [1, 1, 1, 1]}
            again = helper.make_node("Conv", ["r1", "w2", "b2"], ["again"], name="again", **strided)
            return [*nodes, again, helper.make_node("Sub", ["n2", "again"], ["labels"])]

    _, record = written(Shared(), tmp_path, images)
    folded = record["rewrites"][0]
    assert (folded["name"], folded["kept"]) == ("folded_batchnorms", True)


def test_a_fusion_of_upsampled_maps_is_split(images: UInt8Array, tmp_path: Path) -> None:
    """As in SegFormer's decoder: maps of two strides side by side, one of them upsampled, and a 1x1 convolution."""
    import onnx
    from onnx import helper, numpy_helper

    model = Small().model()
    weight = np.random.default_rng(1).normal(0, 0.2, (16, 32, 1, 1)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "fuse_weight"))
    at = next(index for index, node in enumerate(model.graph.node) if node.output[0] == "up")
    model.graph.node[at].output[0] = "upsampled"
    model.graph.node.insert(at + 1, helper.make_node("Concat", ["r1", "upsampled"], ["both"], axis=1))
    model.graph.node.insert(at + 2, helper.make_node("Conv", ["both", "fuse_weight"], ["up"], name="fuse"))
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    source = OnnxSource(tmp_path / "net.onnx", DESCRIPTION)
    request = GraphRequest(ENGINES["tensorrt"], "deploy", 1, lambda: images)
    record = source.write_onnx(tmp_path / "graph.onnx", request)
    split = next(each for each in record["rewrites"] if each["name"] == "split_fusion")
    assert split["kept"], split
    rewritten = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "graph.onnx"))
    nodes = {node.output[0]: node for node in rewritten.graph.node}
    assert "Concat" not in {node.op_type for node in rewritten.graph.node}
    halves = [nodes[node.input[0]] for node in rewritten.graph.node if node.op_type == "Resize"]
    assert "fuse/Conv" in "".join(node.name for node in halves), "it is convolved before it is upsampled"


def tokens_decoder(folder: Path, *, reshaped: bool, fuse: str, bias: bool = True) -> Path:
    """As in SegFormer's decoder: Linears of tokens at two strides side by side, and what fuses the two."""
    import onnx
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(0)
    model = Small().model()
    graph = model.graph
    weights = {f"p{index}": rng.normal(0, 0.3, (16, 24)).astype(np.float32) for index in range(2)}
    weights |= {f"pb{index}": rng.normal(0, 0.3, 24).astype(np.float32) for index in range(2)}
    shape = (16, 48, 1, 1) if fuse == "Conv" else (48, 16)
    weights |= {"fuse_weight": rng.normal(0, 0.2, shape).astype(np.float32)}
    weights |= {"tokens0": np.array([1, 16, -1], np.int64), "tokens1": np.array([1, 16, -1], np.int64)}
    weights |= {"maps0": np.array([1, 24, 32, 32], np.int64), "maps1": np.array([1, -1, 16, 16], np.int64)}
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    at = next(index for index, node in enumerate(graph.node) if node.output[0] == "up")
    resize, nodes = graph.node[at], []
    for index, source in enumerate(("r1", "labels")):
        if reshaped:
            nodes += [helper.make_node("Reshape", [source, f"tokens{index}"], [f"t_{index}"])]
        nodes += [
            helper.make_node(
                "Transpose",
                [f"t_{index}" if reshaped else source],
                [f"s_{index}"],
                perm=[0, 2, 1] if reshaped else [0, 2, 3, 1],
            ),
            helper.make_node("MatMul", [f"s_{index}", f"p{index}"], [f"m_{index}"], name=f"project{index}"),
        ]
        last = f"m_{index}"
        if bias:
            nodes += [helper.make_node("Add", [f"pb{index}", last], [f"a_{index}"], name=f"bias{index}")]
            last = f"a_{index}"
        nodes += [helper.make_node("Transpose", [last], [f"c_{index}"], perm=[0, 2, 1] if reshaped else [0, 3, 1, 2])]
        if reshaped:
            nodes += [helper.make_node("Reshape", [f"c_{index}", f"maps{index}"], [f"d_{index}"])]
    ends = [f"{'d' if reshaped else 'c'}_{index}" for index in range(2)]
    resize.input[0], resize.output[0] = ends[1], "upsampled"
    nodes += [resize, helper.make_node("Concat", [ends[0], "upsampled"], ["both"], axis=1)]
    if fuse == "Conv":
        nodes += [helper.make_node("Conv", ["both", "fuse_weight"], ["up"], name="fuse")]
    else:
        nodes += [
            helper.make_node("Transpose", ["both"], ["both_last"], perm=[0, 2, 3, 1]),
            helper.make_node("MatMul", ["both_last", "fuse_weight"], ["fused"], name="fuse"),
            helper.make_node("Transpose", ["fused"], ["up"], perm=[0, 3, 1, 2]),
        ]
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    kept = [type(node).FromString(node.SerializeToString()) for node in graph.node]
    del graph.node[:]
    graph.node.extend([*kept[:at], *copies, *kept[at + 1 :]])
    (folder / "net.onnx").write_bytes(model.SerializeToString())
    onnx.checker.check_model(model)
    return folder / "net.onnx"


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("fuse", ["Conv", "MatMul"])
@pytest.mark.parametrize("reshaped", [True, False])
def test_linears_are_merged_with_the_fusion_behind_them(
    reshaped: bool, fuse: str, bias: bool, images: UInt8Array, tmp_path: Path
) -> None:
    import onnx

    source = OnnxSource(tokens_decoder(tmp_path, reshaped=reshaped, fuse=fuse, bias=bias), DESCRIPTION)
    request = GraphRequest(ENGINES["tensorrt"], "deploy", 1, lambda: images)
    record = source.write_onnx(tmp_path / "graph.onnx", request)
    kept = {each["name"]: each["kept"] for each in record["rewrites"]}
    assert kept["split_fusion"], record
    assert kept["merged_linears"], record
    rewritten = onnx.load(tmp_path / "graph.onnx")
    assert "Concat" not in {node.op_type for node in rewritten.graph.node}
    names = {node.name for node in rewritten.graph.node}
    assert not {"project0", "project1", "fuse"} & names
    constants = {entry.name: tuple(entry.dims) for entry in rewritten.graph.initializer}
    products = [node for node in rewritten.graph.node if node.op_type == "MatMul"]
    assert [constants[node.input[1]] for node in products] == [(16, 16), (16, 16)]


def test_a_linear_that_others_read_stays(images: UInt8Array, tmp_path: Path) -> None:
    import onnx
    from onnx import helper

    path = tokens_decoder(tmp_path, reshaped=False, fuse="Conv")
    model = onnx.load(path)
    at = next(index for index, node in enumerate(model.graph.node) if node.output[0] == "both")
    model.graph.node[at].output[0] = "first"
    model.graph.node.insert(at + 1, helper.make_node("Concat", ["c_0", "upsampled"], ["other"], axis=1))
    model.graph.node.insert(at + 2, helper.make_node("Max", ["first", "other"], ["both"]))
    path.write_bytes(model.SerializeToString())
    source = OnnxSource(path, DESCRIPTION)
    record = source.write_onnx(tmp_path / "graph.onnx", GraphRequest(ENGINES["tensorrt"], "deploy", 1, lambda: images))
    assert not {"split_fusion", "merged_linears"} & {each["name"] for each in record["rewrites"]}
    assert {"project0", "project1", "fuse"} <= {node.name for node in onnx.load(tmp_path / "graph.onnx").graph.node}


def test_a_transposed_convolution_in_groups_takes_its_batchnorm(tmp_path: Path, images: UInt8Array) -> None:
    from onnx import helper, numpy_helper

    model = Small().model()
    rng = np.random.default_rng(3)
    weight = rng.normal(0, 0.3, (16, 4, 2, 2)).astype(np.float32)  # 16 channels in 4 groups to 16
    model.graph.initializer.append(numpy_helper.from_array(weight, "wt"))
    names = [node.name for node in model.graph.node]
    norm = helper.make_node("BatchNormalization", ["t", "g1", "h1", "m1", "v1"], ["up"], name="norm3")
    up = helper.make_node("ConvTranspose", ["labels", "wt"], ["t"], name="t", group=4, strides=[2, 2])
    at = next(index for index, node in enumerate(model.graph.node) if node.output[0] == "up")
    assert "t" not in names
    del model.graph.node[at]
    model.graph.node.insert(at, norm)
    model.graph.node.insert(at, up)
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    source = OnnxSource(tmp_path / "net.onnx", DESCRIPTION)
    request = GraphRequest(ENGINES["tensorrt"], "deploy", 1, lambda: images)
    record = source.write_onnx(tmp_path / "graph.onnx", request)
    assert record["rewrites"][0]["kept"]
    import onnx

    assert all(node.op_type != "BatchNormalization" for node in onnx.load(tmp_path / "graph.onnx").graph.node)


@pytest.mark.parametrize("form", LABEL_MAPS)
@pytest.mark.parametrize(("scale", "batch", "ties"), [(2, 1, True), (4, 2, False), (8, None, True)])
def test_label_maps_are_those_of_the_deploy_forms(form: str, scale: int, batch: int | None, ties: bool) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from fptk.models.deploy.label_map import plain

    rng = np.random.default_rng(0)
    scores = rng.normal(0, 1, (2 if batch is None else batch, 6, 5, 7)).astype(np.float32)
    scores = np.round(4 * scores) / 4 if ties else scores  # of these many are equal, and their mixtures exact
    labels = computed(lambda nodes: LABEL_MAPS[form](nodes, Coarse("scores", 6, 5, 7, scale, batch)), scores, batch)
    assert np.array_equal(labels, plain(torch.from_numpy(scores), scale).numpy())


@pytest.mark.parametrize("form", LABEL_MAPS)
def test_argmax_takes_the_lowest_of_equal_classes(form: str) -> None:
    scores = np.random.default_rng(0).integers(0, 3, (1, 6, 8, 8)).astype(np.float32)
    labels = computed(lambda nodes: argmax(nodes, "scores", form, 6, (8, 8)), scores, 1)
    assert np.array_equal(labels, scores.argmax(axis=1))


def computed(write: Any, scores: Any, batch: int | None) -> UInt8Array:
    """What the nodes that ``write`` makes give for ``scores``."""
    import onnxruntime
    from onnx import TensorProto, helper

    from fptk.calibration.onnx_graph import Graph

    n = "n" if batch is None else batch
    entry = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [n, *scores.shape[1:]])
    result = helper.make_tensor_value_info("out", TensorProto.UINT8, [None] * 3)
    empty = helper.make_graph([], "forms", [entry], [result])
    model = helper.make_model(empty, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    nodes = Nodes(Graph(model), "test")
    nodes.add("Identity", write(nodes), output="out")
    nodes.finish()
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    labels: UInt8Array = session.run(None, {"scores": scores})[0]
    return labels
