"""The runs of `deme improve`, all below its own directory: they are made once, and found again."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from deme.commands import stage_function
from deme.runs import (
    BASE_IDEA,
    BLOCKED,
    CHAIN,
    EXPERTS,
    IMPROVE_JUDGE_SEED,
    Config,
    ImproveSettings,
    Node,
    RowSettings,
    Run,
    Suite,
    SuiteSettings,
    Tried,
    compose_stage,
    idea_rows,
    ideas_of,
    placed,
    read_best,
    read_metrics,
    seconds_of,
)
from deme.system import BadConfig, WorkFailed, details, digits_for, first_line, logger

# Keys that every step of the work shares, if its command has them.
SHARED_KEYS = (
    "data", "model", "metrics", "projection", "weighting", "timestep_density", "adapter", "prompts",
    "sampler", "compute", "progress", "logger", "passport", "guidance_scale", "paths",
)  # fmt: skip
SEARCH_STEPS = 10  # sampling steps of a candidate's images
FEW_REPLICATES = 2  # bootstrap resamples where no interval is used
SAME = "the best merge is the base itself"
LEAVES_OUT = (WorkFailed, BadConfig)  # of an idea; the others go on without it


def decisive_metric(names: Iterable[str]) -> str:
    """Return which of these metrics chooses and decides: the distance of images, or the loss."""
    return next((name for name in names if name.startswith(("fd_", "fid_"))), "loss")


@dataclass(frozen=True)
class Candidate:
    """The model of an idea, and what is said of it."""

    model: Path  # a run
    tried: Tried

    @property
    def score(self) -> float:
        """Its score on validation images, lower is better; infinite where there is no choice."""
        found = self.tried["score"]
        return math.inf if found is None else found


class Work:
    """Makes the runs of `deme improve`."""

    def __init__(self, settings: ImproveSettings, run: Run) -> None:
        self.settings, self.run = settings, run
        self.runs, self.name = run.path.parent, run.path.name  # <run>/<stage>/ has its runs
        shared = {key: run.config[key] for key in SHARED_KEYS}
        # the verdict uses held-out images; a statistics file may be of other images
        shared["metrics"] = {**shared["metrics"], "reference": "held_out", "statistics": {}}
        steps = min(SEARCH_STEPS, settings.sampler.get("num_inference_steps", SEARCH_STEPS))
        search = {**shared, "sampler": {**shared["sampler"], "num_inference_steps": steps}}
        self.shared: Mapping[str, Config] = {**dict.fromkeys(CHAIN, shared), "search": search}
        few: Config = {"replicates": FEW_REPLICATES, "kid": False, "nearest_k": None, "scores": {}}
        if settings.metrics.features:
            few["loss"] = None  # it does not choose
        self.scoring = {**shared, "metrics": {**shared["metrics"], **few}}
        self.ideas = ideas_of(settings)
        self.merge_weights: list[float] | None = None  # that the search found
        self.broken: dict[str, Exception] = {}  # rows that failed: no idea tries them again
        self.scored: dict[str, Path] = {}  # the evaluation on validation images of each idea

    @property
    def chooses(self) -> bool:
        """Whether half of the held-out images are kept for a choice between ideas."""
        return len(self.ideas) > 1

    @property
    def sample_seeds(self) -> tuple[int, ...]:
        """The sampling seeds of the held-out evaluations; the loss does not depend on them."""
        return tuple(self.settings.sample_seeds[: None if self.settings.metrics.features else 1])

    def suite(self, *rows: RowSettings) -> Suite:
        """Return a suite of these rows below the run's directory."""
        suite = SuiteSettings(
            suite=self.name,
            rows=rows,
            baseline=rows[0].name,
            metrics=("loss",),
            finetune_seeds=(self.settings.seed,),
            sample_seeds=self.sample_seeds,
        )
        return Suite(self.run.path / "config.yaml", self.runs, suite, replaced=self.shared)

    def make_row(self, suite: Suite, row: str) -> list[Node]:
        """Make the runs of a row, after those of the rows that it names."""
        nodes = [node for node in suite.nodes if node.row == row]
        for node in nodes:
            assert node.run is not None, f"{node.title} waits for its inputs"
            with details():
                stage_function(node.stage)(node.run.config)
        return nodes

    def make(
        self,
        stage: str,
        name: str,
        inputs: Mapping[str, list[str]],
        *overrides: str,
        shared: Config | None = None,
        **values: int,
    ) -> Path:
        """Make a single run of a stage, called `name`, with these inputs; return its directory.

        `shared` are the groups of its configuration, those of the stage if there are none.
        """
        given = tuple(f"inputs.{each}" for each in inputs)
        words = [*overrides, f"cell.method={name}"]
        config = compose_stage(stage, words, given, **values)
        groups = self.shared[stage] if shared is None else shared
        config |= {key: value for key, value in groups.items() if key in config}
        config["suite"] = self.name
        with details():
            return stage_function(stage)(placed(config, self.runs, inputs, {}))

    def evaluate(self, name: str, model: Path | None, seed: int | None = None) -> list[Path]:
        """Measure a model (None: the base) for the verdict: a run for each sampling seed.

        That is on half of the held-out images where the others choose. `seed`: of finetuning.
        """
        part = "test" if self.chooses else "null"
        number = self.settings.num_images
        return [
            self._evaluate(name, model, part, number, sample_seed, seed)
            for sample_seed in self.sample_seeds
        ]

    def score(self, name: str, model: Path | None) -> float:
        """Return the loss or the distance of a model (None: the base) on validation images.

        That is on the other half of the held-out images. The seed of generated images is neither
        that of a verdict nor that of the search for merge weights.
        """
        number = self.settings.num_images
        run = self._evaluate(
            f"score_{name}", model, "validation", number, IMPROVE_JUDGE_SEED, shared=self.scoring
        )
        self.scored[name] = run
        found = read_metrics(run)
        metric = decisive_metric(found)
        value = float(found[metric]["value"])
        what = "before finetuning" if model is None else name
        text = f"{value:.{digits_for(value)}f}"
        logger.info("%s: %s %s on validation images", what, metric, text)
        return value

    def _evaluate(
        self,
        name: str,
        model: Path | None,
        part: str,
        num_images: int,
        sample_seed: int,
        seed: int | None = None,
        shared: Config | None = None,
    ) -> Path:
        inputs = {} if model is None else {"weights": [str(model)]}
        values = {} if seed is None else {"seed": seed}
        return self.make(
            "evaluate",
            name,
            inputs,
            f"held_out_part={part}",
            f"num_images={num_images}",
            f"batch_size={self.settings.batch_size}",
            shared=shared,
            **values,
            sample_seed=sample_seed,
        )

    def score_before(self) -> Tried:
        """Return the score of the base."""
        score = self.score(BASE_IDEA, None) if self.chooses else None
        return {"idea": BASE_IDEA, "score": score, "num_forward_passes": 0, "seconds": 0.0}

    def has_experts(self, num_steps: int) -> bool:
        """Whether the experts of `merge` and `distill` are trained."""
        rows = idea_rows(self.settings, num_steps)["merge"]
        return all(node.state == "done" for node in self.suite(*rows).nodes if node.row == EXPERTS)

    def is_begun(self, idea: str, num_steps: int) -> bool:
        """Whether an earlier command has begun to train for an idea."""
        nodes = self.suite(*idea_rows(self.settings, num_steps)[idea]).nodes
        if self.has_experts(num_steps):
            nodes = [node for node in nodes if node.row != EXPERTS]
        return any(node.state not in ("ready", *BLOCKED) for node in nodes)

    def try_idea(self, idea: str, num_steps: int) -> Candidate | Tried:
        """Make and score the model of an idea; if that fails, return why the idea is left out.

        A merge whose best weights are all 0 is the base, and is not measured again.
        """
        try:
            model, passes, seconds = (
                self._averaged() if idea == "average" else self._trained(idea, num_steps)
            )
            cost: Tried = {
                "idea": idea,
                "score": None,
                "num_forward_passes": passes,
                "seconds": round(seconds, 1),
            }
            if idea == "merge" and not any(self.merge_weights or [1]):
                logger.info(SAME)
                return {**cost, "note": SAME}
            score = self.score(idea, model) if self.chooses else None
        except LEAVES_OUT as error:
            self.broken.setdefault(idea, error)
            return self.left_out(idea, first_line(error))
        return Candidate(model, {**cost, "score": score})

    def left_out(self, idea: str, why: str) -> Tried:
        """Return what is said of an idea that is left out."""
        logger.warning("the idea %s is left out: %s", idea, why)
        return {
            "idea": idea,
            "score": None,
            "num_forward_passes": 0,
            "seconds": 0.0,
            "left_out": why,
        }

    def _averaged(self) -> tuple[Path, int, float]:
        """Return the run of the averaged weights, its forward passes and seconds."""
        average, snapshots = (self.run.inputs.get(name) for name in ("average", "snapshots_of"))
        if average:
            inputs = {"experts": list(map(str, average))}
            made = self.make("merge", "average", inputs, "merge=linear", "report=false")
        else:
            inputs = {"run": list(map(str, snapshots or []))}
            made = self.make("average", "average", inputs, "average=mean")
        return made, 0, seconds_of(made)

    def _trained(self, idea: str, num_steps: int) -> tuple[Path, int, float]:
        """Return the run of the model of an idea that trains, its forward passes and seconds."""
        rows = idea_rows(self.settings, num_steps)[idea]
        suite = self.suite(*rows)
        for row in rows:
            if row.name in self.broken:
                raise self.broken[row.name]
            try:
                nodes = self.make_row(suite, row.name)
            except LEAVES_OUT as error:
                self.broken[row.name] = error
                raise
        if idea == "merge":
            (searched,) = (node.path for node in nodes if node.stage == "search")
            self.merge_weights = read_best(searched)["weights"]
        made = suite.nodes
        seconds = sum(seconds_of(node.path) for node in made)
        return nodes[-1].path, sum(node.num_forward_passes for node in made), seconds
