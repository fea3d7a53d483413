"""NashMTL: task weights from the Nash bargaining solution between task gradients.

Navon et al. 2022, eq. 3.
"""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from deme.methods.balancing import Balancing
from deme.system import logger

MAX_CONDITION = 1e9  # of the gradients' cosine matrix: a ridge is added above it
MAX_WEIGHT = 1e4  # of a unit-length gradient, where the ridge was needed
SMALL_DECREMENT = 1e-4  # of Newton's method, below which convergence is quadratic
MAX_ITERATIONS = 200


@dataclass(frozen=True)
class Bargain:
    """Task weights alpha [k] with (G G^T) alpha = 1 / alpha, and how they were found.

    `residual` is the largest |(C beta)_j - 1 / beta_j| for the weights beta of the unit-length
    gradients, `ridge` what was added to the diagonal of their cosine matrix C (0 if it is well
    conditioned), `scale` the factor that caps the solution, `idle` the number of tasks without a
    gradient.
    """

    alpha: Tensor
    residual: float
    ridge: float
    scale: float
    idle: int


def bargain(gram: Tensor) -> Bargain:
    """Solve (G G^T) alpha = 1 / alpha, alpha > 0, for a Gram matrix [k, k], in float64.

    alpha = beta / ||g|| turns it into C beta = 1 / beta with the cosine matrix C, whatever the
    lengths of the gradients. Its solution minimises 0.5 beta^T C beta - sum log beta, a
    self-concordant function, on which Newton steps of length 1 / (1 + decrement) converge from
    anywhere and stay positive. Where the condition number of C exceeds MAX_CONDITION (gradients
    that cancel exactly have no solution), the smallest ridge that suffices is added, and beta is
    scaled as a whole to at most MAX_WEIGHT, which keeps the proportions by which opposed gradients
    cancel. Tasks without a gradient are left out and get the smallest of the others' weights.
    Raises ValueError for a matrix that is not finite.
    """
    gram = (gram.double() + gram.double().T) / 2
    if not bool(torch.isfinite(gram).all()):
        raise ValueError("the Gram matrix of the task gradients is not finite")
    length = gram.diagonal().clamp_min(0).sqrt()
    active = length > 0
    alpha = torch.ones(len(gram), dtype=torch.float64)
    if not bool(active.any()):
        return Bargain(alpha, 0.0, 0.0, 1.0, len(gram))
    inner = length[active]
    cosine = gram[active][:, active] / inner[:, None] / inner[None, :]
    eigenvalues = torch.linalg.eigvalsh(cosine)
    least, most = float(eigenvalues[0]), float(eigenvalues[-1])
    ridge = max(0.0, (most - MAX_CONDITION * least) / (MAX_CONDITION - 1))
    cosine = cosine + ridge * torch.eye(len(cosine), dtype=torch.float64)

    beta = _newton(cosine)
    residual = float((cosine @ beta - 1 / beta).abs().max())
    scale = min(1.0, MAX_WEIGHT / float(beta.max())) if ridge else 1.0
    alpha[active] = scale * beta / inner
    alpha[~active] = alpha[active].min()
    return Bargain(alpha, residual, ridge, scale, int((~active).sum()))


def _newton(cosine: Tensor) -> Tensor:
    """Return beta > 0 with C beta = 1 / beta to rounding."""
    one = torch.eye(len(cosine), dtype=torch.float64)
    beta, previous = torch.ones(len(cosine), dtype=torch.float64), math.inf
    for _ in range(MAX_ITERATIONS):
        excess = beta * (cosine @ beta) - 1
        # relative to beta
        step = torch.linalg.solve(beta[:, None] * cosine * beta[None, :] + one, -excess)
        decrement = math.sqrt(max(0.0, -float(excess @ step)))
        rounding = decrement < SMALL_DECREMENT and decrement > previous / 2  # no longer quadratic
        if decrement == 0 or rounding:
            break
        beta = beta * (1 + (step if decrement < 0.25 else step / (1 + decrement)))
        previous = decrement
    return beta


class NashMTL(Balancing):
    """The update sum_j alpha_j g_j / k of the Nash bargaining solution.

    Weights are computed anew every `refresh_every` batches. The sum is divided by k, as in ANT; the
    update at a refresh has norm 1 / sqrt(k).
    """

    uses_gradients = True

    def __init__(self, num_tasks: int, refresh_every: int = 25) -> None:
        super().__init__(num_tasks)
        if refresh_every < 1:
            raise ValueError(f"balancing.refresh_every must be at least 1, got {refresh_every}")
        self.refresh_every = refresh_every
        self.alpha = nn.Buffer(torch.ones(num_tasks, dtype=torch.float64))
        self.batches = nn.Buffer(torch.tensor(0))
        self.found = nn.Buffer(torch.zeros(3, dtype=torch.float64))  # residual, ridge, idle
        self._warned: set[str] = set()

    def weights(self) -> Tensor:
        return self.alpha / self.num_tasks

    def wants_gradients(self) -> bool:
        due = int(self.batches) % self.refresh_every == 0
        self.batches.add_(1)
        return due

    def observe(self, gram: Tensor, generator: Generator) -> None:
        deal = bargain(gram)
        self.alpha.copy_(deal.alpha)
        self.found.copy_(torch.tensor([deal.residual, deal.ridge, deal.idle], dtype=torch.float64))
        if deal.idle:
            self._warn(
                "nash/idle", f"{deal.idle} tasks have no gradient and get the smallest weight"
            )
        if deal.ridge:
            capped = f", weights scaled by {deal.scale:.2g}" if deal.scale < 1 else ""
            self._warn(
                "nash/ridge", f"task gradients depend on each other: ridge {deal.ridge:.2g}{capped}"
            )

    def _warn(self, metric: str, text: str) -> None:
        """Warn once of each condition; the training curve has all of its values."""
        if metric not in self._warned:
            self._warned.add(metric)
            where = f"NashMTL, batch {int(self.batches)}"
            logger.warning("%s: %s (warned once; metrics.jsonl has %s)", where, text, metric)

    def report(self) -> dict[str, float]:
        return dict(
            zip(("nash/residual", "nash/ridge", "nash/idle"), self.found.tolist(), strict=True)
        )
