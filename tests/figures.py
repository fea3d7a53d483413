"""What figures take, for tests: parts in memory, images, models that are made, not read."""

import torch

from deme.data import InMemoryImages
from deme.diffusion import NoiseSchedule


class Memory(dict):
    """The parts of a study; stops before part number `stop`, as a kill would."""

    def __init__(self, stop=None):
        super().__init__()
        self.stop, self.measured = stop, 0

    def __call__(self, name, measure):
        if name not in self:
            if self.measured == self.stop:
                raise KeyboardInterrupt
            self[name] = dict(measure())
            self.measured += 1
        return self[name]


def pictures(count=24, channels=1, size=4, seed=0):
    draw = torch.Generator().manual_seed(seed)
    shape = (count, channels, size, size)
    return InMemoryImages(torch.randint(0, 256, shape, generator=draw).byte())


def loader(images):
    """The argument `images` of a figure, with the same images in both splits."""

    def load(model, split, count=None, seed=0):
        assert split in ("train", "held_out")
        return images if count is None else InMemoryImages(images.pixels[:count])

    return load


class Linear(torch.nn.Module):
    """eps_hat = a x_t + b: the loss is a quadratic function of both."""

    prediction_type = "epsilon"
    projections = None

    def __init__(self, a=0.5, b=0.1, num_timesteps=40):
        super().__init__()
        self.schedule = NoiseSchedule.linear(num_timesteps, 0.02, 0.2)
        self.layer = torch.nn.Conv2d(1, 1, 1)
        with torch.no_grad():
            self.layer.weight.fill_(a)
            self.layer.bias.fill_(b)

    def forward(self, x_t, t):
        return self.layer(x_t)
