"""The noise schedule of a variance-preserving diffusion, and conversions of predictions."""

from dataclasses import dataclass

import torch
from torch import Tensor

PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")


@dataclass(frozen=True)
class NoiseSchedule:
    """Signal levels alpha_bar[t], t = 0..T-1 (t = 0 is the least noisy), float64.

    x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps  (Ho et al. 2020, eq. 4).
    """

    alpha_bar: Tensor

    def __post_init__(self) -> None:
        alpha_bar = self.alpha_bar
        if alpha_bar.ndim != 1 or len(alpha_bar) == 0:
            raise ValueError(
                "alpha_bar must be a vector of T signal levels, "
                f"not of shape {tuple(alpha_bar.shape)}"
            )
        if not bool(((alpha_bar >= 0) & (alpha_bar <= 1)).all()) or not bool(
            (alpha_bar.diff() < 0).all()
        ):
            raise ValueError("alpha_bar must fall strictly from at most 1 to at least 0")
        object.__setattr__(self, "alpha_bar", alpha_bar.double())

    @classmethod
    def linear(
        cls, num_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02
    ) -> "NoiseSchedule":
        """Return the schedule of DDPM: beta_t linear in t."""
        betas = torch.linspace(beta_start, beta_end, num_timesteps, dtype=torch.float64)
        return cls((1 - betas).cumprod(0))

    @property
    def num_timesteps(self) -> int:
        """T, the number of timesteps."""
        return len(self.alpha_bar)

    @property
    def snr(self) -> Tensor:
        """Signal-to-noise ratio alpha_bar / (1 - alpha_bar) of every timestep, shape [T]."""
        return self.alpha_bar / (1 - self.alpha_bar)

    def coefficients(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t), broadcastable over `like`."""
        alpha_bar = self.alpha_bar.to(like.device)[t].view(-1, *[1] * (like.ndim - 1))
        return alpha_bar.sqrt().to(like.dtype), (1 - alpha_bar).sqrt().to(like.dtype)

    def add_noise(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Return x_t for images `x0` [B, ...], noise `eps` [B, ...] and timesteps `t` [B]."""
        alpha, sigma = self.coefficients(t, x0)
        return alpha * x0 + sigma * eps

    def target(self, prediction_type: str, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Return the target of a network with this prediction type at x_t."""
        if prediction_type == "epsilon":
            return eps
        if prediction_type == "sample":
            return x0
        if prediction_type == "v_prediction":
            alpha, sigma = self.coefficients(t, x0)
            return alpha * eps - sigma * x0
        raise ValueError(
            f"unknown prediction type {prediction_type!r}; allowed: {', '.join(PREDICTION_TYPES)}"
        )

    def eps_to_x0(self, eps: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the x_0 that `eps` implies at `x_t`."""
        alpha, sigma = self.coefficients(t, x_t)
        return (x_t - sigma * eps) / alpha

    def v_to_x0(self, v: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the x_0 that `v` implies at `x_t` (Salimans & Ho 2022, appendix D)."""
        alpha, sigma = self.coefficients(t, x_t)
        return alpha * x_t - sigma * v
