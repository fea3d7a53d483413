import torch

from deme.diffusion import ShardedRandom, generator, image_generator


def test_an_images_noise_depends_on_seed_and_index_alone():
    def noise(seed, index):
        return torch.randn(2, 8, 8, generator=image_generator(seed, index))

    assert torch.equal(noise(3, 7), noise(3, 7))
    assert not torch.equal(noise(3, 7), noise(3, 8))
    assert not torch.equal(noise(3, 7), noise(4, 7))


def test_two_processes_see_the_rows_that_one_would():
    def draws(total, start, stop):
        rows = ShardedRandom(generator("train", 0, 5), total, start, stop)
        t = rows.timesteps(lambda n, g: torch.randint(0, 1000, (n,), generator=g))
        return t, rows.normal((1, 8, 8)), rows.coins(0.5)

    for one, first, second in zip(draws(8, 0, 8), draws(8, 0, 4), draws(8, 4, 8), strict=True):
        assert torch.equal(one, torch.cat([first, second]))


def test_steps_draw_different_numbers():
    first, second = (torch.randn(4, generator=generator("train", 0, step)) for step in (0, 1))
    assert not torch.equal(first, second)
