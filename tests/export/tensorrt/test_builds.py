"""Real engines by TensorRT-RTX, which needs no GPU; running them needs one."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fptk.calibration.onnx_cpu import open_cpu_session
from fptk.core.errors import GateRefusedError, InputError, TargetUnavailableError
from fptk.core.files import sha256_file, write_json
from fptk.core.precision import Precision
from fptk.core.preprocess import PreprocessSpec
from fptk.export.bundle import read_bundle
from fptk.export.targets.base import BuildRequest, BuildResult, CalibrationStream, EngineNotBuiltError
from fptk.export.targets.tensorrt import TensorRTRTXTarget, TensorRTTarget, TrtRtxOptions
from fptk.export.tensorrt.build import BuildFailedError, build_engine
from fptk.export.tensorrt.engine_card import EngineCard
from fptk.export.tensorrt.options import TensorRTOptions
from fptk.export.tensorrt.probe import probe as try_tiny_engine
from fptk.export.tensorrt.product import TENSORRT_RTX
from fptk.models.registry import list_models

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="the package tensorrt_rtx is not installed; run: pip install 'fptk[trt-rtx]'",
)
SPEC = PreprocessSpec(size=(64, 64))
ONE_GPU = TensorRTOptions(sm=(86,))


def build(
    target: TensorRTTarget, source: Path, folder: Path, precision: Precision, images: Any, **options: Any
) -> BuildResult:
    folder.mkdir(exist_ok=True)
    return target.build(
        BuildRequest(
            source,
            precision,
            folder,
            SPEC,
            CalibrationStream(images, list, "test", "test", folder / "ranges"),
            target.options.model_validate(options),
        )
    )


@needs_rtx
def test_int8_engine_runs_every_product_in_int8(face_net: Path, images: Any, tmp_path: Path) -> None:
    artifact = build(TensorRTRTXTarget(), face_net, tmp_path / "int8", Precision.INT8, images, sm=(86,))
    layers = artifact.record.layers
    assert layers is not None
    assert layers.int8_share == 1.0
    assert layers.counts == {"Int8": layers.total}
    assert layers.absorbed == ()
    assert [path.name for path in artifact.files] == [
        "model.engine",
        "engine.json",
        "model.onnx",
        "layers.json",
        "build.log",
    ]
    assert artifact.files[0].stat().st_size > 100_000
    assert str(tmp_path) not in artifact.files[4].read_text()
    assert artifact.record.details["bound_to"]["compute_capabilities"] == ["8.6"]


@needs_rtx
@pytest.mark.slow
@pytest.mark.parametrize(("precision", "kernel"), [(Precision.FP32, "Float"), (Precision.FP16, "Half")])
def test_float_engines_run_in_the_precision_of_their_file(
    precision: Precision, kernel: str, face_net: Path, images: Any, tmp_path: Path
) -> None:
    artifact = build(TensorRTRTXTarget(), face_net, tmp_path / "float", precision, images)
    assert set(artifact.record.layers.counts) == {kernel}
    assert artifact.record.details["bound_to"]["compute_capabilities"] == ["8.0", "8.6", "8.9", "12.0"]


@needs_rtx
@pytest.mark.slow
def test_fp16_builds_for_turing(face_net: Path, images: Any, tmp_path: Path) -> None:
    build(TensorRTRTXTarget(), face_net, tmp_path / "sm75", Precision.FP16, images, sm=(75,))


@needs_rtx
@pytest.mark.slow
def test_float_layers_in_an_int8_engine_are_counted_and_refused(face_net: Path, images: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = {"sm": (86,), "float_nodes": ("query", "head")}
    with pytest.raises(GateRefusedError, match=r"query .*no Q/DQ on") as caught:
        build(TensorRTRTXTarget(), face_net, tmp_path / "mixed", Precision.INT8, images, **options)
    assert caught.value.exit_code == 4
    options["min_int8_layers"] = 0.5
    artifact = build(TensorRTRTXTarget(), face_net, tmp_path / "mixed", Precision.INT8, images, **options)
    fallen = {node for layer in artifact.record.details["layers_not_int8"] for node in layer["onnx"]}
    assert fallen == {"query", "head"}


@needs_rtx
@pytest.mark.slow
def test_int8_with_an_fp16_rest_keeps_every_product_in_int8(face_net: Path, images: Any, tmp_path: Path) -> None:
    artifact = build(TensorRTRTXTarget(), face_net, tmp_path / "rest", Precision.INT8, images, int8_rest="fp16")
    assert artifact.record.layers.int8_share == 1.0


@needs_rtx
@pytest.mark.slow
def test_upsampling_by_a_transposed_convolution_runs_in_int8(images: Any, upsampling_net: Path, tmp_path: Path) -> None:
    """TensorRT-RTX has no INT8 kernel for ConvTranspose; the target rewrites it."""
    artifact = build(TensorRTRTXTarget(), upsampling_net, tmp_path / "up", Precision.INT8, images, sm=(86,))
    assert artifact.record.details["lowered"] == ["up"]
    assert artifact.record.layers.counts == {"Int8": 3}


@needs_rtx
@pytest.mark.slow
def test_open_batch_builds_for_a_range(write_net: Callable[..., Path], tmp_path: Path) -> None:
    source = write_net(tmp_path / "open.onnx", batch="batch")
    artifact = build(TensorRTRTXTarget(), source, tmp_path / "open", Precision.FP32, None, dynamic_batch=(1, 2, 4))
    assert "--maxShapes=images:4x64x64x3" in artifact.record.rebuild


@needs_rtx
@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "node"),
    [
        ({"zero_point": 5}, "input_q"),
        ({"bias": "int32"}, "bias_dq"),
        ({"scale": 0.0}, "input_q"),
        ({"activation": np.int16, "opset": 21}, "zero"),
    ],
    ids=["asymmetric", "int32-bias", "bad-scale", "int16"],
)
def test_the_parser_rejects_what_the_checker_calls_an_error(
    broken: dict[str, Any], node: str, write_conv: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=node):
        build_engine(TENSORRT_RTX, write_conv(tmp_path / "broken.onnx", **broken), tmp_path, ONE_GPU)


@needs_rtx
@pytest.mark.slow
def test_uint8_is_taken_for_int8_with_nothing_but_a_warning(write_conv: Callable[..., Path], tmp_path: Path) -> None:
    """Why the checker has to call it an error: the builder does not."""
    source = write_conv(tmp_path / "uint8.onnx", activation=np.uint8)
    built = build_engine(TENSORRT_RTX, source, tmp_path, ONE_GPU)
    assert any("Defaulting to INT8" in warning for warning in built.warnings)


@needs_rtx
@pytest.mark.slow
def test_float32_for_turing_fails_in_the_builder_too(face_net: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildFailedError, match="FP32 GEMM is not supported"):
        build_engine(TENSORRT_RTX, face_net, tmp_path, TensorRTOptions(sm=(75,)))


@needs_rtx
@pytest.mark.slow
def test_a_builder_that_fails_or_crashes_leaves_one_error(attention_file: Path, tmp_path: Path) -> None:
    """TensorRT-RTX 1.7 ends with a segmentation fault on this Attention operator; the caller lives on."""
    with pytest.raises((BuildFailedError, InputError)):
        build_engine(TENSORRT_RTX, attention_file, tmp_path, ONE_GPU)
    assert not (tmp_path / "model.engine").exists()


@needs_rtx
@pytest.mark.slow
def test_the_same_request_builds_the_same_graph(face_net: Path, images: Any, tmp_path: Path) -> None:
    first, second = (
        build(TensorRTRTXTarget(), face_net, tmp_path / name, Precision.INT8, images, sm=(86,)) for name in "ab"
    )
    assert sha256_file(first.files[2]) == sha256_file(second.files[2])
    assert first.record.layers == second.record.layers


def export_deploy_form(name: str, size: int, path: Path) -> Path:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    from fptk.export.onnx import export_onnx
    from fptk.models import create_model
    from fptk.models.deploy import to_deploy
    from fptk.models.deploy.serving import Serving

    torch.manual_seed(0)
    spec = PreprocessSpec(size=(size, size))
    return export_onnx(Serving(to_deploy(create_model(name), engine="tensorrt"), spec), path, spec)


def smooth_images(size: int) -> Callable[[], Iterator[Any]]:
    def stream() -> Iterator[Any]:
        ramp = np.linspace(0, 255, size)
        for shift in range(3):
            plane = np.add.outer(np.roll(ramp, 97 * shift), ramp) / 2
            yield np.stack([plane, plane.T, 255 - plane], axis=-1)[None].astype(np.uint8)

    return stream


@needs_rtx
@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
def test_every_network_builds_in_float_and_int8(name: str, tmp_path: Path) -> None:
    size = 256
    source = export_deploy_form(name, size, tmp_path / "net.onnx")
    for precision in (Precision.FP32, Precision.INT8):
        folder = tmp_path / precision
        folder.mkdir()
        spec = PreprocessSpec(size=(size, size))
        request = BuildRequest(
            source,
            precision,
            folder,
            spec,
            CalibrationStream(smooth_images(size), list, "test", "test", folder / "ranges"),
            TrtRtxOptions(sm=(86,)),
        )
        layers = TensorRTRTXTarget().build(request).record.layers
        assert layers is not None
        assert layers.total > 10
        assert precision is Precision.FP32 or (layers.int8_share or 0) >= 0.9


@needs_rtx
@pytest.mark.slow
def test_microsegformer_at_512_builds_in_all_three_precisions(tmp_path: Path) -> None:
    source = export_deploy_form("microsegformer", 512, tmp_path / "net.onnx")
    shares: dict[Precision, dict[str, float]] = {}
    for precision in TensorRTTarget.precisions:
        folder = tmp_path / precision
        folder.mkdir()
        request = BuildRequest(
            source,
            precision,
            folder,
            PreprocessSpec(),
            CalibrationStream(smooth_images(512), list, "test", "test", folder / "ranges"),
        )
        artifact = TensorRTRTXTarget().build(request)
        layers = artifact.record.layers
        assert layers is not None
        shares[precision] = {kind: count / layers.total for kind, count in layers.counts.items()}
        assert artifact.record.details["warnings"] == []
    assert shares[Precision.FP32] == {"Float": 1.0}
    # The gate's matrix-vector product is fused with the float32 mean before it.
    assert shares[Precision.FP16]["Half"] >= 0.95
    assert shares[Precision.INT8]["Int8"] >= 0.95


@pytest.fixture
def checkpoint_512(tmp_path: Path) -> Path:
    """An untrained MicroSegFormer for 512x512 images."""
    torch = pytest.importorskip("torch")
    from fptk.models import CheckpointCard, count_parameters, create_model, save_checkpoint

    torch.manual_seed(0)
    model = create_model("microsegformer")
    path = tmp_path / "untrained.safetensors"
    card = CheckpointCard(
        model=model.name,
        options=model.options,
        num_parameters=count_parameters(model),
        preprocess=PreprocessSpec(),
    )
    save_checkpoint(path, model.state_dict(), card)
    return path


@needs_rtx
@pytest.mark.slow
def test_the_command_writes_three_engines_and_says_how_much_is_int8(
    checkpoint_512: Path, fptk: Callable[..., Any], tmp_path: Path
) -> None:
    options = (checkpoint_512, "--calib-size", 4, "--out", tmp_path)
    finished = fptk("export", "--target", "trt-rtx", "--int8", "--fp16", "--fp32", *options)
    assert finished.code == 0, finished.err
    assert "synthetic faces" in finished.err
    for precision in TensorRTRTXTarget.precisions:
        bundle = read_bundle(tmp_path / "bundles" / f"trt-rtx-{precision}")
        assert bundle.engine == "model.engine"
        assert bundle.golden is not None
        own = set(bundle.files) - set(bundle.golden.files)
        assert own == {"model.engine", "engine.json", "model.onnx", "layers.json", "build.log"}
        assert (bundle.build.rebuild or "").startswith("tensorrt_rtx --onnx=model.onnx")
        assert bundle.build.details["bound_to"]["compute_capabilities"] == ["8.0", "8.6", "8.9", "12.0"]
        assert bundle.build.layers is not None
        assert bundle.build.layers.summary in finished.out
    layers = read_bundle(tmp_path / "bundles" / "trt-rtx-int8").build.layers
    assert layers is not None
    assert layers.int8_share is not None
    assert layers.int8_share >= 0.9
    refused = fptk("export", "--target", "trt-rtx", "--int8", "-o", "min_int8_layers=1", "-o", "sm=86", *options)
    assert refused.code == 4
    assert "100% are asked for" in refused.err
    assert (tmp_path / "rejected" / "trt-rtx-int8" / "layers.json").is_file()


@needs_rtx
@pytest.mark.slow
def test_the_command_builds_for_a_range_of_batches(
    checkpoint: Path, faces_folder: Path, fptk: Callable[..., Any], tmp_path: Path
) -> None:
    options = ("--data", faces_folder, "--calib-size", 4, "--no-gate", "-o", "sm=86", "--out", tmp_path)
    batches = ("-o", "dynamic_batch=1:2:4", "-o", "attention_int8=false", "-o", "min_int8_layers=0.5")
    finished = fptk("export", "--target", "trt-rtx", "--target", "onnx", "--int8", checkpoint, *options, *batches)
    assert finished.code == 0, finished.err
    engine = read_bundle(tmp_path / "bundles" / "trt-rtx-int8")
    assert "--maxShapes=images:4x64x64x3" in (engine.build.rebuild or "")
    assert engine.input.shape == (None, 64, 64, 3)
    assert engine.build.options["attention_int8"] is False
    assert engine.build.layers is not None
    assert engine.build.layers.counts["Float"] > 1
    assert read_bundle(tmp_path / "bundles" / "onnx-int8").input.shape == (1, 64, 64, 3), "the option is TensorRT's"


@needs_rtx
@pytest.mark.slow
def test_an_engine_of_ours_is_not_loaded_where_it_would_crash(face_net: Path, images: Any, tmp_path: Path) -> None:
    """Deserialising without a driver ends the process, so the driver is asked for first."""
    target = TensorRTRTXTarget()
    if target.probe().can_run:
        pytest.skip("this host can run the engine")
    artifact = build(target, face_net, tmp_path / "fp32", Precision.FP32, images, sm=(86,))
    with pytest.raises(TargetUnavailableError, match="cannot run"):
        target.load(artifact.files[0], SPEC)


@pytest.mark.gpu
@pytest.mark.parametrize("target", [TensorRTTarget(), TensorRTRTXTarget()], ids=lambda target: target.name)
@pytest.mark.parametrize("precision", list(Precision))
def test_engine_gives_the_labels_of_its_onnx_file(
    target: TensorRTTarget, precision: Precision, face_net: Path, images: Any, tmp_path: Path
) -> None:
    probe = target.probe()
    if not probe.can_run:
        pytest.skip(f"{target.name}: {probe.reason}; {probe.remedy}")
    if precision not in target.precisions:
        pytest.skip(f"{target.name} has no {precision}")
    if (taken := try_tiny_engine(60, target.product)).built_for != "GPU" or not taken.loaded:
        pytest.skip(f"{taken.product} {taken.version} does not take {taken.gpu}: {taken.reason or taken.built_for}")
    options = {"sm": "current"} if target.product.builds_without_gpu else {}
    try:
        artifact = build(target, face_net, tmp_path / "gpu", precision, images, **options)
    except EngineNotBuiltError as error:
        pytest.fail(f"a host that can run should build: {error}")
    reference = open_cpu_session(tmp_path / "gpu" / "model.onnx", float_only=True)
    card = EngineCard.read(artifact.files[0])
    for cuda_graph in (False, True):
        content = card.model_copy(update={"cuda_graph": cuda_graph}).model_dump(mode="json")
        write_json(artifact.files[0].with_name("engine.json"), content)
        with target.load(artifact.files[0], SPEC) as session:
            for image in images():
                expected = reference.run(None, {"images": image})[0]
                assert (session(image) == expected).mean() > 0.97
            assert session.compute_ms() > 0
