"""The picture of a training: loss, validation scores and learning rate over the epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fptk.core.charts import chart


def draw_curves(records: list[dict[str, Any]], path: Path) -> None:
    """Draw the lines of ``metrics.jsonl`` into a PNG.

    Args:
        records: at least one.
        path: ends in ``.png``.

    Raises:
        InputError: matplotlib is not installed, or the file cannot be written.
    """
    with chart(path, (12, 3.6), "train") as figure:
        loss, scores, rate = figure.subplots(1, 3)
        panels = (
            (loss, "loss", ("loss", "ce", "dice", "val_loss")),
            (scores, "validation", ("f1", "f1_challenge", "miou")),
            (rate, "learning rate", ("lr",)),
        )
        epochs = [record["epoch"] for record in records]
        for axes, title, keys in panels:
            for key in keys:
                values = [record.get(key) for record in records]  # an older fptk recorded no val_loss
                axes.plot(epochs, values, label=key, marker="." if len(epochs) < 40 else "")
            axes.set(title=title, xlabel="epoch")
            axes.grid(alpha=0.3)
            if len(keys) > 1:
                axes.legend()
        best = max(records, key=lambda record: float(record["f1"]))
        scores.axvline(best["epoch"], color="grey", linewidth=0.8)
        scores.set_title(f"validation (best f1 {best['f1']:.4f})")
