"""
Masks and point spread functions
================================

A sampling mask decides which errors the undersampling makes. This example draws the
families of masks with their point spread functions: the image of a single bright point,
if missing samples are set to zero.
"""

# %%
# Families
# --------
#
# All masks have the same number of samples, with the calibration region included. A mask
# is a function of its seed, file name and slice: it is the same on every machine.

import matplotlib.pyplot as plt
import numpy as np

from mrirecon.masks import make_mask, point_spread
from mrirecon.masks.registry import drawn_families

shape = (176, 144)
masks = {
    family: make_mask(family, shape, 6, calibration=16, seed=1)
    for family in drawn_families()
}
for result in masks.values():
    print(result.describe())

figure, axes = plt.subplots(2, len(masks), figsize=(13, 6), layout="constrained")
for (family, result), above, below in zip(masks.items(), *axes, strict=True):
    spread, highest = point_spread(result.mask)
    above.imshow(result.mask, cmap="gray")
    above.set_title(f"{family}, {result.acceleration:.2f}-fold")
    below.imshow(20 * np.log10(np.maximum(spread, 1e-3)), cmap="gray", vmin=-60, vmax=0)
    below.set_title(f"highest sidelobe {highest:.2f}")
for one in axes.flat:
    one.axis("off")
figure.suptitle("masks, and their point spread functions from −60 to 0 dB")
plt.show()

# %%
# Equispaced lines fold the object onto itself, in copies that look like the object.
# Random lines spread the same energy over the undersampled axis, where it looks like
# noise. Planes, for a volume with two phase-encoding axes, spread it over two axes: it is
# lower everywhere, which is why a volume can be accelerated more.
#
# What the masks do to an image
# -----------------------------
#
# The fully sampled scan is undersampled in retrospect.

from mrirecon import read
from mrirecon.physics.fourier import to_image

full = read("../../data_samples/brain_full.h5").kspace(1)
figure, axes = plt.subplots(1, len(masks), figsize=(13, 3.4), layout="constrained")
for (family, result), axis in zip(masks.items(), axes, strict=True):
    coils = to_image(full * result.mask, (-2, -1))
    axis.imshow(np.sqrt((np.abs(coils) ** 2).sum(0)), cmap="gray")
    axis.set_title(family)
    axis.axis("off")
plt.show()

# %%
# The masks of other toolkits
# ---------------------------
#
# ``compat`` draws the same mask as fastMRI or mridc, bit for bit, so that results can be
# compared.

fastmri = make_mask(
    "random", (320, 320), 4, compat="fastmri", center_fraction=0.08, name="file1000000.h5"
)
mridc = make_mask("gaussian2d", (320, 320), 8, compat="mridc", seed=0)
for result in (fastmri, mridc):
    print(result.describe())
