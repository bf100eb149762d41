"""
Uncertainty and trust
=====================

Without a fully sampled reference, which part of an image is measured, and which is
assumed? This example computes the measures of ``mrirecon trust`` for three methods.
"""

# %%
# Five measures
# -------------
#
# ``examine`` reconstructs one slice several times: with added noise of the measured
# covariance, and without some of the measured samples. Six replicas show the idea; for a
# figure that is reported, use the 64 of the command.

import matplotlib.pyplot as plt
import numpy as np

from mrirecon import read, reconstruct
from mrirecon.evaluation.trust import examine

scan = read("../../data_samples/brain_4x.h5")
methods = ("zero-filled", "sense", "cs")
measures = {name: examine(scan, 1, method=name, replicas=6) for name in methods}

print(f"{'':12s} residual  noise in it  hidden samples  null space")
for name, one in measures.items():
    known = f"{one.residual:8.3f}  {one.noise_share:11.3f}  {one.held_out:14.3f}"
    print(f"{name:12s} {known}  {one.null_share:10.3f}")

# %%
# * The **residual** of zero filling is above the noise: its image does not explain its
#   own data.
# * **Hidden samples** were withheld and predicted. Zero filling predicts little of them.
# * The share of the **null space** is the energy that no measured sample supports.
#
# Where the image comes from
# --------------------------

kspace, mask = scan.kspace(1), scan.mask(1)
images = {
    name: np.abs(reconstruct(kspace, mask=mask, method=name).image) for name in methods
}
white = np.percentile(images["cs"], 99.8)
noise = max(float(np.percentile(one.noise, 99)) for one in measures.values())
figure, axes = plt.subplots(3, 3, figsize=(9, 10.5), layout="constrained")
for column, (name, one) in enumerate(measures.items()):
    axes[0, column].imshow(images[name], cmap="gray", vmax=white)
    axes[0, column].set_title(name)
    axes[1, column].imshow(one.noise, cmap="magma", vmin=0, vmax=noise)
    axes[1, column].set_title("noise")
    axes[2, column].imshow(one.null_space, cmap="magma", vmin=0, vmax=white / 4)
    axes[2, column].set_title("null space × 4")
for one in axes.flat:
    one.axis("off")
plt.show()

# %%
# Zero filling has little noise and no null space: it adds nothing to the data, and leaves
# out what was not measured. SENSE solves for the image that explains the data, and
# amplifies their noise. Compressed sensing has less noise than SENSE inside the brain,
# and the largest null space: it fills in what was not measured. That makes its image
# better here. But the image does not show which part was filled in, so little noise does
# not mean little error.
#
# Is it right?
# ------------
#
# This scan has a reference, so the measures can be compared with the true error.

from mrirecon.metrics import score

reference = read("../../data_samples/brain_full.h5").reference[1]
figure, axes = plt.subplots(1, 3, figsize=(9, 4), layout="constrained")
for (name, image), axis in zip(images.items(), axes, strict=True):
    one = score(image, reference)
    axis.imshow(np.abs(image * one.scale - reference), cmap="magma", vmax=white / 4)
    axis.set_title(f"true error × 4, {name}\nNMSE {one.nmse:.4f}")
    axis.axis("off")
plt.show()
