"""Features of two vision transformers in Hugging Face folders: CLIP's image encoder and DINOv2."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from deme.metrics.features import CHUNK, FeatureExtractor, rgb, weights_file
from deme.system.hugging_face import load_network

Colour = tuple[float, float, float]


def resized(pixels: Tensor, side: int, crop: bool) -> Tensor:
    """Return images [B, C, H, W] as whole floats 0..255 [B, C, side, side].

    With `crop` the centre square, as OpenAI's CLIP takes it with torchvision, else the image
    squeezed to a square. Pillow's bicubic to within 2 of 255 levels: horizontally, then vertically
    (Pillow 13 swaps that for some tall images), rounded to 8 bits after each; rounding only once is
    off by 31 levels at black and white edges.
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


class VisionFeatures(FeatureExtractor):
    """Base of both extractors.

    `path`: a folder with config.json and model.safetensors; `sha256`: that of the folder.
    """

    suffix: str
    model_types: tuple[str, ...]  # what config.json may name
    network_of: tuple[str, str, str]  # transformers' class, output with the features, key of size
    crop: bool
    colours: tuple[Colour, Colour]  # mean and standard deviation

    def __init__(self, path: str, sha256: str | None = None) -> None:
        architecture, self.output, width = self.network_of
        self.frechet_name = f"fd_{self.suffix}"
        place, self.weights = weights_file(path, sha256)
        self.network, config = load_network(place, self.model_types, architecture)
        self.dimension: int = getattr(config, width)
        self.side: int = config.image_size if self.crop else 224
        self.name = (
            f"{architecture} {config.hidden_size} x {config.num_hidden_layers}, "
            f"patch {config.patch_size}, {self.output} {self.dimension}; "
            f"Pillow's bicubic to {self.side} x {self.side} in 8 bits, "
            f"{'centre crop' if self.crop else 'no crop'}, mean and std {self.colours}"
        )

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        mean, std = torch.tensor(self.colours, device=self.device).view(2, 3, 1, 1)
        inputs = (
            (resized(chunk.to(self.device), self.side, self.crop) / 255 - mean) / std
            for chunk in rgb(pixels, self.frechet_name).split(CHUNK)
        )
        return torch.cat(
            [self.network(pixel_values=each)[self.output].float().cpu() for each in inputs]
        )


class ClipFeatures(VisionFeatures):
    """Map uint8 images [B, 1 or 3, H, W] to CLIP's image embeddings, float32 [B, dimension].

    CLIP: Radford et al. 2021; as a metric: Kynkaanniemi et al. 2023. Not normalised, as clean-fid's
    CLIP-FID (cleanfid/clip_features.py, ViT-B/32), which takes OpenAI's `encode_image`. The folder
    may hold the whole CLIP or its image encoder with the projection.
    """

    suffix, model_types, crop = "clip", ("clip", "clip_vision_model"), True
    network_of = ("CLIPVisionModelWithProjection", "image_embeds", "projection_dim")
    colours = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


class DinoV2Features(VisionFeatures):
    """Map uint8 images [B, 1 or 3, H, W] to DINOv2's normalised class token, [B, dimension].

    DINOv2: Oquab et al. 2023; as a metric: Stein et al. 2023 (dgm-eval, ViT-L/14). dgm-eval's
    torch.hub network interpolates its position embeddings with 0.1 added to the size, transformers
    without: features are close to its, not equal.
    """

    suffix, model_types, crop = "dinov2", ("dinov2",), False
    network_of = ("Dinov2Model", "pooler_output", "hidden_size")
    colours = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
