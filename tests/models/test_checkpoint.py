"""Checkpoints: what is written comes back, and every broken file is refused in one line."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fptk.core.classes import CLASSES, LAPA, ClassSet
from fptk.core.errors import InputError
from fptk.core.preprocess import PreprocessSpec
from fptk.models import (
    CheckpointCard,
    count_parameters,
    create_model,
    load_checkpoint,
    load_weights,
    read_card,
    save_checkpoint,
)
from fptk.models.network import FaceParsingNetwork


def card_of(model: FaceParsingNetwork, **fields: Any) -> CheckpointCard:
    return CheckpointCard(
        model=model.name,
        options=model.options,
        num_parameters=count_parameters(model),
        preprocess=PreprocessSpec(size=(64, 64)),
        **fields,
    )


@pytest.fixture
def saved(tmp_path: Path, trained_like: Any) -> Path:
    model = trained_like(create_model(lmsa=None))
    path = tmp_path / "best.safetensors"
    save_checkpoint(path, model.state_dict(), card_of(model, epoch=3, step=40, metrics={"miou": 0.5}, weights="ema"))
    return path


def test_checkpoint_gives_back_weights_and_card(tmp_path: Path, trained_like: Any) -> None:
    model = trained_like(create_model(lmsa="multiscale"))
    card = card_of(model, metrics={"f1": 0.25}, recipe={"epochs": 2})
    path = tmp_path / "deep" / "last.safetensors"
    save_checkpoint(path, model.state_dict(), card)
    loaded, loaded_card = load_checkpoint(path)
    assert loaded_card == card == read_card(path)
    assert not loaded.training
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(loaded(images), model(images))


def test_sidecar_repeats_the_card(saved: Path) -> None:
    assert json.loads(saved.with_suffix(".json").read_text()) == read_card(saved).model_dump(mode="json")


def test_loading_leaves_the_random_generator_alone(saved: Path) -> None:
    before = torch.get_rng_state()
    load_checkpoint(saved)
    assert torch.equal(before, torch.get_rng_state())


def test_warm_start_copies_weights_into_a_model_of_other_dropout(saved: Path) -> None:
    model = create_model(lmsa=None, dropout=0.0)
    assert load_weights(model, saved) == ()
    assert torch.equal(model.classifier.weight, load_file(saved)["classifier.weight"])


def test_warm_start_for_other_classes_leaves_what_depends_on_them(saved: Path) -> None:
    model = create_model(lmsa=None, num_classes=11)
    own = model.classifier.weight.clone()
    assert load_weights(model, saved, LAPA) == ("classifier.weight", "classifier.bias")
    assert torch.equal(model.classifier.weight, own)
    assert torch.equal(model.decoder.fuse1.weight, load_file(saved)["decoder.fuse1.weight"])
    renamed = ClassSet(names=(*CLASSES[:-1], "beard"))
    assert load_weights(create_model(lmsa=None), saved, renamed) == ("classifier.weight", "classifier.bias")


def test_warm_start_of_another_form_names_the_tensor(saved: Path) -> None:
    with pytest.raises(InputError, match=r"'lmsa': None.* lacks tensor lmsa\.depthwise\.weight"):
        load_weights(create_model(lmsa="compact"), saved)


def test_warm_start_of_another_network_names_both(saved: Path) -> None:
    model = create_model(lmsa=None)
    model.name = "segformer"
    with pytest.raises(InputError, match="holds microsegformer, expected segformer"):
        load_weights(model, saved)


class _Bomb:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (Path.touch, (Path("unpickled"),))


def _rewrite(path: Path, tensors: dict[str, torch.Tensor] | None = None, **fields: Any) -> None:
    card = {**read_card(path).model_dump(mode="json"), **fields}
    save_file(tensors if tensors is not None else load_file(path), path, metadata={"fptk": json.dumps(card)})


def _card(path: Path, text: str) -> None:
    save_file(load_file(path), path, metadata={"fptk": text})


def _changed(key: str, value: torch.Tensor) -> Callable[[Path], None]:
    return lambda path: _rewrite(path, {**load_file(path), key: value})


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (Path.unlink, "does not exist"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "cannot be read"),
    "empty": (lambda path: path.write_bytes(b""), "no safetensors file"),
    "text": (lambda path: path.write_text("weights, honestly"), "no safetensors file"),
    "torch pickle": (lambda path: torch.save({"w": _Bomb()}, path), "PyTorch pickle; fptk never unpickles"),
    "bare pickle": (lambda path: path.write_bytes(pickle.dumps(_Bomb())), "PyTorch pickle; fptk never unpickles"),
    "old pickle": (
        lambda path: torch.save({"w": _Bomb()}, path, _use_new_zipfile_serialization=False),
        "PyTorch pickle; fptk never unpickles",
    ),
    "cut in the header": (lambda path: path.write_bytes(path.read_bytes()[:200]), "truncated inside its header"),
    "cut in the tensors": (lambda path: path.write_bytes(path.read_bytes()[:-9]), "damaged or truncated"),
    "header no JSON": (
        lambda path: path.write_bytes((5).to_bytes(8, "little") + b"hello" + bytes(9)),
        "header is not JSON",
    ),
    "header a list": (
        lambda path: path.write_bytes((2).to_bytes(8, "little") + b"[]" + bytes(9)),
        "not a JSON object",
    ),
    "foreign": (lambda path: save_file(load_file(path), path), "without an fptk card"),
    "card no JSON": (lambda path: save_file(load_file(path), path, metadata={"fptk": "{"}), "damaged fptk card"),
    "card a number": (lambda path: save_file(load_file(path), path, metadata={"fptk": "3"}), "damaged fptk card"),
    "other schema": (lambda path: _rewrite(path, schema_version=99), "schema version 99, this fptk .* reads 1"),
    "card field": (lambda path: _rewrite(path, epoch="many"), "damaged fptk card: epoch"),
    "unknown model": (lambda path: _rewrite(path, model="resnet"), "unknown model 'resnet'; choose one of"),
    "unknown option": (lambda path: _rewrite(path, options={"width": 2}), "no option 'width'"),
    "option named name": (lambda path: _rewrite(path, options={"name": "x"}), "cannot be built with {'name': 'x'}"),
    "option named self": (lambda path: _rewrite(path, options={"self": 1}), "no option 'self'"),
    "option a list": (lambda path: _rewrite(path, options={"lmsa": [1]}), r"cannot be built with {'lmsa': \[1\]}"),
    "option an object": (lambda path: _rewrite(path, options={"lmsa": {"a": 1}}), "cannot be built"),
    "option a text": (lambda path: _rewrite(path, options={"dropout": "much"}), "dropout 'much'"),
    "model a list": (lambda path: _rewrite(path, model=["unet"]), "damaged fptk card: model"),
    "classes renamed": (
        lambda path: _rewrite(path, classes=["background", "fur"]),
        "damaged fptk card: the network has 19 classes, and the card names 2",
    ),
    "classes too many": (
        lambda path: _rewrite(path, classes=[*CLASSES, "beard"]),
        "the network has 19 classes, and the card names 20",
    ),
    "classes none": (lambda path: _rewrite(path, classes=[]), "at least 1 item"),
    "classes twice": (lambda path: _rewrite(path, classes=[*CLASSES[:-1], "skin"]), "two classes have the name 'skin'"),
    "another number of classes": (
        lambda path: _rewrite(path, options={"lmsa": None, "dropout": 0.15, "num_classes": 11}),
        "the network has 11 classes, and the card names 19",
    ),
    "schema a text": (lambda path: _rewrite(path, schema_version="1"), "schema version '1', this fptk .* reads 1"),
    "schema a truth": (lambda path: _rewrite(path, schema_version=True), "schema version True"),
    "schema huge": (lambda path: _card(path, f'{{"schema_version": {"9" * 5000}}}'), "damaged fptk card: .* too long"),
    "card with NaN": (lambda path: _card(path, '{"schema_version": NaN}'), "damaged fptk card: NaN is no JSON number"),
    "card deep": (lambda path: _card(path, "[" * 100_000), "damaged fptk card: it nests deeper"),
    "card a list": (lambda path: _card(path, "[1]"), "damaged fptk card: it is no JSON object"),
    "header deep": (
        lambda path: path.write_bytes((100_000).to_bytes(8, "little") + b"[" * 100_000),
        "header is not JSON .*nests deeper",
    ),
    "a FIFO": (lambda path: (path.unlink(), os.mkfifo(path)), "cannot be read: it is a FIFO"),
    "a device": (lambda path: (path.unlink(), path.symlink_to("/dev/zero")), "cannot be read: it is a FIFO, device"),
    "a loop": (lambda path: (path.unlink(), path.symlink_to(path)), "cannot be read: its links lead in a circle"),
    "float8": (
        _changed("classifier.bias", torch.zeros(19).to(torch.float8_e4m3fn)),
        "classifier.bias is float8_e4m3fn, expected float32 or",
    ),
    "integers": (_changed("classifier.bias", torch.zeros(19, dtype=torch.int8)), "classifier.bias is int8, expected"),
    "truths": (_changed("classifier.bias", torch.zeros(19, dtype=torch.bool)), "classifier.bias is bool, expected"),
    "infinity": (_changed("classifier.bias", torch.full((19,), float("inf"))), "classifier.bias holds values"),
    "lacks a tensor": (lambda path: _rewrite(path, options={"lmsa": "compact", "dropout": 0.0}), "lacks tensor lmsa"),
    "other shape": (
        _changed("classifier.bias", torch.zeros(11)),
        r"classifier.bias has shape \(11,\), expected \(19,\)",
    ),
    "extra tensor": (_changed("head.bias", torch.zeros(1)), "holds tensor head.bias"),
    "NaN": (_changed("classifier.bias", torch.full((19,), float("nan"))), "classifier.bias holds values .* not finite"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_checkpoint_is_refused_in_one_line(
    kind: str, saved: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    break_it, message = BROKEN[kind]
    break_it(saved)
    with pytest.raises(InputError, match=message) as caught:
        load_checkpoint(saved)
    assert "\n" not in str(caught.value)
    assert str(saved) in str(caught.value)
    assert not Path("unpickled").exists()


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_checkpoint_ends_the_command_in_one_line(
    kind: str, saved: Path, fptk: Callable[..., Any], tmp_path: Path, faces_folder: Path
) -> None:
    BROKEN[kind][0](saved)
    finished = fptk("eval", saved, "--data", faces_folder)
    assert finished.code == 2, finished.err
    (line,) = [line for line in finished.err.splitlines() if line]
    assert line.startswith("fptk: ")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_of_another_float_type_load(saved: Path, dtype: torch.dtype) -> None:
    bias = load_file(saved)["classifier.bias"]
    _changed("classifier.bias", bias.to(dtype))(saved)
    model, _ = load_checkpoint(saved)
    assert torch.equal(model.state_dict()["classifier.bias"], bias.to(dtype).float())


def test_other_suffix_is_refused(tmp_path: Path) -> None:
    model = create_model(lmsa=None)
    with pytest.raises(InputError, match=r"must end in \.safetensors"):
        save_checkpoint(tmp_path / "best.pt", model.state_dict(), card_of(model))


def test_full_disk_is_one_line_and_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def refuse(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    model = create_model(lmsa=None)
    with pytest.raises(InputError, match="no space left"):
        save_checkpoint(saved, model.state_dict(), card_of(model))
    monkeypatch.undo()
    assert saved.read_bytes() == before
