"""How an inference engine wants the graph of a deploy form; a target carries the form of its engine. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

EXACT = {"keys": "phases"}
"""Label maps that round the logits, and the exact one that takes their place where that is not wanted."""


@dataclass(frozen=True)
class EngineForm:
    """How one engine wants the same graph.

    Attributes:
        label_map: key of :data:`fptk.models.deploy.label_map.LABEL_MAPS`.
        query_tile: queries that attend in one step; ``None`` for all. The scores of a tile stay in the
            processor's cache where the engine does not fuse the attention itself.
        max_scores: scores of one image that may stand in memory at once; more are computed in tiles of queries.
        norm_apart: put a change of shape between the last sum of a stage and its LayerNorm. ONNX Runtime fuses the
            two into a node that takes three times as long as they do.
        channels_last: the engine's convolutions take and return channels-last memory. Pixels, which come that way,
            are not transposed before the first of them, nor maps after the last.
        pixel_views: tokens become maps, and maps tokens, by a change of shape and then a transposition. ONNX Runtime
            makes such transpositions itself around its int8 convolutions, and cancels them against these.
        last_maps: how MicroSegFormer's decoder and head hold their maps. ``maps``: as (N, C, H, W), for convolutions.
            ``planar``: likewise, and the head's matrices are multiplied by pixels of channels-last memory. ``pixels``:
            as (N, H, W, C), for products whose result stays float: in int8 a convolution rounds its own to 8 bits.
            ``products``: likewise until the last convolutions, enlarged by products with interpolation matrices: matrix
            units are as fast at it as interpolation is, and it takes less memory.
        centered_tokens: the tokens between MicroSegFormer's blocks have a mean of zero over their channels, so that its
            LayerNorms are root mean squares.
        fused_residuals: MicroSegFormer's residual sum after an attention comes before the change of shape that ends it,
            and OpenVINO makes both in one kernel. Without a change of shape behind the sum it would crash
            (:func:`fptk.calibration.openvino_forms.crashing_attentions`).
        gelu: ``polynomial`` is :func:`fptk.models.deploy.inexact.gelu`, for arithmetic that is no more exact than it.
    """

    label_map: str
    query_tile: int | None = None
    max_scores: int = 2**26
    norm_apart: bool = False
    channels_last: bool = False
    pixel_views: bool = False
    last_maps: Literal["maps", "planar", "pixels", "products"] = "maps"
    centered_tokens: bool = False
    fused_residuals: bool = False
    gelu: Literal["exact", "polynomial"] = "exact"

    @property
    def exact(self) -> bool:
        """Whether the graph computes the network's own function, but for the order of its sums."""
        return self.label_map not in EXACT and self.gelu == "exact"


_ONNXRUNTIME = EngineForm(label_map="mixed_cells", query_tile=1024, norm_apart=True, pixel_views=True)
_OPENVINO = EngineForm(
    label_map="phases", channels_last=True, last_maps="planar", centered_tokens=True, fused_residuals=True
)

ENGINES: dict[str, EngineForm] = {
    "onnxruntime": _ONNXRUNTIME,
    "onnxruntime-int8": replace(_ONNXRUNTIME, last_maps="pixels"),
    "openvino": _OPENVINO,
    "openvino-int8": replace(_OPENVINO, label_map="keys", gelu="polynomial"),
    "openvino-bf16": replace(_OPENVINO, label_map="keys", last_maps="products", gelu="polynomial"),
    # TensorRT computes tiles side by side: a quarter of the scores in a tile is a quarter of the engine's memory.
    "tensorrt": EngineForm(label_map="plain", max_scores=2**24),
}
"""Engines and precisions with a form of their own. The forms for float32 compute the same function; the others round
less than the engine's own arithmetic does."""
