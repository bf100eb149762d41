"""
One image, six SSIMs
====================

"SSIM 0.92" means little without its definition. This example scores the same image with
the definitions of five toolkits and ours, and shows which choice changes the number by
how much.
"""

# %%
# One image
# ---------

import numpy as np

from mrirecon import read, reconstruct

reference = read("../../data_samples/brain_full.h5").reference
scan = read("../../data_samples/brain_4x.h5")
image = np.abs(reconstruct(scan, method="sense").images)

# %%
# The definitions
# ---------------
#
# ``score`` is ours: inside the object, after one least-squares scale. The others compute
# what these toolkits compute.

from mrirecon.metrics import score
from mrirecon.metrics.presets import PRESETS, score_volume

ours = score(image, reference)
rows = {"mrirecon": (ours.ssim, ours.psnr)}
for preset in PRESETS[1:]:
    result = score_volume(image, reference, preset)
    rows[preset] = (result.volume["ssim"], result.volume["psnr"])
print("definition    SSIM   PSNR")
for name, (ssim_value, psnr_value) in rows.items():
    print(f"{name:10s}  {ssim_value:6.3f}  {psnr_value:5.1f}")

import matplotlib.pyplot as plt

figure, axis = plt.subplots(figsize=(7, 3), layout="constrained")
axis.barh(list(rows), [value for value, _ in rows.values()], color="0.55")
axis.set(xlim=(0, 1.05), title="SSIM of one image")
for place, (value, _) in enumerate(rows.values()):
    axis.text(value + 0.01, place, f"{value:.3f}", va="center")
axis.invert_yaxis()
plt.show()

# %%
# Pitfall 1: the unit
# -------------------
#
# ATOMMIC's data range is at least 1. The values of this scan are small, so any image is
# nearly perfect, even one that is constant:

print(f"largest value of the reference: {reference.max():.2g}")
constant = np.full_like(reference, reference.mean())
theirs = score_volume(constant, reference, "atommic").volume["ssim"]
print(f"SSIM of a constant image, atommic: {theirs:.4f}")
print(f"SSIM of a constant image, ours:    {score(constant, reference).ssim:.4f}")

# %%
# Pitfall 2: the background
# -------------------------
#
# Air is easy. The more of it is counted, the higher the score:

import torch

from mrirecon.metrics import ssim

peak = float(reference[1].max())
for margin in (0, 32, 96):
    wide, truth = (
        torch.from_numpy(np.pad(v[1] / peak, margin))
        for v in (image * ours.scale, reference)
    )
    value = float(ssim(wide, truth, 1.0))
    print(f"{margin:3d} pixels of zeros around both images: SSIM {value:.3f}")

# %%
# Pitfall 3: the scale
# --------------------
#
# One bright pixel, as from a wrong value in a file, changes a score that divides by the
# maximum, and hardly ours:

bright = image.copy()
bright[1, 20, 20] = 2 * image.max()
for name, other in (("as it is", image), ("one bright pixel", bright)):
    mridc = score_volume(other[1:2], reference[1:2], "mridc").volume["ssim"]
    print(f"{name:17s} mridc {mridc:.3f}, ours {score(other[1], reference[1]).ssim:.3f}")

# %%
# Pitfall 4: what SSIM does not see
# ---------------------------------
#
# A shift by two pixels is invisible to a reader and ruins the score. A missing lesion is
# the opposite. So a score needs its definition, its reference, and an image beside it.

shifted = np.roll(image[1], 2, axis=1)
lesion = image[1].copy()
lesion[80:84, 60:64] = lesion[74:90, 54:70].mean()
white = np.percentile(reference[1], 99.8)
figure, axes = plt.subplots(1, 3, figsize=(9, 4), layout="constrained")
for (title, picture), axis in zip(
    {
        "image": image[1],
        "shifted by 2 pixels": shifted,
        "16 pixels overwritten": lesion,
    }.items(),
    axes,
    strict=True,
):
    one = score(picture, reference[1])
    axis.imshow(picture * one.scale, cmap="gray", vmax=white)
    axis.set_title(f"{title}\nSSIM {one.ssim:.3f}")
    axis.axis("off")
plt.show()
