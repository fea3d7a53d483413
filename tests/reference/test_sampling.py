"""Our sampler against diffusers' pipeline, and routing by t against the authors' split of the step list."""

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler

from deme.builders.compute import Compute
from deme.data.pixels import to_uint8
from deme.diffusion import image_generator, uniform
from deme.models.loading import load_pretrained
from deme.models.swapped import SwappedExperts
from deme.sampling.ddim import DDIM
from deme.sampling.ddpm import DDPM
from deme.sampling.dpm_solver import DPMSolver
from deme.sampling.generate import generate
from deme.sampling.routed import RoutedModel
from deme.system.errors import BadConfig, WorkFailed
from tests.models import tiny


def images(network, model, sampler, batch_size=64, n=10, first=0):
    indices = range(first, first + n)
    return torch.cat(
        list(
            generate(
                network, model.scheduler_config, model.image_shape, sampler, 5, indices, batch_size
            )
        )
    )


def noise(count, shape, seed=5):
    return torch.stack(
        [torch.randn(shape, generator=image_generator(seed, i)) for i in range(count)]
    )


def test_images_equal_diffusers_pipeline_bit_for_bit(monkeypatch):
    model = tiny()
    pipeline = DDIMPipeline(model.unet, DDIMScheduler.from_config(model.scheduler_config))
    pipeline.set_progress_bar_config(disable=True)
    monkeypatch.setattr(
        "diffusers.pipelines.ddim.pipeline_ddim.randn_tensor",
        lambda shape, **_: noise(shape[0], shape[1:]),
    )
    theirs = torch.from_numpy(
        pipeline(batch_size=10, num_inference_steps=10, output_type="np").images
    )
    assert torch.equal(images(model, model, DDIM(10)), to_uint8(theirs.permute(0, 3, 1, 2) * 2 - 1))


@pytest.mark.parametrize("batch_size", [1, 7])
def test_images_do_not_depend_on_the_batch_size_beyond_a_grey_level(batch_size):
    model = load_pretrained("asset:digits_base")
    whole, parts = (images(model, model, DDIM(5), size, 70).int() for size in (64, batch_size))
    difference = (whole - parts).abs()
    assert int(difference.max()) <= 1
    assert float((difference > 0).double().mean()) < 1e-3


def test_exactly_the_images_asked_for_and_the_same_ones_after_a_resume():
    model = tiny()
    whole = images(model, model, DDIM(5), 4, 10)
    assert whole.shape == (10, 1, 8, 8)
    assert whole.dtype == torch.uint8
    assert torch.equal(whole[4:], images(model, model, DDIM(5), 4, 6, first=4))


class Spy:
    def __init__(self, name, log):
        self.name, self.log = name, log

    def __call__(self, x_t, t):
        self.log.append((int(t[0]), self.name))
        return torch.zeros_like(x_t)


def routes(steps, spacing):
    model, log = tiny(), []
    routed = RoutedModel([Spy(i, log) for i in range(4)], uniform(4, 1000), 1000)
    images(routed, model, DDIM(steps, timestep_spacing=spacing), n=2)
    by_t = [name for _, name in log]
    by_index = [3 - sum(step >= switch for switch in quarters(steps)) for step in range(steps)]
    return by_t, by_index, log


def quarters(steps):
    """Where, from the noisy end, the authors' loop over the S steps switches expert."""
    return [steps // 4, steps // 2, 3 * steps // 4]


@pytest.mark.parametrize(
    ("steps", "spacing"),
    [(s, "leading") for s in (4, 8, 10, 20, 25, 50, 100)] + [(20, "trailing"), (100, "trailing")],
)
def test_routing_by_t_equals_index_quarters_where_steps_divide_t(steps, spacing):
    by_t, by_index, _ = routes(steps, spacing)
    assert by_t == by_index


@pytest.mark.parametrize(
    ("steps", "spacing"),
    [(12, "leading"), (16, "leading"), (10, "trailing"), (25, "trailing"), (50, "trailing")],
)
def test_routing_by_t_is_not_index_quarters_elsewhere_and_is_right(steps, spacing):
    by_t, by_index, log = routes(steps, spacing)
    assert by_t != by_index
    assert all(name == t // 250 for t, name in log)


def test_a_mixed_batch_is_split_by_range():
    routed = RoutedModel(
        [lambda x, t, i=i: torch.full_like(x, i) for i in range(4)], uniform(4, 1000), 1000
    )
    t = torch.tensor([0, 249, 250, 999, 500, 749])
    assert routed(torch.zeros(6, 1, 2, 2), t)[:, 0, 0, 0].tolist() == [0, 0, 1, 3, 2, 2]


def test_experts_that_do_not_match_the_ranges_are_refused():
    with pytest.raises(ValueError, match="3 experts for 4 ranges"):
        RoutedModel([lambda x, t: x] * 3, uniform(4, 1000), 1000)
    with pytest.raises(ValueError, match="leave a hole"):
        RoutedModel([lambda x, t: x] * 2, [uniform(4, 1000)[0], uniform(4, 1000)[2]], 1000)


# Every sampler, against closed forms and against each other.

SPREAD, CENTRE = 0.3, 0.2


def gaussian(model):
    """The exact eps network for data N(CENTRE, SPREAD^2) in every pixel."""

    def network(x_t, t):
        alpha, sigma = model.schedule.coefficients(t, x_t)
        mean, variance = alpha * CENTRE, alpha**2 * SPREAD**2 + sigma**2
        return sigma * (x_t - mean) / variance

    return network


@pytest.mark.parametrize(
    "sampler",
    [DDIM(200), DDIM(200, eta=1.0), DDIM(1000, skip_type="quadratic", clip_sample=False), DDPM(1000),
     DDPM(1000, variance_type="fixed_small"), DPMSolver(40), DPMSolver(40, order=3)],
    ids=["ddim", "ddim eta 1", "ddim quadratic", "ddpm", "ddpm fixed_small", "dpm-solver++ 2", "dpm-solver++ 3"],
)  # fmt: skip
def test_with_an_exact_network_samples_have_the_datas_mean_and_spread(sampler):
    model = tiny()
    pixels = images(gaussian(model), model, sampler, n=64).float() / 127.5 - 1
    count = pixels.numel()
    assert float(pixels.mean()) == pytest.approx(CENTRE, abs=4 * SPREAD / count**0.5 + 0.01)
    # 0.8 T: the quadratic grid starts where a little of the image is left, so it starts with too little of the mean
    assert float(pixels.std()) == pytest.approx(SPREAD, rel=4 / (2 * count) ** 0.5 + 0.02)


def test_full_noise_ddim_is_ddpm():
    model = tiny(num_timesteps=30)
    one = images(model, model, DDIM(30, eta=1.0, clip_sample=False)).int()
    other = images(model, model, DDPM(30, variance_type="fixed_small", clip_sample=False)).int()
    assert int((one - other).abs().max()) <= 1
    assert not torch.equal(one, images(model, model, DDIM(30, clip_sample=False)).int())


def test_first_order_dpm_solver_is_ddim_without_clipping():
    model = tiny(num_timesteps=20)
    ddim = images(model, model, DDIM(20, clip_sample=False)).int()
    assert int((images(model, model, DPMSolver(20, order=1)).int() - ddim).abs().max()) <= 1


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_our_step_to_the_next_timestep_is_diffusers_where_the_grid_is_even(prediction_type, eta):
    config = tiny(prediction_type=prediction_type).scheduler_config
    theirs = DDIM(10, eta=eta).scheduler(config)
    ours = DDIM(10, eta=eta, skip_type="quadratic").scheduler(config)
    assert type(ours) is not type(theirs)
    ours.timesteps = theirs.timesteps
    draw = torch.Generator().manual_seed(0)
    for t in theirs.timesteps.tolist():
        x, prediction = torch.randn(2, 3, 1, 4, 4, generator=draw)
        steps = [
            s.step(
                prediction, t, x, eta=eta, generator=torch.Generator().manual_seed(t)
            ).prev_sample
            for s in (ours, theirs)
        ]
        torch.testing.assert_close(*steps, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("steps", "spacing", "even"),
    [
        (10, "leading", True),
        (12, "leading", True),
        (10, "trailing", True),
        (7, "trailing", False),
        (10, "linspace", False),
    ],
)
def test_a_step_goes_to_the_next_timestep_whatever_the_grid(steps, spacing, even):
    """With the exact network of a point every step keeps x_t on its line; a step to elsewhere leaves noise behind."""
    model = tiny()
    sampler = DDIM(steps, timestep_spacing=spacing, clip_sample=False)
    assert (type(sampler.scheduler(model.scheduler_config)) is DDIMScheduler) == even

    def network(x_t, t):
        alpha, sigma = model.schedule.coefficients(t, x_t)
        return (x_t - alpha * 0.5) / sigma

    first = sampler.scheduler(model.scheduler_config)
    x = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    grid = first.timesteps.tolist()
    for t, following in zip(grid, [*grid[1:], None], strict=True):
        eps = network(x, torch.tensor([t]))
        x = first.step(eps, t, x).prev_sample
        if following is not None:
            alpha, sigma = model.schedule.coefficients(torch.tensor([following]), x)
            torch.testing.assert_close(x, alpha * 0.5 + sigma * eps, rtol=1e-4, atol=1e-4)


def test_the_quadratic_grid_is_the_authors():
    import numpy as np

    config = tiny().scheduler_config
    for steps in (10, 20, 50):
        expected = sorted(
            {int(s) for s in np.linspace(0, np.sqrt(1000 * 0.8), steps) ** 2}, reverse=True
        )
        assert DDIM(steps, skip_type="quadratic").scheduler(config).timesteps.tolist() == expected


@pytest.mark.parametrize(
    "sampler", [DDIM(5, eta=0.5), DDPM(20), DPMSolver(5)], ids=["ddim", "ddpm", "dpm-solver++"]
)
def test_noise_of_the_steps_belongs_to_the_image_not_to_its_batch(sampler):
    model = tiny(num_timesteps=20)
    whole = images(model, model, sampler, 64, 20).int()
    for batch_size in (1, 7):
        difference = (whole - images(model, model, sampler, batch_size, 20).int()).abs()
        assert int(difference.max()) <= 1
        assert float((difference > 0).double().mean()) < 1e-3
    picked = [3, 11, 12]
    again = generate(model, model.scheduler_config, model.image_shape, sampler, 5, picked, 2)
    assert int((torch.cat(list(again)).int() - whole[picked]).abs().max()) <= 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DDIM(0), "sampler.num_inference_steps must be at least 1, got 0"),
        (lambda: DDIM(eta=1.5), "sampler.eta must lie between 0 and 1, got 1.5"),
        (
            lambda: DDIM(skip_type="quad"),
            "sampler.skip_type must be one of uniform, quadratic, got 'quad'",
        ),
        (
            lambda: DDPM(timestep_spacing="even"),
            "must be one of leading, trailing, linspace, got 'even'",
        ),
        (
            lambda: DDPM(variance_type="learned"),
            "must be null or one of fixed_small, fixed_large, got 'learned'",
        ),
        (lambda: DPMSolver(order=4), "sampler.order must be 1, 2 or 3, got 4"),
        (
            lambda: DDPM(1001).scheduler(tiny().scheduler_config),
            "exceeds the model's 1000 timesteps",
        ),
    ],
)
def test_impossible_samplers_are_refused(make, message):
    with pytest.raises(BadConfig, match=message):
        make()


# Unmerged experts in the memory of one model.


@pytest.fixture
def experts(tmp_path):
    folders = []
    for seed in range(4):
        model = tiny(seed)
        model.save(tmp_path / str(seed), model.state_dict(), {})
        folders.append(tmp_path / str(seed))
    return folders


def test_swapped_experts_give_the_images_of_resident_ones_with_a_swap_per_range(experts):
    resident = RoutedModel(
        [load_pretrained(str(folder)) for folder in experts], uniform(4, 1000), 1000
    )
    swapped = SwappedExperts(experts)
    routed = RoutedModel(swapped.networks(), uniform(4, 1000), 1000)
    for sampler in (DDIM(20), DDPM(50), DPMSolver(20)):
        before = swapped.num_swaps
        found = images(routed, swapped.model, sampler, batch_size=3, n=10)
        assert torch.equal(found, images(resident, swapped.model, sampler, batch_size=3, n=10))
        assert (
            swapped.num_swaps - before <= 4
        )  # the last sweep ended with expert 0; then 3, 2, 1, 0


def test_a_batch_sweep_of_n_experts_costs_n_minus_1_swaps(experts):
    swapped = SwappedExperts(experts[::-1])  # starts with the expert of the noisiest range
    routed = RoutedModel(swapped.networks()[::-1], uniform(4, 1000), 1000)
    images(routed, swapped.model, DDIM(20), batch_size=2, n=10)
    assert swapped.num_swaps == 3


def test_an_expert_of_another_shape_is_refused(experts, tmp_path):
    other = tiny(block_out_channels=[8, 8])
    other.save(tmp_path / "other", other.state_dict(), {})
    swapped = SwappedExperts([experts[0], tmp_path / "other"])
    with pytest.raises(WorkFailed, match=r"does not fit its config.json|tensors differ"):
        swapped.networks()[1](torch.zeros(1, 1, 8, 8), torch.tensor([0]))
    projected = tiny()
    projected.add_projections()
    projected.save(tmp_path / "projected", projected.state_dict(), {})
    with pytest.raises(
        WorkFailed,
        match="has blocks channel projections",
    ):
        SwappedExperts([experts[0], tmp_path / "projected"]).networks()[1](
            torch.zeros(1, 1, 8, 8), torch.tensor([0])
        )


def compute(**settings):
    return Compute(**{"accelerator": "cpu", "precision": "32-true", "device": "cpu", **settings})


def test_half_precision_changes_images_a_little_and_weights_not_at_all():
    model = load_pretrained("asset:digits_base")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    exact = images(model, model, DDIM(10), n=20).float()
    half = images(compute(precision="bf16-mixed").network(model), model, DDIM(10), n=20).float()
    assert 0 < float((exact - half).abs().mean()) < 8
    assert float(torch.corrcoef(torch.stack([exact.flatten(), half.flatten()]))[0, 1]) > 0.99
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (
        compute(precision="bf16-mixed")
        .network(model)(torch.zeros(1, 1, 8, 8), torch.tensor([3]))
        .dtype
        == torch.float32
    )


@pytest.mark.slow
def test_a_compiled_network_gives_the_same_images_and_keeps_plain_names(experts):
    model = load_pretrained("asset:digits_base")
    exact = images(model, model, DDIM(5), n=20).int()
    names = list(model.state_dict())
    found = images(
        compute(compile=True).network(load_pretrained("asset:digits_base")), model, DDIM(5), n=20
    ).int()
    assert int((exact - found).abs().max()) <= 1
    assert list(model.state_dict()) == names
    swapped = SwappedExperts(experts)  # weights brought in after compiling count
    routed = RoutedModel(
        swapped.networks(compute(compile=True).network(swapped.model)), uniform(4, 1000), 1000
    )
    resident = RoutedModel(
        [load_pretrained(str(folder)) for folder in experts], uniform(4, 1000), 1000
    )
    difference = (
        images(routed, swapped.model, DDIM(8)).int()
        - images(resident, swapped.model, DDIM(8)).int()
    )
    assert int(difference.abs().max()) <= 1
