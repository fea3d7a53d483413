"""Figures for `deme analyze`: one file and one option file each.

A figure is a function that returns an `Analysis`, or a `Study` if there is more to measure than
takes a moment. It takes by name the keys of its option file and what it needs of

- `model`, `data`, `extractors`: functions that load them,
- `images`: a function (model, split, count, seed) -> images as the model sees them,
- `experts`, `models`: functions that check `inputs.experts` and `inputs.models` and return them,
- `cache` and `runs` (folders), `device`, `run` (a run directory).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from torch import Tensor

    from deme.data import EncodedDataset, Images
    from deme.diffusion import Network, TimestepRange
    from deme.models.denoiser import DenoisingModel

Numbers = TypeVar("Numbers", bound=Mapping[str, Any])


@dataclass(frozen=True)
class Analysis:
    """A picture, and the numbers behind it as the lines of a table, titles first.

    `numbers`: what was drawn, as JSON, for a figure that is no `Study`.
    """

    figure: Figure
    table: list[list[str]] = field(default_factory=list)
    numbers: Mapping[str, Any] | None = None


class Parts(Protocol):
    """The results of the parts of a study, kept on disk until its figure is there.

    A part that a killed process has measured is read, not measured again.
    """

    def __call__(
        self, name: str, measure: "Callable[[], Mapping[str, Tensor]]"
    ) -> "Mapping[str, Tensor]": ...


@dataclass(frozen=True)
class Study(Generic[Numbers]):
    """What is measured for a figure, and how the figure follows from the numbers.

    `num_forward_passes`: the cost, a backward pass counted as two; `model`: what they are passes
    of. `kind`: the TypedDict of the numbers, which are JSON.
    """

    num_forward_passes: int
    model: "DenoisingModel"
    kind: type[Numbers]
    measure: Callable[[Parts], Numbers]
    draw: Callable[[Numbers], Analysis]


@dataclass(frozen=True)
class Expert:
    """An expert of the base: its range of timesteps, and how its model is loaded."""

    range: "TimestepRange"
    load: "Callable[[], DenoisingModel]"


@dataclass(frozen=True)
class NamedModel:
    """A model to compare with the base, and how its network is loaded.

    `ranges`: those of the experts that it consists of, routed by timestep; empty for one network.
    """

    label: str
    ranges: "tuple[TimestepRange, ...]"
    load: "Callable[[DenoisingModel], Network]"


class LoadImages(Protocol):
    """Returns `count` images of a split, picked by `seed`, as a model sees them; all with None."""

    def __call__(
        self, model: "DenoisingModel", split: str, count: int | None = None, seed: int = 0
    ) -> "Images | EncodedDataset": ...
