"""ANT: ranges of timesteps as tasks of one model, balanced by multi-task learning.

Go et al. 2023.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from deme.diffusion import (
    EMPTY_CONDITION,
    Condition,
    ShardedRandom,
    StratifiedSampler,
    TimestepRange,
    TimestepSampler,
    bind_condition,
    rows_of,
)
from deme.methods import single_process
from deme.methods.balancing import Balancing
from deme.methods.finetune import Finetune, weighted_errors
from deme.models.denoiser import DenoisingModel
from deme.system import BadConfig, WorkFailed


class Ant(Finetune):
    """Task loss l_j: the mean denoising loss of the images of the batch with t in range j.

    `balancing` makes one objective of them. Where it uses gradients, each slice of the batch goes
    forward and backward by itself: k passes over B / k images, not k over B. Otherwise the whole
    batch goes through one pass.

    A batch may be distributed over several processes. Each of them weights its images by
    1 / (their number in the whole batch with the same task), times the number of processes, so that
    the mean of task losses, and of gradients, over the processes is that of the whole batch.
    """

    def __init__(
        self,
        weights: Tensor,
        timesteps: TimestepSampler,
        ranges: Sequence[TimestepRange],
        balancing: Balancing | None,
        batch_size: int,
    ) -> None:
        super().__init__(weights, timesteps)
        if balancing is None:
            raise BadConfig("method=ant needs a balancing\ntype: balancing=uncertainty")
        if not isinstance(timesteps, StratifiedSampler):
            raise BadConfig(
                "method=ant takes its tasks from every batch\ntype: timesteps=stratified"
            )
        if batch_size < len(ranges):
            raise BadConfig(
                f"{len(ranges)} tasks need at least one image each, batch_size is {batch_size}\n"
                f"type: batch_size={len(ranges)} or more, or fewer ranges"
            )
        self.ranges = tuple(ranges)
        self.balancing = self.extra_module = balancing
        self.ends = torch.tensor([item.high for item in ranges])
        self.uses_gradients = balancing.uses_gradients
        self._losses, self._num_processes = torch.zeros(len(ranges)), 1

    def losses(
        self,
        model: DenoisingModel,
        x0: Tensor,
        draws: ShardedRandom,
        condition: Condition = EMPTY_CONDITION,
    ) -> dict[str, Tensor]:
        """Return the term `balanced`."""
        timesteps = draws.all_timesteps(self.timesteps)
        tasks = torch.bucketize(timesteps, self.ends, right=True)
        task = draws.own(tasks).to(x0.device)
        x_t, t, target, weight = self.draw(model, x0, draws, draws.own(timesteps))
        self._num_processes = draws.total // len(t)
        counts = tasks.bincount(minlength=len(self.ranges)) / self._num_processes
        if self.balancing.wants_gradients():
            slices = [(task == j).nonzero().flatten() for j in range(len(self.ranges))]
            losses, gradients = task_gradients(
                model, x_t, t, target, weight, slices, condition, counts.tolist()
            )
            self.balancing.observe(self._gram(gradients), draws.generator)
            weights = self.balancing.weights().tolist()
            value = (losses * losses.new_tensor(weights)).sum()
            parameters = list(model.trained_parameters().values())
            objective = with_gradient(value, parameters, combine(gradients, weights))
        else:
            errors = weighted_errors(bind_condition(model, condition)(x_t, t), target, weight)
            members = torch.nn.functional.one_hot(task, len(self.ranges)).to(errors)
            # no matmul, which autocast would round
            losses = (errors[:, None] * members).sum(0) / counts.to(errors)
            objective = self.balancing.objective(losses)
        self._losses = losses.detach()
        return {"balanced": objective}

    def _gram(self, gradients: Sequence[Sequence[Tensor]]) -> Tensor:
        gram = gram_matrix(gradients, all_reduce_sum=self.all_reduce_sum) / self._num_processes**2
        bad = [
            str(item)
            for item, norm in zip(self.ranges, gram.diagonal(), strict=True)
            if not torch.isfinite(norm)
        ]
        if bad:
            raise WorkFailed(
                f"the gradient of the task t in {', '.join(bad)} is NaN or infinite\n"
                "try a smaller optimizer.lr, or look at the data; the last good checkpoint is kept"
            )
        return gram

    def param_groups(self) -> list[dict[str, object]]:
        return self.balancing.param_groups()

    def report(self) -> dict[str, float]:
        """Return the task losses, their weights, and the numbers that the balancing reports."""
        means = self._losses / self._num_processes
        self.all_reduce_sum(means)
        losses, weights = means.tolist(), self.balancing.weights().tolist()
        return {
            **{f"task_loss/{j}": loss for j, loss in enumerate(losses)},
            **{f"task_weight/{j}": weight for j, weight in enumerate(weights)},
            **self.balancing.report(),
        }


def task_gradients(
    model: DenoisingModel,
    x_t: Tensor,
    t: Tensor,
    target: Tensor,
    weight: Tensor,
    slices: Sequence[Tensor],
    condition: Condition = EMPTY_CONDITION,
    counts: Sequence[float] | None = None,
) -> tuple[Tensor, list[list[Tensor]]]:
    """Return the weighted loss of each slice, [k], and its gradients, [k][parameters].

    It is the sum over the slice divided by its entry of `counts` (default: a mean), and 0 for an
    empty slice.
    """
    parameters = list(model.trained_parameters().values())
    losses, gradients = [], []
    for rows, count in zip(slices, counts or map(len, slices), strict=True):
        if not len(rows):
            gradients.append([torch.zeros_like(parameter) for parameter in parameters])
            losses.append(x_t.new_zeros(()))
            continue
        network = bind_condition(model, rows_of(condition, rows))
        errors = weighted_errors(network(x_t[rows], t[rows]), target[rows], weight[rows])
        loss = errors.mean() if count == len(rows) else errors.sum() / count
        gradients.append(list(torch.autograd.grad(loss, parameters, materialize_grads=True)))
        losses.append(loss.detach())
    return torch.stack(losses), gradients


def gram_matrix(
    gradients: Sequence[Sequence[Tensor]],
    chunk: int = 65536,
    all_reduce_sum: Callable[[Tensor], None] = single_process,
) -> Tensor:
    """Return the inner products of k gradients, [k, k] float64 on the CPU.

    They are summed in float64, `chunk` elements at a time; `all_reduce_sum` replaces elements [k,
    chunk] by their sums over several processes, in place.
    """
    k, device = len(gradients), gradients[0][0].device
    total = torch.zeros(k, k, dtype=torch.float64, device=device)
    for parts in zip(*gradients, strict=True):
        for chunks in zip(*(part.flatten().split(chunk) for part in parts), strict=True):
            rows = torch.stack(chunks)
            all_reduce_sum(rows)
            rows = rows.double()
            total += rows @ rows.T
    return total.cpu()


def combine(gradients: Sequence[Sequence[Tensor]], weights: Sequence[float]) -> list[Tensor]:
    """Return the weighted sum of k gradients, parameter by parameter."""
    sums = [torch.zeros_like(part) for part in gradients[0]]
    for weight, parts in zip(weights, gradients, strict=True):
        for total, part in zip(sums, parts, strict=True):
            total.add_(part, alpha=weight)
    return sums


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value, gradients, *parameters):  # type: ignore[no-untyped-def]
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx, scale):  # type: ignore[no-untyped-def]
        return (None, None, *(gradient * scale for gradient in ctx.gradients))


def with_gradient(
    value: Tensor, parameters: Sequence[Tensor], gradients: Sequence[Tensor]
) -> Tensor:
    """Return a scalar equal to `value` whose gradient is `gradients`.

    Accumulation over batches and clipping stay the trainer's, however the gradients were computed.
    """
    return _WithGradient.apply(value, list(gradients), *parameters)
