"""The speed of the PyTorch network: what is measured, what no longer fits, and what fails, on a CPU at tiny size."""

from __future__ import annotations

import itertools
import json
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fptk.benchmarks.latency import LatencyPlan
from fptk.core.preprocess import PreprocessSpec
from fptk.data.synthetic.faces import SyntheticFaces
from fptk.data.writer import write_dataset
from fptk.models.checkpoint import load_checkpoint
from fptk.models.torch_session import TorchSession
from fptk.runs.source import shipped_weights
from fptk.workflows.gpu_speed import SpeedPlan, default_variants, load_faces, main, markdown, measure
from fptk.workflows.torch_variants import DEPLOY, MODES, ORIGINAL, Runner, Variant, Variants, labels_of, measuring

SPEC = PreprocessSpec(size=(32, 64))
FACES = load_faces(None, SPEC, count=3)
EAGER = tuple(Variant(graph, "fp32", "eager") for graph in (DEPLOY, ORIGINAL))
SHORT = LatencyPlan(rounds=2, calls=2)


@pytest.fixture(scope="module")
def network() -> Any:
    weights = shipped_weights()
    assert weights
    return load_checkpoint(weights)[0]


def plan(*variants: Variant, **changes: Any) -> SpeedPlan:
    given = {"batches": (1, 2), "compiled_batches": (1, 2), "latency": SHORT, "throughput": SHORT, "burst": 2}
    return SpeedPlan(device="cpu", variants=variants, **{**given, **changes})


def by_name(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {f"{row['graph']}, {row['precision']}, {row['mode']}": row for row in result["rows"]}


def uncompiled(call: types.FunctionType, **options: Any) -> types.FunctionType:
    assert options["fullgraph"]
    return call


def broken(call: types.FunctionType, **options: Any) -> Callable[[Any], Any]:
    def fail(images: Any) -> Any:
        raise RuntimeError(f"no kernel for {options['mode']}\nand a long story")

    return fail


def test_the_program_writes_figures_and_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "speed.json"
    options = ["--device=cpu", "--size", "32", "32", "--batches", "2", "1", "--only", "fp32, eager", "--limit", "10"]
    assert main(["--out", str(out), *options]) == 0
    result = json.loads(out.read_text())
    rows = by_name(result)
    assert set(rows) == {each.label for each in EAGER}
    for row in rows.values():
        assert (row["state"], row["reason"]) == ("measured", None)
        assert set(row["images_per_s"]) == {"1", "2"}
        assert min(row["images_per_s"].values()) > 0
        assert 0 < row["latency_ms"]["median"] <= row["latency_ms"]["p90"]
        assert row["latency_with_copies_ms"]["calls"] == row["latency_ms"]["calls"] >= 4
        assert row["equal_labels"] > 0.999
    assert (result["batches"], result["size"], result["faces"], result["limit_s"]) == ([1, 2], [32, 32], 16, 10)
    assert (result["versions"]["torch"], result["kind_of_faces"]) == (torch.__version__, "synthetic")
    table = out.with_suffix(".md").read_text()
    assert table == markdown(result)
    assert table.count(", batch 1 |") == 1
    assert sum(line.startswith("| deploy form | fp32 | eager |") for line in table.splitlines()) == 1
    assert "preparing deploy form, fp32, eager" in capsys.readouterr().err


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("graph", [ORIGINAL, DEPLOY])
def test_a_variant_gives_the_labels_of_a_session(network: Any, graph: str, precision: str) -> None:
    runner = Variants(network, SPEC, "cpu").runner(Variant(graph, precision, "eager"))
    with measuring():
        labels = labels_of(runner, torch.stack([*map(torch.from_numpy, FACES)]), torch.device("cpu"))
    with TorchSession(network, SPEC) as session:
        expected = torch.stack([torch.from_numpy(session(face[None])[0]) for face in FACES])
    assert labels.dtype == torch.uint8
    assert float((labels == expected).double().mean()) > {"fp32": 0.999, "fp16": 0.99, "bf16": 0.97}[precision]


def test_what_no_longer_fits_is_named(network: Any) -> None:
    ticks = itertools.count()
    third = Variant(ORIGINAL, "bf16", "eager")
    # Each look at the clock takes a second, so that the third variant's turn comes too late.
    *_, result = measure(network, SPEC, FACES, plan(*EAGER, third, limit=7.0, clock=lambda: float(next(ticks))))
    states = [row["state"] for row in result["rows"]]
    assert states == ["measured", "measured", "not measured"]
    assert all(row["latency_ms"]["calls"] == SHORT.calls for row in result["rows"][:2])  # one round, whatever the limit
    assert "- original graph, bf16, eager: not measured; the time was up before its turn" in markdown(result)


def test_a_limit_of_nothing_measures_nothing(network: Any) -> None:
    (result,) = measure(network, SPEC, FACES, plan(*EAGER, limit=0.0))
    assert [row["state"] for row in result["rows"]] == ["not measured"] * 2
    assert "| deploy form |" not in markdown(result)


def test_broken_variants_are_survived(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", broken)
    captured, compiled = Variant(DEPLOY, "fp32", "eager, CUDA graph"), Variant(DEPLOY, "fp32", "compiled")
    results = list(measure(network, SPEC, FACES, plan(compiled, captured, *EAGER)))
    rows = by_name(results[-1])
    assert [rows[each.label]["state"] for each in EAGER] == ["measured"] * 2
    assert rows[compiled.label]["state"] == rows[captured.label]["state"] == "failed"
    assert rows[compiled.label]["reason"] == "preparing: RuntimeError: no kernel for default"
    assert len(rows[captured.label]["reason"].splitlines()) == 1
    assert json.loads(json.dumps(results[-1], allow_nan=False)) == results[-1]
    assert "- deploy form, fp32, compiled: failed; preparing: RuntimeError: no kernel for default\n" in markdown(
        results[-1]
    )


def test_a_batch_that_fails_leaves_the_others(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def call(runner: Runner, images: Any) -> Any:
        if len(images) == 2 and runner.variant.graph == ORIGINAL:
            raise torch.OutOfMemoryError("no memory for 2 images")
        return runner._call(images)

    monkeypatch.setattr(Runner, "__call__", call)
    *_, result = measure(network, SPEC, FACES, plan(*EAGER))
    deploy, original = result["rows"]
    assert (set(deploy["images_per_s"]), set(original["images_per_s"])) == ({"1", "2"}, {"1"})
    assert original["state"] == "measured"
    assert original["reason"] == "batch 2: OutOfMemoryError: no memory for 2 images"
    assert deploy["reason"] is None


def test_compiled_variants_are_timed_beside_the_others(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", uncompiled)
    compiled = Variant(DEPLOY, "fp32", "compiled")
    first, second = measure(network, SPEC, FACES, plan(compiled, *EAGER, compiled_batches=(1,)))
    assert [row["state"] for row in first["rows"]] == ["not measured", "measured", "measured"]
    assert [row["state"] for row in second["rows"]] == ["measured"] * 3
    assert set(second["rows"][0]["images_per_s"]) == {"1"}
    assert first["rows"][1]["latency_ms"] != second["rows"][1]["latency_ms"]


def test_each_variant_has_a_code_object_of_its_own(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[types.FunctionType] = []
    monkeypatch.setattr(torch, "compile", lambda call, **_: made.append(call) or call)
    variants = Variants(network, SPEC, "cpu")
    for graph, mode in itertools.product((DEPLOY, ORIGINAL), ("compiled", "compiled, CUDA graph")):
        variants.runner(Variant(graph, "fp32", mode))
    assert len({id(call.__code__) for call in made}) == len(made) == 2


@pytest.mark.slow
@pytest.mark.parametrize("graph", [ORIGINAL, DEPLOY])
def test_both_graphs_are_compiled_whole(network: Any, graph: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def traced(call: types.FunctionType, *, mode: str, fullgraph: bool, dynamic: bool) -> Any:
        return whole(call, backend="aot_eager", fullgraph=fullgraph, dynamic=dynamic)

    whole = torch.compile
    monkeypatch.setattr(torch, "compile", traced)
    *_, result = measure(network, SPEC, FACES, plan(Variant(graph, "fp32", "compiled"), limit=600.0))
    (row,) = result["rows"]
    assert (row["state"], row["reason"]) == ("measured", None)
    assert row["equal_labels"] > 0.999


def test_torch_keeps_its_flags(network: Any) -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    with measuring():
        Variants(network, SPEC, "cpu").runner(Variant(DEPLOY, "tf32", "eager")).select()
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cudnn.benchmark
    after = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    assert after == before


def test_every_combination_stands_in_the_plan_of_a_gpu() -> None:
    variants = default_variants("cuda")
    assert len(set(variants)) == len(variants)
    usual = itertools.product((DEPLOY, ORIGINAL), ("fp32", "tf32", "fp16", "bf16"), list(MODES)[:4])
    assert set(itertools.starmap(Variant, usual)) < set(variants)
    assert {each.mode for each in variants} == set(MODES)
    assert not any(MODES[each.mode].captured for each in default_variants("cpu"))


def test_faces_come_from_a_folder_or_a_split(tmp_path: Path) -> None:
    write_dataset(SyntheticFaces(5, (64, 64)), tmp_path, "val")
    split = load_faces(tmp_path / "val", SPEC, count=4)
    images = load_faces(tmp_path / "val" / "images", SPEC)
    assert [face.shape for face in split] == [(32, 64, 3)] * 4
    assert len(images) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device=cuda"], "torch finds no NVIDIA GPU here"),
        (["--device=cpu", "--batches", "0"], "--batches 0 found"),
        (["--device=cpu", "--only", "int3"], "--only 'int3' names no variant"),
        (["--device=cpu", "--size", "30", "30"], "size 30x30 is no multiple of 32"),
        (["--device=cpu", "--weights", "missing.safetensors"], "missing.safetensors"),
        (["--device=cpu", "--faces", "missing"], "missing"),
    ],
)
def test_a_mistake_ends_in_one_line(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["--out", str(tmp_path / "speed.json"), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU in this host")
def test_a_gpu_measures_eager_captured_and_compiled(network: Any) -> None:
    modes = ("eager", "eager, CUDA graph", "compiled", "compiled, CUDA graph")
    variants = tuple(Variant(DEPLOY, "fp16", mode) for mode in modes)
    given = {"batches": (1, 2), "compiled_batches": (1,), "latency": SHORT, "throughput": SHORT, "limit": 300.0}
    *_, result = measure(network, SPEC, FACES, SpeedPlan(device="cuda", variants=variants, **given))  # type: ignore[arg-type]
    for row in result["rows"]:
        assert (row["state"], row["reason"]) == ("measured", None), row
        assert row["equal_labels"] > 0.98, row
    for entry in result["profile"]:
        assert entry["busy_ms"] > 0, entry
    assert result["profile"]
