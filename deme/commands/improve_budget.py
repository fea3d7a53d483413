"""The time of `deme improve`: how many training steps fit into it."""

import contextlib
import time
from collections.abc import Iterator, Sequence
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
    read_status,
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
        self.began, self.before = time.monotonic(), _seconds(work.run.path)
        self.verdict = self.scoring = self.search = 0.0  # seconds
        self.planned = self.taken = 0.0  # seconds of the ideas that this command has tried

    @property
    def seconds(self) -> float:
        """What was spent, by earlier commands too, except those that were killed."""
        return self.before + time.monotonic() - self.began

    def num_steps(self, evaluations: Sequence[Path]) -> int:
        """Return the optimizer steps of an expert; those that fit are kept in plan.json.

        0 if nothing is trained.
        """
        each = [_seconds(evaluation) for evaluation in evaluations]
        self.verdict, self.scoring = sum(each), fmean(each) * self.work.chooses
        given, steps = self.settings.steps_per_expert, self.settings.steps_per_expert or 0
        if not self.passes:
            return 0
        if given is not None and self._in_sum(given) < MANY_STEPS:
            logger.info(self._steps_text(given))
            return given
        file = self.work.run.path / "plan.json"
        if not file.exists():
            logger.info("measuring how long a training step takes")
            files.write_json(file, self._measured(evaluations))
        self.plan = plan = read_json(file, TrialPlan)
        self.search = _search_seconds(self.settings, evaluations, self._seconds_per_pass(plan))
        if given is None:
            steps = int(plan["num_steps"])
            self._check(plan)
        pace = f"a step of an expert takes {plan['seconds_per_step']:.2g} s"
        expected = f"about {duration(self._seconds_of(plan, steps))} in all"
        if self.hours is not None:
            expected += f", of {duration(3600 * self.hours)} that are allowed"
        logger.info(f"{self._steps_text(steps)}; {pace}: {expected}")
        if given is None and steps == MAX_STEPS:
            logger.info(f"only steps_per_expert=<n> makes it more than {MAX_STEPS:,} steps")
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
        return f"it takes about {duration(needed)}, and {duration(left)} are left for it"

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

    def _check(self, plan: TrialPlan) -> None:
        """Raise BadConfig if too few steps fit."""
        if plan["num_steps"] >= MIN_STEPS:
            return
        least = self._seconds_of(plan, MIN_STEPS) / SHARE / 3600
        raise BadConfig(
            f"hours={self.hours:g} leaves time for {max(0, plan['num_steps'])} steps per expert, "
            f"and {MIN_STEPS} are the least; evaluations and search take "
            f"{duration(plan['seconds_for_the_rest'])}, a step "
            f"{plan['seconds_per_step']:.2g} s\n"
            f"type: a larger hours=<n>, at least {least:.2g}, or fewer ideas=[...]"
        )

    def _in_sum(self, steps: int) -> int:
        return steps * self.settings.num_ranges * len(self.passes)

    def _steps_text(self, steps: int) -> str:
        total, number = sum(self.passes.values()), self.settings.num_ranges
        shares = ", ".join(f"{name} {share / total:.0%}" for name, share in self.passes.items())
        return (
            f"{steps:,} steps per expert, {number * steps:,} for each training, "
            f"{self._in_sum(steps):,} in sum; shares of the training: {shares}"
        )

    def _seconds_per_pass(self, plan: TrialPlan) -> float:
        """Return the time of a forward pass of a batch in training."""
        return plan["seconds_per_step"] / passes_of_an_expert(self.settings)

    def _seconds_of(self, plan: TrialPlan, steps: float) -> float:
        """Return what everything takes."""
        passes = steps * self.settings.num_ranges * sum(self.passes.values())
        return plan["seconds_for_the_rest"] + passes * self._seconds_per_pass(plan)

    def _measured(self, evaluations: Sequence[Path]) -> TrialPlan:
        """Return the steps that fit into the time, from the pace of trial runs."""
        _, few, many = TRIAL_STEPS
        _, short, long = (_trial_seconds(self.work, steps) for steps in TRIAL_STEPS)
        per_step = max((long - short) / (many - few), short / many / 4)
        start = max(0.0, short - few * per_step)  # a training reads and probes its model
        plan: TrialPlan = {"seconds_per_step": per_step, "seconds_for_the_rest": 0, "num_steps": 0}
        rest = start * num_trainings(self.settings) + sum(map(_seconds, evaluations))
        rest += self.seconds + self.scoring * len(self.work.ideas)
        if "merge" in self.work.ideas:
            rest += _search_seconds(self.settings, evaluations, self._seconds_per_pass(plan))
        plan["seconds_for_the_rest"] = rest
        if self.hours is not None:
            time_left = SHARE * 3600 * self.hours - rest
            per_expert_step = self._seconds_of(plan, 1) - rest
            plan["num_steps"] = min(MAX_STEPS, int(time_left / per_expert_step))
        return plan


def _trial_seconds(work: Work, steps: int) -> float:
    row = expert_row("trial", work.settings, steps, (0,))
    return _seconds(work.make_row(work.suite(row), "trial")[0].path)


def _seconds(run: Path) -> float:
    return read_status(run).get("seconds", 0.0)


def _search_seconds(
    settings: ImproveSettings, evaluations: Sequence[Path], per_pass: float
) -> float:
    """Return what the search for merge weights takes.

    Images are generated at the pace of the evaluations, and losses computed at that of training.
    """
    evaluation, evaluated = fmean(map(_seconds, evaluations)), frozen_config(evaluations[0])
    num_merges = (round(1 / settings.search.step) + 1) ** settings.num_ranges
    images, steps = settings.search.num_images, evaluated["sampler"].get("num_inference_steps", 1)
    if settings.metrics.features:
        share = images * min(SEARCH_STEPS, steps) / (settings.num_images * steps)
        return float(num_merges * share * evaluation)
    passes = num_merges * images * evaluated["metrics"]["loss"]["num_ranges"]
    return float(passes * per_pass / settings.batch_size)
