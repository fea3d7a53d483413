"""From uint8 images to what Inception sees, in three conventions that give different FIDs (METHOD 4)."""

from torch import Tensor
from torch.nn.functional import interpolate

SIDE = 299


def pytorch(pixels: Tensor) -> Tensor:
    """pytorch-fid, clean-fid's `legacy_pytorch`: bilinear without antialiasing on 0..1, then to -1..1."""
    return (
        2
        * interpolate(pixels.float() / 255, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        - 1
    )


def clean(pixels: Tensor) -> Tensor:
    """clean-fid (Parmar et al. 2022): Pillow's antialiased bicubic on floats, cut to 0..255, then (x - 128) / 128."""
    resized = interpolate(
        pixels.float(), size=(SIDE, SIDE), mode="bicubic", align_corners=False, antialias=True
    )
    return (resized.clamp(0, 255) - 128) / 128


def tf(pixels: Tensor) -> Tensor:
    """TensorFlow 1 (Heusel et al. 2017), clean-fid's `legacy_tensorflow`: its bilinear, then (x - 128) / 128."""
    from torch_fidelity.interpolate_compat_tensorflow import (
        interpolate_bilinear_2d_like_tensorflow1x,
    )

    resized = interpolate_bilinear_2d_like_tensorflow1x(
        pixels.float(), size=(SIDE, SIDE), align_corners=False
    )
    return (resized - 128) / 128


CONVENTIONS = {"pytorch": pytorch, "clean": clean, "tf": tf}
