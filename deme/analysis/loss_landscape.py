"""The loss around the base, in ranges of timesteps: planes, slopes and curvature.

The paper's Figures 4 and 6a; docs/figures.md#loss-landscape.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial

import torch
from torch import Tensor

from deme.analysis import Expert, LoadImages, Parts, Study
from deme.analysis.directions import (
    Direction,
    Landscape,
    filter_normalised,
    inner,
    scaled,
    sharpness,
)
from deme.analysis.landscape_figure import Curvature, LandscapeNumbers, PlaneNumbers, draw
from deme.diffusion import TimestepRange, uniform
from deme.models.denoiser import DenoisingModel
from deme.runs import BACKWARD
from deme.system import BadConfig, tracked

REACH = {"random": (-0.1, 0.1), "gradient": (-2.0, 2.0), "tasks": (-0.5, 1.5)}


def loss_landscape(
    model: Callable[[], DenoisingModel],
    images: LoadImages,
    experts: Callable[[], Sequence[Expert]],
    device: str,
    directions: str = "gradient",
    num_ranges: int = 4,
    points: int = 9,
    low: float | None = None,
    high: float | None = None,
    num_images: int = 256,
    draws: int = 2,
    num_iterations: int = 10,
    num_directions: int = 4,
    batch_size: int = 128,
    seed: int = 0,
) -> Study[LandscapeNumbers]:
    """Evaluate the loss on planes of `points` x `points` through the base, and its curvature there.

    `directions`: `random`, two filter-normalised directions; `gradient`, the step along the
    negative gradient in the range to where its curvature has the minimum, and a random direction of
    the same curvature; `tasks`, the task vector of the range's expert, and the sum of the others'.
    `low` and `high`: the ends of both axes, in these directions. Raises BadConfig.
    """
    if directions not in REACH:
        raise BadConfig(f"figure.directions must be one of {', '.join(REACH)}; got {directions!r}")
    ends = [REACH[directions][i] if end is None else end for i, end in enumerate((low, high))]
    if points < 3 or not ends[0] < 0 < ends[1]:
        raise BadConfig(
            "figure.points must be at least 3, figure.low below 0 and figure.high above; got "
            f"{points}, {ends[0]:g} and {ends[1]:g}"
        )
    axis = [ends[0] + i * (ends[1] - ends[0]) / (points - 1) for i in range(points)]
    base = model()
    found = list(experts()) if directions == "tasks" else []
    ranges = [e.range for e in found] or uniform(num_ranges, base.schedule.num_timesteps)
    every = list(range(len(ranges)))
    groups = [every, *([index] for index in every)] if len(ranges) > 1 else [every]
    held_out = images(base, "held_out", num_images, seed)

    def measure(parts: Parts) -> LandscapeNumbers:
        if found and (projections := found[0].load().projections) is not None:
            base.add_projections(projections.placement)
        space = Landscape(base, held_out, ranges, draws, seed, device, batch_size)
        work = _Work(space, ranges, axis, seed, parts)
        curvature = [work.curvature(group, num_iterations, num_directions) for group in groups]
        planes = _planes(directions, space, found, groups, seed)
        measured = [each for i, plane in enumerate(planes) for each in work.plane(i, plane)]
        return {"directions": directions, "planes": measured, "curvature": curvature}

    # the ranges of all groups; on a plane of one gradient only its own are evaluated
    evaluated = sum(map(len, groups))
    gradients = 1 + 2 * (num_iterations + num_directions) + 5 * (directions == "gradient")
    passes = points**2 * (evaluated if directions == "gradient" else len(ranges))
    passes += evaluated * (1 + gradients * (1 + BACKWARD))
    return Study(passes * len(held_out) * draws, base, LandscapeNumbers, measure, draw)


@dataclass(frozen=True)
class _Plane:
    """A plane through the base, and the groups of ranges whose losses it is evaluated for.

    `directions` makes both directions, when they are needed.
    """

    groups: list[list[int]]
    x: str
    y: str
    directions: Callable[[], tuple[Direction, Direction]]
    marks: dict[str, list[float]] = field(default_factory=dict)


def _planes(
    kind: str, space: Landscape, experts: Sequence[Expert], groups: list[list[int]], seed: int
) -> Iterator[_Plane]:
    """Yield the planes of an option `directions`."""

    def random(number: int) -> dict[str, Tensor]:
        return filter_normalised(space.model, seed, number)

    def of_gradient(group: list[int]) -> tuple[Direction, Direction]:
        space.move()
        gradient, other = space.gradient(group), random(0)
        square = inner(gradient, gradient)
        parallel = inner(other, gradient) / square
        orthogonal = {name: other[name] - parallel * gradient[name] for name in other}
        along, across = (
            abs(inner(d, space.hessian_times(group, d))) for d in (gradient, orthogonal)
        )
        step = square / along  # the parabola along the gradient is lowest there
        return scaled(gradient, -step), scaled(orthogonal, step * (along / across) ** 0.5)

    def of_tasks(index: int) -> tuple[Direction, Direction]:
        others = scaled(space.weights, 0.0)
        for i, expert in enumerate(experts):
            vector = _task_vector(space, expert)
            if i == index:
                own = vector
            else:
                others = {name: others[name] + vector[name] for name in vector}
        return own, others

    if kind == "random":
        titles = ("random direction 1", "random direction 2")
        yield _Plane(groups, *titles, lambda: (random(0), random(1)))
    for group in groups if kind == "gradient" else ():
        titles = ("steps along minus the gradient", "random direction")
        yield _Plane([group], *titles, partial(of_gradient, group))
    share = 1 / max(1, len(experts))
    marks = {"expert": [1.0, 0.0], "uniform merge": [share, share], "sum": [1.0, 1.0]}
    for index in range(len(experts)):
        titles = ("weight of its own expert", "weight of the other experts")
        yield _Plane([[index]], *titles, partial(of_tasks, index), marks)


def _task_vector(space: Landscape, expert: Expert) -> dict[str, Tensor]:
    weights = dict(expert.load().named_parameters())
    return {name: weights[name].detach() - base for name, base in space.weights.items()}


@dataclass(frozen=True)
class _Work:
    """What is measured in a landscape, part by part."""

    space: Landscape
    ranges: Sequence[TimestepRange]
    axis: Sequence[float]
    seed: int
    parts: Parts

    def of(self, group: Sequence[int]) -> list[int]:
        """Return the ends of a group of neighbouring ranges."""
        return [self.ranges[group[0]].low, self.ranges[group[-1]].high]

    def curvature(self, group: list[int], num_iterations: int, num_directions: int) -> Curvature:
        """Measure slope and curvature at the base."""

        def measure() -> dict[str, Tensor]:
            self.space.move()
            loss = self.space.mean(group, self.space.losses(group))
            gradient = self.space.gradient(group)
            largest, error = sharpness(self.space, group, num_iterations, self.seed)
            along = []
            for number in range(num_directions):
                d = filter_normalised(self.space.model, self.seed, "curvature", number)
                along.append(inner(d, self.space.hessian_times(group, d)))
            norm = inner(gradient, gradient) ** 0.5
            values = [loss, norm, largest, error, *along]
            return {"values": torch.tensor(values, dtype=torch.float64)}

        name = f"curvature_{group[0]}_{group[-1]}"
        loss, norm, largest, error, *along = self.parts(name, measure)["values"].tolist()
        return {
            "of": self.of(group),
            "loss": loss,
            "gradient_norm": norm,
            "sharpness": largest,
            "sharpness_error": error,
            "random": along,
        }

    def plane(self, number: int, plane: _Plane) -> list[PlaneNumbers]:
        """Measure the losses on a plane, row by row."""
        ranges = sorted({index for group in plane.groups for index in group})
        directions = cache(plane.directions)

        def row(y: float) -> dict[str, Tensor]:
            one, other = directions()
            found = []
            for x in self.axis:
                self.space.move((x, one), (y, other))
                found.append(self.space.losses(ranges))
            return {"losses": torch.tensor(found, dtype=torch.float64)}

        rows = []
        name = f"plane {number}"
        for index, y in enumerate(tracked(self.axis, name, len(self.axis), "rows")):
            rows.append(self.parts(f"plane{number}_row{index}", partial(row, y))["losses"])
        losses = torch.stack(rows).tolist()  # [y, x, range]
        self.space.move()
        place = {index: i for i, index in enumerate(ranges)}

        def of_group(group: list[int]) -> list[list[float]]:
            return [
                [self.space.mean(group, [point[place[i]] for i in group]) for point in line]
                for line in losses
            ]

        return [
            {
                "of": self.of(group),
                "x": plane.x,
                "y": plane.y,
                "axis": list(self.axis),
                "losses": of_group(group),
                "marks": plane.marks,
            }
            for group in plane.groups
        ]
