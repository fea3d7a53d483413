"""Held-out losses of a base and of other models, on the same images, timesteps and noise."""

from collections.abc import Callable, Sequence

from torch import Tensor
from typing_extensions import TypedDict

from deme.analysis import Parts
from deme.data import EncodedDataset, Images
from deme.diffusion import Network, TimestepRange
from deme.metrics import Triples, denoising_loss, fixed_triples
from deme.models.denoiser import DenoisingModel
from deme.report.statistics import mean_of


class Change(TypedDict):
    """A model's loss minus the base's in a range: mean over images, 95% interval, verdict.

    `base`: the base's loss.
    """

    base: float
    value: float
    low: float
    high: float
    verdict: str


class HeldOut:
    """Fixed (x0, t, eps) of images, `draws` for each image and range of timesteps."""

    def __init__(
        self,
        base: DenoisingModel,
        images: Images | EncodedDataset,
        ranges: Sequence[TimestepRange],
        draws: int,
        seed: int,
        device: str,
        batch_size: int,
    ) -> None:
        self.base, self.device, self.batch_size = base, device, batch_size
        self.triples: Triples = fixed_triples(images, ranges, draws, seed)

    def losses(self, network: Network) -> Tensor:
        """Return the squared error per range and image, [R, M] in float64."""
        base = self.base
        return denoising_loss(
            network, base.schedule, base.prediction_type, self.triples, self.device, self.batch_size
        )

    def part(self, parts: Parts, name: str, load: Callable[[], Network]) -> Tensor:
        """Return the losses of the network that `load` returns, a part of a study."""
        return parts(name, lambda: {"losses": self.losses(load())})["losses"]


def changes(losses: Tensor, base: Tensor) -> list[Change]:
    """Return the paired change in every range from losses [R, M] of the same triples."""
    found = []
    for ours, before in zip(losses.numpy(), base.numpy(), strict=True):
        difference = mean_of(ours - before)
        found.append(
            Change(
                base=float(before.mean()),
                value=difference.value,
                low=difference.low,
                high=difference.high,
                verdict=difference.verdict,
            )
        )
    return found


def percent(change: Change) -> tuple[float, float, float]:
    """Return value, low and high of a change in percent of the base's loss."""
    scale = 100 / change["base"]
    return change["value"] * scale, change["low"] * scale, change["high"] * scale


def format_change(change: Change) -> str:
    """Return a change in percent with its interval and verdict."""
    value, low, high = percent(change)
    return f"{value:+.2f}% [{low:+.2f}, {high:+.2f}] {change['verdict']}"
