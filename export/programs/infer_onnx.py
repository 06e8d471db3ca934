"""Parse photographs with the engine beside this file. It needs numpy, Pillow and onnxruntime, and no fptk.

`python infer.py face.jpg` prints FPS and writes face.jpg.mask.png in color, where each pixel's value is its class.
"""

import json
import os
import sys
import timeit
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps, PngImagePlugin

RUNS, MARK = 20, "fptk infer.py"


def load_engine(path: Path, manifest: dict[str, Any]) -> Any:
    """The engine as a function: images uint8 (1, H, W, 3) RGB to a sequence of labels uint8 (1, H, W)."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {manifest["input"]["name"]: images})


def read_photograph(path: Path) -> Image.Image:
    """Upright RGB with 8 bits a channel; 16-bit gray is scaled."""
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode.startswith("I"):
        image = Image.fromarray(((np.asarray(image).astype(np.int64) * 255 + 32767) // 65535).astype(np.uint8))
    return image.convert("RGB")


def parse(path: Path, engine: Any, manifest: dict[str, Any]) -> str:
    """Write the mask of one photograph, over nothing but an earlier mask of this program."""
    photograph, out = read_photograph(path), path.with_name(path.name + ".mask.png")
    if os.path.lexists(out) and Image.open(out).info.get("Software") != MARK:
        raise FileExistsError(f"{out} is not of infer.py; move it")
    (height, width), resize = manifest["preprocess"]["size"], manifest["preprocess"]["resize"].upper()
    images = np.array(photograph.resize((width, height), Image.Resampling[resize]))[None]
    mask = Image.fromarray(engine(images)[0][0]).resize(photograph.size, Image.Resampling.NEAREST)
    mask.putpalette([channel for color in manifest["palette"] for channel in color])
    (mark := PngImagePlugin.PngInfo()).add_text("Software", MARK)
    mask.save(out, pnginfo=mark)
    return f"{RUNS / timeit.timeit(lambda: engine(images), number=RUNS):.1f} FPS, wrote {out}"


if __name__ == "__main__":
    manifest = json.loads(Path(__file__).with_name("fptk.json").read_text(encoding="utf-8"))
    engine = load_engine(Path(__file__).with_name(manifest["engine"]), manifest)
    for name in sys.argv[1:] or sys.exit("usage: python infer.py PHOTOGRAPH..."):
        try:
            print(parse(Path(name), engine, manifest))
        except Exception as error:  # Pillow raises many kinds for damaged files
            sys.exit(f"{name}: {error}")
