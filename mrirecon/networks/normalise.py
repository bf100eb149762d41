"""Instance normalisation that leaves channels where they are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_EPSILON = 1e-5  # torch's, and so fastMRI's


class InstanceNorm(nn.Module):
    """Each channel of each image to mean 0 and variance 1, without parameters (Ulyanov et al., arXiv 1607.08022).

    torch moves channels first for this, and the convolutions that follow run up to four times slower there. Without
    gradients, channels that come last stay last.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, y, x) to the same shape."""
        last = x.movedim(1, -1)
        if torch.is_grad_enabled() or x.device.type != "cpu" or not last.is_contiguous():
            return F.instance_norm(x, eps=_EPSILON)
        if min(x.shape[-2:]) * max(x.shape[-2:]) == 1:
            raise ValueError("one pixel has no spread to normalise by")
        centred = last - self._mean(last)
        spread = (self._mean(centred * centred) + _EPSILON).rsqrt()
        return centred.mul_(spread).movedim(-1, 1)

    @staticmethod
    def _mean(x: Tensor) -> Tensor:
        """Return the mean over y and x of (N, y, x, C) as (N, 1, 1, C): row by row, which keeps rounding small."""
        rows, columns = x.shape[1:3]
        one = x.new_full((1, columns), 1 / columns)
        return (one @ x).sum(1, keepdim=True) / rows
