"""Validation during training: the loss of held-out images, and a grid of samples.

Every validation uses the same images, timesteps and noise, so that the curve shows changes of the
model only.
"""

from collections.abc import Iterable
from pathlib import Path

from deme.builders import encode_images
from deme.data import EncodedDataset, ImageData, Images, chosen_images
from deme.diffusion import TimestepRange, uniform
from deme.evaluation.measure import loss_rows
from deme.evaluation.preview import preview
from deme.metrics import denoising_loss, fixed_triples
from deme.models.denoiser import DenoisingModel
from deme.runs import HELD_OUT_LOSS, RAW_HELD_OUT_LOSS, TrainSettings, sample_grid, sample_grids
from deme.system import EMA_WEIGHTS, RAW_WEIGHTS, cache_folder
from deme.training.module import DiffusionModule

PARTS = 4  # of the timesteps that are trained, with one draw of each image in each of them
SEED = 0


class Validation:
    """Validate a module in float32, as evaluations do; `trained`: the timestep range of an expert.

    The held-out images are encoded once, in the constructor. Grids of samples are written to
    `folder`/samples by the process that `writes`; with a sharded model, all processes compute.
    """

    def __init__(
        self,
        folder: Path,
        settings: TrainSettings,
        model: DenoisingModel,
        data: ImageData,
        images: Images | EncodedDataset,
        trained: TimestepRange | None,
        device: str,
        writes: bool = True,
    ) -> None:
        self.writes = writes
        self.folder, self.settings, self.images = folder, settings, images
        self.trained, self.device = trained, device
        held_out = chosen_images(data.held_out, settings.progress.validate.num_images, "validation")
        encoded = encode_images(model, held_out, device, cache_folder(settings.paths))
        whole = trained or TimestepRange(0, model.schedule.num_timesteps)
        self.ranges, self.num_timesteps = parts_of_range(whole), len(whole)
        self.triples = fixed_triples(encoded, self.ranges, 1, SEED)

    def __call__(self, module: DiffusionModule, step: int) -> dict[str, float]:
        """Return the losses after `step` optimizer steps, by name; the module is not changed.

        If EMA and raw weights are exported, the first loss and the grid are those of the EMA
        weights, the second loss that of the raw weights.
        """
        found: dict[str, float] = {}
        for kind in sorted(self.settings.exported, key=[EMA_WEIGHTS, RAW_WEIGHTS].index):
            with module.evaluation_mode(averaged=kind == EMA_WEIGHTS) as model:
                found[RAW_HELD_OUT_LOSS if found else HELD_OUT_LOSS] = self._loss(model)
                if len(found) == 1 and self.settings.progress.validate.preview:
                    self._draw(model, step)
        return found

    def _loss(self, model: DenoisingModel) -> float:
        losses = denoising_loss(
            model.not_compiled,  # that is of another mode and batch
            model.schedule,
            model.prediction_type,
            self.triples,
            self.device,
            self.settings.batch_size,
        )
        return float(loss_rows(losses, self.ranges, self.num_timesteps)["loss"].mean())

    def _draw(self, model: DenoisingModel, step: int) -> None:
        """Write a grid, at most one per hundredth of the training, and one at its end."""
        if is_next(step, sample_grids(self.folder), self.settings.num_steps):
            file = sample_grid(self.folder, step)
            preview(file, self.settings, model, self.images, self.trained, self.device, self.writes)


def is_next(step: int, others: Iterable[int], num_steps: int) -> bool:
    """Whether none of the other steps is in the same hundredth of the training."""
    part = 100 * step // num_steps
    return all(other == step or 100 * other // num_steps != part for other in others)


def parts_of_range(whole: TimestepRange) -> list[TimestepRange]:
    """Return a range of timesteps divided into equal parts."""
    parts = uniform(min(PARTS, len(whole)), len(whole))
    return [TimestepRange(whole.low + part.low, whole.low + part.high) for part in parts]
