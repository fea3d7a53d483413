"""Lay images out in a grid."""

import math

import numpy as np
from PIL import Image
from torch import Tensor


def image_grid(pixels: Tensor, gap: int = 2) -> Image.Image:
    """Return a picture of uint8 images [N, C, H, W], row by row, `gap` pixels apart.

    Images of less than 32 pixels are enlarged by whole factors.
    """
    count, channels, height, width = pixels.shape
    columns = math.ceil(math.sqrt(count))
    factor = max(1, math.ceil(32 / height))
    tiles = pixels.permute(0, 2, 3, 1).numpy().repeat(factor, axis=1).repeat(factor, axis=2)
    cell_h, cell_w = height * factor + gap, width * factor + gap
    shape = (math.ceil(count / columns) * cell_h + gap, columns * cell_w + gap, channels)
    sheet = np.full(shape, 255, dtype=np.uint8)
    for i, tile in enumerate(tiles):
        top, left = gap + i // columns * cell_h, gap + i % columns * cell_w
        sheet[top : top + height * factor, left : left + width * factor] = tile
    return Image.fromarray(sheet[:, :, 0] if channels == 1 else sheet)
