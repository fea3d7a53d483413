"""The CLIP score of torchmetrics, with a CLIP in a Hugging Face folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deme.metrics.features import CHUNK, rgb, weights_file
from deme.metrics.text_score import CosineScore
from deme.system import BadConfig
from deme.system.hugging_face import load_network, transformers_quietly

if TYPE_CHECKING:
    from transformers import CLIPProcessor, CLIPTextConfig

IMAGE_SETTINGS = (
    "crop_size",
    "do_",
    "image_mean",
    "image_std",
    "resample",
    "rescale_factor",
    "size",
)
COPY_ALL = (
    "copy all files of the model that are not weights, too: preprocessor_config.json, "
    "tokenizer.json, ..."
)


class ClipScore(CosineScore):
    """Score images by texts: 100 cos(image, text); the metric is max(mean, 0), as torchmetrics'.

    `path`: the folder of a whole CLIP (Radford et al. 2021) with its tokenizer and its image
    processor, which prepare texts and images; `sha256`: that of the folder. A text that is longer
    than the context is truncated before the end token, where CLIP reads the text embedding;
    torchmetrics cuts the end token off (its issue 2000). Raises BadConfig, WorkFailed.
    """

    score_name = suffix = "clip_score"

    def __init__(self, path: str, sha256: str | None = None) -> None:
        place, self.weights = weights_file(path, sha256)
        self.network, config = load_network(place, ("clip",), "CLIPModel")
        self.processor = _processor(place, config.text_config)
        self.dimension: int = config.projection_dim
        self.context: int = min(
            self.processor.tokenizer.model_max_length, config.text_config.max_position_embeddings
        )
        sizes = " and ".join(
            f"{half.hidden_size} x {half.num_hidden_layers}"
            for half in (config.vision_config, config.text_config)
        )
        images = self.processor.image_processor
        settings = [
            f"{k} {v}"
            for k, v in sorted(images.to_dict().items())
            if k.startswith(IMAGE_SETTINGS) and v is not None
        ]
        self.name = (
            f"CLIPModel {sizes}, patch {config.vision_config.patch_size}, {self.dimension}; "
            f"texts of {self.context} tokens; {type(images).__name__}: {', '.join(settings)}"
        )

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        inputs = (
            self.processor.image_processor(
                list(chunk.cpu()), input_data_format="channels_first", return_tensors="pt"
            )["pixel_values"]
            for chunk in rgb(pixels, self.score_name).split(CHUNK)
        )
        outputs = (self.network.vision_model(pixel_values=each.to(self.device)) for each in inputs)
        return torch.cat(
            [self.network.visual_projection(each.pooler_output).float().cpu() for each in outputs]
        )

    def mean(self, scores: Tensor) -> float:
        return max(float(scores.mean()), 0.0)

    def truncated(self, texts: Sequence[str]) -> int:
        tokenizer = self.processor.tokenizer  # without verbose=False it warns of long texts
        return sum(len(tokenizer(t, verbose=False)["input_ids"]) > self.context for t in texts)

    @torch.inference_mode()
    def embed(self, texts: list[str]) -> Tensor:
        tokens = self.processor.tokenizer(
            texts, padding=True, truncation=True, max_length=self.context, return_tensors="pt"
        ).to(self.device)
        output = self.network.text_model(tokens["input_ids"], tokens["attention_mask"])
        return self.network.text_projection(output.pooler_output)


def _processor(place: Path, text_config: "CLIPTextConfig") -> "CLIPProcessor":
    """Return the folder's tokenizer and image processor.

    Raises BadConfig where files are missing, for which transformers would take defaults.
    """
    present = {file.name for file in place.iterdir()}
    if not present & {"preprocessor_config.json", "processor_config.json"}:
        raise BadConfig(
            f"{place} has no preprocessor_config.json, which says how images are prepared\n"
            f"{COPY_ALL}"
        )
    if not ("tokenizer.json" in present or {"vocab.json", "merges.txt"} <= present):
        raise BadConfig(f"{place} has no tokenizer.json, or vocab.json and merges.txt\n{COPY_ALL}")
    with transformers_quietly(place) as transformers:
        processor = transformers.CLIPProcessor.from_pretrained(place, local_files_only=True)
        size, end = len(processor.tokenizer), processor.tokenizer.eos_token_id
    # 2 stands in old configs, where the network takes the highest token for the end token
    expected = size - 1 if text_config.eos_token_id == 2 else text_config.eos_token_id
    if size > text_config.vocab_size or end != expected:
        raise BadConfig(
            f"the tokenizer in {place} has {size} tokens and the end token {end}; the network "
            f"has {text_config.vocab_size} tokens and the end token {expected}\n{COPY_ALL}"
        )
    return processor
