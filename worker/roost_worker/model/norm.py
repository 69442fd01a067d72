"""The decoder's norm."""

from torch import Tensor
from torch.nn import functional

from roost_worker.model.loader import Weights


class RMSNorm:
    """Root mean square norm (Zhang and Sennrich, 2019) over the last dimension."""

    def __init__(self, weights: Weights, name: str, size: int, eps: float) -> None:
        self.weight = weights.whole(name, (size,))
        self.eps = eps
        self._shape = (size,)

    def __call__(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, self._shape, self.weight, self.eps)
