"""
First reconstruction
====================

This example reads a scan, reconstructs one of its slices with a method that is chosen
for the data, and compares the image with the fully sampled one.
"""

# %%
# Read the scan
# -------------
#
# ``read`` recognizes the format by the content of the file. Values are read when they are
# needed.

import matplotlib.pyplot as plt
import numpy as np

import mrirecon as mr

scan = mr.read("../../data_samples/brain_4x.h5")
kspace, mask = scan.kspace(1), scan.mask(1)
print(f"{scan.format}: {scan.shape}")
print(f"the second slice: {kspace.shape}, {kspace.dtype}")
print(f"measured: {mask.mean():.0%}")

# %%
# Reconstruct it
# --------------
#
# ``reconstruct`` takes the whole scan, or arrays: k-space (coil, y, x) and the mask (y,
# x), from any source. Without a method, the data decide: the shipped CIRIM if its card
# covers them, and compressed sensing otherwise. A notebook shows the result by itself.

result = mr.reconstruct(kspace, mask=mask)
result

# %%
# Other methods are named. ``zero-filled`` sets the missing samples to zero, which shows
# what the undersampling does; ``cs`` needs no training.

images = {
    name: mr.reconstruct(kspace, mask=mask, method=name).image
    for name in ("zero-filled", "cs")
}
images[result.method] = result.image

# %%
# Compare it
# ----------
#
# The sample scan comes with its fully sampled version. The score is that of the pixels
# inside the object, after the image is scaled to the reference by least squares.

reference = mr.read("../../data_samples/brain_full.h5").reference[1]
mr.evaluate(result.image, reference)

# %%
# All images side by side:

white = np.percentile(reference, 99.8)
figure, axes = plt.subplots(2, 4, figsize=(11, 7), layout="constrained")
axes[0, 0].imshow(reference, cmap="gray", vmax=white)
axes[0, 0].set_title("fully sampled")
axes[1, 0].imshow(mask, cmap="gray")
axes[1, 0].set_title("measured samples")
for (name, image), above, below in zip(
    images.items(), axes[0, 1:], axes[1, 1:], strict=True
):
    (one,) = mr.evaluate(image, reference).slices
    magnitude = np.abs(image) * one["scale"]
    above.imshow(magnitude, cmap="gray", vmax=white)
    above.set_title(f"{name}\nSSIM {one['ssim']:.3f}, {one['psnr']:.1f} dB")
    below.imshow(np.abs(magnitude - reference), cmap="gray", vmax=white / 5)
    below.set_title("error × 5")
for one in axes.flat:
    one.axis("off")
plt.show()

# %%
# From the command line
# ---------------------
#
# The same with files, where each image gets a sidecar with command, versions, maps and
# weights:
#
# .. code-block:: bash
#
#    mrirecon reconstruct data_samples/brain_4x.h5 -o image.h5
#    mrirecon evaluate image.h5 data_samples/brain_full.h5
