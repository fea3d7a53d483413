"""Averages: which models of a training run, or of several, are summed with which weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from deme.merging.power_profiles import Profile, reconstruct
from deme.system import BadConfig, logger

FAR = 0.1  # of a reconstructed profile's norm: what is missing shows


@dataclass(frozen=True)
class Candidates:
    """What an average may be made of.

    `folders`: those of models. `steps`: of a training run's snapshots, at which they were taken;
    None for the models of several runs. `profiles`: stored power-function averages. `searched`: the
    weights of the snapshots that a search found; `by_name`: those of some tensors, by a glob of
    their names.
    """

    folders: Sequence[Path]
    steps: Sequence[int] | None = None
    profiles: Mapping[Profile, Path] = field(default_factory=dict)
    searched: Sequence[float] | None = None
    by_name: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class WeightedModels:
    """Model folders and their weights, with sum 1; `text` says what it is.

    `by_name`: other weights for some tensors, by a glob of their names.
    """

    folders: tuple[Path, ...]
    weights: tuple[float, ...]
    text: str
    by_name: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @classmethod
    def of(cls, folders: Sequence[Path], weights: Sequence[float], text: str) -> "WeightedModels":
        """Leave out what has no weight."""
        kept = [(f, w) for f, w in zip(folders, weights, strict=True) if w != 0]
        return cls(tuple(f for f, _ in kept), tuple(w for _, w in kept), text)


class Average(Protocol):
    """A kind of average: a function of its settings and of what there is."""

    def weigh(self, candidates: Candidates) -> WeightedModels:
        """Return the models and weights. Raises BadConfig for what it cannot be made of."""


class Mean(Average):
    """The mean of a run's snapshots (`steps`: of which, None: of all), or of several models.

    Of models that were finetuned from one base it is a soup (Wortsman et al. 2022, arXiv
    2203.05482).
    """

    def __init__(self, steps: Sequence[int] | None = None) -> None:
        self.steps = steps

    def weigh(self, candidates: Candidates) -> WeightedModels:
        """Return 1/N for each."""
        folders = list(candidates.folders)
        if candidates.steps is None:
            if self.steps is not None:
                raise _needs_snapshots("average.steps", len(folders))
            return WeightedModels.of(
                folders, _equal(len(folders)), f"mean of {len(folders)} models"
            )
        known = dict(zip(candidates.steps, folders, strict=True))
        steps = sorted(set(known if self.steps is None else self.steps))
        if unknown := [step for step in steps if step not in known]:
            raise _no_snapshot("average.steps", unknown, known)
        return WeightedModels.of(
            [known[step] for step in steps], _equal(len(steps)), f"mean of {_listed(steps)}"
        )


class Power(Average):
    """A power-function average of any length, after training (EDM2, docs/method.md#post-hoc).

    It is the combination of the averages in a run's snapshots whose profile is nearest to that of
    `ema_length`, a relative width; `until`: the last step, None: that of the last snapshot.
    """

    def __init__(self, ema_length: float = 0.1, until: int | None = None) -> None:
        Profile(ema_length, 1).gamma  # noqa: B018 (raises ValueError)
        self.ema_length, self.until = ema_length, until

    def weigh(self, candidates: Candidates) -> WeightedModels:
        """Return the least-squares weights of the stored averages."""
        if candidates.steps is None:
            raise _needs_snapshots("average=power", len(candidates.folders))
        last = self.until or max(candidates.steps)
        if last not in candidates.steps:
            raise _no_snapshot("average.until", [last], candidates.steps)
        stored = [profile for profile in candidates.profiles if profile.step <= last]
        if not stored:
            raise BadConfig(
                "average=power needs the power-function averages of ema=post_hoc, and these "
                "snapshots hold none\ntype: average=mean, or train with ema=post_hoc"
            )
        found = reconstruct(stored, Profile(self.ema_length, last))
        text = f"power function of length {self.ema_length:g} up to step {last}"
        size = sum(map(abs, found.weights))
        log = logger.warning if found.error > FAR else logger.info
        log(
            "%s: %d stored averages leave %.2g of the profile's norm unexplained; their weights "
            "have an absolute sum of %.3g%s",
            text,
            len(stored),
            found.error,
            size,
            "\nanother length, or more frequent snapshots, would have a smaller error"
            if found.error > FAR
            else "",
        )
        folders = [candidates.profiles[profile] for profile in stored]
        return WeightedModels.of(folders, found.weights, text)


class Mixture(Average):
    """The combination of a run's snapshots that a search found (LCSC, arXiv 2404.02241)."""

    def weigh(self, candidates: Candidates) -> WeightedModels:
        """Return the searched weights."""
        if candidates.steps is None:
            raise _needs_snapshots("average=mixture", len(candidates.folders))
        if candidates.searched is None:
            raise BadConfig(
                "average=mixture takes weights that a search found, and inputs.search is not given"
                "\ntype: inputs.search=<run of: deme search merge=linear inputs.snapshots_of=<run>>"
            )
        text = f"mixture of {_listed(candidates.steps)}"
        weights, folders = tuple(candidates.searched), tuple(candidates.folders)
        return WeightedModels(folders, weights, text, candidates.by_name)


def _equal(count: int) -> list[float]:
    return [1 / count] * count


def _listed(steps: Sequence[int]) -> str:
    ends = f"steps {steps[0]} to {steps[-1]}" if len(steps) > 1 else f"step {steps[0]}"
    return f"{len(steps)} snapshot{'s' if len(steps) > 1 else ''}, {ends}"


def _needs_snapshots(what: str, num_models: int) -> BadConfig:
    return BadConfig(
        f"{what} averages the snapshots of one training run; inputs.run names {num_models}\n"
        "type: inputs.run=<one run>, or average=mean without steps for the mean of several"
    )


def _no_snapshot(
    key: str, steps: Sequence[int], known: Sequence[int] | Mapping[int, Path]
) -> BadConfig:
    missing, there = (", ".join(map(str, each)) for each in (steps, known))
    return BadConfig(f"{key}: no snapshot of step {missing}; there are: {there}")
