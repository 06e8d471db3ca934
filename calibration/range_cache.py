"""Measured ranges kept on disk, under a key that names everything they depend on."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fptk.core.files import sha256_json, write_json

Range = tuple[float, float]
"""Lowest and highest value of a tensor."""


@dataclass(frozen=True)
class RangeTable:
    """Measured ranges.

    Attributes:
        ranges: (low, high) of each tensor, low <= 0 <= high not guaranteed.
        images: calibration images read.
    """

    ranges: dict[str, Range]
    images: int


class RangeCache:
    """A folder of range tables.

    The key of a table holds the hashes of the weights, of the calibration list and of the preprocessing, the settings
    that ranges depend on, and the versions of the tools; where one of them changes, the table is measured anew. A file
    that is damaged or was made under another key counts as absent.

    Args:
        folder: where the files lie; created when first written to.
        calibration_sha256: hash of the calibration list.
        preprocess_sha256: hash of the preprocessing spec.
    """

    def __init__(self, folder: Path, calibration_sha256: str, preprocess_sha256: str) -> None:
        self.folder = folder
        self._images = {"list": calibration_sha256, "preprocess": preprocess_sha256}

    def fetch(self, key: dict[str, Any]) -> RangeTable | None:
        """The table measured under ``key`` (everything but the images), if it is here."""
        full = self.full_key(key)
        try:
            stored = json.loads(self._path(full).read_text(encoding="utf-8"))
            if stored["key"] != full:
                return None
            ranges = {str(name): (float(low), float(high)) for name, (low, high) in stored["ranges"].items()}
            images = int(stored["images"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        if not all(math.isfinite(limit) for pair in ranges.values() for limit in pair):
            return None
        return RangeTable(ranges, images)

    def store(self, key: dict[str, Any], table: RangeTable) -> None:
        """Keep ``table`` under ``key``, whole or not at all.

        Raises:
            InputError: the folder cannot be written to.
        """
        full = self.full_key(key)
        write_json(self._path(full), {"key": full, "images": table.images, "ranges": table.ranges})

    def full_key(self, key: dict[str, Any]) -> dict[str, Any]:
        """``key`` with the hashes of the images added, as a file would give it back."""
        # Through JSON and back, so that tuples compare equal to the lists that a file gives.
        full: dict[str, Any] = json.loads(json.dumps({**key, "images": self._images}))
        return full

    def _path(self, full: dict[str, Any]) -> Path:
        return self.folder / f"ranges-{sha256_json(full)[:24]}.json"
