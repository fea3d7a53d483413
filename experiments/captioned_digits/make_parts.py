"""Make the frozen parts of the captioned digits' text-to-image pipeline, and the judge network.

The judge scores how well an image matches its caption. The pipeline has Stable Diffusion's layout.
Its UNet is not trained here: random weights stand in, so that the folder loads, and training
replaces them. The text encoder and the judge come from two seeds of one recipe. About 5 minutes on
one core.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from autoencoder import reconstructed, train_autoencoder
from contrastive import train_contrastive
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTokenizer
from word_pieces import make_tokenizer

from deme.data import Captioned, Images, every
from deme.data.captioned_digits import caption, digit_in, load_captioned_digits
from deme.data.pixels import to_float
from deme.diffusion import seeded
from deme.metrics.caption_match import CaptionNetwork
from deme.metrics.digit_classifier import as_digits, load_classifier
from deme.system import files, tensors

CONDITIONS, JUDGES = 0, 1  # seeds of the two contrastive networks
# In diffusers, attention_head_dim is the number of heads (see UNet2DConditionModel.__init__).
UNET = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [16, 32],
    "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 32,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}
# Stable Diffusion's; skip_prk_steps is for PNDM, should someone build it from this file
SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "epsilon",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "skip_prk_steps": True,
}


def digits_of(images: Captioned) -> Tensor:
    return torch.tensor([digit_in(text) for text in images.captions(list(range(len(images))))])


def write_pipeline(folder: Path, vae: AutoencoderKL, network: CaptionNetwork) -> None:
    with seeded(torch.device("cpu"), "captioned digits", "unet"):
        unet = UNet2DConditionModel(**UNET)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=network.text.text_model,
        tokenizer=make_tokenizer(folder / "tokenizer"),
        unet=unet,
        scheduler=DDIMScheduler.from_config(SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    # transformers 5 writes forms of its own; these are Stable Diffusion's, which 4 reads, too
    for file in (folder / "tokenizer").iterdir():
        file.unlink()
    make_tokenizer(folder / "tokenizer")
    weights = {
        f"text_model.{name}": value for name, value in network.text.text_model.state_dict().items()
    }
    tensors.save(folder / "text_encoder" / "model.safetensors", weights)


def write_judge(folder: Path, network: CaptionNetwork) -> None:
    make_tokenizer(folder)
    network.text.config.save_pretrained(folder)
    tensors.save(folder / "model.safetensors", network.state_dict())


@torch.inference_mode()
def report(
    held_out: Images,
    digits: Tensor,
    vae: AutoencoderKL,
    networks: list[CaptionNetwork],
    tokenizer: CLIPTokenizer,
) -> None:
    pixels = every(held_out)
    classifier, _ = load_classifier("asset:digits_classifier.safetensors")
    seen, again = (
        classifier(as_digits(images, "make_parts")).argmax(1)
        for images in (pixels, reconstructed(vae, pixels))
    )
    print(
        f"{len(pixels)} held-out images: "
        f"the classifier is right in {(seen == digits).float().mean():.3f}"
    )
    print(
        f"autoencoder: {(seen == again).float().mean():.3f} keep their digit, "
        f"scaling {vae.config.scaling_factor}"
    )
    texts = [caption(digit, 0) for digit in range(10)]
    tokens = tokenizer(texts, padding="max_length", return_tensors="pt").input_ids
    for what, network in zip(("text encoder", "judge"), networks, strict=True):
        first = (network.of_images(to_float(pixels)) @ network.of_texts(tokens).T).argmax(1)
        print(f"{what}: the right caption first of ten in {(first == digits).float().mean():.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pipeline", type=Path, help="folder to write, or to replace")
    parser.add_argument("judge", type=Path, help="folder to write, or to replace")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    data = load_captioned_digits()
    pixels, digits = every(data.train), digits_of(data.train)
    with TemporaryDirectory() as place:
        tokenizer = make_tokenizer(Path(place))
    networks = [train_contrastive(pixels, digits, tokenizer, seed) for seed in (CONDITIONS, JUDGES)]
    vae = train_autoencoder(pixels)
    files.write_folder(asked.judge, lambda folder: write_judge(folder, networks[1]))
    files.write_folder(asked.pipeline, lambda folder: write_pipeline(folder, vae, networks[0]))
    report(data.held_out, digits_of(data.held_out), vae, networks, tokenizer)


if __name__ == "__main__":
    main()
