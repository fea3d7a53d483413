"""The CLIP score of text-to-image papers, with a network of open_clip and a local weight file."""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from deme.metrics.features import CHUNK, rgb, weights_file
from deme.metrics.open_clip_network import load_weights, model_settings, preprocessing_of
from deme.metrics.text_score import CosineScore
from deme.system import BadConfig
from deme.system.hugging_face import quietly


class OpenClipScore(CosineScore):
    """Score images by texts: 100 cos(image, text); the metric is the plain mean, not clamped at 0.

    The CLIP score of BK-SDM (Kim et al. 2023), with ViT-g-14 of laion2b_s34b_b88k. `path`: its
    open_clip_model.safetensors or open_clip_pytorch_model.bin; `architecture`: any of open_clip's
    that needs no other file; `pretrained`: open_clip's tag of these weights, needed where weights
    of one architecture differ in how images are prepared. A text that is longer than the context
    is truncated before the end token. Raises BadConfig, WorkFailed.
    """

    score_name = suffix = "clip_score_open_clip"

    def __init__(
        self,
        path: str,
        architecture: str = "ViT-g-14",
        pretrained: str | None = None,
        sha256: str | None = None,
    ) -> None:
        place, self.weights = weights_file(path, sha256)
        if place.is_dir():
            raise BadConfig(
                f"{place} is a folder\n"
                f"type: metrics.path={place}/open_clip_model.safetensors, or .bin"
            )
        with quietly():
            try:
                import open_clip
            except ImportError as error:
                raise BadConfig(
                    f"{self.score_name} needs open_clip: {error}\n"
                    "type: pip install 'deme-diffusion[text]'"
                ) from error
            settings = model_settings(open_clip, architecture)
            preprocessing = preprocessing_of(open_clip, architecture, settings, pretrained)
            self.tokenizer = open_clip.get_tokenizer(architecture)
            with torch.random.fork_rng(devices=[]):  # initial weights, all of which are overwritten
                self.network = open_clip.create_model(architecture)
            load_weights(self.network, place, architecture)
            size = self.network.visual.image_size
            self.preprocess = open_clip.image_transform(size, is_train=False, **preprocessing)
        self.network.eval().requires_grad_(False)
        self.dimension: int = settings["embed_dim"]
        self.name = (
            f"open_clip {architecture}{'' if pretrained is None else ' ' + pretrained}, "
            f"{self.dimension}; texts of {self.tokenizer.context_length} tokens; "
            f"images {size} {preprocessing or 'by default'}"
        )

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        found = []
        for chunk in rgb(pixels, self.score_name).cpu().split(CHUNK):
            arrays = chunk.permute(0, 2, 3, 1).contiguous().numpy()
            inputs = torch.stack([self.preprocess(Image.fromarray(each)) for each in arrays])
            found.append(self.network.encode_image(inputs.to(self.device)).float().cpu())
        return torch.cat(found)

    def truncated(self, texts: Sequence[str]) -> int:
        context = self.tokenizer.context_length
        return sum(len(self.tokenizer.encode(text)) + 2 > context for text in texts)

    @torch.inference_mode()
    def embed(self, texts: list[str]) -> Tensor:
        return self.network.encode_text(self.tokenizer(texts).to(self.device))
