"""A small contrastive network of images and captions.

It is trained with CLIP's symmetric InfoNCE loss (Radford et al. 2021).
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import CLIPTokenizer

from deme.data.captioned_digits import NUMERALS, TEMPLATES
from deme.data.pixels import to_float
from deme.diffusion import generator, seeded
from deme.metrics.caption_match import CaptionNetwork

PHRASES = (
    *TEMPLATES,
    "{}",
    "the number {}",
    "a picture of the number {}",
    "an image of a handwritten {}",
    "a photo of a {}",
    "the digit {} written by hand",
)
GROUPS, STEPS = 12, 2000


def text_config(tokenizer: CLIPTokenizer) -> dict[str, object]:
    """Return the CLIPTextConfig of both networks: 2 layers of 2 heads, 32 wide."""
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "projection_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": tokenizer.model_max_length,
        "pad_token_id": tokenizer.pad_token_id,
        **ends,
    }


def train_contrastive(
    pixels: Tensor, labels: Tensor, tokenizer: CLIPTokenizer, seed: int
) -> CaptionNetwork:
    """Train on images [N, 3, 16, 16] (uint8) of digits [N].

    Captions are any phrase, the digit a word or a figure. A group holds one image of every digit,
    so that no negative of InfoNCE is right by chance.
    """
    with seeded(torch.device("cpu"), "caption network", seed):
        network = CaptionNetwork(text_config(tokenizer))
    names = [*NUMERALS, *map(str, range(10))]
    texts = [phrase.format(name) for name in names for phrase in PHRASES]
    tokens = tokenizer(texts, padding="max_length", return_tensors="pt").input_ids.view(
        2, 10, len(PHRASES), -1
    )
    images = to_float(pixels)
    members = [(labels == digit).nonzero().flatten() for digit in range(10)]
    draw = generator("captions of digits", seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    right = torch.arange(10).expand(GROUPS, 10)
    for _ in range(STEPS):
        rows = torch.stack(
            [m[torch.randint(len(m), (GROUPS,), generator=draw)] for m in members], 1
        )
        figure = (torch.rand(GROUPS, 10, generator=draw) < 0.2).long()
        phrase = torch.randint(len(PHRASES), (GROUPS, 10), generator=draw)
        shown = network.of_images(images[rows.flatten()]).view(GROUPS, 10, -1)
        said = network.of_texts(tokens[figure, right, phrase].flatten(0, 1)).view(GROUPS, 10, -1)
        logits = network.logit_scale.exp().clamp(max=100) * shown @ said.mT
        loss = (cross_entropy(logits.mT, right) + cross_entropy(logits, right)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    return network.eval()
