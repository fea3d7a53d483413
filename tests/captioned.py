"""A folder of images with captions, as Hugging Face lays it out."""

import json

import numpy as np
from PIL import Image


def captioned_folder(folder, count, shape, text):
    """Write `count` random images [height, width, 3] and metadata.jsonl, `text` with the image's number; return its rows."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    for index in range(count):
        Image.fromarray(draw.integers(0, 256, (*shape, 3), dtype=np.uint8)).save(
            folder / f"{index}.png"
        )
    rows = [{"file_name": f"{index}.png", "text": text.format(index)} for index in range(count)]
    (folder / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return rows
