"""The time budget of `deme improve`: which ideas and how many training steps fit into it."""

import contextlib
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from deme.commands.improve_work import SEARCH_STEPS, Work
from deme.runs import (
    ImproveSettings,
    TrialPlan,
    expert_row,
    frozen_config,
    num_trainings,
    passes_of_an_expert,
    passes_per_step,
    seconds_of,
)
from deme.system import BadConfig, duration, files, logger, read_json

MAX_STEPS = 20_000  # optimizer steps of an expert, as in the paper
MIN_STEPS = 20
# Optimizer steps of trial runs: the first warms up caches, the others measure the time of a step.
TRIAL_STEPS = (1, 10, 60)
MANY_STEPS = 2000  # of all trainings together: for fewer, trial runs would take long
SHARE = 0.95  # of the time that is planned; the pace varies
TOLERANCE = 1.1  # an idea is left out that takes this many times the time that is left


class Budget:
    """The time of `deme improve`, and the optimizer steps of an expert that fit into it."""

    def __init__(self, work: Work) -> None:
        self.work, self.settings, self.hours = work, work.settings, work.settings.budget_hours
        self.passes = passes_per_step(work.settings)
        self.plan: TrialPlan | None = None
        self.left_out: dict[str, str] = {}  # ideas that the time is too short for, and why
        self.began, self.before = time.monotonic(), seconds_of(work.run.path)
        self.verdict = self.scoring = self.search = 0.0  # seconds
        self.planned = self.taken = 0.0  # seconds of the ideas that this command has tried

    @property
    def seconds(self) -> float:
        """What was spent, by earlier commands too, except those that were killed."""
        return self.before + time.monotonic() - self.began

    def num_steps(self, evaluations: Sequence[Path]) -> int:
        """Return the optimizer steps per expert that fit into the time; plan.json stores them.

        0 if nothing is trained. Raises BadConfig if no idea fits into the time.
        """
        each = [seconds_of(evaluation) for evaluation in evaluations]
        self.verdict, self.scoring = sum(each), fmean(each) * self.work.chooses
        given, steps = self.settings.steps_per_expert, self.settings.steps_per_expert or 0
        if not self.passes:
            return 0
        if given is not None and self._in_sum(given) < MANY_STEPS:
            logger.info(self._steps_text(given))
            return given
        file = self.work.run.path / "plan.json"
        if not file.exists() or _is_refused(read_json(file, TrialPlan)):
            files.write_json(file, self._planned(evaluations))
        for trial in self.work.run.path.glob("train/trial-*"):  # plan.json has what they measured
            shutil.rmtree(trial, ignore_errors=True)
        self.plan = plan = read_json(file, TrialPlan)
        self.left_out = plan.get("left_out", {})
        kept = [idea for idea in self.work.ideas if idea not in self.left_out]
        self.passes = passes_per_step(self.settings, kept)
        if not self.passes:
            return 0
        self.search = _search_seconds(self.settings, evaluations, self._seconds_per_pass(plan))
        if given is None:
            steps = int(plan["num_steps"])
        pace = f"a step of an expert takes {plan['seconds_per_step']:.2g} s"
        expected = f"about {duration(self._seconds_of(plan, steps))} in all"
        if self.hours is not None:
            expected += f" (allowed: {duration(3600 * self.hours)})"
        logger.info(f"{self._steps_text(steps)}; {pace}: {expected}")
        if given is None and steps == MAX_STEPS:
            logger.info(f"only steps_per_expert=<n> allows more than {MAX_STEPS:,} steps")
        return steps

    def why_not(self, idea: str, num_steps: int) -> str | None:
        """Return why there is no time for an idea any more, unless it was begun.

        What it takes is expected from the trial runs, and from how much slower ideas were so far.
        """
        if self.hours is None or self.plan is None or idea == "average":
            return None
        slower = max(1.0, self.taken / self.planned) if self.planned else 1.0
        needed = slower * self._expected(idea, num_steps)
        left = max(0.0, 3600 * self.hours - self.seconds - self.verdict)
        if needed <= TOLERANCE * left or self.work.is_begun(idea, num_steps):
            return None
        return f"it would take about {duration(needed)}, and only {duration(left)} are left"

    @contextlib.contextmanager
    def timed(self, idea: str, num_steps: int) -> Iterator[None]:
        """Compare how long an idea takes with what was expected, while the block tries it."""
        if self.plan is None or idea == "average" or self.work.is_begun(idea, num_steps):
            yield
            return
        expected, began = self._expected(idea, num_steps), time.monotonic()
        yield
        if idea in self.work.broken:
            return
        self.planned += expected
        self.taken += time.monotonic() - began

    def _expected(self, idea: str, num_steps: int) -> float:
        """Return the seconds that an idea that trains takes."""
        assert self.plan is not None
        passes, more = self.passes.get(idea, 0), self.scoring
        if idea in ("merge", "distill") and not self.work.has_experts(num_steps):
            passes += self.passes["experts"]
        if idea == "merge":
            more += self.search
        steps = self.settings.num_ranges * num_steps
        return steps * passes * self._seconds_per_pass(self.plan) + more

    def _in_sum(self, steps: int) -> int:
        return steps * self.settings.num_ranges * len(self.passes)

    def _steps_text(self, steps: int) -> str:
        total, number = sum(self.passes.values()), self.settings.num_ranges
        shares = ", ".join(f"{name} {share / total:.0%}" for name, share in self.passes.items())
        return (
            f"{steps:,} steps per expert, {number * steps:,} per training run, "
            f"{self._in_sum(steps):,} in total; shares of the training time: {shares}"
        )

    def _seconds_per_pass(self, plan: TrialPlan) -> float:
        """Return the time of a forward pass of a batch in training."""
        return plan["seconds_per_step"] / passes_of_an_expert(self.settings)

    def _seconds_of(self, plan: TrialPlan, steps: float) -> float:
        """Return what everything takes."""
        passes = steps * self.settings.num_ranges * sum(self.passes.values())
        return plan["seconds_for_the_rest"] + passes * self._seconds_per_pass(plan)

    def _planned(self, evaluations: Sequence[Path]) -> TrialPlan:
        """Return the ideas and steps that fit into the time.

        Ideas that are too long at any speed are left out before trial runs measure the speed.
        """
        search = _search_seconds(self.settings, evaluations, 0.0)  # of generated images alone
        costs = Costs(self.settings, 0.0, 0.0, self.scoring, search)
        kept = self._fitting(costs, list(self.work.ideas), alone=True)
        if not passes_per_step(self.settings, kept):
            return self._plan_of(costs, kept)
        logger.info("measuring how long a training step takes")
        _, few, many = TRIAL_STEPS
        _, short, long = (_trial_seconds(self.work, steps) for steps in TRIAL_STEPS)
        per_step = max((long - short) / (many - few), short / many / 4)
        start = max(0.0, short - few * per_step)  # a training reads and probes its model
        per_pass = per_step / passes_of_an_expert(self.settings)
        search = _search_seconds(self.settings, evaluations, per_pass)
        costs = Costs(self.settings, per_pass, start, self.scoring, search)
        return self._plan_of(costs, self._fitting(costs, kept))

    @property
    def available(self) -> float:
        """The seconds left for ideas: the budget less the time spent and that of the verdict."""
        if self.hours is None:
            return math.inf
        return SHARE * 3600 * self.hours - self.seconds - self.verdict

    def _fitting(self, costs: "Costs", ideas: list[str], alone: bool = False) -> list[str]:
        """Return the ideas that fit into the time with the fewest steps; drop the most expensive.

        `alone`: leave out only ideas that are too long by themselves. Raises BadConfig if no idea
        fits.
        """
        kept, available = [*ideas], self.available
        while dear := {idea: costs.of([idea]) for idea in kept if idea != "average"}:
            idea = max(dear, key=lambda each: dear[each])
            if (dear[idea] if alone else costs.of(kept)) <= available:
                break
            kept.remove(idea)
        if not kept:
            least = min(costs.of([idea]) for idea in ideas)
            raise BadConfig(
                f"hours={self.hours:g} is too short for any idea: measuring took "
                f"{duration(self.seconds)}, the verdict takes {duration(self.verdict)}, and the "
                f"shortest idea takes {duration(least)} at least"
                f"\ntype: a larger hours=<n>, at least {self._hours_for(least)}"
            )
        return kept

    def _why(self, costs: "Costs", idea: str) -> str:
        """Return why an idea is left out: the time it takes, and what to type to include it."""
        takes = f"it takes {duration(costs.of([idea]))} at least"
        cheaper = ""
        if idea == "merge" and costs.search > costs.of([idea]) / 2:
            takes += f", {duration(costs.search)} of them for the search for merge weights"
            cheaper = ", or a cheaper search: search.step=1, search.num_images=<fewer>"
        return (
            f"{takes}, and of the budget, {duration(3600 * (self.hours or 0))}, "
            f"{duration(max(0.0, self.available))} are left for ideas; to include it, type: "
            f"hours={self._hours_for(costs.of([*self.work.ideas]))}{cheaper}"
        )

    def _hours_for(self, seconds: float) -> str:
        """Return the hours, rounded up, that are needed for ideas that take `seconds`."""
        hours = (seconds + self.seconds + self.verdict) / SHARE / 3600
        digits = 1 - math.floor(math.log10(hours))
        return f"{math.ceil(hours * 10**digits) / 10**digits:g}"

    def _plan_of(self, costs: "Costs", kept: list[str]) -> TrialPlan:
        rest, per_step = costs.of(kept, 0), costs.of(kept, 1) - costs.of(kept, 0)
        fits = min(MAX_STEPS, (self.available - rest) / per_step) if per_step else 0
        return {
            "seconds_per_step": costs.per_pass * passes_of_an_expert(self.settings),
            "seconds_for_the_rest": rest + self.seconds + self.verdict,
            "num_steps": int(fits) if self.hours is not None else 0,
            "left_out": {
                idea: self._why(costs, idea) for idea in self.work.ideas if idea not in kept
            },
        }


@dataclass(frozen=True)
class Costs:
    """The durations of the parts of ideas, in seconds."""

    settings: ImproveSettings
    per_pass: float  # a forward pass of a batch in training
    start: float  # of a training, which reads and probes its model
    scoring: float  # of an idea, for the choice
    search: float  # for merge weights

    def of(self, ideas: Sequence[str], num_steps: int = MIN_STEPS) -> float:
        """Return the seconds that some ideas take together, with `num_steps` steps per expert."""
        passes = sum(passes_per_step(self.settings, ideas).values())
        return (
            num_steps * self.settings.num_ranges * passes * self.per_pass
            + num_trainings(self.settings, ideas) * self.start
            + len(ideas) * self.scoring
            + ("merge" in ideas) * self.search
        )


def _is_refused(plan: TrialPlan) -> bool:
    """Whether an earlier version refused the plan, instead of leaving ideas out."""
    return "left_out" not in plan and plan["num_steps"] < MIN_STEPS


def _trial_seconds(work: Work, steps: int) -> float:
    row = expert_row("trial", work.settings, steps, (0,))
    return seconds_of(work.make_row(work.suite(row), "trial")[0].path)


def _search_seconds(
    settings: ImproveSettings, evaluations: Sequence[Path], per_pass: float
) -> float:
    """Return what the search for merge weights takes.

    Images are generated at the pace of the evaluations, and losses computed at that of training.
    """
    evaluation, evaluated = fmean(map(seconds_of, evaluations)), frozen_config(evaluations[0])
    num_merges = (round(1 / settings.search.step) + 1) ** settings.num_ranges
    images, steps = settings.search.num_images, evaluated["sampler"].get("num_inference_steps", 1)
    if settings.metrics.features:
        share = images * min(SEARCH_STEPS, steps) / (settings.num_images * steps)
        return float(num_merges * share * evaluation)
    passes = num_merges * images * evaluated["metrics"]["loss"]["num_ranges"]
    return float(passes * per_pass / settings.batch_size)
