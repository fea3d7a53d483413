"""The CLIP score of text-to-image papers, by a network of open_clip and a local file of its weights."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from deme.metrics.cosine import hundred_cosines
from deme.metrics.features import rgb, weights_file
from deme.metrics.open_clip_network import config_of, fill, published_of
from deme.system import files
from deme.system.errors import BadConfig
from deme.system.hugging_face import quietly

CHUNK = 50  # images in the network at once


class OpenClipScore:
    """Score images by texts: 100 cos(image, text), and of all images the mean, not cut off at 0, not times 2.5.

    BK-SDM's CLIP score (Kim et al. 2023), with ViT-g-14 of laion2b_s34b_b88k. `path`: its open_clip_model.safetensors or
    open_clip_pytorch_model.bin; `architecture`: any that open_clip lists and that needs nothing but that file;
    `pretrained`: open_clip's tag of these weights, needed where those of one architecture want images prepared
    differently. A text longer than the network reads ends in the end token. Raises BadConfig, WorkFailed.
    """

    score_name = suffix = "clip_score_open_clip"

    def __init__(
        self,
        path: str,
        architecture: str = "ViT-g-14",
        pretrained: str | None = None,
        sha256: str | None = None,
    ) -> None:
        place = weights_file(path, sha256)
        if place.is_dir():
            raise BadConfig(
                f"{place} is a folder\ntype: metrics.path={place}/open_clip_model.safetensors, or .bin"
            )
        with quietly():
            try:
                import open_clip
            except ImportError as error:
                needs = f"{self.score_name} needs open_clip: {error}"
                raise BadConfig(f"{needs}\ntype: pip install 'deme-diffusion[text]'") from error
            config = config_of(open_clip, architecture)
            published = published_of(open_clip, architecture, config, pretrained)
            self.tokenizer: Any = open_clip.get_tokenizer(architecture)
            with torch.random.fork_rng(devices=[]):  # all that is drawn here is overwritten
                self.network: Any = open_clip.create_model(architecture)
            fill(self.network, place, architecture)
            size = self.network.visual.image_size
            self.preprocess: Any = open_clip.image_transform(size, is_train=False, **published)
        self.network.eval().requires_grad_(False)
        self.weights = sha256 or files.sha256(place)
        self.dimension: int = config["embed_dim"]
        self.device = "cpu"
        self.name = (
            f"open_clip {architecture}{'' if pretrained is None else ' ' + pretrained}, {self.dimension}; texts of "
            f"{self.tokenizer.context_length} tokens; images {size} {published or 'by default'}"
        )

    def to(self, device: str) -> Self:
        self.network.to(device)
        self.device = device
        return self

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        from PIL import Image

        found = []
        for chunk in rgb(pixels, self.score_name).cpu().split(CHUNK):
            pictures = [
                Image.fromarray(each.permute(1, 2, 0).contiguous().numpy()) for each in chunk
            ]
            inputs = torch.stack([self.preprocess(picture) for picture in pictures])
            found.append(self.network.encode_image(inputs.to(self.device)).float().cpu())
        return torch.cat(found)

    def score(self, features: Tensor, texts: Sequence[str]) -> Tensor:
        return hundred_cosines(features, texts, self._embed)

    def mean(self, scores: Tensor) -> float:
        return float(scores.mean())

    def truncated(self, texts: Sequence[str]) -> int:
        return sum(
            len(self.tokenizer.encode(text)) + 2 > self.tokenizer.context_length for text in texts
        )

    @torch.inference_mode()
    def _embed(self, texts: list[str]) -> Tensor:
        return self.network.encode_text(self.tokenizer(texts).to(self.device))
