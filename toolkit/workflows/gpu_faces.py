"""Faces as small files: photographs as WebP of quality 80, masks as lossless WebP."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from fptk.core.dataset import FaceParsingDataset
from fptk.core.files import atomic_file, make_folder
from fptk.core.progress import SILENT, Listener, track
from fptk.data.splits import key_of

QUALITY = 80
THREADS = 2


def write_faces(dataset: FaceParsingDataset, folder: Path, listener: Listener = SILENT) -> list[str]:
    """Write ``images/KEY.webp`` and ``masks/KEY.webp`` of every face; those that are there already are passed over.

    Files of other faces are removed, so that the folder holds ``dataset`` and nothing else.

    Args:
        dataset: faces with unique keys.
        folder: the split folder.
        listener: told of each face.

    Returns:
        The keys, in the order of the data set.

    Raises:
        InputError: a face cannot be read, or a file not be written.
    """
    images, masks = (make_folder(folder / name) for name in ("images", "masks"))
    keys = [key_of(dataset, index) for index in range(len(dataset))]
    wanted = {f"{key}.webp" for key in keys}
    for path in (*images.iterdir(), *masks.iterdir()):
        if path.name not in wanted:
            path.unlink()

    def write(index: int) -> None:
        image, mask = (each / f"{keys[index]}.webp" for each in (images, masks))
        if mask.exists():  # written last
            return
        sample = dataset[index]
        with atomic_file(image) as temporary:
            Image.fromarray(sample.image).save(temporary, format="WEBP", quality=QUALITY)
        with atomic_file(mask) as temporary:
            Image.fromarray(sample.mask).save(temporary, format="WEBP", lossless=True)

    with ThreadPoolExecutor(THREADS) as pool:
        for _ in track(listener, pool.map(write, range(len(keys))), f"encoding {folder.name}", len(keys)):
            pass
    return keys
