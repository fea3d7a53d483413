"""The autoencoder of the pipeline: images [3, 16, 16] to latents [4, 8, 8] and back.

As in Rombach et al. 2022, without the adversarial loss.
"""

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn.functional import l1_loss, mse_loss

from deme.data.pixels import to_float, to_uint8
from deme.diffusion import generator, seeded

KL = 1e-3  # against the squared error, both as means
STEPS, BATCH = 1500, 32


def train_autoencoder(pixels: Tensor, seed: int = 0) -> AutoencoderKL:
    """Train on uint8 images [N, 3, 16, 16].

    `scaling_factor` becomes 1 over the standard deviation of their latents.
    """
    with seeded(torch.device("cpu"), "autoencoder", seed):
        vae = AutoencoderKL(
            sample_size=16,
            latent_channels=4,
            block_out_channels=[8, 16],
            layers_per_block=1,
            norm_num_groups=4,
            down_block_types=["DownEncoderBlock2D"] * 2,
            up_block_types=["UpDecoderBlock2D"] * 2,
        )
    images = to_float(pixels)
    draw = generator("digits to encode", seed)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, weight_decay=0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        x = images[torch.randint(len(images), (BATCH,), generator=draw)]
        posterior = vae.encode(x).latent_dist
        again = vae.decode(posterior.sample(draw)).sample
        loss = (
            mse_loss(again, x)
            + 0.1 * l1_loss(again, x)
            + KL * posterior.kl().mean() / posterior.mean[0].numel()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    vae.eval()
    vae.register_to_config(scaling_factor=round(1 / float(latents(vae, pixels).std()), 5))
    return vae


@torch.inference_mode()
def latents(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Return the unscaled latents [N, 4, 8, 8] of uint8 images, drawn once from the posterior."""
    return vae.encode(to_float(pixels)).latent_dist.sample(generator("latents"))


@torch.inference_mode()
def reconstructed(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Return uint8 images [N, 3, 16, 16] after the autoencoder, by way of the posterior's mode."""
    return to_uint8(vae.decode(vae.encode(to_float(pixels)).latent_dist.mode()).sample)
