"""What a data folder holds: the visible names in it, and the words for a folder that is none."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path

from fptk.core.errors import InputError
from fptk.core.files import reason_of

SHOWN = 4
"""Names of a folder that an error shows."""


def is_hidden(name: str) -> bool:
    """Whether every reader of folders passes a file of this name over: ``.DS_Store``, ``._a.jpg``."""
    return name.startswith(".")


def shown(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def visible_names(folder: Path) -> list[str]:
    """Sorted names of the visible entries of a data folder, which may have none.

    Raises:
        InputError: it does not exist, is no folder, or may not be read.
    """
    try:
        mode = folder.stat().st_mode
        if not stat.S_ISDIR(mode):
            kind = "a file" if stat.S_ISREG(mode) else "a FIFO, device or socket"
            raise InputError(f"{folder} is {kind}; expected a data folder, or a list of pairs (.csv or .json)")
        return sorted(path.name for path in folder.iterdir() if not is_hidden(path.name))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"data folder {folder} does not exist; check the path") from None
    except (OSError, ValueError) as error:
        raise InputError(f"data folder {folder} cannot be read: {reason_of(error)}") from error


def check_folder(folder: Path) -> list[str]:
    """Sorted names of the visible entries of a data folder.

    Raises:
        InputError: it does not exist, is no folder, is empty, or may not be read.
    """
    names = visible_names(folder)
    if not names:
        raise InputError(f"data folder {folder} is empty; expected images and masks, e.g. train/images + train/masks")
    return names
