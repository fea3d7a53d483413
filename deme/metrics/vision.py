"""Features of two vision transformers in Hugging Face folders: CLIP's image half and DINOv2."""

from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from deme.metrics.features import rgb, weights_file
from deme.system import files
from deme.system.hugging_face import load_network

CHUNK = 50  # images in the network at once


def resized(pixels: Tensor, side: int, crop: bool) -> Tensor:
    """Return images [B, C, H, W] as floats [B, C, side, side], whole: the middle square, or all of it, squeezed.

    By Pillow's bicubic, to 2 of 255 levels: across, then down (Pillow 13 turns that round for some tall images), rounded to
    8 bits after each; rounded once, black and white edges are 31 levels off. The middle is torchvision's, as OpenAI's CLIP's.
    """
    height, width = pixels.shape[2:]
    size = (
        tuple(side * length // min(height, width) for length in (height, width))
        if crop
        else (side, side)
    )
    for step in ((height, size[1]), size):
        exact = interpolate(
            pixels.float(), size=step, mode="bicubic", align_corners=False, antialias=True
        )
        pixels = (exact + 0.5).floor().clamp(0, 255)
    top, left = (round((length - side) / 2) for length in size)
    return pixels[:, :, top : top + side, left : left + side]


class VisionFeatures:
    """What both extractors share. `path`: a folder with config.json and model.safetensors; `sha256`: that of the folder."""

    suffix: str
    model_types: tuple[str, ...]  # what config.json may say
    network_of: tuple[
        str, str, str
    ]  # transformers' class, the output that is the feature, config's name of its size
    crop: bool
    colours: tuple[
        tuple[float, float, float], tuple[float, float, float]
    ]  # mean and standard deviation

    def __init__(self, path: str, sha256: str | None = None) -> None:
        architecture, self.output, width = self.network_of
        self.frechet_name = f"fd_{self.suffix}"
        place = weights_file(path, sha256)
        self.network, config = load_network(place, self.model_types, architecture)
        self.weights = sha256 or files.sha256(place)
        self.dimension: int = getattr(config, width)
        self.side: int = config.image_size if self.crop else 224
        self.name = (
            f"{architecture} {config.hidden_size} x {config.num_hidden_layers}, patch {config.patch_size}, {self.output} "
            f"{self.dimension}; Pillow's bicubic to {self.side} x {self.side} in 8 bits, "
            f"{'centre crop' if self.crop else 'no crop'}, mean and std {self.colours}"
        )

    def to(self, device: str) -> Self:
        self.network.to(device)
        return self

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        mean, std = torch.tensor(self.colours, device=self.network.device).view(2, 3, 1, 1)
        chunks = rgb(pixels, self.frechet_name).split(CHUNK)
        inputs = (
            (resized(c.to(mean.device), self.side, self.crop) / 255 - mean) / std for c in chunks
        )
        return torch.cat(
            [self.network(pixel_values=each)[self.output].float().cpu() for each in inputs]
        )


class ClipFeatures(VisionFeatures):
    """Map uint8 images [B, 1 or 3, H, W] to CLIP's image embeddings, float32 [B, dimension] (Radford et al. 2021).

    Not scaled to length 1: clean-fid's CLIP-FID (cleanfid/clip_features.py, ViT-B/32) takes OpenAI's `encode_image` as it
    is. The idea is Kynkaanniemi et al.'s (2023). The folder may hold the whole CLIP or its vision half with the projection.
    """

    suffix, model_types, crop = "clip", ("clip", "clip_vision_model"), True
    network_of = ("CLIPVisionModelWithProjection", "image_embeds", "projection_dim")
    colours = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


class DinoV2Features(VisionFeatures):
    """Map uint8 images [B, 1 or 3, H, W] to DINOv2's class token after the last norm, float32 [B, dimension].

    DINOv2: Oquab et al. 2023; as a metric: Stein et al. 2023 (dgm-eval, ViT-L/14). dgm-eval's torch.hub network resamples
    its position embeddings with 0.1 added to the size, transformers without: features are close to its, not equal.
    """

    suffix, model_types, crop = "dinov2", ("dinov2",), False
    network_of = ("Dinov2Model", "pooler_output", "hidden_size")
    colours = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
