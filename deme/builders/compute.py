"""Where and how precisely to compute, from the `compute` group."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deme.data import EncodedDataset, Images
from deme.diffusion import EMPTY_CONDITION, Condition, Network, bind_condition
from deme.models.denoiser import DenoisingModel
from deme.runs import ComputeSettings
from deme.system import BadConfig, first_line, processes

# The dtype that autocast casts to; weights stay float32.
PRECISIONS = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass(frozen=True)
class Compute:
    """Where and how precisely to compute."""

    accelerator: str
    precision: str
    device: str
    compile: bool = False
    channels_last: bool = False
    gradient_checkpointing: bool = False

    @property
    def dtype(self) -> torch.dtype | None:
        """The dtype that autocast casts to, None in float32."""
        return PRECISIONS[self.precision]

    @classmethod
    def of(cls, settings: ComputeSettings, rank: int | None = None) -> "Compute":
        """Choose the device and set the number of threads.

        Process `rank` of several (default: its local rank in torchrun or srun) has its own GPU.
        Raises BadConfig for a GPU that is not there.
        """
        gpu = settings.accelerator == "gpu"
        if gpu and not torch.cuda.is_available():
            raise BadConfig(
                "compute.accelerator=gpu, but torch sees no GPU here\ntype: compute=cpu"
            )
        torch.backends.cudnn.allow_tf32 = False  # features and held-out losses are real float32
        if settings.threads:
            torch.set_num_threads(settings.threads)
        rank = processes.world().local_rank if rank is None else rank
        return cls(
            settings.accelerator,
            settings.precision,
            f"cuda:{rank % torch.cuda.device_count()}" if gpu else "cpu",
            settings.compile,
            settings.channels_last,
            settings.gradient_checkpointing,
        )

    def prepare_for_training(
        self,
        model: DenoisingModel,
        images: Images | EncodedDataset,
        batch_size: int,
        seed: int,
        teacher: nn.Module | None,
    ) -> None:
        """Make a model and its teacher ready to train, in place; the names of weights stay plain.

        Raises WorkFailed for compiled gradients that differ from eager ones.
        """
        model.train()  # compiling depends on the mode
        if self.gradient_checkpointing:
            model.network.enable_gradient_checkpointing()
        if self.channels_last:
            for network in (model, teacher):
                if network is not None:
                    network.to(memory_format=torch.channels_last)
        if self.compile:
            from deme.training.compiled import compile_checked, make_batch

            rows = max(1, batch_size // processes.world().size)
            batch = make_batch(model.to(self.device), images, rows, self.device, self.dtype, seed)
            compile_checked(model, batch, teacher)

    def network(self, model: nn.Module) -> Network:
        """Return the model as a network for sampling, compiled and cast as asked for.

        Its predictions are float32.
        """
        if self.channels_last:
            model.to(memory_format=torch.channels_last)
        if self.compile:
            model.compile()
        if (dtype := self.dtype) is None:
            return model

        def cast(x_t: Tensor, t: Tensor, condition: Condition = EMPTY_CONDITION) -> Tensor:
            with torch.autocast(self.device.partition(":")[0], dtype):
                prediction: Tensor = bind_condition(model, condition)(x_t, t)
            return prediction.float()

        return cast


def try_optimizer(
    factory: Callable[[list[dict[str, object]]], torch.optim.Optimizer],
) -> None:
    """Raise BadConfig if the optimizer refuses its settings, before any work starts."""
    try:
        factory([{"params": [nn.Parameter(torch.zeros(1))]}])
    except (TypeError, ValueError, IndexError) as error:
        raise BadConfig(f"optimizer: {first_line(error)}") from error
