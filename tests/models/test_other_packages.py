"""A network of another package: found by its entry point, built, saved, loaded, rewritten and exported like ours."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fptk.core.errors import InputError
from fptk.core.precision import Precision
from fptk.core.preprocess import PreprocessSpec
from fptk.models import (
    CheckpointCard,
    TorchSession,
    count_parameters,
    create_model,
    list_models,
    load_checkpoint,
    registry,
    save_checkpoint,
)
from fptk.models.deploy import to_deploy
from fptk.models.deploy.serving import Serving

SPEC = PreprocessSpec(size=(64, 96))

TINY = '''
from torch import nn

from fptk.models.blocks import BilinearUpsample, ConvBN
from fptk.models.network import FaceParsingNetwork


class Tiny(FaceParsingNetwork):
    """Two convolutions read the image, which none of fptk's own networks does."""

    def __init__(self, width: int = 8) -> None:
        super().__init__("tiny", {"width": width}, BilinearUpsample(4))
        self.stem = ConvBN(3, width, 3, stride=4)
        self.side = nn.Conv2d(3, width, 1, 4)
        self.classifier = nn.Conv2d(width, 19, 1)

    def coarse(self, images):
        return self.classifier(self.stem(images) + self.side(images))


class Lost(Tiny):
    deploy_form = "tiny_faces.deploy:TinyForm"


class Strange(Tiny):
    deploy_form = "tiny_faces:FaceParsingNetwork"
'''

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """``install(name=value)`` puts a package with these entry points where Python looks for packages."""

    def put(code: str = TINY, **networks: str) -> None:
        (tmp_path / "tiny_faces.py").write_text(code)
        facts = tmp_path / "tiny_faces-1.0.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-faces\nVersion: 1.0\n")
        lines = "".join(f"{name} = {value}\n" for name, value in networks.items())
        (facts / "entry_points.txt").write_text(f"[fptk.models]\n{lines}")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
        registry._entries.cache_clear()

    yield put
    sys.modules.pop("tiny_faces", None)
    registry._entries.cache_clear()


def test_it_is_listed_and_built_with_its_options(install: Install) -> None:
    ours = list_models()
    install(tiny="tiny_faces:Tiny")
    assert list_models() == sorted([*ours, "tiny"])
    assert create_model("tiny", width=12).options == {"width": 12}
    with pytest.raises(InputError, match="model tiny has no option 'depth'; its options are: width"):
        create_model("tiny", depth=2)


def test_its_checkpoint_loads(install: Install, tmp_path: Path, trained_like: Any) -> None:
    install(tiny="tiny_faces:Tiny")
    network = trained_like(create_model("tiny", width=12))
    save_checkpoint(tmp_path / "tiny.safetensors", network.state_dict(), card_of(network))
    loaded, card = load_checkpoint(tmp_path / "tiny.safetensors")
    assert (card.model, card.options) == ("tiny", {"width": 12})
    images = torch.randn(1, 3, 64, 96)
    assert torch.equal(loaded(images), network(images))


def test_it_is_rewritten_and_exported(install: Install, tmp_path: Path, trained_like: Any) -> None:
    pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")
    from fptk.export.onnx import export_onnx
    from fptk.export.targets.base import BuildRequest
    from fptk.export.targets.registry import get_target

    install(tiny="tiny_faces:Tiny")
    network = trained_like(create_model("tiny"))
    target = get_target("onnx")
    form = to_deploy(network, engine=target.form)
    assert not [module for module in form.modules() if isinstance(module, nn.BatchNorm2d)]
    graph = export_onnx(Serving(form, SPEC), tmp_path / "tiny.onnx", SPEC)
    built = target.build(BuildRequest(graph, Precision.FP32, tmp_path, SPEC))
    images = np.random.default_rng(0).integers(0, 256, (1, *SPEC.size, 3), dtype=np.uint8)
    with target.load(built.files[0], SPEC, threads=1) as engine, TorchSession(network, SPEC) as reference:
        assert (engine(images) == reference(images)).mean() >= 0.9999


@pytest.mark.parametrize(
    ("code", "value", "message"),
    [
        ("import no_such_package", "tiny_faces:Tiny", "from tiny_faces:Tiny: ModuleNotFoundError: .*no_such_package"),
        ("raise RuntimeError('two\\nlines')", "tiny_faces:Tiny", "from tiny_faces:Tiny: RuntimeError: two lines"),
        (TINY, "tiny_faces:Small", "from tiny_faces:Small: AttributeError: .*Small"),
        (TINY, "tiny_faces:nn", "no network: tiny_faces:nn is no subclass of FaceParsingNetwork"),
        (TINY, "tiny_faces:ConvBN", "no network: tiny_faces:ConvBN is no subclass of FaceParsingNetwork"),
    ],
)
def test_a_broken_one_is_one_line_when_it_is_used(install: Install, code: str, value: str, message: str) -> None:
    install(code, tiny=value)
    assert "tiny" in list_models()
    assert create_model("unet").name == "unet"
    with pytest.raises(InputError, match=f"model 'tiny' .*{message}") as caught:
        create_model("tiny")
    assert "\n" not in str(caught.value)


def test_a_broken_one_leaves_the_command_line_alone(install: Install) -> None:
    install("import no_such_package", tiny="tiny_faces:Tiny")
    code = "import sys; from fptk.cli import main; sys.argv = ['fptk', *sys.argv[1:]]; main()"
    help_text = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    assert "predict" in help_text.stdout
    listing = "import fptk.models as m; print(m.list_models())"
    names = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True)
    assert "'tiny'" in names.stdout


def test_a_name_of_ours_is_refused_and_the_others_work(install: Install) -> None:
    install(unet="tiny_faces:Tiny", tiny="tiny_faces:Tiny")
    assert create_model("tiny").name == "tiny"
    with pytest.raises(InputError, match=r"two packages register the model 'unet': .*UNet and tiny_faces:Tiny"):
        create_model("unet")


def test_a_network_that_calls_itself_otherwise_is_refused(install: Install) -> None:
    install(small="tiny_faces:Tiny")
    with pytest.raises(InputError, match="model 'small' calls itself 'tiny'"):
        create_model("small")


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("Lost", "the deploy form of tiny cannot be imported: ModuleNotFoundError"),
        ("Strange", "tiny_faces:FaceParsingNetwork, which is no subclass of DeployForm"),
    ],
)
def test_a_wrong_deploy_form_is_one_line(install: Install, network: str, message: str) -> None:
    install(tiny=f"tiny_faces:{network}")
    with pytest.raises(InputError, match=message):
        to_deploy(create_model("tiny"))


def card_of(network: Any) -> CheckpointCard:
    """The card of an untrained network."""
    return CheckpointCard(
        model=network.name, options=network.options, num_parameters=count_parameters(network), preprocess=SPEC
    )
