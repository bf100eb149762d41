"""
Coil maps compared
==================

Coil maps are the part of the model that is most often wrong. This example estimates
them in several ways from the same calibration region, and compares them with the true
ones, which a simulation knows.
"""

# %%
# A scan with known maps
# ----------------------

import matplotlib.pyplot as plt
import numpy as np
import torch

from mrirecon.data.phantom import phantom
from mrirecon.data.simulate import simulate_kspace
from mrirecon.physics.operators import root_sum_of_squares

shape = (160, 128)
simulated = simulate_kspace(phantom(shape, 1, 0)[0], coils=8, snr=40.0, seed=0)
kspace = torch.from_numpy(simulated.kspace)[None]
truth = torch.from_numpy(simulated.maps)[None, None]
truth = truth / root_sum_of_squares(truth, 2, keepdim=True)
inside = np.abs(simulated.image) > 0.05 * np.abs(simulated.image).max()

# %%
# Three calibrations
# ------------------
#
# All of them see the central 24 × 24 samples only.

from mrirecon.coils.registry import CALIBRATIONS

y, x = (n // 2 for n in shape)
region = kspace[:, :, y - 12 : y + 12, x - 12 : x + 12]
estimates = {}
for name in ("espirit", "walsh", "sigpy"):
    result = CALIBRATIONS[name].build(region, shape)
    estimates[name] = getattr(result, "maps", result)

# %%
# Maps have an arbitrary phase in each pixel, the same for all coils. So they are compared
# by the length of their projection onto the true maps: 1 where they agree up to that
# phase.


def agreement(maps: torch.Tensor) -> np.ndarray:
    """Return |⟨S, S_true⟩| / ‖S‖ of every pixel; 0 without a map."""
    length = root_sum_of_squares(maps, 2).clamp_min(1e-6)
    return ((maps.conj() * truth).sum(2).abs() / length)[0, 0].numpy()


figure, axes = plt.subplots(2, 4, figsize=(13, 7), layout="constrained")
axes[0, 0].imshow(truth[0, 0, 2].abs(), cmap="viridis", vmin=0, vmax=1)
axes[0, 0].set_title("true map of coil 3")
axes[1, 0].imshow(np.abs(simulated.image), cmap="gray")
axes[1, 0].set_title("object")
for (name, maps), above, below in zip(
    estimates.items(), axes[0, 1:], axes[1, 1:], strict=True
):
    error = 1 - agreement(maps)
    above.imshow(maps[0, 0, 2].abs(), cmap="viridis", vmin=0, vmax=1)
    above.set_title(name)
    shown = below.imshow(np.where(inside, error, np.nan), cmap="magma", vmin=0, vmax=1e-3)
    below.set_title(f"1 − agreement, median {np.median(error[inside]):.1e}")
figure.colorbar(shown, ax=axes[1, :], shrink=0.8)
for one in axes.flat:
    one.axis("off")
plt.show()

# %%
# What a wrong map does
# ---------------------
#
# The residual that remains after projecting the coil images onto the maps should be
# noise. Where it shows the object, the maps do not explain the data, and no method can
# repair that later. Walsh's method averages the images of the calibration region over
# blocks of pixels, and is wrong at the rim of the head, where these images ring.

from mrirecon.physics.operators import Coils, Fourier

images = Fourier().adjoint(kspace)
level = float(np.sqrt(np.trace(simulated.noise_covariance).real))
figure, axes = plt.subplots(1, 4, figsize=(12, 3.8), layout="constrained")
for (name, maps), axis in zip({"true": truth, **estimates}.items(), axes, strict=True):
    unit = maps / root_sum_of_squares(maps, 2, keepdim=True).clamp_min(1e-6)
    left_over = root_sum_of_squares(images - Coils(unit)(Coils(unit).adjoint(images)), 1)[
        0
    ]
    shown = axis.imshow(left_over / level, cmap="gray", vmin=0, vmax=3)
    axis.set_title(
        f"{name}: {float(left_over[torch.from_numpy(inside)].mean()) / level:.2f}"
    )
    axis.axis("off")
figure.colorbar(shown, ax=axes, shrink=0.8)
figure.suptitle(
    "not explained by the maps, in units of the noise (and its mean in the object)"
)
plt.show()
