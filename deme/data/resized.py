"""Generated images at the size they are measured at."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def resized(pixels: Tensor, size: int) -> Tensor:
    """Return uint8 images [B, C, H, W] as [B, C, size, size], by Pillow's antialiased bicubic, as the protocol of COCO resizes."""
    if tuple(pixels.shape[2:]) == (size, size):
        return pixels
    squares = []
    for image in pixels.permute(0, 2, 3, 1).numpy():
        picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
        squares.append(np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC)).reshape(size, size, -1))
    return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).contiguous()
