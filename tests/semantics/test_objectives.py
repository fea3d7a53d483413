"""What `deme search` minimizes: values computed otherwise, gradients by finite differences."""

import types

import pytest
import torch

from deme.builders.checkpoints import open_checkpoint
from deme.data import ImageData, InMemoryImages
from deme.diffusion import TimestepRange, uniform
from deme.evaluation import objective as module
from deme.evaluation.objective import ImageDistance, build_objective
from deme.merging.plan import plan_merge
from deme.metrics import denoising_loss, fixed_triples
from deme.models.loading import load_pretrained
from deme.runs import SearchSettings, build, compose_stage
from deme.sampling.routed import RoutedModel
from deme.system.errors import BadConfig
from tests.models import moved, tiny

PIXELS = torch.randint(
    0, 256, (6, 1, 8, 8), generator=torch.Generator().manual_seed(3), dtype=torch.uint8
)
RANGES = [TimestepRange(0, 500), TimestepRange(500, 1000)]


@pytest.fixture
def search(tmp_path, monkeypatch):
    """Make the objective of two experts, moved off one base by `seeds`, on six images."""
    monkeypatch.setattr(
        module,
        "load_data",
        lambda *_: ImageData(InMemoryImages(PIXELS), InMemoryImages(PIXELS[:2])),
    )

    def make(*overrides, seeds=(1, 2), projection=None, ranges=RANGES):
        base = tiny()
        base.save(tmp_path / "base", base.state_dict(), {})
        for index, seed in enumerate(seeds):
            model = tiny()
            if projection:
                model.add_projections(projection)
            about = {
                "range": ranges and [ranges[index].low, ranges[index].high],
                "num_timesteps": 1000,
                "base": "hash",
            }
            if seed is not None:
                moved(model, seed, 0.05)
            model.save(tmp_path / str(index), model.state_dict(), about)
        experts = [open_checkpoint(tmp_path / str(index)) for index in range(len(seeds))]
        plan = plan_merge(open_checkpoint(tmp_path / "base"), experts, "hash")
        words = [
            "inputs.experts=[]",
            "num_images=6",
            "batch_size=4",
            "metrics=loss",
            "objective=loss",
            *overrides,
        ]
        settings = build(SearchSettings, compose_stage("search", words))
        found = build_objective(settings, plan)
        return types.SimpleNamespace(**vars(found), name=found.metric, folder=tmp_path)

    return make


def squared_errors(found, network, triples):
    """The simple loss by hand: mean square of prediction minus noise, [ranges, images]."""
    schedule = found.live.model.schedule
    with torch.no_grad():
        errors = [
            (network(schedule.add_noise(x0, e, t), t) - e).square().mean((1, 2, 3))
            for _, x0, t, e, _ in triples
        ]
    return torch.stack(errors).double()


@pytest.mark.parametrize("projection", [None, "blocks", "foldable"])
@pytest.mark.parametrize("granularity", ["model", "block"])
@pytest.mark.parametrize("what", ["loss", "distillation", "relative_distillation", "loss/1"])
def test_the_gradient_is_that_of_finite_differences(what, granularity, projection, search):
    found = search(
        f"objective={what}",
        f"granularity={granularity}",
        "metrics.loss.num_ranges=2",
        projection=projection,
    )
    found.live.model.double()  # the merge is float32, whose rounding the steps stay above
    objective, blocks = found.objective, found.live.live.blocks
    assert len(blocks) == (1 if granularity == "model" else 10 if projection else 9)
    weights = [0.5 + 0.1 * (i % 3) for i in range(2 * len(blocks))]
    double_inputs(objective)
    value, slopes = objective.gradient(weights)
    assert value == pytest.approx(objective.value(weights), rel=1e-6)
    h = 1e-3
    rounding = 5e-5 if what == "relative_distillation" else 1e-5  # its values are near 1
    for index in range(len(weights)):
        low, high = ([w + s * h * (i == index) for i, w in enumerate(weights)] for s in (-1, 1))
        difference = (objective.value(high) - objective.value(low)) / (2 * h)
        assert slopes[index] == pytest.approx(difference, rel=2e-3, abs=rounding), (
            index,
            blocks[index // 2],
        )
    assert max(map(abs, slopes)) > 1e-3


def double_inputs(objective):
    """Let the network, but not the merge, compute in float64."""
    real = objective._batches

    def batches(fraction):
        for index, x_t, t, target, condition in real(fraction):
            yield index, x_t.double(), t, target.double(), condition

    objective._batches = batches


@pytest.mark.parametrize("granularity", ["model", "block"])
def test_the_loss_is_that_of_evaluation_on_the_same_triples(granularity, search):
    found = search(f"granularity={granularity}", "sample_seed=5")
    weights = [0.7, 0.1] * len(found.live.live.blocks)
    value = found.objective.value(weights)
    model, triples = found.live.model, found.objective.triples
    errors = denoising_loss(model, model.schedule, "epsilon", triples)
    assert value == pytest.approx(float(errors.mean()), rel=1e-6)  # four equal ranges
    assert value == pytest.approx(float(squared_errors(found, model, triples).mean()), rel=1e-6)
    again = fixed_triples(InMemoryImages(PIXELS), uniform(4, 1000), 1, 5)
    assert torch.equal(triples.t, again.t)
    assert sorted(map(tuple, triples.x0.flatten(1).tolist())) == sorted(
        map(tuple, again.x0.flatten(1).tolist())
    )
    assert found.label["n"] == 24
    assert found.objective.num_forward_passes_per_image == 4


@pytest.mark.parametrize("index", range(4))
def test_the_loss_of_one_range_weighs_it_alone(index, search):
    found = search(f"objective=loss/{index}")
    value = found.objective.value([0.2, 0.9])
    errors = squared_errors(found, found.live.model, found.objective.triples).mean(1)
    assert found.name == f"loss/{index}"
    assert value == pytest.approx(float(errors[index]), rel=1e-6)
    assert value != pytest.approx(float(errors.mean()), rel=1e-3)
    assert found.label["n"] == 6
    asked, model = [], found.live.model
    model.register_forward_pre_hook(lambda _, inputs: asked.append(len(inputs[0])))
    found.objective.value([0.2, 0.9])
    assert sum(asked) == 6 * found.objective.num_forward_passes_per_image == 6, (
        "other ranges cost nothing"
    )


def test_ranges_count_by_their_share_of_timesteps(search):
    found = search(
        "objective=distillation", ranges=[TimestepRange(0, 200), TimestepRange(200, 1000)]
    )
    assert found.objective.value([0.5, 0.5]) == pytest.approx(
        float(distances(found, [200, 1000], [0.2, 0.8])), rel=1e-5
    )


def distances(found, ends, shares):
    """Mean squared distance of the model, as it is now, to the experts on disk, each in its range."""
    ranges = [TimestepRange(low, high) for low, high in zip([0, *ends], ends, strict=False)]
    experts = RoutedModel(
        [load_pretrained(str(found.folder / str(i))) for i in range(2)], ranges, 1000
    )
    model, total = found.live.model, 0.0
    with torch.no_grad():
        for index, x0, t, eps, _ in found.objective.triples:
            x_t = model.schedule.add_noise(x0, eps, t)
            total += shares[index] * (model(x_t, t) - experts(x_t, t)).square().mean()
    return total


@pytest.mark.parametrize("merge", ["weighted_sum", "ties"])
@pytest.mark.parametrize("projection", [None, "foldable"])
def test_distillation_is_the_distance_to_the_routed_experts(projection, merge, search):
    found = search("objective=distillation", f"merge={merge}", projection=projection)
    for weights in ([0.5, 0.5], [0.9, 0.3]):
        value = found.objective.value(weights)
        assert value > 1e-4
        assert value == pytest.approx(float(distances(found, [500, 1000], [0.5, 0.5])), rel=1e-4)


def test_distillation_of_equal_experts_is_zero_at_either(search):
    objective = search("objective=distillation", seeds=(1, 1)).objective
    assert objective.value([1.0, 0.0]) == objective.value([0.0, 1.0]) == 0
    assert objective.value([0.5, 0.5]) == pytest.approx(0, abs=1e-12)
    assert objective.value([0.0, 0.0]) > 1e-4


@pytest.mark.parametrize("merge", ["weighted_sum", "linear"])
def test_relative_distillation_divides_each_range_by_the_distance_of_the_base(merge, search):
    found = search("objective=relative_distillation", f"merge={merge}")
    at = [0.9] if merge == "linear" else [0.9, 0.1]
    found.live.set_base()
    base = [float(distances(found, [500, 1000], share)) for share in ([1, 0], [0, 1])]
    value = found.objective.value(at)
    merged = [float(distances(found, [500, 1000], share)) for share in ([1, 0], [0, 1])]
    relative = (merged[0] / base[0] + merged[1] / base[1]) / 2
    assert value == pytest.approx(relative, rel=1e-4)
    if merge == "weighted_sum":
        assert found.objective.value([0.0, 0.0]) == pytest.approx(1, rel=1e-6)


def test_a_range_whose_expert_is_unchanged_does_not_count(search):
    found = search("objective=relative_distillation", seeds=(1, None))
    assert float(found.objective.shares[1]) == 0
    assert found.objective.value([1.0, 0.0]) == 0
    assert found.objective.value([0.0, 1.0]) == pytest.approx(1, rel=1e-6)


def test_each_expert_is_right_in_its_own_range_only(search):
    found = search("objective=distillation")
    found.objective.shares = torch.tensor([1.0, 0.0], dtype=torch.float64)
    assert found.objective.value([1.0, 0.0]) == 0
    assert found.objective.value([0.0, 1.0]) > 1e-4


@pytest.mark.parametrize("what", ["loss", "distillation"])
def test_fractions_take_the_first_images(what, search):
    objective = search(f"objective={what}").objective
    assert [objective.num_images(f) for f in (0.01, 0.34, 0.5, 1.0)] == [1, 2, 3, 6]
    whole = [[x, t, y] for _, x, t, y, _ in objective._batches(1.0)]
    firsts = [[x, t, y] for _, x, t, y, _ in objective._batches(0.5)]
    assert sum(len(x) for x, _, _ in firsts) * 2 == sum(len(x) for x, _, _ in whole)
    for (x, t, y), (a, b, c) in zip(firsts, whole[::2], strict=True):  # batches of 3, and of 4 + 2
        assert torch.equal(x, a[:3])
        assert torch.equal(t, b[:3])
        assert torch.equal(y, c[:3])
    assert objective.value([0.5, 0.5], 0.5) != objective.value([0.5, 0.5])


def test_the_first_images_are_no_particular_part_of_the_data_set(search):
    """Data sets are often sorted by class."""
    order = [int((PIXELS.flatten(1) == p).all(1).nonzero()) for p in pixels_of(search().objective)]
    assert sorted(order) == list(range(6))
    assert order != sorted(order)


def pixels_of(objective):
    return ((objective.triples.x0 + 1) * 127.5).round().byte().flatten(1)


@pytest.mark.parametrize("merge", ["weighted_sum", "ties"])
@pytest.mark.parametrize("what", ["loss", "distillation"])
def test_the_same_weights_have_the_same_score_whatever_came_before(what, merge, search):
    objective = search(f"objective={what}", f"merge={merge}").objective
    weights = [0.35, 0.6]
    first = objective.value(weights)
    assert objective.value(weights) == first
    for other in ([0.35, 0.1], [1.7, 0.1], [0.0, 0.0], [0.2, 0.6]):
        assert objective.value(other) != first
    assert objective.value(weights) == first
    if merge == "weighted_sum":
        objective.gradient([0.1, 0.1])
        assert objective.value(weights) == first
    assert search(f"objective={what}", f"merge={merge}").objective.value(weights) == first


def test_the_gradient_leaves_no_gradients_and_batches_do_not_matter(search):
    found = search("batch_size=2")
    value, slopes = found.objective.gradient([0.4, 0.4])
    assert all(
        tensor.grad is None and not tensor.requires_grad for tensor in found.live.tensors.values()
    )
    other, others = search("batch_size=6").objective.gradient([0.4, 0.4])
    assert (value, slopes) == (
        pytest.approx(other, rel=1e-5),
        pytest.approx(others, rel=1e-4, abs=1e-6),
    )


def test_objectives_without_a_gradient_say_so(search):
    distance = ImageDistance.__new__(ImageDistance)
    with pytest.raises(BadConfig, match="type: objective=loss or "):
        distance.gradient([0.5, 0.5])
    found = search("merge=ties")
    with pytest.raises(BadConfig, match="type: merge=weighted_sum"):
        found.objective.gradient([0.5, 0.5])


def test_what_cannot_be_is_refused(search):
    with pytest.raises(
        BadConfig,
        match=r"objective must be frechet, kid, loss, distillation, relative_distillation, loss/0, .*; got 'los'",
    ):
        search("objective=los")
    with pytest.raises(
        BadConfig, match=r"objective=distillation needs experts whose deme\.json names"
    ):
        search("objective=distillation", ranges=None)
    with pytest.raises(BadConfig, match="granularity must be one of model, block"):
        search("granularity=layer")
    with pytest.raises(BadConfig, match="objective=frechet needs a feature extractor"):
        search("objective=frechet")
    with pytest.raises(BadConfig, match="merge=model_stock takes no weights"):
        search("merge=model_stock")


def test_the_chosen_images_are_of_the_training_set_and_follow_from_the_seed(search):
    few = [
        sorted(map(tuple, pixels_of(search("num_images=3", f"sample_seed={s}").objective).tolist()))
        for s in (1, 1, 2)
    ]
    everyone = set(map(tuple, PIXELS.flatten(1).tolist()))
    assert few[0] == few[1] != few[2]
    assert all(len(set(chosen) & everyone) == 3 for chosen in few)
