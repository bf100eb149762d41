r"""
Compressed sensing by hand
==========================

This example writes compressed sensing out with the operators of mrirecon, without its
solvers:

.. math::

    \hat{x} = \operatorname{argmin}_x \tfrac{1}{2} \| A x - y \|^2 + \lambda \| W x \|_1,
    \qquad A = M F S
"""

# %%
# The operators
# -------------
#
# A problem holds k-space ``y`` (batch, coil, y, x), the mask, and the coil maps (batch,
# set, coil, y, x). The maps are estimated from the fully sampled centre of k-space.

import matplotlib.pyplot as plt
import numpy as np
import torch

from mrirecon import Problem, espirit, read
from mrirecon.physics.operators import Coils, Fourier, Mask, inner
from mrirecon.physics.wavelets import Wavelet

scan = read("../../data_samples/brain_4x.h5")
y = torch.from_numpy(scan.kspace(1))[None]
mask = torch.from_numpy(scan.mask(1))[None, None].float()
maps = torch.from_numpy(espirit(scan.kspace(1), sets=1).maps)[None]

A = Mask(mask) @ Fourier((-2, -1)) @ Coils(maps)

# %%
# An adjoint is right if :math:`\langle A x, y \rangle = \langle x, A^H y \rangle` for any
# two arrays. A wrong sign or shift would make the iteration below converge to something
# else, without an error.

generator = torch.Generator().manual_seed(0)
a = torch.randn(1, 1, *scan.space_shape, dtype=torch.complex64, generator=generator)
b = torch.randn(y.shape, dtype=torch.complex64, generator=generator)
print(f"<A a, b>   = {inner(A(a), b).item():.3f}")
print(f"<a, A^H b> = {inner(a, A.adjoint(b)).item():.3f}")

# %%
# ``Problem`` has the same operator, and computes :math:`A^H (A x - y)` faster: without
# shifts of the Fourier transform, and over one axis only if the others are fully sampled.

problem = Problem(y, mask, maps).prepared()
difference = (
    problem.gradient(a) - (A.adjoint(A(a)) - A.adjoint(y))
).abs().max() / problem.gradient(a).abs().max()
print(f"relative difference of the gradients: {difference:.1e}")

# %%
# The iteration
# -------------
#
# FISTA takes a gradient step at an extrapolated point, and shrinks the wavelet details.
# The step is 1 over the largest eigenvalue of :math:`A^H A`, which ``problem.lipschitz``
# bounds. The approximation coefficients, in the corner of the transform, are not sparse,
# so they are kept.

W = Wavelet(ndim=2, wavelet="db4")
lam = 0.003 * problem.adjoint.abs().quantile(0.99)
rows, columns = W.shapes(scan.space_shape)[-1]


def shrink(w: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """Soft-threshold the wavelet details."""
    out = w * (1 - threshold / w.abs().clamp_min(1e-20)).clamp_min(0)
    out[..., :rows, :columns] = w[..., :rows, :columns]
    return out


def objective(x: torch.Tensor) -> float:
    """Return the value of the objective."""
    details = W(x).abs()
    details[..., :rows, :columns] = 0
    return float(problem.data_term(x) + lam * details.sum())


x = z = problem.adjoint
t, values, changes = 1.0, [], []
for _ in range(40):
    new = W.adjoint(
        shrink(W(z - problem.gradient(z) / problem.lipschitz), lam / problem.lipschitz)
    )
    t_new = (1 + (1 + 4 * t * t) ** 0.5) / 2
    z = new + (t - 1) / t_new * (new - x)
    changes.append(float((new - x).norm() / new.norm()))
    x, t = new, t_new
    values.append(objective(x))

figure, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
axes[0].plot(values)
axes[0].set(xlabel="iteration", title="objective")
axes[1].semilogy(changes)
axes[1].set(xlabel="iteration", title="relative change of the image")
plt.show()

# %%
# Compared with the method ``cs``
# -------------------------------
#
# The method ``cs`` is the same iteration with two additions: it shifts the wavelets' grid
# at random in every iteration, which removes block artefacts, and draws one of several
# wavelets. It also chooses the weight from the noise.

from mrirecon import build
from mrirecon.metrics import score

library = build("cs", {"lam": 0.003})(problem)
reference = read("../../data_samples/brain_full.h5").reference[1]

shown = {"zero-filled": problem.adjoint, "by hand": x, 'method "cs"': library}
figure, axes = plt.subplots(2, 3, figsize=(9, 7.2), layout="constrained")
for (title, image), above, below in zip(shown.items(), *axes, strict=True):
    magnitude = image[0, 0].abs().numpy()
    result = score(magnitude, reference)
    above.imshow(
        magnitude * result.scale, cmap="gray", vmax=np.percentile(reference, 99.8)
    )
    above.set_title(f"{title}\nSSIM {result.ssim:.3f}, {result.psnr:.1f} dB")
    below.imshow(
        np.abs(magnitude * result.scale - reference),
        cmap="gray",
        vmax=np.percentile(reference, 99.8) / 5,
    )
    below.set_title("error × 5")
for one in axes.flat:
    one.axis("off")
plt.show()

# sphinx_gallery_thumbnail_number = 2
