"""Our sampler against diffusers' pipeline, and routing by t against the authors' split of the step list."""

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler

from deme.data import to_uint8
from deme.ranges import uniform
from deme.sampling.ddim import DDIM
from deme.sampling.generate import generate
from deme.sampling.routed import RoutedModel
from deme.seeds import image_noise
from tests.models import tiny


def images(network, model, sampler, batch_size=64, n=10, first=0):
    batches = generate(network, model.scheduler_config, model.image_shape, sampler, 5, first, n, batch_size)
    return torch.cat(list(batches))


def test_images_equal_diffusers_pipeline_bit_for_bit(monkeypatch):
    model = tiny()
    pipeline = DDIMPipeline(model.unet, DDIMScheduler.from_config(model.scheduler_config))
    pipeline.set_progress_bar_config(disable=True)
    monkeypatch.setattr(
        "diffusers.pipelines.ddim.pipeline_ddim.randn_tensor", lambda shape, **_: image_noise(5, 0, shape[0], shape[1:])
    )
    theirs = torch.from_numpy(pipeline(batch_size=10, num_inference_steps=10, output_type="np").images)
    assert torch.equal(images(model, model, DDIM(10)), to_uint8(theirs.permute(0, 3, 1, 2) * 2 - 1))


@pytest.mark.parametrize("batch_size", [1, 7])
def test_images_do_not_depend_on_the_batch_size_beyond_a_grey_level(batch_size):
    model = tiny()
    whole, parts = (images(model, model, DDIM(5), size, 20).int() for size in (20, batch_size))
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
    ("steps", "spacing"), [(s, "leading") for s in (4, 8, 10, 20, 25, 50, 100)] + [(20, "trailing"), (100, "trailing")]
)
def test_routing_by_t_equals_index_quarters_where_steps_divide_t(steps, spacing):
    by_t, by_index, _ = routes(steps, spacing)
    assert by_t == by_index


@pytest.mark.parametrize(
    ("steps", "spacing"), [(12, "leading"), (16, "leading"), (10, "trailing"), (25, "trailing"), (50, "trailing")]
)
def test_routing_by_t_is_not_index_quarters_elsewhere_and_is_right(steps, spacing):
    by_t, by_index, log = routes(steps, spacing)
    assert by_t != by_index
    assert all(name == t // 250 for t, name in log)


def test_a_mixed_batch_is_split_by_range():
    routed = RoutedModel([lambda x, t, i=i: torch.full_like(x, i) for i in range(4)], uniform(4, 1000), 1000)
    t = torch.tensor([0, 249, 250, 999, 500, 749])
    assert routed(torch.zeros(6, 1, 2, 2), t)[:, 0, 0, 0].tolist() == [0, 0, 1, 3, 2, 2]


def test_experts_that_do_not_match_the_ranges_are_refused():
    with pytest.raises(ValueError, match="3 experts for 4 ranges"):
        RoutedModel([lambda x, t: x] * 3, uniform(4, 1000), 1000)
    with pytest.raises(ValueError, match="leave a hole"):
        RoutedModel([lambda x, t: x] * 2, [uniform(4, 1000)[0], uniform(4, 1000)[2]], 1000)
