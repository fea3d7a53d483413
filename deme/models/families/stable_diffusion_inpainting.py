"""Inpainting with Stable Diffusion 1.x and 2.x: a UNet of 9 channels that sees the known pixels.

Its input is x_t (4 channels), the mask (1; 1 where pixels are to be filled in) and the latent of
the image without what is masked (4), as in diffusers' StableDiffusionInpaintPipeline.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deme.diffusion import MASK, MASKED_LATENTS, Condition
from deme.models.families import stable_diffusion
from deme.models.families.stable_diffusion import TextToImageModel
from deme.models.network_inputs import NetworkInputs

NETWORKS = ("UNet2DConditionModel with in_channels=9",)


def network_inputs(stated: Mapping[str, Any], num_tokens: int | None = None) -> NetworkInputs:
    """Return the network's inputs by its config."""
    rows = stable_diffusion.network_inputs(stated, num_tokens).rows
    return NetworkInputs(rows, predicted=stated["out_channels"])


class InpaintingModel(TextToImageModel):
    """`model(x_t [B, 4, h, w], t [B], condition)`.

    The condition has "encoder_hidden_states" [B, L, D], "mask" [B, 1, h, w] and "masked_latents"
    [B, 4, h, w]; without the last two, everything is masked.
    """

    pipeline = "StableDiffusionInpaintPipeline"
    takes_masks = True

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what is denoised."""
        _, height, width = super().noise_shape
        return self.network.config["out_channels"], height, width

    def predict(self, x_t: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """Return all that the network returns."""
        given = dict(condition)
        mask, known = given.pop(MASK, None), given.pop(MASKED_LATENTS, None)
        if mask is None or known is None:
            mask, known = self._everything_masked(x_t)
        return self.call_network(torch.cat([x_t, mask, known], 1), time, given)

    def _everything_masked(self, x_t: Tensor) -> tuple[Tensor, Tensor]:
        """Return a mask of ones [1-channel, like x_t] and the latents of a grey image."""
        factor, (height, width) = self.encoders.factor, x_t.shape[-2:]
        shape = (1, self.encoders.num_channels, height * factor, width * factor)
        if self._grey is None or self._grey.shape[-2:] != x_t.shape[-2:]:
            with torch.autocast(x_t.device.type, enabled=False):
                grey = torch.zeros(shape, device=x_t.device)
                self._grey, _ = self.encoders.to(x_t.device).moments(grey)
            self.encoders.release()
        known = self._grey.to(x_t).expand(len(x_t), -1, -1, -1)
        return torch.ones_like(x_t[:, :1]), known

    _grey: Tensor | None = None


MODEL = InpaintingModel


def from_configs(path: str, folder: Path) -> InpaintingModel:
    """Return the model of a whole pipeline's folder, without the weights of its UNet.

    Raises MissingInput, BadConfig (another family of models), WorkFailed.
    """
    return stable_diffusion.from_pipeline(path, folder, InpaintingModel, network_inputs)
