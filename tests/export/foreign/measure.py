"""The table of docs/measurements/foreign.md: networks of others as exported by themselves, and after fptk.

Four networks are trained for some steps on real faces, exported as PyTorch's documentation shows it, and then built,
judged and timed by the commands that a user types. From the repository's root:

    python -m tests.export.foreign.measure --data celebamask-3k --out runs/foreign --document FILE.md

What the output folder already holds is not made again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from fptk.core.host import describe_host, tool_versions
from fptk.data import open_split
from fptk.export.bundle import Bundle, read_bundle
from fptk.models import load_checkpoint
from fptk.runs.source import shipped_weights

from .torch_networks import MEAN, STD, BiSeNet, DeepLabV3, SegFormer, export_plainly, train

SIZE = (512, 512)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "bisenet": (BiSeNet, ["out", "aux"]),
    "deeplabv3": (DeepLabV3, ["out"]),
    "segformer-b0": (SegFormer, ["out"]),
}
"""Name: how it is made, and the names of its outputs."""
OWN = "microsegformer"
TITLES = {
    "bisenet": "BiSeNet, ResNet-18",
    "deeplabv3": "DeepLabV3, dilated ResNet-18",
    "segformer-b0": "SegFormer-B0 of transformers",
    OWN: "MicroSegFormer, the shipped weights as a plain file",
}
ENGINES = {"onnx": "ONNX Runtime", "openvino": "OpenVINO"}
REFUSED = 4
"""Exit code of an export one of whose engines lost too much; it is kept all the same."""


def main() -> None:
    """Make what is missing, measure, and write the document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="faces: train/ to learn and calibrate on, val/ to score on"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for networks and bundles")
    parser.add_argument("--document", type=Path, help="write the table to this file")
    parser.add_argument("--steps", type=int, default=100, help="training steps of each network")
    parser.add_argument("--eval-images", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--networks-only", action="store_true", help="stop after training and export")
    parser.add_argument("--bundles-only", action="store_true", help="stop before the benchmark")
    given = parser.parse_args()
    files = [make_network(name, given.data, given.out, given.steps) for name in (*NETWORKS, OWN)]
    if given.networks_only:
        return
    for file in files:
        build(file, given.data, given.eval_images)
    if given.bundles_only:
        return
    report = bench(given.out, given.rounds)
    text = document(given, report)
    if given.document:
        given.document.write_text(text, encoding="utf-8")
    print(text)


def make_network(name: str, data: Path, out: Path, steps: int) -> Path:
    """The ONNX file of a network, with its description beside it."""
    file = out / name / f"{name}.onnx"
    if file.is_file():
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    description: dict[str, Any] = {"channels": "rgb", "classes": "celebamask", "output": "out", "name": name}
    if name == OWN:
        weights = shipped_weights()
        assert weights is not None, "this build has no weights in the package"
        ours, card = load_checkpoint(weights)
        network: nn.Module = ours.original()
        description |= {"mean": list(card.preprocess.mean), "std": list(card.preprocess.std)}
        outputs = ["out"]
    else:
        factory, outputs = NETWORKS[name]
        torch.manual_seed(0)
        network = train(factory(), open_split(data, "train"), steps, batch=8, every=2, bf16=True)
        description |= {"mean": list(MEAN), "std": list(STD)}
    (file.parent / "network.yaml").write_text(yaml.safe_dump(description), encoding="utf-8")
    return export_plainly(network, file, SIZE, outputs)


def fptk(*words: Any) -> int:
    """Run a command; its exit code."""
    command = [sys.executable, "-m", "fptk", *map(str, words)]
    print("$ fptk", *map(str, words), flush=True)
    return subprocess.run(command).returncode


def build(file: Path, data: Path, eval_images: int) -> None:
    """Bundles of the file as it is, and after fptk's rewrites; TensorRT-RTX of the latter."""
    common = ("--fp32", "--int8", "--data", data, "--eval-images", eval_images, "--no-processor-matrix")
    for graph in ("original", "deploy"):
        out = file.parent / graph
        targets = ["onnx", "openvino", *(["trt-rtx"] if graph == "deploy" else [])]
        if out.is_dir():
            continue
        words = ["--graph", graph, *(word for target in targets for word in ("--target", target)), "--out", out]
        code = fptk("export", file, *common, *words)
        if code not in (0, 3, REFUSED):
            sys.exit(f"fptk export ended with {code}")


def engines(out: Path) -> list[Path]:
    """The folders of all engines that run here."""
    return [
        folder
        for name in TITLES
        for graph in ("original", "deploy")
        for place in ("bundles", "rejected")
        for target in ENGINES
        for folder in sorted((out / name / graph / place).glob(f"{target}-*"))
    ]


def bench(out: Path, rounds: int) -> dict[str, Any]:
    """Time every engine, in turns."""
    path = out / "bench.json"
    code = fptk("bench", *engines(out), "--fps", "--rounds", rounds, "--json", path)
    if code not in (0, REFUSED):
        sys.exit(f"fptk bench ended with {code}")
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report


def document(given: argparse.Namespace, report: dict[str, Any]) -> str:
    """The tables in Markdown."""
    host, tools, conditions = describe_host(), tool_versions(), report["conditions"]
    rows = {(row["network"], row["target"], row["precision"], row["graph"]): row for row in report["rows"]}
    used = ("torch", "onnxruntime", "openvino", "nncf")
    versions = ", ".join(f"{name} {tools[name]}" for name in used if name in tools)
    lines = [
        f"{host['cpu']} ({' '.join(host['isa'])}), {conditions['threads']} threads, 512x512, batch 1; {versions}.",
        f"Those of others were trained for {given.steps} steps of 8 faces at 256 px: their accuracy is a beginner's.",
        f"mIoU, and its change Δ in points, on {given.eval_images} real faces. FPS by the median call of",
        f"{conditions['interleaved_rounds']} interleaved rounds of {conditions['calls_per_round']} calls, all engines",
        "in one run. *As exported*: the file itself, with pixels cast and normalized in front and an argmax behind.",
        "",
        *markdown_table(
            ("network", "engine", "mIoU of the file"),
            ("FP32 FPS, as exported", "FP32 FPS, fptk", "×", "INT8 FPS, as exported", "INT8 FPS, fptk", "×"),
            ("INT8 Δ, as exported", "INT8 Δ, fptk"),
        ),
    ]
    for name, title in TITLES.items():
        for target, engine in ENGINES.items():
            cells = [title, engine, f"{100 * reference(given.out, name):.2f}"]
            for precision in ("fp32", "int8"):
                before, after = (rows[name, target, precision, graph]["fps"] for graph in ("original", "deploy"))
                cells += [f"{before:.1f}", f"{after:.1f}", f"{after / before:.2f}"]
            for graph in ("original", "deploy"):
                row = rows[name, target, "int8", graph]
                refused = " (refused)" if row["verdict"] == "refused" else ""
                cells.append(f"{100 * row['delta_miou']:+.2f}{refused}")
            lines.append("| " + " | ".join(cells) + " |")
    headings = ("M parameters", "G multiply-adds of the file", "after fptk")
    lines += ["", *markdown_table(("network",), headings, ("TensorRT-RTX FP32 Δ, simulated", "INT8 Δ, simulated"))]
    for name, title in TITLES.items():
        macs = (f"{rows[name, 'openvino', 'fp32', graph]['macs'] / 1e9:.2f}" for graph in ("original", "deploy"))
        deltas = (f"{100 * delta(read_rtx(given.out, name, precision)):+.2f}" for precision in ("fp32", "int8"))
        lines.append("| " + " | ".join([title, f"{parameters(given.out, name):.2f}", *macs, *deltas]) + " |")
    return "\n".join(lines) + "\n"


def markdown_table(*headings: tuple[str, ...]) -> list[str]:
    """The head of a table; names stand left, figures right."""
    names = [heading for group in headings for heading in group]
    rules = ["---" if heading in ("network", "engine") else "---:" for heading in names]
    return ["| " + " | ".join(names) + " |", "|" + "|".join(rules) + "|"]


def read_rtx(out: Path, name: str, precision: str) -> Bundle:
    """The bundle for TensorRT-RTX."""
    places = (out / name / "deploy" / place / f"trt-rtx-{precision}" for place in ("bundles", "rejected"))
    return read_bundle(next(place for place in places if place.is_dir()))


def delta(bundle: Bundle) -> float:
    """mIoU of the engine minus that of the file."""
    assert bundle.evaluation is not None
    return bundle.evaluation.engine.miou - bundle.evaluation.reference.miou


def reference(out: Path, name: str) -> float:
    """mIoU of the file itself."""
    evaluation = read_bundle(out / name / "deploy" / "bundles" / "onnx-fp32").evaluation
    assert evaluation is not None
    return evaluation.reference.miou


def parameters(out: Path, name: str) -> float:
    """Millions of parameters of the file."""
    return (read_bundle(out / name / "deploy" / "bundles" / "onnx-fp32").parameters or 0) / 1e6


if __name__ == "__main__":
    main()
