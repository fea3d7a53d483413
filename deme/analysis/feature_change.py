"""How experts change the features of each block: channel by channel, or place by place.

The paper's Figure 2, in numbers; docs/figures.md#feature-change.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from deme.analysis import Expert, LoadImages, Parts, Study
from deme.analysis.feature_figure import BlockChange, FeatureChange, draw
from deme.data import EncodedDataset, Images
from deme.diffusion import bind_condition
from deme.metrics import fixed_triples, noised, resample_counts
from deme.models.denoiser import DenoisingModel
from deme.models.projection import named_blocks
from deme.system import progress

NUM_RESAMPLES = 200
RIDGE = 1e-6  # of the mean diagonal element, where a projection is fitted


def feature_change(
    model: Callable[[], DenoisingModel],
    images: LoadImages,
    experts: Callable[[], Sequence[Expert]],
    device: str,
    num_images: int = 128,
    draws: int = 4,
    batch_size: int = 32,
    seed: int = 0,
) -> Study[FeatureChange]:
    """Compare the output of every block of each expert with the base's, in the expert's range.

    Both see the same `num_images` held-out images, noised `draws` times.
    """
    found, base = experts(), model()
    held_out = images(base, "held_out", num_images, seed)

    def measure(parts: Parts) -> FeatureChange:
        rows = []
        for index, expert in enumerate(found):
            work = partial(_compared, base, expert, held_out, draws, seed, device, batch_size)
            sums = parts(f"expert{index}", work)
            names = dict.fromkeys(name.partition("/")[0] for name in sums)
            rows.append([change_of(name, _below(sums, name), seed) for name in names])
        return {
            "ranges": [[each.range.low, each.range.high] for each in found],
            "num_images": len(held_out),
            "changes": rows,
        }

    passes = 2 * len(found) * draws * len(held_out)
    return Study(passes, base, FeatureChange, measure, draw)


def _below(sums: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {
        key.removeprefix(f"{name}/"): value
        for key, value in sums.items()
        if key.startswith(f"{name}/")
    }


@torch.no_grad()
def _compared(
    base: DenoisingModel,
    expert: Expert,
    images: Images | EncodedDataset,
    draws: int,
    seed: int,
    device: str,
    batch_size: int,
) -> dict[str, Tensor]:
    """Return the sums of every block over the same x_t of an expert's range, <block>/<sum>."""
    finetuned, seen = expert.load(), 0
    sums: dict[str, BlockSums] = {}
    triples = fixed_triples(images, [expert.range], draws, seed)
    batches = noised(triples, base.schedule, base.prediction_type, device, batch_size)
    with progress(f"features in {expert.range}", triples.t.numel(), "images") as bar:
        for _, x_t, t, _, condition in batches:
            before, after = (
                _features(bind_condition(each, condition), each, x_t, t)
                for each in (base, finetuned)
            )
            rows = torch.arange(seen, seen + len(t)) % len(images)
            for name in before:
                of_block = sums.setdefault(name, BlockSums(len(images), before[name].shape[1]))
                of_block.update(before[name], after[name], rows)
            seen += len(t)
            bar.advance(len(t))
    ordered = [name for name in named_blocks(base.network) if name in sums]
    return {f"{name}/{key}": value for name in ordered for key, value in vars(sums[name]).items()}


def _features(
    network: Callable[[Tensor, Tensor], Tensor], model: DenoisingModel, x_t: Tensor, t: Tensor
) -> dict[str, Tensor]:
    """Return what every block gives, the main path of those that give skip tensors, too."""
    found: dict[str, Tensor] = {}

    def keep(name: str, _: nn.Module, __: object, output: Tensor | tuple[Tensor, ...]) -> None:
        found[name] = output[0] if isinstance(output, tuple) else output

    hooks = [
        block.register_forward_hook(partial(keep, name))
        for name, block in named_blocks(model.network).items()
    ]
    try:
        network(x_t, t)
    finally:
        for hook in hooks:
            hook.remove()
    return found


class BlockSums:
    """Sums over the features of a block before (F) and after (F + D), [B, C, H, W].

    `energy` [5, M]: of each image the squared length of F, of D, and of three orthogonal parts of
    D: its mean over places, which is one number per channel; its mean over channels less that over
    all, one number per place; and the rest. `gram`, `cross` [2, C, C] and `square` [2]: sums of
    F F', D F' and D D over places, of images with even and odd numbers.
    """

    def __init__(self, num_images: int, channels: int) -> None:
        self.energy = torch.zeros(5, num_images, dtype=torch.float64)
        self.gram = torch.zeros(2, channels, channels, dtype=torch.float64)
        self.cross = torch.zeros(2, channels, channels, dtype=torch.float64)
        self.square = torch.zeros(2, dtype=torch.float64)
        self.places = torch.zeros((), dtype=torch.float64)

    def update(self, before: Tensor, after: Tensor, rows: Tensor) -> None:
        """Add the images `rows` [B]."""
        f, d = before.flatten(2).double().cpu(), (after - before).flatten(2).double().cpu()
        channels, places = d.shape[1:]
        self.places.fill_(places)
        of_channel, of_place = d.mean(2), d.mean(1) - d.mean((1, 2))[:, None]
        channel, space = (places * of_channel.square().sum(1), channels * of_place.square().sum(1))
        total = d.square().sum((1, 2))
        energies = [f.square().sum((1, 2)), total, channel, space, total - channel - space]
        self.energy.index_add_(1, rows, torch.stack(energies))
        for half in range(2):
            ours = rows % 2 == half
            flat_f, flat_d = (each[ours].movedim(1, 0).flatten(1) for each in (f, d))  # [C, n]
            self.gram[half] += flat_f @ flat_f.T
            self.cross[half] += flat_d @ flat_f.T
            self.square[half] += flat_d.square().sum()


def change_of(name: str, sums: Mapping[str, Tensor], seed: int = 0) -> BlockChange:
    """Return how much of a block's change is per channel, per place, and a channel projection's."""
    energy, (channels, places) = sums["energy"], (len(sums["gram"][0]), int(sums["places"]))
    before, total, *parts = energy.sum(1).tolist()
    resampled = torch.stack(
        [energy @ resample_counts(seed, r, energy.shape[1]).double() for r in range(NUM_RESAMPLES)]
    )
    spread = (resampled[:, 2:] / resampled[:, 1:2].clamp_min(1e-300)).std(0).tolist()
    count = channels * places
    chance = [channels, places - 1, (channels - 1) * (places - 1)]
    return {
        "block": name,
        "channels": channels,
        "places": places,
        "relative": (total / before) ** 0.5 if before else 0.0,
        "shares": [part / total if total else 0.0 for part in parts],
        "standard_errors": spread,
        "chance": [each / count for each in chance],
        "explained": _explained(sums),
    }


def _explained(sums: Mapping[str, Tensor]) -> float:
    """Return the share of the change D that W F explains, at images that W was not fitted to.

    W [C, C] is fitted by least squares to one half of the images and tested on the other, both
    ways; negative if it is worse there than no change at all.
    """
    gram, cross, square = sums["gram"], sums["cross"], sums["square"]
    left = 0.0
    for fitted, judged in ((0, 1), (1, 0)):
        ridge = RIDGE * gram[fitted].diagonal().mean() * torch.eye(len(gram[0])).double()
        w = torch.linalg.solve(gram[fitted] + ridge, cross[fitted].T).T
        agreement = float((w * cross[judged]).sum())
        length = float(((w @ gram[judged]) * w).sum())
        left += float(square[judged]) - 2 * agreement + length
    total = float(square.sum())
    return 1 - left / total if total else 0.0
