import pytest
import torch

from deme.diffusion import NoiseSchedule

SCHEDULE = NoiseSchedule.linear()


def draw(n=64):
    g = torch.Generator().manual_seed(0)
    t = torch.randint(0, 1000, (n,), generator=g)
    x0, eps = torch.randn(2, n, 3, 4, 4, generator=g, dtype=torch.float64)
    return x0, eps, t


def test_linear_schedule_equals_diffusers():
    from diffusers import DDPMScheduler

    reference = DDPMScheduler().alphas_cumprod.double()
    torch.testing.assert_close(SCHEDULE.alpha_squared, reference, rtol=1e-5, atol=0)


def test_snr_crosses_five_and_one_where_the_paper_page_says():
    assert int((SCHEDULE.snr > 5).sum()) == 130
    assert int((SCHEDULE.snr > 1).sum()) == 259


def test_conversions_round_trip_in_float64():
    x0, eps, t = draw()
    x_t = SCHEDULE.add_noise(x0, eps, t)
    v = SCHEDULE.target("v_prediction", x0, eps, t)
    for kind, prediction in (("epsilon", eps), ("v_prediction", v), ("sample", x0)):
        found = SCHEDULE.predicted_x0(kind, prediction, x_t, t)
        torch.testing.assert_close(found, x0, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("bad", [[0.5, 0.6], [1.2, 0.5], [0.5, -0.1], []])
def test_impossible_schedules_are_refused(bad):
    with pytest.raises(ValueError, match="alpha_squared"):
        NoiseSchedule.variance_preserving(torch.tensor(bad))
