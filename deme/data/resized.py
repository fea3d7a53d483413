"""Generated images at the size they are measured at."""

import torch
from PIL import Image
from torch import Tensor

from deme.data.decode import Rules


def resized(pixels: Tensor, size: int | None) -> Tensor:
    """Return uint8 images [B, C, H, W] as [B, C, size, size], as they are if it is None, by the rules of squashed data sets.

    That is Pillow's antialiased bicubic, as the protocol of COCO resizes (METHOD 4).
    """
    if size is None:
        return pixels
    rules = Rules(size, pixels.shape[1], "bicubic", "none")
    pictures = (
        image.squeeze(-1) if image.shape[-1] == 1 else image
        for image in pixels.permute(0, 2, 3, 1).numpy()
    )
    return torch.stack([rules.apply(Image.fromarray(picture)) for picture in pictures])
