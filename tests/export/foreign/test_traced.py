"""``fptk.build`` of a PyTorch module that is not fptk's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fptk
from fptk.core.errors import InputError
from fptk.core.preprocess import PreprocessSpec
from fptk.data.synthetic.faces import SyntheticFaces
from fptk.export.foreign.traced import FILE

torch = pytest.importorskip("torch", reason="torch is not installed")

SPEC = {"size": (64, 64), "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}
QUICK: dict[str, Any] = {"targets": ["onnx"], "precisions": ["fp32"], "gate": None, "matrix_images": 0}


class Team(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Scores by name, with a head beside them that only training reads."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Conv2d(8, 19, 1)
        )

    def forward(self, images: Any) -> dict[str, Any]:
        scores = self.body(images)
        full = torch.nn.functional.interpolate(scores, scale_factor=2.0, mode="bilinear")
        return {"aux": scores, "out": full}


def test_a_module_becomes_an_engine_with_its_own_labels(faces_folder: Path, tmp_path: Path) -> None:
    network = Team().train()
    built = {"preprocess": SPEC, "classes": "celebamask", "data": faces_folder, "out": tmp_path, **QUICK}
    (bundle,) = fptk.build(network, **built)
    assert network.training
    assert bundle.model == "Team"
    assert bundle.evaluation is not None
    assert bundle.evaluation.engine == bundle.evaluation.reference
    image = SyntheticFaces(1, (64, 64))[0].image
    mean, std = (torch.tensor(SPEC[name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.inference_mode():
        pixels = (torch.from_numpy(image).permute(2, 0, 1) / 255 - mean) / std
        expected = network.eval()(pixels[None])["out"].argmax(1)[0].numpy()
    with fptk.load(bundle) as session:
        assert (session(image[None])[0] == expected).mean() > 0.999
    assert (tmp_path / FILE).is_file()
    assert np.array_equal(bundle.preprocess.mean, SPEC["mean"])
    (again,) = fptk.build(network, **{**built, "preprocess": PreprocessSpec.model_validate(SPEC)})
    assert again.checkpoint_sha256 == bundle.checkpoint_sha256


class NoTensor(Team):
    def forward(self, images: Any) -> Any:
        return 3


class Branches(Team):
    def forward(self, images: Any) -> Any:
        return super().forward(images)["out"] if images.sum() > 7 else images


@pytest.mark.parametrize(
    ("kind", "given", "words"),
    [
        (Team, {"classes": 19}, "does not say its preprocess; give preprocess="),
        (Team, {"preprocess": SPEC}, "does not say its classes; give classes="),
        (Team, {"preprocess": {"size": (60, 64)}, "classes": 19}, "preprocess: size: size 60x64 is not"),
        (Team, {"preprocess": {"side": 64}, "classes": 19}, "preprocess: side"),
        (NoTensor, {"preprocess": SPEC, "classes": 19}, "NoTensor cannot be traced: .* export it to ONNX yourself"),
        (Branches, {"preprocess": SPEC, "classes": 19}, "Branches cannot be traced"),
    ],
)
def test_what_cannot_be_built_is_one_line(kind: Any, given: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words) as caught:
        fptk.build(kind(), out=tmp_path, **given, **QUICK)
    assert "\n" not in str(caught.value)


def test_a_file_of_the_users_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"")
    with pytest.raises(InputError, match="was not traced by fptk; choose another out="):
        fptk.build(Team(), preprocess=SPEC, classes=19, out=tmp_path, **QUICK)
    with pytest.raises(InputError, match="say with out="):
        fptk.build(Team(), preprocess=SPEC, classes=19, **QUICK)
    with pytest.raises(InputError, match="describe a PyTorch module"):
        fptk.build(classes=19, out=tmp_path, **QUICK)
