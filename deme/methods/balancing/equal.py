"""Equal weights: the mean of the task losses, the control for every other balancing."""

from deme.methods.balancing import Balancing


class Equal(Balancing):
    """Weight 1 / k for each of the k tasks."""
