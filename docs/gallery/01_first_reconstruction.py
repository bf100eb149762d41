"""
First reconstruction
====================

This example reads a scan, reconstructs it with a method that is chosen for the data, and compares the image with the
fully sampled one.
"""

# %%
# Read the scan
# -------------
#
# ``read`` recognizes the format by the content of the file. Values are read when they are needed.

import matplotlib.pyplot as plt
import numpy as np

from mrirecon import read, reconstruct

scan = read("../../data_samples/brain_4x.h5")
print(f"{scan.format}: {scan.shape}")
print(f"{scan.mask(0).mean():.0%} of k-space was measured")

# %%
# Reconstruct it
# --------------
#
# Without a method, the scan decides: the shipped CIRIM if its card covers the data, and compressed sensing otherwise.
# With ``items``, only the second of its three slices is reconstructed.

result = reconstruct(scan, items="1")
print(f"{result.method}: {result.why}")
print(f"coil maps: {result.maps}")
print(f"images: {result.images.shape}, {result.images.dtype}")

# %%
# Other methods are named. ``zero-filled`` sets the missing samples to zero, which shows what the undersampling does;
# ``cs`` needs no training.

images = {
    "zero-filled": reconstruct(scan, method="zero-filled", items="1").images,
    "cs": reconstruct(scan, method="cs", items="1").images,
    result.method: result.images,
}

# %%
# Compare it
# ----------
#
# The sample scan comes with its fully sampled version. The score has one least-squares scale, and counts the pixels of
# the object only.

from mrirecon.metrics import score

reference = read("../../data_samples/brain_full.h5").reference[1]
white = np.percentile(reference, 99.8)

figure, axes = plt.subplots(2, 4, figsize=(11, 7), layout="constrained")
axes[0, 0].imshow(reference, cmap="gray", vmax=white)
axes[0, 0].set_title("fully sampled")
axes[1, 0].imshow(scan.mask(1), cmap="gray")
axes[1, 0].set_title("measured samples")
for (name, stack), above, below in zip(images.items(), axes[0, 1:], axes[1, 1:], strict=True):
    one = score(stack[1], reference)
    magnitude = np.abs(stack[1]) * one.scale
    above.imshow(magnitude, cmap="gray", vmax=white)
    above.set_title(f"{name}\nSSIM {one.ssim:.3f}, {one.psnr:.1f} dB")
    below.imshow(np.abs(magnitude - reference), cmap="gray", vmax=white / 5)
    below.set_title("error × 5")
for one in axes.flat:
    one.axis("off")
plt.show()

# %%
# From the command line
# ---------------------
#
# The same with files, where each image gets a sidecar with command, versions, maps and weights:
#
# .. code-block:: bash
#
#    mrirecon reconstruct data_samples/brain_4x.h5 -o image.h5
#    mrirecon evaluate image.h5 data_samples/brain_full.h5
