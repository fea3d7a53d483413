"""Unmerged experts in the memory of one model: weights are read when the expert changes."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from deme.diffusion import EMPTY_CONDITION, Condition, Network, bind_condition
from deme.models.denoiser import DenoisingModel
from deme.models.loading import load_folder


class SwappedExperts:
    """One live `model` for N folders of weights of the same shapes.

    `num_swaps` counts how often weights were brought in. Raises WorkFailed when a folder does not
    fit the first.
    """

    def __init__(self, folders: Sequence[Path], device: str = "cpu") -> None:
        self.folders = list(folders)
        self.model: DenoisingModel = load_folder(str(folders[0]), advice="").to(device)
        self.current = 0
        self.num_swaps = 0

    def networks(self, predict: Network | None = None) -> list[Network]:
        """Return a network per folder. `predict` runs the live model (default: as it is)."""
        network = predict or self.model
        return [partial(self._predict, index, network) for index in range(len(self.folders))]

    def _predict(
        self,
        index: int,
        network: Network,
        x_t: Tensor,
        t: Tensor,
        condition: Condition = EMPTY_CONDITION,
    ) -> Tensor:
        if index != self.current:
            self.current = -1  # half read, should reading fail
            self.model.read_weights(self.folders[index])
            self.current = index
            self.num_swaps += 1
        return bind_condition(network, condition)(x_t, t)
