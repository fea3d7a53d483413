"""Searches for merge weights: known optima, resuming at every evaluation, budgets, pruning."""

import json
import math

import numpy as np
import pytest

from deme.merging.search import evaluations as module
from deme.merging.search.cma_es import CMAESSearch
from deme.merging.search.coordinate import CoordinateSearch
from deme.merging.search.evaluations import BudgetSpent, Evaluations
from deme.merging.search.gradient import GradientSearch
from deme.merging.search.grid import GridSearch
from deme.merging.search.sum import SumSearch
from deme.merging.search.surrogate import SurrogateSearch, design, fit, minimum
from deme.runs import SearchSettings, build, compose_stage, instantiate, options
from deme.system.errors import BadConfig, WorkFailed
from tests.objectives import Quadratic, curved

LOW, HIGH = -0.2, 2.0
START = [0.25] * 4
INSIDE = (0.6, 0.1, 1.2, 0.45)
OPTIONS = options("search")
STRATEGIES = [CoordinateSearch(), CMAESSearch(), GradientSearch(), SurrogateSearch()]


def name_of(search):
    return type(search).__name__


def option(name):
    return instantiate(compose_stage("search", [f"search={name}", "inputs.experts=[]"])["search"])


@pytest.fixture
def on(tmp_path, monkeypatch):
    """Make the `Evaluations` of an objective whose own clock tells the time."""

    def evaluations(objective, journal="evaluations.jsonl", **settings):
        monkeypatch.setattr(module, "monotonic", lambda: objective.clock)
        return Evaluations(objective, tmp_path / journal, **settings)

    return evaluations


@pytest.fixture
def journal(tmp_path):
    return tmp_path / "evaluations.jsonl"


class Listed:
    """An objective that returns listed scores."""

    clock = 0.0

    def __init__(self, scores):
        self.scores = iter(scores)

    def value(self, weights, fraction=1.0):
        return next(self.scores)

    def num_images(self, fraction=1.0):
        return round(100 * fraction)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("eigenvalues", [(1, 1, 1, 1), (0.1, 1, 3, 10)])
def test_one_round_of_the_surrogate_finds_the_optimum_of_a_quadratic(on, eigenvalues, seed):
    evaluations = on(Quadratic(INSIDE, curved(eigenvalues, seed)))
    SurrogateSearch(rounds=1).run(evaluations, START)
    assert evaluations.best.weights == pytest.approx(INSIDE, rel=0, abs=1e-10)
    assert len(evaluations.history) == SurrogateSearch(rounds=1).count(4) == 16
    assert evaluations.best == evaluations.history[-1]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("eigenvalues", [(1, 1, 1, 1), (0.1, 1, 3, 10)])
def test_the_gradient_finds_the_optimum_of_a_quadratic_in_less_than_20_evaluations(
    on, eigenvalues, seed
):
    evaluations = on(Quadratic(INSIDE, curved(eigenvalues, seed)))
    GradientSearch().run(evaluations, START)
    assert evaluations.best.weights == pytest.approx(INSIDE, rel=0, abs=1e-6)
    assert len(evaluations.history) < 20


def test_coordinates_come_within_half_the_last_sweeps_spacing(on):
    evaluations = on(Quadratic(INSIDE))
    search = CoordinateSearch()
    search.run(evaluations, START)
    last = (HIGH - LOW) / 10 * (2 / 10) ** 2
    assert evaluations.best.weights == pytest.approx(INSIDE, rel=0, abs=last / 2)
    assert len(evaluations.history) <= search.count(4) == 133


def test_each_sweep_spans_one_spacing_of_the_former_to_both_sides_inside_the_box(on):
    objective = Quadratic((0.07,))
    CoordinateSearch(0, 4, points=5, sweeps=4).run(on(objective), [3.0])
    asked = [weights[0] for weights in objective.asked]
    assert asked[:1] == [3]
    assert asked[1:5] == [0, 1, 2, 4]  # 3 is known; 0 is the best
    assert asked[5:8] == [0.25, 0.5, 0.75]  # [0 - 1, 0 + 1] in the box; 0 stays
    assert asked[8:10] == [
        0.125,
        0.375,
    ]  # 0, 0.25 and 0.5 are known: a sweep without a change is followed by a finer one
    assert asked[10:] == [0.09375, 0.1875, 0.28125]
    objective = Quadratic((2.3,))
    CoordinateSearch(0, 4, points=5, sweeps=3).run(on(objective, "inner.jsonl"), [3.0])
    asked = [weights[0] for weights in objective.asked]
    assert asked[5:] == [
        1.5,
        2.5,
        2.25,
        2.75,
    ]  # 1, 2 and 3 are known; spacing 0.5 around 2.5: 2, 2.25, 2.5, 2.75, 3


@pytest.mark.parametrize("seed", range(3))
def test_cma_es_comes_within_a_tenth_and_saves_nine_tenths_of_the_excess_early(on, seed):
    evaluations = on(Quadratic(INSIDE, curved((0.5, 1, 1, 2), seed)))
    search = CMAESSearch(max_evaluations=200, seed=seed)
    search.run(evaluations, START)
    assert evaluations.best.weights == pytest.approx(INSIDE, rel=0, abs=0.1)
    assert len(evaluations.history) == search.count(4) == 200
    early = min(one.score for one in evaluations.history[:60])
    assert early - 1 < 0.1 * (evaluations.history[0].score - 1)


# the rounds' reach from the far corner: 4 steps of 0.3, 0.15, 0.075, 0.0375 are 2.25
@pytest.mark.parametrize(
    "search", [*STRATEGIES[:3], SurrogateSearch(rounds=4), GridSearch(LOW, HIGH, 0.55)], ids=name_of
)
@pytest.mark.parametrize("start", [[0.25] * 4, [2.0, -0.2, 2.0, 1.9], [5.0, -3.0, 0.0, 1.0]])
def test_no_vector_leaves_the_box_and_the_search_ends_at_its_edge(on, search, start):
    objective = Quadratic((2.6, 0.5, -0.9, 0.25))
    evaluations = on(objective)
    search.run(evaluations, start)
    assert all(LOW <= w <= HIGH for weights in objective.asked for w in weights)
    assert len(objective.asked) <= search.count(4)
    tolerance = {"SurrogateSearch": 1e-9, "GradientSearch": 1e-6, "CoordinateSearch": 0.0044}.get(
        name_of(search), 0.6
    )
    assert evaluations.best.weights == pytest.approx((HIGH, 0.5, LOW, 0.25), rel=0, abs=tolerance)


def test_the_surrogates_points_determine_every_quadratic_wherever_the_box_ends():
    box = SurrogateSearch().box
    curvature, slope = curved((-1, 0.3, 1, 4), 0), np.array([0.3, -1, 0.2, 2])
    for centre in ([0.25] * 4, [2.0, -0.2, 1.8, 0.0], [2.0] * 4, [-0.2] * 4):
        offsets = (np.array(design(box, centre, 0.7)) - centre) / 0.7
        assert len(offsets) == 15
        scores = 5 + offsets @ slope + np.einsum("ni,ij,nj->n", offsets, curvature, offsets) / 2
        found = fit(offsets, scores)
        np.testing.assert_allclose(found[0], slope, rtol=0, atol=1e-8)  # weights have 10 decimals
        np.testing.assert_allclose(found[1], curvature, rtol=0, atol=1e-8)


def test_the_regularised_minimum_stays_where_there_is_no_slope_and_follows_it_where_there_is():
    edge = np.full(2, 4.0)
    curvature = np.diag([-1.0, 2.0])
    np.testing.assert_allclose(
        minimum(np.array([0.0, -1.0]), curvature, -edge, edge, 1e-3), [0, 0.5], atol=1e-9
    )
    np.testing.assert_allclose(
        minimum(np.array([0.1, -1.0]), curvature, -edge, edge, 1e-3), [-4, 0.5], atol=1e-9
    )
    # with ridge 1 the flat direction has the largest curvature, 2: a step of 0.1 / 2
    np.testing.assert_allclose(
        minimum(np.array([0.1, -1.0]), curvature, -edge, edge, 1.0), [-0.05, 0.5], atol=1e-9
    )
    np.testing.assert_array_equal(minimum(np.zeros(2), np.zeros((2, 2)), -edge, edge, 1e-3), [0, 0])


def test_a_bounded_minimum_is_that_of_a_coupled_convex_quadratic():
    curvature, slope = np.array([[2.0, 1.5], [1.5, 2.0]]), np.array([-8.0, 0.0])
    # u1 is held at 1; then 1.5 + 2 u2 = 0, not the free minimum's second coordinate clipped
    found = minimum(slope, curvature, np.array([-3.0, -3.0]), np.array([1.0, 3.0]), 1e-3)
    np.testing.assert_allclose(found, [1, -0.75], atol=1e-9)


def test_a_model_that_misleads_quarters_the_step(on):
    class Wave(Quadratic):
        def value(self, weights, fraction=1.0):
            self.called(weights, fraction)
            return math.cos(
                9 * weights[0]
            )  # the first fit is concave; its minimum, at the edge of the trust region, is none

    objective = Wave((0.0,))
    SurrogateSearch(rounds=2).run(on(objective), [0.6])
    spread = [
        max(w[0] for w in points) - min(w[0] for w in points)
        for points in (objective.asked[:3], objective.asked[4:6])
    ]
    scores = [math.cos(9 * w[0]) for w in objective.asked]
    assert min(scores[:3]) <= scores[3], "the model did not mislead"
    assert spread == pytest.approx([0.6, 0.15])


@pytest.mark.parametrize("name", OPTIONS)
def test_a_search_killed_at_any_evaluation_writes_the_journal_of_an_undisturbed_one(
    on, journal, name
):
    whole = Quadratic((0.6, 1.3), curved((0.5, 3), 0))
    option(name).run(on(whole, "whole.jsonl"), START[:2])
    expected = (journal.parent / "whole.jsonl").read_bytes()
    assert expected.count(b"\n") == len(whole.asked) > 1
    for stop_at in range(1, len(whole.asked) + 1):
        journal.unlink(missing_ok=True)
        killed = Quadratic((0.6, 1.3), whole.curvature, stop_at=stop_at)
        with pytest.raises(KeyboardInterrupt):
            option(name).run(on(killed), START[:2])
        resumed = Quadratic((0.6, 1.3), whole.curvature)
        resumed.clock = killed.clock
        evaluations = on(resumed)
        option(name).run(evaluations, START[:2])
        assert without_seconds(journal.read_bytes()) == without_seconds(expected)
        assert resumed.asked == whole.asked[stop_at - 1 :]
        assert evaluations.images == 100 * len(whole.asked)
        assert evaluations.seconds == pytest.approx(whole.clock)


def without_seconds(text):
    return [{**json.loads(line), "seconds": None} for line in text.splitlines()]


def test_a_pruning_search_killed_at_any_evaluation_resumes_alike(on, journal):
    rungs = {"rungs": [0.1, 0.5, 1.0]}
    whole = Quadratic()
    CMAESSearch().run(on(whole, "whole.jsonl", **rungs), START)
    expected = without_seconds((journal.parent / "whole.jsonl").read_bytes())
    assert len({row["fraction"] for row in expected}) == 3
    for stop_at in range(1, len(whole.asked) + 1):
        journal.unlink(missing_ok=True)
        with pytest.raises(KeyboardInterrupt):
            CMAESSearch().run(on(Quadratic(stop_at=stop_at), **rungs), START)
        CMAESSearch().run(on(Quadratic(), **rungs), START)
        assert without_seconds(journal.read_bytes()) == expected


@pytest.mark.parametrize("cut", [1, 20])
def test_a_torn_last_line_costs_that_evaluation_alone(on, journal, cut):
    SurrogateSearch().run(on(Quadratic()), START)
    expected = journal.read_bytes()
    journal.write_bytes(expected[:-cut])
    again = Quadratic()
    SurrogateSearch().run(on(again), START)
    assert len(again.asked) == 1
    assert without_seconds(journal.read_bytes()) == without_seconds(expected)


def test_an_evaluation_is_stored_before_its_callback_and_replays_call_nothing(on, journal):
    heard = []

    def listen(evaluation):
        assert json.loads(journal.read_text().splitlines()[-1])["score"] == evaluation.score
        heard.append(evaluation)

    evaluations = on(Quadratic(), on_evaluation=listen)
    evaluations([0.0] * 4)
    evaluations.gradient([1.0] * 4)
    assert heard == evaluations.history
    resumed = on(Quadratic(), on_evaluation=listen)
    assert resumed.num_stored == 2
    resumed([0.0] * 4)
    resumed.gradient([1.0] * 4)
    assert resumed.history == heard
    resumed([0.5] * 4)
    assert len(heard) == 3


def test_a_budget_of_images_counts_over_all_attempts_and_rungs(on, journal):
    budget = {"rungs": [0.1, 1.0], "max_images": 1000}
    with pytest.raises(BudgetSpent):
        CMAESSearch().run(on(Quadratic(), **budget), START)
    expected = without_seconds(journal.read_bytes())
    used = sum(row["images"] for row in expected)
    assert 900 < used <= 1000
    journal.unlink()
    with pytest.raises(KeyboardInterrupt):
        CMAESSearch().run(on(Quadratic(stop_at=8), **budget), START)
    for _ in range(2):  # spent stays spent
        evaluations = on(Quadratic(), **budget)
        with pytest.raises(BudgetSpent, match="of 1000 images"):
            CMAESSearch().run(evaluations, START)
        assert without_seconds(journal.read_bytes()) == expected
        assert evaluations.images == used


def test_an_evaluation_may_use_up_the_budget_exactly(on):
    evaluations = on(Quadratic(), max_images=200)
    evaluations([0.0] * 4)
    evaluations([0.1] * 4)
    with pytest.raises(BudgetSpent):
        evaluations([0.2] * 4)
    assert evaluations([0.1] * 4) == evaluations.history[1].score  # from memory: no cost


def test_a_budget_of_seconds_counts_over_all_attempts(on):
    grid = GridSearch(0, 1, 0.1)  # each evaluation takes one second
    with pytest.raises(KeyboardInterrupt):
        grid.run(on(Quadratic(stop_at=4), max_seconds=5.5), START)
    for fresh in (3, 0):
        objective = Quadratic()
        evaluations = on(objective, max_seconds=5.5)
        with pytest.raises(BudgetSpent, match="seconds"):
            grid.run(evaluations, START)
        assert len(objective.asked) == fresh
        assert evaluations.seconds == pytest.approx(6)  # the sixth began within the budget


def test_pruning_follows_the_rule(on):
    # fraction 0.1: 5, 4, 6, 3, 3.5, nan, 7; a higher rung is reached at places 1 of 1, 1 of 2, not 3 of 3 (1 place), 1 of 4,
    # 2 of 5 (2 places), never with NaN, not 6 of 7 (3 places)
    scores = [5.0, 50.0, 4.0, 70.0, 6.0, 3.0, 60.0, 3.5, 55.0, math.nan, 7.0]
    evaluations = on(Listed(scores), rungs=[0.1, 1.0], keep=0.5)
    answers = [evaluations([float(i)]) for i in range(7)]
    assert answers == [
        50,
        70,
        math.inf,
        60,
        55,
        math.inf,
        math.inf,
    ]  # a score on few images says nothing beside one on all
    assert [(one.weights[0], one.fraction) for one in evaluations.history if one.fraction == 1] == [
        (0, 1), (1, 1), (3, 1), (4, 1)
    ]  # fmt: skip
    assert evaluations.best.weights == (0,), "a pruned candidate's score on few images is no result"
    assert evaluations.images == 7 * 10 + 4 * 100
    assert [evaluations([float(i)]) for i in range(7)] == answers
    assert len(evaluations.history) == 11


def test_the_best_at_a_rung_is_promoted_however_small_the_share(on):
    evaluations = on(Listed([3, 30, 2, 20, 2.5, 1, 10]), rungs=[0.1, 1.0], keep=0.01)
    assert [evaluations([float(i)]) for i in range(4)] == [30, 20, math.inf, 10]


def test_what_is_not_finite_is_not_promoted_even_as_the_first(on):
    evaluations = on(Listed([math.nan, 2, 20]), rungs=[0.1, 1.0])
    assert [evaluations([float(i)]) for i in range(2)] == [math.inf, 20]


def test_keep_1_prunes_nothing(on):
    evaluations = on(Listed([1, 10, 2, 20, 3, 30]), rungs=[0.1, 1.0], keep=1.0)
    assert [evaluations([float(i)]) for i in range(3)] == [10, 20, 30]


def test_a_repeated_vector_costs_nothing(on):
    objective = Quadratic()
    evaluations = on(objective)
    score = evaluations([0.5] * 4)
    assert evaluations((0.5,) * 4) == score
    slope = evaluations.gradient([0.5] * 4)  # the slope was not known
    assert evaluations.gradient([0.5] * 4) == slope
    assert len(objective.asked) == len(evaluations.history) == 2
    assert evaluations.gradient([0.75] * 4)[0] == evaluations([0.75] * 4)
    assert len(objective.asked) == 3


def test_the_first_of_equally_good_vectors_is_the_best_and_slopes_count(on):
    evaluations = on(Quadratic((0.0,)))
    for weight in (1.0, 0.5, -0.5):
        evaluations([weight])
    assert evaluations.best.weights == (0.5,)
    assert evaluations.gradient([0.25]) == (1.03125, [0.25])
    assert evaluations.best.weights == (0.25,)


def test_what_is_not_finite_is_stored_as_null_replayed_as_infinite_and_never_the_best(on, journal):
    class Broken(Quadratic):
        def gradient(self, weights):
            return math.nan, [math.inf, 1.0]

    for _ in range(2):
        evaluations = on(Listed([math.nan, -math.inf, 3.0]))
        assert [evaluations([float(i)]) for i in range(3)] == [math.inf, math.inf, 3]
        assert evaluations.best.weights == (2,)
        rows = [
            json.loads(line, parse_constant=pytest.fail)
            for line in journal.read_text().splitlines()
        ]
        assert [row["score"] for row in rows] == [None, None, 3]
    for _ in range(2):
        evaluations = on(Broken((0.0, 0.0)), "slopes.jsonl")
        score, slope = evaluations.gradient([0.0, 0.0])
        assert score == math.inf
        np.testing.assert_array_equal(slope, [math.nan, 1])
        with pytest.raises(
            WorkFailed, match="no merge weights have a finite score on all images: 1 evaluations"
        ):
            evaluations.best  # noqa: B018
    assert json.loads((journal.parent / "slopes.jsonl").read_text())["gradient"] == [None, 1]


@pytest.mark.parametrize("search", STRATEGIES, ids=name_of)
def test_a_search_turns_back_where_the_objective_is_not_finite(on, search):
    class Cliff(Quadratic):
        def value(self, weights, fraction=1.0):
            return super().value(weights, fraction) if max(weights) < 0.7 else math.nan

        def gradient(self, weights):
            score, slope = super().gradient(weights)
            return score, slope if math.isfinite(score) else [math.nan] * len(slope)

    evaluations = on(Cliff((0.6, 0.1, 0.3, 0.5), 4 * np.eye(4)))
    search.run(evaluations, START)
    assert any(math.isinf(one.score) for one in evaluations.history)
    assert evaluations.best.score < 1 + 0.3 * (evaluations.history[0].score - 1)


@pytest.mark.parametrize("search", [*STRATEGIES, CMAESSearch(max_evaluations=300)], ids=name_of)
def test_a_search_of_nothing_finite_ends(on, search):
    class Nothing(Quadratic):
        def value(self, weights, fraction=1.0):
            self.called(weights, fraction)
            return math.nan

    objective = Nothing()
    evaluations = on(objective)
    search.run(evaluations, START)
    assert 1 <= len(objective.asked) <= search.count(4)
    with pytest.raises(WorkFailed, match="no merge weights"):
        evaluations.best  # noqa: B018


def test_the_gradients_limit_holds_within_a_line_search(on):
    for limit in (1, 2, 3, 5):
        objective = Quadratic(INSIDE, curved((0.1, 1, 3, 100), 0))
        GradientSearch(max_evaluations=limit).run(on(objective, f"{limit}.jsonl"), START)
        assert len(objective.asked) == limit


def test_an_objective_without_a_gradient_says_so(on):
    class Flat(Quadratic):
        def gradient(self, weights):
            raise BadConfig("no gradient here")

    with pytest.raises(BadConfig, match="no gradient here"):
        GradientSearch().run(on(Flat()), START)


@pytest.mark.parametrize(
    "change",
    [
        {"total": 50},
        {"start": [0.3] * 4},
        {"search": SurrogateSearch(step=0.2)},
        {"search": GradientSearch()},
    ],
)
def test_the_journal_of_another_search_is_refused_and_kept(on, journal, change):
    SurrogateSearch(rounds=1).run(on(Quadratic()), START)
    before = journal.read_bytes()
    evaluations = on(Quadratic(total=change.get("total", 100)))
    with pytest.raises(
        WorkFailed,
        match=r"by another search: its line \d+ has the weights .* on 100 images",
    ):
        change.get("search", SurrogateSearch(rounds=1)).run(evaluations, change.get("start", START))
    assert journal.read_bytes() == before


@pytest.mark.parametrize("line", ['{"weights": [0, 1], "score": 2}', "[1]", "{not json", "null"])
def test_lines_that_are_no_evaluations_are_refused(on, journal, line):
    journal.write_text(line + "\n")
    with pytest.raises(WorkFailed, match=r"(?s)damaged.*delete"):
        on(Quadratic())


def test_cma_es_with_few_evaluations_for_many_weights_says_how_many_to_type(on, caplog):
    CMAESSearch(max_evaluations=20).run(on(Quadratic([0.5] * 3)), [0.3] * 3)
    assert "search.max_evaluations=30" in caplog.text
    caplog.clear()
    CMAESSearch(max_evaluations=30).run(on(Quadratic([0.5] * 3), "enough.jsonl"), [0.3] * 3)
    assert "max_evaluations" not in caplog.text


def test_cma_es_is_a_function_of_its_seed(on):
    asked = []
    for number, seed in enumerate((0, 0, 1)):
        objective = Quadratic()
        CMAESSearch(seed=seed).run(on(objective, f"{number}.jsonl"), START)
        asked.append(objective.asked)
    assert asked[0] == asked[1]
    assert asked[0][0] == asked[2][0] == tuple(START)
    assert not set(asked[0][1:]) & set(asked[2][1:])


@pytest.mark.parametrize(
    ("search", "settings", "message"),
    [(search, {"low": low, "high": high}, "finite low < high")
     for search in (CoordinateSearch, CMAESSearch, GradientSearch, SurrogateSearch)
     for low, high in ((1, 1), (2, 1), (0, math.inf), (math.nan, 1))]
    + [(CoordinateSearch, {"points": 3}, "points must be a whole number of at least 4, got 3"),
       (CoordinateSearch, {"sweeps": 0}, "sweeps must be"),
       (CMAESSearch, {"sigma": 0}, "sigma must be positive"), (CMAESSearch, {"sigma": math.nan}, "sigma must be positive"),
       (CMAESSearch, {"max_evaluations": 0}, "max_evaluations must be"), (CMAESSearch, {"population": 3}, "population must"),
       (CMAESSearch, {"seed": -1}, "seed must be"), (CMAESSearch, {"seed": 2**32}, "seed must be below"),
       (GradientSearch, {"max_evaluations": 1.5}, "whole number of at least 1, got 1.5"),
       (SurrogateSearch, {"step": 0}, "step must lie"), (SurrogateSearch, {"step": 0.74}, r"\(high - low\) / 3 = 0.7333"),
       (SumSearch, {"low": 1, "high": 0}, "low <= high"), (SumSearch, {"step": 0}, "step > 0"),
       (SumSearch, {"proportions": [1, -1]}, "must not sum to 0"), (SumSearch, {"proportions": []}, "uniform or a list"),
       (SumSearch, {"proportions": "equal"}, "uniform or a list"),
       (SurrogateSearch, {"rounds": 0}, "rounds must be"), (SurrogateSearch, {"ridge": 0}, "ridge must lie")],
)  # fmt: skip
def test_impossible_settings_are_refused(search, settings, message):
    with pytest.raises(ValueError, match=message):
        search(**settings)


@pytest.mark.parametrize(
    "settings",
    [{"rungs": []}, {"rungs": [0.5]}, {"rungs": [1.0, 0.5]}, {"rungs": [0, 1]}, {"rungs": ["a", 1]},
     {"rungs": 0.5}, {"rungs": None}, {"rungs": [0.5, 0.5, 1]}, {"keep": 0}, {"keep": 1.5},
     {"keep": "most"}, {"max_images": 0}, {"max_seconds": -1}, {"max_seconds": "long"}],
)  # fmt: skip
def test_impossible_rungs_and_budgets_are_refused(settings):
    (key,) = settings
    config = compose_stage("search", ["inputs.experts=[]"])
    with pytest.raises(BadConfig, match=key):
        build(SearchSettings, {**config, **settings})


@pytest.mark.parametrize(
    "search", [CMAESSearch(population=4), CMAESSearch(population=100), *STRATEGIES], ids=name_of
)
def test_one_weight_can_be_searched(on, search):
    evaluations = on(Quadratic((0.3,)))
    search.run(evaluations, [0.25])
    assert abs(evaluations.best.weights[0] - 0.3) < 0.05
    assert len(evaluations.history) <= search.count(1)


def test_the_sum_alone_is_searched_with_given_proportions(on):
    """On a quadratic the best multiple s of a direction p is p'Hw* / p'Hp."""
    for proportions, shares in (
        ("uniform", [0.25] * 4),
        ([1, 1, 2, 4], [1 / 8, 1 / 8, 2 / 8, 4 / 8]),
    ):
        objective = Quadratic(INSIDE, curved((0.5, 1, 2, 3), 0))
        evaluations = on(objective, f"{len(proportions)}.jsonl")
        search = SumSearch(proportions, 0.0, 5.0, 0.01)
        search.run(evaluations, START)
        assert len(objective.asked) == search.count(4) == 501
        p, h = np.array(shares), objective.curvature
        assert sum(evaluations.best.weights) == pytest.approx(
            p @ h @ np.array(INSIDE) / (p @ h @ p), abs=0.005
        )
        found = np.array(evaluations.best.weights) / sum(evaluations.best.weights)
        assert found == pytest.approx(shares)


def test_the_sum_of_every_block_is_the_same(on):
    objective = Quadratic((0.5,) * 6)
    SumSearch([1, 3], 1.0, 2.0, 1.0).run(on(objective), [0.5] * 6)
    assert objective.asked == [(0.25, 0.75) * 3, (0.5, 1.5) * 3]
    with pytest.raises(BadConfig, match=r"needs 2 numbers, .*; got 3: \[1, 3, 1\]"):
        SumSearch([1, 3, 1]).run(on(objective, "other.jsonl"), [0.5] * 6)


@pytest.mark.parametrize("offset", [-3.0, 3.0])
@pytest.mark.parametrize("search", STRATEGIES, ids=name_of)
def test_an_offset_between_rungs_leads_no_strategy_astray(search, offset, tmp_path):
    """Few images have another mean score than all: only scores on all may be compared with each other."""

    class Offset(Quadratic):
        def value(self, weights, fraction=1.0):
            return super().value(weights, fraction) + (offset if fraction < 1 else 0.0)

    def excess(rungs, name):
        evaluations = Evaluations(Offset((0.6,) * 4), tmp_path / name, rungs)
        search.run(evaluations, START)
        return evaluations.best.score - Offset((0.6,) * 4).value((0.6,) * 4)

    whole = excess([1.0], "whole")
    assert excess([0.25, 1.0], "rungs") <= whole + 0.05
