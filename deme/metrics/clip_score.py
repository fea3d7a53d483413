"""The CLIP score of torchmetrics, by a CLIP in a Hugging Face folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from deme.metrics.cosine import hundred_cosines
from deme.metrics.features import rgb, weights_file
from deme.system import files
from deme.system.errors import BadConfig
from deme.system.hugging_face import load_network, transformers_quietly, unreadable

CHUNK = 50  # images in the network at once
SETTINGS = (
    "crop_size",
    "do_",
    "image_mean",
    "image_std",
    "resample",
    "rescale_factor",
    "size",
)  # of an image processor
WHOLE = "copy all files of the model that are no weights, too: preprocessor_config.json, tokenizer.json, ..."


class ClipScore:
    """Score images by texts: 100 cos(image, text), and of all images max(mean, 0), as torchmetrics.multimodal.CLIPScore.

    `path`: the folder of a whole CLIP (Radford et al. 2021) with its tokenizer and its image processor, which prepare
    texts and images; `sha256`: that of the folder. A text longer than the network reads ends in the end token, whose
    place is where CLIP looks for the text's meaning; torchmetrics cuts it off (its #2000). Raises BadConfig, WorkFailed.
    """

    score_name = suffix = "clip_score"

    def __init__(self, path: str, sha256: str | None = None) -> None:
        place = weights_file(path, sha256)
        self.network, config = load_network(place, ("clip",), "CLIPModel")
        self.processor = _processor(place, config.text_config)
        self.weights = sha256 or files.sha256(place)
        self.dimension: int = config.projection_dim
        self.context: int = min(
            self.processor.tokenizer.model_max_length, config.text_config.max_position_embeddings
        )
        halves = (config.vision_config, config.text_config)
        sizes = " and ".join(f"{half.hidden_size} x {half.num_hidden_layers}" for half in halves)
        images = self.processor.image_processor
        settings = [
            f"{k} {v}"
            for k, v in sorted(images.to_dict().items())
            if k.startswith(SETTINGS) and v is not None
        ]
        self.name = (
            f"CLIPModel {sizes}, patch {config.vision_config.patch_size}, {self.dimension}; texts of {self.context} tokens; "
            f"{type(images).__name__}: {', '.join(settings)}"
        )

    def to(self, device: str) -> Self:
        self.network.to(device)
        return self

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        found = []
        for chunk in rgb(pixels, self.score_name).split(CHUNK):
            inputs = self.processor.image_processor(
                list(chunk.cpu()), input_data_format="channels_first", return_tensors="pt"
            )["pixel_values"]
            pooled = self.network.vision_model(
                pixel_values=inputs.to(self.network.device)
            ).pooler_output
            found.append(self.network.visual_projection(pooled).float().cpu())
        return torch.cat(found)

    def score(self, features: Tensor, texts: Sequence[str]) -> Tensor:
        return hundred_cosines(features, texts, self._embed)

    def mean(self, scores: Tensor) -> float:
        return max(float(scores.mean()), 0.0)

    def truncated(self, texts: Sequence[str]) -> int:
        tokenizer = self.processor.tokenizer
        lengths = [
            len(tokenizer(text, verbose=False)["input_ids"]) for text in texts
        ]  # verbose, it warns of long ones
        return sum(length > self.context for length in lengths)

    @torch.inference_mode()
    def _embed(self, texts: list[str]) -> Tensor:
        tokens = self.processor.tokenizer(
            texts, padding=True, truncation=True, max_length=self.context, return_tensors="pt"
        ).to(self.network.device)
        pooled = self.network.text_model(
            tokens["input_ids"], tokens["attention_mask"]
        ).pooler_output
        return self.network.text_projection(pooled)


def _processor(place: Path, config: Any) -> Any:
    """Return the folder's tokenizer and image processor; what transformers would make up itself is refused."""
    there = {file.name for file in place.iterdir()}
    if not there & {"preprocessor_config.json", "processor_config.json"}:
        raise BadConfig(
            f"{place} lacks preprocessor_config.json, how images become the network's input\n{WHOLE}"
        )
    if not ("tokenizer.json" in there or {"vocab.json", "merges.txt"} <= there):
        raise BadConfig(f"{place} lacks tokenizer.json, or vocab.json and merges.txt\n{WHOLE}")
    with transformers_quietly() as transformers:
        try:
            processor = transformers.CLIPProcessor.from_pretrained(place, local_files_only=True)
            words, end = len(processor.tokenizer), processor.tokenizer.eos_token_id
        except Exception as error:
            raise unreadable(place, error) from error
    looked_for = (
        words - 1 if config.eos_token_id == 2 else config.eos_token_id
    )  # 2: old configs, the highest number is
    if words > config.vocab_size or end != looked_for:
        raise BadConfig(
            f"the tokenizer in {place} has {words} tokens and ends texts with number {end}; "
            f"the network knows {config.vocab_size} and looks for number {looked_for}\n{WHOLE}"
        )
    return processor
