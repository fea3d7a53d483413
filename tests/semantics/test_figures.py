"""The figures of `deme analyze`: what they measure, on models of which it is known."""

import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from deme.analysis import Expert, NamedModel
from deme.analysis.directions import Landscape, filter_normalised, inner, sharpness
from deme.analysis.feature_change import feature_change
from deme.analysis.forgetting import forgetting
from deme.analysis.gradient_similarity import conflicts, gradient_similarity
from deme.analysis.loss_by_timestep import loss_by_timestep
from deme.analysis.loss_landscape import loss_landscape
from deme.diffusion import NoiseSchedule, TimestepRange, uniform
from deme.metrics import fixed_triples
from deme.models.denoiser import DenoisingModel
from deme.report.statistics import mean_of
from tests.figures import Linear, Memory, loader, pictures
from tests.models import moved, tiny
from tests.semantics.test_affinity import TwoHalves

STUDIES = ("gradient_similarity", "gradient", "random", "tasks", "feature_change", "forgetting", "loss_by_timestep")  # fmt: skip


def expert(low, high, seed, base_seed=0):
    return Expert(TimestepRange(low, high), lambda: moved(tiny(base_seed), seed, 0.02))


def study(name):
    """A small study of each kind, of tiny networks that are the same every time."""
    base = tiny(0)
    images = loader(pictures(size=8))
    offered = {"model": lambda: base, "images": images}
    experts = [expert(0, 500, 1), expert(500, 1000, 2)]
    held = {"num_images": 6, "batch_size": 4, "device": "cpu", **offered}
    linear = {
        "model": Linear,
        "images": loader(pictures()),
        "experts": lambda: [Expert(each, lambda: Linear(0.3, 0.2)) for each in uniform(2, 40)],
    }
    landscape = {**held, **linear, "draws": 1, "points": 3, "num_ranges": 2, "num_iterations": 3, "num_directions": 2}  # fmt: skip
    return {
        "gradient_similarity": lambda: gradient_similarity(
            **offered, num_bins=4, num_images=16, num_groups=2, num_ranges=2, batch_size=5
        ),
        **{
            kind: partial(loss_landscape, directions=kind, **landscape)
            for kind in ("gradient", "random", "tasks")
        },
        "feature_change": lambda: feature_change(**held, experts=lambda: experts, draws=2),
        "forgetting": lambda: forgetting(**held, experts=lambda: experts, draws=2),
        "loss_by_timestep": lambda: loss_by_timestep(
            **held, models=lambda: [NamedModel("one", (), lambda base: experts[0].load())],
            num_bins=3, draws=2,
        ),
    }[name]()  # fmt: skip


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_that_is_stopped_goes_on_to_the_same_numbers(name):
    whole = Memory()
    expected = study(name).measure(whole)
    assert whole.measured >= 2
    for stop in {whole.measured // 2, whole.measured - 1}:
        parts = Memory(stop)
        with pytest.raises(KeyboardInterrupt):
            study(name).measure(parts)
        parts.stop = None
        assert study(name).measure(parts) == expected
        assert parts.measured == whole.measured


@pytest.mark.parametrize("name", STUDIES)
def test_numbers_survive_json_and_are_drawn(name):
    made = study(name)
    numbers = made.measure(Memory())
    again = json.loads(json.dumps(numbers, allow_nan=False))
    analysis = made.draw(again)
    assert analysis.table == made.draw(numbers).table
    assert len({len(line) for line in analysis.table}) == 1
    assert analysis.figure.axes


@pytest.mark.parametrize("name", STUDIES)
def test_the_cost_is_what_it_takes(name, monkeypatch):
    passes = []
    for kind in (DenoisingModel, Linear):

        def counted(self, x_t, *rest, forward=kind.forward):
            passes.append(len(x_t) * (3 if torch.is_grad_enabled() else 1))  # 2 of them backward
            return forward(self, x_t, *rest)

        monkeypatch.setattr(kind, "forward", counted)
    made = study(name)
    made.measure(Memory())
    assert sum(passes) == made.num_forward_passes


# --- similarity of gradients


def test_known_directions_and_norms_of_gradients_are_found():
    """At a = b = 0 the mean loss is E (eps - f x_t)^2, with gradient -2 E eps x_t = -2 sigma_t by f."""
    model = TwoHalves()
    made = gradient_similarity(
        lambda: model, loader(pictures(200)), num_bins=8, num_images=2048, num_ranges=2
    )
    numbers = made.measure(Memory())
    sigma = (1 - model.schedule.alpha_squared).sqrt().view(8, -1).mean(1)
    lengths = 2 * sigma * torch.tensor([1.0] * 4 + [1.25**0.5] * 4)
    assert numbers["norms"] == pytest.approx(lengths.tolist(), rel=0.03)
    assert min(numbers["reliability"]) > 0.98
    expected = np.ones((8, 8))
    expected[:4, 4:] = expected[4:, :4] = -0.5 / 1.25**0.5
    np.testing.assert_allclose(numbers["cosines"], expected, atol=0.05)
    conflict, known = conflicts(numbers)
    assert (conflict == (expected < 0)).all()
    assert known.all()
    table = made.draw(numbers).table
    assert [line[3:5] for line in table[1:]] == [["0%", "57%"], ["0%", "57%"], ["57%", "57%"]]


# --- losses of experts and models


def by_hand(model, base, images, ranges, draws, seed):
    """The loss of each image in each range, one image at a time and in float64."""
    model = model.double()
    triples = fixed_triples(images, ranges, draws, seed)
    found = torch.zeros(len(ranges), len(images), dtype=torch.float64)
    with torch.no_grad():
        for index, x0, t, eps, _ in triples:
            for image in range(len(images)):
                alpha = base.schedule.alpha_squared[t[image]]
                x_t = alpha.sqrt() * x0[image].double() + (1 - alpha).sqrt() * eps[image].double()
                answer = model(x_t[None], t[image : image + 1])[0]
                found[index, image] += (answer - eps[image].double()).square().mean() / draws
    return found


def test_the_forgetting_matrix_is_that_of_a_loop():
    images, base = pictures(size=8), tiny(0)
    experts = [expert(0, 300, 1), expert(300, 1000, 2)]
    numbers = forgetting(
        lambda: base, loader(images), lambda: experts, "cpu", num_images=8, draws=3, seed=5
    ).measure(Memory())
    held = loader(images)(base, "held_out", 8)
    ranges = [each.range for each in experts]
    before = by_hand(tiny(0), base, held, ranges, 3, 5)
    for row, each in zip(numbers["changes"], experts, strict=True):
        after = by_hand(each.load(), base, held, ranges, 3, 5)
        for change, ours, theirs in zip(row, after, before, strict=True):
            expected = mean_of((ours - theirs).tolist())
            assert change["base"] == pytest.approx(float(theirs.mean()), rel=1e-5)
            for name in ("value", "low", "high"):
                assert change[name] == pytest.approx(getattr(expected, name), rel=1e-3)
            assert change["verdict"] == expected.verdict
    assert {change["verdict"] for row in numbers["changes"] for change in row} != {"not resolved"}


def test_losses_by_timestep_are_those_of_a_loop():
    images, base = pictures(size=8), tiny(0)
    other = moved(tiny(0), 3, 0.05)
    ranges = (TimestepRange(0, 400), TimestepRange(400, 1000))
    named = [
        NamedModel("same", (), lambda _: tiny(0)),
        NamedModel("other", ranges, lambda _: other),
    ]
    numbers = loss_by_timestep(
        lambda: base, loader(images), lambda: named, "cpu", num_bins=5, num_images=11, draws=2
    ).measure(Memory())
    held, bins = loader(images)(base, "held_out", 11), uniform(5, 1000)
    before = by_hand(tiny(0), base, held, bins, 2, 0)
    after = by_hand(other, base, held, bins, 2, 0)
    assert numbers["base_loss"] == pytest.approx(before.mean(1).tolist(), rel=1e-5)
    assert {change["value"] for change in numbers["changes"][0]} == {0.0}
    differences = [change["value"] for change in numbers["changes"][1]]
    assert differences == pytest.approx((after - before).mean(1).tolist(), rel=1e-3)
    total = numbers["overall"][1]
    assert total["value"] == pytest.approx(float((after - before).mean()), rel=1e-3)
    assert numbers["experts"] == [400]


# --- features


class Block(nn.Module):
    """Returns what it is given, changed by `change`, and a skip tensor, as diffusers' blocks do."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, x):
        return self.change(x), (x,)


class Blocks(nn.Module):
    """A network of three blocks of 6 channels; each answers its change of the same features."""

    prediction_type = "epsilon"

    def __init__(self, *changes):
        super().__init__()
        self.schedule = NoiseSchedule.linear(40, 0.02, 0.2)
        blocks = [Block(change) for change in changes]
        self.network = SimpleNamespace(
            down_blocks=blocks[:1], mid_block=blocks[1], up_blocks=blocks[2:]
        )

    def forward(self, x_t, t):
        features = torch.cat([x_t, x_t.square(), x_t.roll(1, 2)], 1)
        for block in (*self.network.down_blocks, self.network.mid_block, *self.network.up_blocks):
            block(features)
        return x_t


def feature_changes(*changes, num_images=40):
    base = Blocks(*[lambda x: x] * len(changes))
    experts = [Expert(TimestepRange(10, 30), lambda: Blocks(*changes))]
    made = feature_change(
        lambda: base, loader(pictures(num_images, 2, 8)), lambda: experts, "cpu",
        num_images=num_images, draws=2,
    )  # fmt: skip
    (row,) = made.measure(Memory())["changes"]
    return row


def test_a_change_per_channel_and_one_per_place_are_told_apart():
    draw = torch.Generator().manual_seed(0)
    place = torch.randn(8, 8, generator=draw)
    place = place - place.mean()
    channel = torch.randn(6, 1, 1, generator=draw)
    mixing = torch.eye(6) + 0.1 * torch.randn(6, 6, generator=draw)
    rows = feature_changes(
        lambda x: x + 0.1 * channel,
        lambda x: x + 0.1 * place,
        lambda x: torch.einsum("cd,bdhw->bchw", mixing, x),
    )
    assert [row["block"] for row in rows] == ["down_0", "mid", "up_0"]
    by_channel, by_place, projected = rows
    assert by_channel["shares"] == pytest.approx([1, 0, 0], abs=1e-6)
    assert by_place["shares"] == pytest.approx([0, 1, 0], abs=1e-6)
    assert by_place["explained"] < 0.1
    assert projected["explained"] == pytest.approx(1, abs=1e-4)  # of one matrix everywhere
    assert by_channel["explained"] < 0.9  # a bias is no such matrix
    assert by_channel["relative"] > 0


def test_the_shares_of_independent_noise_are_those_of_chance():
    draw = torch.Generator().manual_seed(1)

    def noise(x):
        return x + 0.1 * torch.randn(x.shape, generator=draw)

    for row in feature_changes(noise, noise, noise, num_images=200):
        for share, error, chance in zip(
            row["shares"], row["standard_errors"], row["chance"], strict=True
        ):
            assert abs(share - chance) < 4 * error
        assert sum(row["chance"]) == pytest.approx(1)
        assert row["chance"][0] == pytest.approx(1 / 64)
        assert row["explained"] < 0.02


# --- landscape


def test_slope_curvature_and_losses_of_a_quadratic_loss_are_known():
    """The loss is the mean of (a x + b - eps)^2, with Hessian 2 mean [[x x, x], [x, 1]]."""
    images, model = pictures(30), Linear(0.5, 0.1)
    ranges = [TimestepRange(0, 10), TimestepRange(10, 40)]
    space = Landscape(model, images, ranges, 2, 0, "cpu", 8)
    hessians, gradients = [], []
    for item in ranges:
        hessian, gradient, count = torch.zeros(2, 2).double(), torch.zeros(2).double(), 0
        for _, x0, t, eps, _ in fixed_triples(images, [item], 2, 0):
            x = model.schedule.add_noise(x0, eps, t).double().flatten()
            features = torch.stack([x, torch.ones_like(x)])
            error = 0.5 * x + 0.1 - eps.double().flatten()
            hessian += 2 * features @ features.T
            gradient += 2 * features @ error
            count += len(x)
        hessians.append(hessian / count)
        gradients.append(gradient / count)
    both = 0.25 * hessians[0] + 0.75 * hessians[1]
    for group, hessian in (([0], hessians[0]), ([1], hessians[1]), ([0, 1], both)):
        largest = float(torch.linalg.eigvalsh(hessian).max())
        assert sharpness(space, group, 20, 0)[0] == pytest.approx(largest, rel=1e-3)
        d = filter_normalised(model, 0)
        assert d["layer.bias"] == 0
        assert abs(float(d["layer.weight"])) == pytest.approx(0.5)  # as long as the filter
        curvature = inner(d, space.hessian_times(group, d))
        assert curvature == pytest.approx(0.25 * float(hessian[0, 0]), rel=1e-3)
    found = space.gradient([0, 1])
    expected = 0.25 * gradients[0] + 0.75 * gradients[1]
    assert [float(found[f"layer.{n}"]) for n in ("weight", "bias")] == pytest.approx(
        expected.tolist(), rel=1e-4
    )
    before = space.losses([0])[0]
    direction = {"layer.weight": torch.ones(1, 1, 1, 1), "layer.bias": torch.full((1,), 2.0)}
    step = torch.tensor([0.3, 0.6]).double()
    space.move((0.3, direction))
    change = gradients[0] @ step + step @ hessians[0] @ step / 2
    assert space.losses([0])[0] - before == pytest.approx(float(change), rel=1e-4)
    space.move()
    assert space.losses([0])[0] == before


def test_one_step_along_the_gradient_is_the_minimum_of_its_parabola():
    made = loss_landscape(
        Linear, loader(pictures(30)), list, "cpu", num_ranges=2, points=9, num_images=20, draws=1,
        num_iterations=1, num_directions=1,
    )  # fmt: skip
    numbers = made.measure(Memory())
    assert [plane["of"] for plane in numbers["planes"]] == [[0, 40], [0, 20], [20, 40]]
    for plane, at in zip(numbers["planes"], numbers["curvature"], strict=True):
        losses, zero = np.array(plane["losses"]), plane["axis"].index(0.0)
        one = plane["axis"].index(1.0)
        assert losses[zero, zero] == pytest.approx(at["loss"], rel=1e-6)
        gain = at["loss"] - losses[zero, one]
        assert gain > 0
        parabola = [at["loss"] + gain * ((x - 1) ** 2 - 1) for x in plane["axis"]]
        assert losses[zero] == pytest.approx(parabola, rel=1e-3)
        # across it the slope is 0 and the curvature is the same
        across = [at["loss"] + gain * y**2 for y in plane["axis"]]
        assert losses[:, zero] == pytest.approx(across, rel=1e-3)


def test_task_vectors_lead_to_the_experts_and_their_merge():
    experts = [expert(0, 500, 1), expert(500, 1000, 2)]
    images = loader(pictures(size=8))
    made = loss_landscape(
        lambda: tiny(0), images, lambda: experts, "cpu", "tasks", points=5, num_images=5,
        draws=1, num_iterations=1, num_directions=1,
    )  # fmt: skip
    numbers = made.measure(Memory())
    held, base = images(None, "held_out", 5), tiny(0)
    states = [dict(each.load().named_parameters()) for each in experts]
    for index, plane in enumerate(numbers["planes"]):
        item = experts[index].range
        assert plane["of"] == [item.low, item.high]
        assert plane["axis"] == pytest.approx([-0.5, 0, 0.5, 1, 1.5])
        for own, others in [(0, 0), (1, 0), (0.5, 0.5), (1, 1)]:
            model = tiny(0)
            weights = [own if i == index else others for i in range(2)]
            with torch.no_grad():
                for name, value in model.named_parameters():
                    start = value.clone()
                    for weight, state in zip(weights, states, strict=True):
                        value += weight * (state[name] - start)
            expected = by_hand(model, base, held, [item], 1, 0).mean()
            found = plane["losses"][round(2 * others) + 1][round(2 * own) + 1]
            assert found == pytest.approx(float(expected), rel=1e-5)
