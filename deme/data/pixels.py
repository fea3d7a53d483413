"""Pixels: between uint8 0..255 and float -1..1, and mirrored."""

import torch
from torch import Tensor


def to_float(pixels: Tensor) -> Tensor:
    """Map uint8 0..255 to float32 -1..1."""
    return pixels.float().div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """Map -1..1 (clamped) to uint8 0..255, rounded to nearest."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().byte()


def mirrored(pixels: Tensor, which: Tensor) -> Tensor:
    """Mirror those of the uint8 images [B, C, H, W] left-right that `which` (bool [B]) selects."""
    bits = which.to(pixels.device, torch.uint8).mul_(255)[:, None, None, None]
    # torch.where, in a fifth of its time: p ^ ((p ^ flipped) & bits)
    return pixels.flip(3).bitwise_xor_(pixels).bitwise_and_(bits).bitwise_xor_(pixels)
