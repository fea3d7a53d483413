"""From the rows of a suite to its runs: what each starts from, and which runs it takes."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from deme.runs.node import Node
from deme.runs.row_order import in_order
from deme.runs.settings import RowSettings

if TYPE_CHECKING:
    from deme.runs.suite import Suite

ON_DISK = ("model=diffusers",)  # a model that a run has made


class Variant(NamedTuple):
    """What a row is made once for; None for a base that has no name, and for no seed."""

    base: str | None
    pretrain_seed: int | None
    seed: int | None  # of finetuning


class Start(NamedTuple):
    """The model that a run starts from: the run that makes it, and the overrides that name it."""

    node: Node | None = None
    weights: str | None = None
    overrides: tuple[str, ...] = ()


def _without(overrides: Sequence[str], others: Sequence[str]) -> list[str]:
    """Return the overrides of keys that the others do not name."""
    keys = {other.partition("=")[0] for other in others}
    return [one for one in overrides if one.partition("=")[0] not in keys]


class Layout:
    """Lays out the runs of every row, which take the runs of other rows as inputs."""

    def __init__(self, suite: "Suite") -> None:
        self.suite = suite
        self.settings = suite.settings
        self.rows = {row.name: row for row in suite.settings.rows}
        self.made: dict[tuple[str, str, Variant], list[Node]] = defaultdict(list)

    def nodes(self) -> list[Node]:
        """Return all runs, row by row; a row that trains nothing is laid out once for each base."""
        rows = in_order(self.settings.rows)
        for row in sorted(rows, key=lambda row: row.name not in self.settings.pretraining):
            for variant in self.variants(row):
                self.chain(row, variant)
        return [node for nodes in self.made.values() for node in nodes]

    def variants(self, row: RowSettings) -> Iterator[Variant]:
        """Yield what the row is made for."""
        settings = self.settings
        if row.name in settings.pretraining:
            yield from (Variant(None, p, None) for p in settings.pretrain_seeds or (None,))
            return
        trains = row.train is not None or row.experts_of not in (None, *settings.pretraining)
        for base in settings.bases_of(row):
            for pretrain_seed in settings.pretrain_seeds_of(base):
                for seed in settings.finetune_seeds if trains else (None,):
                    yield Variant(base, pretrain_seed, seed)

    def chain(self, row: RowSettings, variant: Variant) -> None:
        """Add the runs of a row for one variant."""
        cell = f"cell.method={row.name}"
        if row.train is not None:
            self.train(row, variant)
        models = self.models_of(row, variant)
        if row.mixes_snapshots:
            self.add(row, "search", variant, {"snapshots_of": models}, cell)
        if row.average is not None:
            models = self.average(row, variant, models, cell)
        if row.search is not None and not row.mixes_snapshots:
            self.add(row, "search", variant, {"experts": models}, cell)
        searched = self.made[row.name, "search", variant]
        if row.merge is not None:
            inputs = {"experts": models, "search": searched} if searched else {"experts": models}
            self.add(row, "merge", variant, inputs, cell)
        weights = self.made[row.name, "merge", variant] or models
        is_routed = bool(row.experts) and row.merge is None  # experts without a merge
        routed = ["source=experts"] if is_routed else []
        source = {"experts": models} if is_routed else {"weights": weights} if weights else {}
        for sample_seed in self.suite.seeds_of(row) if row.evaluate is not None else ():
            self.add(row, "evaluate", variant, source, cell, *routed, sample_seed=sample_seed)

    def models_of(self, row: RowSettings, variant: Variant) -> list[Node]:
        """Return what a row averages, searches or merges: its own models, or those of another.

        Of a row that only averages, it is the run that trained the base.
        """
        if row.train is not None:
            return self.made[row.name, "train", variant]
        if row.experts_of is not None:
            return self.experts(row.experts_of, variant)
        start = self.start(row, variant).node if row.average is not None else None
        return [start.training] if start is not None else []

    def experts(self, name: str, variant: Variant) -> list[Node]:
        """Return the models of another row: its averages, or what it trained."""
        return self.found(name, "average", variant) or self.found(name, "train", variant)

    def average(
        self, row: RowSettings, variant: Variant, models: list[Node], cell: str
    ) -> list[Node]:
        """Add an average of each model that the row trains, of all copies or of all others."""
        searched = self.made[row.name, "search", variant] if row.mixes_snapshots else []
        each = row.train is not None and not row.copies
        for group in [[one] for one in models] if each else [models]:
            inputs = {"run": group, "search": searched} if searched else {"run": group}
            expert = group[0].expert if len(group) == 1 else None
            self.add(row, "average", variant, inputs, cell, expert=expert)
        return self.made[row.name, "average", variant]

    def train(self, row: RowSettings, variant: Variant) -> None:
        """Add one training, or one for each expert or copy."""
        inputs = {}
        if row.search_of is not None:
            inputs["search"] = self.found(row.search_of, "search", variant)
        if row.experts_of is not None:
            inputs["experts"] = self.experts(row.experts_of, variant)
        for expert in row.experts or (None,):
            for copy in range(row.copies) if row.copies else (expert if row.independent else None,):
                self.add(row, "train", variant, inputs, expert=expert, copy=copy)

    def add(
        self,
        row: RowSettings,
        stage: str,
        variant: Variant,
        inputs: dict[str, list[Node]],
        *more: str,
        expert: int | None = None,
        copy: int | None = None,
        sample_seed: int | None = None,
    ) -> None:
        """Add one run: common overrides, then the row's, then what the suite adds."""
        suite, settings = self.suite, self.settings
        common: tuple[str, ...] = getattr(settings.common, stage)
        overrides = [*common, *(row.overrides(stage) or ()), *more, f"suite={suite.name}"]
        start = self.start(row, variant) if stage != "average" else Start()
        pretrains = row.name in settings.pretraining
        node = Node(
            suite,
            row.name,
            stage,
            variant.pretrain_seed if pretrains and stage == "train" else variant.seed,
            sample_seed,
            expert,
            copy,
            None if pretrains else variant.base,
            None if pretrains and stage == "train" else variant.pretrain_seed,
            inputs,
            [*_without(overrides, suite.neutral), *suite.paths, *suite.neutral, *start.overrides],
            start.node,
            start.weights,
        )
        self.made[row.name, stage, variant].append(node)

    def start(self, row: RowSettings, variant: Variant) -> Start:
        """Return what the runs of a row start from: of a merge, what its experts started from."""
        if row.starts_from is not None:
            (node,) = self.model(row.starts_from, variant)
            return Start(node, None, ON_DISK)
        if row.experts_of is not None and row.train is None:
            return self.start(self.rows[row.experts_of], variant)
        start = self.settings.starts.get(variant.base)
        if start is None or row.name in self.settings.pretraining:
            return Start()
        if start.row is None:
            return Start(overrides=start.model or ())
        (node,) = self.model(start.row, variant)
        return Start(node, start.weights, ON_DISK)

    def model(self, name: str, variant: Variant) -> list[Node]:
        """Return what made a row's model: its merge, its average, or its training."""
        for stage in ("merge", "average", "train"):
            if found := self.found(name, stage, variant):
                return found
        return []

    def found(self, name: str, stage: str, variant: Variant) -> list[Node]:
        """Return the runs of another row that belong to this variant of a row."""
        base, pretrain_seed, seed = variant
        places = (
            variant,
            Variant(base, pretrain_seed, None),  # trains nothing
            Variant(None, None, seed),  # has no base
            Variant(None, pretrain_seed, None),  # makes one
            Variant(None, None, None),
        )
        nodes = (self.made.get((name, stage, place)) for place in places)
        return next((found for found in nodes if found), [])
