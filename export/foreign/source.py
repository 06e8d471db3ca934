"""A network that is not fptk's: an ONNX file with its description."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fptk.calibration.onnx_cpu import open_cpu_session
from fptk.core.classes import ClassSet
from fptk.core.dataset import UInt8Array
from fptk.core.errors import InputError
from fptk.core.files import atomic_file, sha256_file, sha256_json
from fptk.core.progress import Listener
from fptk.core.session import Session
from fptk.export.foreign.description import read_description
from fptk.export.foreign.file import count_parameters, read_interface, read_network, scores_behind
from fptk.export.foreign.prepare import prepare
from fptk.export.foreign.proof import Proof, RewriteRecord
from fptk.export.foreign.rewrites import LABEL_MAP, REWRITES, Work
from fptk.export.foreign.session import FileSession, feed, labels_of
from fptk.export.foreign.wrapper import PLAIN, wrap
from fptk.export.network_source import GraphRequest, NetworkCard, NetworkSource
from fptk.export.onnx_external import external_data
from fptk.models.engine_form import EXACT, EngineForm

if TYPE_CHECKING:
    import onnx

REFERENCE = "the ONNX file as it is, in ONNX Runtime FP32 with graph optimizations off"


class OnnxSource(NetworkSource):
    """An FP32 ONNX file; the reference is the file itself in ONNX Runtime, fed and read in numpy.

    Args:
        path: the file.
        given: fields of its description that go before those of ``network.yaml`` beside it.
        data: classes of the data at hand, whose names a mere number of classes takes.

    Raises:
        InputError: the file or its description cannot be used; see :mod:`fptk.export.foreign.file`.
    """

    def __init__(self, path: Path, given: Mapping[str, Any] | None = None, data: ClassSet | None = None) -> None:
        self.path = path
        self.model = read_network(path)
        self.description = read_description(path, given or {})
        self.interface = read_interface(path, self.model, self.description)
        self.card = NetworkCard(
            model=self.description.name or path.stem,
            options=self.description.model_dump(mode="json", exclude={"name"}, exclude_none=True),
            num_parameters=count_parameters(self.model),
            preprocess=self.description.spec(self.interface.size),
            classes=self.description.class_set(data),
        )
        self.checkpoint_sha256 = _sha256(path)
        self._proven: Proof | None = None
        self._works: dict[int | None, tuple[Work, list[RewriteRecord]]] = {}

    def session(self, threads: int | None = None) -> Session:
        return self._file_session(threads)

    def _file_session(self, threads: int | None = None) -> FileSession:
        return FileSession(self.path, self.interface, self.card.preprocess, self.card.classes, threads)

    def heeded(self, form: EngineForm) -> EngineForm:
        label_map = EXACT.get(form.label_map, form.label_map)  # what rounds logits rounds those of networks of ours
        return EngineForm(label_map=label_map, channels_last=form.channels_last)

    def write_onnx(self, path: Path, request: GraphRequest) -> dict[str, Any]:
        import onnx

        proof = self._proof(request)
        if request.graph == "original":
            model, records = self._unchanged(proof, request.batch)
        else:
            model, records = self._rewritten(proof, request)
        onnx.helper.set_model_props(model, self.card.metadata(request.graph, self.checkpoint_sha256))
        with atomic_file(path) as temporary:
            onnx.save(model, str(temporary))
        return {
            "file": self.path.name,
            "reference": REFERENCE,
            "rewrites": [record.model_dump(mode="json") for record in records],
        }

    def _proof(self, request: GraphRequest) -> Proof:
        """The network on the images of the request, run once."""
        if self._proven is None:
            images = request.images()
            with self._file_session() as session:
                raw = [session.raw(image[None]) for image in images]
            self._proven = self._proof_by_scores(images, raw) or Proof(raw, self.interface, images)
        return self._proven

    def _proof_by_scores(self, images: UInt8Array, labels: Sequence[npt.NDArray[Any]]) -> Proof | None:
        """The scores of a file that ends in an argmax, if it is true that its labels are theirs."""
        found = scores_behind(self.model, self.interface.output) if self.interface.kind == "labels" else None
        if found is None:
            return None
        interface = replace(self.interface, output=found[0], kind="scores", class_axis=found[1])
        model = prepare(self.path, self.model, interface, 1)
        session = open_cpu_session(model.SerializeToString(), optimized=False)
        raw = [session.run(None, {interface.input: feed(image[None], interface)})[0] for image in images]
        interface = replace(interface, shape=raw[0].shape)
        same = (
            np.array_equal(labels_of(scores, interface), labels_of(each, self.interface))
            for scores, each in zip(raw, labels, strict=True)
        )
        return Proof(raw, interface, images) if interface.is_full_size and all(same) else None

    def _unchanged(self, proof: Proof, batch: int | None) -> tuple[onnx.ModelProto, list[RewriteRecord]]:
        """The network as its file has it, between pixels and labels.

        Raises:
            InputError: even so the labels are not those of the file.
        """
        model = wrap(prepare(self.path, self.model, proof.interface, batch), proof.interface, PLAIN, batch)
        record = proof.labels("wrapper", "pixels in front of the network and labels behind it", model, batch)
        if not record.kept:
            raise InputError(
                f"{self.path} does not give the same labels twice: {record.objection} (opset, type or size is read "
                "otherwise than it was written); export it again"
            )
        return model, [record]

    def _rewritten(self, proof: Proof, request: GraphRequest) -> tuple[onnx.ModelProto, list[RewriteRecord]]:
        """The network with every rewrite that holds on it, in the form of an engine."""
        batch, say = request.batch, request.listener.say
        work, records = self._work(proof, batch, request.listener)
        for label_map in dict.fromkeys((request.form.label_map, "plain")):
            model = wrap(work.model, work.interface, replace(request.form, label_map=label_map), batch)
            record = proof.labels(LABEL_MAP, f"upsampling and argmax in the form '{label_map}'", model, batch)
            records = [*records, record]
            say(f"  {record.told}")
            if record.kept:
                return model, records
        model, last = self._unchanged(proof, batch)
        return model, [*records, *last]

    def _work(self, proof: Proof, batch: int | None, listener: Listener) -> tuple[Work, list[RewriteRecord]]:
        """The network after the rewrites that no engine's form has a part in; made once for each batch."""
        if batch not in self._works:
            work = Work(prepare(self.path, self.model, proof.interface, batch), proof.interface)
            records = []
            for name, (summary, rewrite) in REWRITES.items():
                trial = work.copy()
                if rewrite(trial):
                    record = proof.network(name, summary, trial.model, trial.interface)
                    records.append(record)
                    listener.say(f"  {record.told}")
                    work = trial if record.kept else work
            self._works[batch] = work, records
        return self._works[batch]


def _sha256(path: Path) -> str:
    """Hash of the file; of it and the files that hold its weights, where there are any."""
    others = external_data(path)
    if not others:
        return sha256_file(path)
    return sha256_json([sha256_file(path), *(sha256_file(path.parent / name) for name in others)])
