"""From uint8 images to Inception's input, in three conventions that give different FIDs.

See docs/metrics.md.
"""

from torch import Tensor
from torch.nn.functional import interpolate
from torch_fidelity import interpolate_compat_tensorflow as compat

SIDE = 299


def pytorch(pixels: Tensor) -> Tensor:
    """pytorch-fid, clean-fid's `legacy_pytorch`: bilinear, no antialiasing, on 0..1, to -1..1."""
    images = pixels.float() / 255
    return 2 * interpolate(images, (SIDE, SIDE), mode="bilinear", align_corners=False) - 1


def clean(pixels: Tensor) -> Tensor:
    """clean-fid (Parmar et al. 2022): Pillow's antialiased bicubic, clamped, (x - 128) / 128."""
    resized = interpolate(
        pixels.float(), size=(SIDE, SIDE), mode="bicubic", align_corners=False, antialias=True
    )
    return (resized.clamp(0, 255) - 128) / 128


def tf(pixels: Tensor) -> Tensor:
    """TensorFlow 1 (Heusel et al. 2017), clean-fid's `legacy_tensorflow`: its own bilinear."""
    resized = compat.interpolate_bilinear_2d_like_tensorflow1x(
        pixels.float(), size=(SIDE, SIDE), align_corners=False
    )
    return (resized - 128) / 128


CONVENTIONS = {"pytorch": pytorch, "clean": clean, "tf": tf}
