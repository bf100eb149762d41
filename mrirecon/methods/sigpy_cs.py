"""Define compressed sensing by sigpy, for comparison. sigpy is imported when the method runs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mrirecon.engine import Schedule, Step
from mrirecon.errors import UsageError
from mrirecon.methods.options import Iterations, Lam
from mrirecon.methods.registry import register
from mrirecon.physics.problem import Problem


class SigpyState(NamedTuple):
    """Hold the image, and sigpy's solver of each item."""

    x: Tensor  # (B, 1, *space)
    solvers: list[Any]


class SigpyL1Wavelet(Step[SigpyState]):
    """Take one iteration of `sigpy.mri.app.L1WaveletRecon`: FISTA for ½‖A x − y‖² + λ‖W x‖₁ with db4 wavelets."""

    needs_cartesian = "sigpy gets Cartesian samples"
    takes_initial_image = False

    def __init__(self, lam: float, iterations: int) -> None:
        super().__init__()
        self.lam, self.iterations = lam, iterations

    def init(self, p: Problem) -> SigpyState:
        """Create the solvers, starting at zero."""
        if p.maps.shape[1] > 1:
            raise UsageError(
                "sigpy-cs supports only one set of maps",
                why=f"the problem has {p.maps.shape[1]}",
                fix="omit --map-sets, or use --method cs",
            )
        return SigpyState(
            torch.zeros_like(p.adjoint), [self._solver(y, s[0]) for y, s in zip(p.y, p.maps, strict=True)]
        )

    def _solver(self, y: Tensor, maps: Tensor) -> Any:
        """Return sigpy's solver of one item."""
        import sigpy.mri

        # sigpy's power method uses NumPy's global random generator: seed it equally for every item.
        before = np.random.get_state()  # noqa: NPY002
        np.random.seed(0)  # noqa: NPY002
        try:
            return sigpy.mri.app.L1WaveletRecon(
                y.cpu().numpy(), maps.cpu().numpy(), self.lam, max_iter=self.iterations, show_pbar=False
            )
        finally:
            np.random.set_state(before)  # noqa: NPY002

    def forward(self, s: SigpyState, p: Problem) -> SigpyState:
        """Update each item that is not finished."""
        for app in s.solvers:
            if not app.alg.done():
                app.alg.update()
        x = torch.from_numpy(np.stack([app.alg.x for app in s.solvers])[:, None])
        return SigpyState(x.to(p.adjoint), s.solvers)


@register(map_sets=1)
def sigpy_cs(*, lam: Lam = 0.005, iterations: Iterations = 100) -> Schedule[SigpyState]:
    """Compressed sensing with wavelets by sigpy, for comparison."""
    return Schedule([SigpyL1Wavelet(lam, iterations)], iterations)
