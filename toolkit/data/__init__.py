"""Reading, converting, inspecting and drawing face-parsing data (numpy and Pillow only, no torch)."""

from fptk.data.folders import FolderDataset
from fptk.data.splits import (
    ConcatDataset,
    Subset,
    find_duplicates,
    hold_out,
    image_file,
    key_of,
    open_calibration,
    open_evaluation,
    open_split,
    open_training,
)

__all__ = [
    "ConcatDataset",
    "FolderDataset",
    "Subset",
    "find_duplicates",
    "hold_out",
    "image_file",
    "key_of",
    "open_calibration",
    "open_evaluation",
    "open_split",
    "open_training",
]
