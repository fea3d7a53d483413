"""Noise schedules: how much signal and noise a noisy image has, and what a prediction means."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

PREDICTION_TYPES = ("epsilon", "sample", "v_prediction", "flow_prediction")


@dataclass(frozen=True)
class NoiseSchedule:
    """x_t = alpha_t x_0 + sigma_t eps at the timesteps t = 0..T-1; t = 0 is the least noisy.

    Given are alpha_t^2 and sigma_t^2, [T], float64. If they add up to 1 the schedule is variance
    preserving (Ho et al. 2020, eq. 4), and alpha_t^2 is what DDPM calls alpha_bar_t.
    """

    alpha_squared: Tensor
    sigma_squared: Tensor

    def __post_init__(self) -> None:
        for name, sign, rule in (
            ("alpha_squared", -1, "fall strictly from at most 1 to at least 0"),
            ("sigma_squared", 1, "rise strictly from at least 0 to at most 1"),
        ):
            values = getattr(self, name).double()
            if values.ndim != 1 or len(values) == 0:
                raise ValueError(
                    f"{name} must be a vector of T numbers, not of shape {tuple(values.shape)}"
                )
            inside = bool(((values >= 0) & (values <= 1)).all())
            if not inside or not bool((sign * values.diff() > 0).all()):
                raise ValueError(f"{name} must {rule}")
            object.__setattr__(self, name, values)

    @classmethod
    def variance_preserving(cls, alpha_bar: Tensor) -> "NoiseSchedule":
        """Return the schedule with the signal levels alpha_bar [T]."""
        return cls(alpha_bar.double(), 1 - alpha_bar.double())

    @classmethod
    def linear(
        cls, num_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02
    ) -> "NoiseSchedule":
        """Return the schedule of DDPM: beta_t linear in t."""
        betas = torch.linspace(beta_start, beta_end, num_timesteps, dtype=torch.float64)
        return cls.variance_preserving((1 - betas).cumprod(0))

    @property
    def num_timesteps(self) -> int:
        """T, the number of timesteps."""
        return len(self.alpha_squared)

    @cached_property
    def is_variance_preserving(self) -> bool:
        """Whether alpha_t^2 + sigma_t^2 = 1 at every timestep."""
        return bool(((self.alpha_squared + self.sigma_squared - 1).abs() < 1e-6).all())

    @property
    def sigma(self) -> Tensor:
        """Noise levels sigma_t, shape [T]."""
        return self.sigma_squared.sqrt()

    @property
    def snr(self) -> Tensor:
        """Signal-to-noise ratio alpha_t^2 / sigma_t^2 of every timestep, shape [T]."""
        return self.alpha_squared / self.sigma_squared

    @property
    def equivalent_alpha_bar(self) -> Tensor:
        """SNR / (1 + SNR) of every timestep, shape [T]; alpha_bar_t if variance preserving."""
        return self.alpha_squared / (self.alpha_squared + self.sigma_squared)

    def timestep_input(self, t: Tensor) -> Tensor:
        """Return the timestep input of the network at timesteps `t` [B]: `t` itself."""
        return t

    def timestep_of_input(self, time: Tensor) -> Tensor:
        """Return the timesteps whose input to the network is `time` [B]."""
        return time

    def supports(self, prediction_type: str) -> bool:
        """Whether a prediction type is known and defined for this schedule."""
        if prediction_type == "v_prediction":
            return self.is_variance_preserving
        return prediction_type in PREDICTION_TYPES

    def coefficients(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha_t and sigma_t for timesteps `t` [B], broadcastable over `like` [B, ...]."""
        table = torch.stack([self.alpha_squared, self.sigma_squared]).to(like.device)
        alpha, sigma = table[:, t].sqrt().to(like.dtype).view(2, -1, *[1] * (like.ndim - 1))
        return alpha, sigma

    def add_noise(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Return x_t for images `x0` [B, ...], noise `eps` [B, ...] and timesteps `t` [B]."""
        alpha, sigma = self.coefficients(t, x0)
        return alpha * x0 + sigma * eps

    def target(self, prediction_type: str, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Return the target of a network with this prediction type at x_t, [B, ...].

        Raises ValueError for an unknown type, and for v_prediction (Salimans & Ho 2022) unless the
        schedule is variance preserving.
        """
        self._check(prediction_type)
        if prediction_type == "epsilon":
            return eps
        if prediction_type == "sample":
            return x0
        if prediction_type == "flow_prediction":
            return eps - x0
        alpha, sigma = self.coefficients(t, x0)
        return alpha * eps - sigma * x0

    def predicted_x0(
        self, prediction_type: str, prediction: Tensor, x_t: Tensor, t: Tensor
    ) -> Tensor:
        """Return the x_0 that a network's prediction [B, ...] implies at `x_t` and `t` [B].

        Raises ValueError as `target` does.
        """
        self._check(prediction_type)
        if prediction_type == "sample":
            return prediction
        alpha, sigma = self.coefficients(t, x_t)
        if prediction_type == "epsilon":
            return (x_t - sigma * prediction) / alpha
        if prediction_type == "flow_prediction":  # x_t = (alpha + sigma) x_0 + sigma (eps - x_0)
            return (x_t - sigma * prediction) / (alpha + sigma)
        return alpha * x_t - sigma * prediction

    def _check(self, prediction_type: str) -> None:
        """Raise ValueError for a prediction type that this schedule does not have."""
        if not self.supports(prediction_type):
            known = [each for each in PREDICTION_TYPES if self.supports(each)]
            raise ValueError(
                f"prediction type {prediction_type!r} is unknown, or not defined for this noise "
                f"schedule; allowed: {', '.join(known)}"
            )


class FlowSchedule(NoiseSchedule):
    """The straight path of flow matching: x_t = (1 - s_t) x_0 + s_t eps (Lipman et al. 2023).

    s_t = (t + 1) / T, then shifted to m s / (1 + (m - 1) s) by `shift` = m (Esser et al. 2024, eq.
    23), as diffusers' FlowMatchEulerDiscreteScheduler does without dynamic shifting. Samplers may
    stop between two timesteps of training: there t is a fraction.
    """

    shift: float

    def __init__(self, num_timesteps: int = 1000, shift: float = 1.0) -> None:
        if num_timesteps < 1 or not shift > 0:
            raise ValueError(
                f"a flow needs num_timesteps >= 1 and shift > 0, got {num_timesteps} and {shift}"
            )
        object.__setattr__(self, "shift", float(shift))
        s = shift_sigmas(torch.arange(1, num_timesteps + 1).double() / num_timesteps, shift)
        super().__init__((1 - s).square(), s.square())

    def sigma_at(self, t: Tensor) -> Tensor:
        """Return the noise level s of timesteps `t` [B], which may be fractions, in float64."""
        return shift_sigmas((t.double() + 1) / self.num_timesteps, self.shift)

    def timestep_at(self, s: Tensor) -> Tensor:
        """Return the timesteps, mostly fractions, of noise levels `s` [B] in 0..1, in float64."""
        return shift_sigmas(s.double(), 1 / self.shift) * self.num_timesteps - 1

    def timestep_input(self, t: Tensor) -> Tensor:
        """Return T s in float32, the timestep input of diffusers' networks at timesteps `t` [B]."""
        return (self.sigma_at(t) * self.num_timesteps).float()

    def timestep_of_input(self, time: Tensor) -> Tensor:
        """Return the timesteps, mostly fractions, whose input to the network is `time` [B]."""
        return self.timestep_at(time / self.num_timesteps)


def shift_sigmas(s: Tensor, shift: float) -> Tensor:
    """Return m s / (1 + (m - 1) s) for noise levels `s` and a shift m; 1 / m undoes m."""
    return shift * s / (1 + (shift - 1) * s)
