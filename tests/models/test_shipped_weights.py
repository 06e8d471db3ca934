"""The weights in the package: they load, draw the label maps they drew when they were made, and know real faces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fptk.core.evaluation import evaluate
from fptk.core.files import sha256_file
from fptk.data.folders import FolderDataset
from fptk.data.splits import limit
from fptk.data.synthetic.faces import SyntheticFaces
from fptk.models import TorchSession, load_checkpoint
from fptk.models.checkpoint import CheckpointCard
from fptk.models.registry import count_parameters
from fptk.recipes.loading import shipped
from fptk.runs.source import shipped_weights

GOLDEN = Path(__file__).parent / "golden"
FACES = 2
SHIPPED = ("microsegformer.safetensors", "microsegformer-mini.safetensors")


@pytest.fixture(scope="module")
def weights() -> Path:
    path = shipped_weights()
    assert path is not None, "the package ships no weights"
    return path


@pytest.fixture(scope="module")
def session(weights: Path) -> TorchSession:
    network, card = load_checkpoint(weights)
    return TorchSession(network, card.preprocess)


def test_card_and_golden_maps_belong_to_the_weights(weights: Path) -> None:
    _, card = load_checkpoint(weights)
    assert card.num_parameters == 1_747_923
    assert card.preprocess.size == (512, 512)
    assert weights.stat().st_size <= 7_100_000
    assert (GOLDEN / "weights.sha256").read_text().strip() == sha256_file(weights)


@pytest.mark.parametrize("index", range(FACES))
def test_golden_label_maps_of_synthetic_faces(index: int, session: TorchSession) -> None:
    """Another processor may round a border pixel differently; a wrong preprocessing or class order moves far more."""
    labels = session(SyntheticFaces(FACES, (512, 512))[index].image[None])[0]
    golden = np.asarray(Image.open(GOLDEN / f"synthetic-{index}.png"))
    assert len(np.unique(golden)) >= 8
    assert np.mean(labels == golden) >= 0.9995


@pytest.mark.parametrize("name", SHIPPED)
def test_every_card_belongs_to_its_weights(name: str, weights: Path) -> None:
    path = weights.with_name(name)
    network, card = load_checkpoint(path)
    assert count_parameters(network) == card.num_parameters <= 1_821_085
    assert card.recipe["name"] in shipped("fptk.recipes")
    assert CheckpointCard.model_validate_json(path.with_suffix(".json").read_text()) == card
    assert {each.name for each in weights.parent.glob("*.safetensors")} == set(SHIPPED)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_real_faces_are_parsed_as_the_card_says(name: str, weights: Path, real_faces: Path) -> None:
    network, card = load_checkpoint(weights.with_name(name))
    session = TorchSession(network, card.preprocess)
    faces = limit(FolderDataset(real_faces / "celebamask-3k" / "val"), 40)
    scores = evaluate(session, faces)
    assert scores.f1_challenge == pytest.approx(
        card.metrics["f1_challenge"], abs=0.03
    )  # 40 of the faces it was scored on
    assert scores.f1 >= 0.9 * card.metrics["f1"]
