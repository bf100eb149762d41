"""
Write a method and train it
===========================

This example writes a learned method in a few lines, trains it for some seconds on
phantoms, and compares it with zero filling and compressed sensing. A real training
takes hours; the steps are the same.
"""

# %%
# A method is a list of steps
# ---------------------------
#
# One step moves along the gradient of the data term, and subtracts what a small network
# makes of the image. Five of them, each with its own weights, are a cascade. The names
# and types of the parameters are the options of the method.

from mrirecon.engine import Schedule
from mrirecon.methods.options import DataConsistency
from mrirecon.methods.registry import build, register
from mrirecon.methods.steps import InImage
from mrirecon.methods.updates import NetworkPart, cascade
from mrirecon.networks import ConvStack


@register(learned=True)
def gradient_net(
    *, cascades: int = 5, channels: int = 16, dc: DataConsistency = "gradient"
) -> Schedule:
    """X - eta A^H(A x - y) - network(x), cascaded."""
    blocks = [
        InImage(cascade(NetworkPart(ConvStack(2, channels, 3)), dc, "image"))
        for _ in range(cascades)
    ]
    return Schedule(blocks)


# %%
# The method is registered, so it can be built by name, and its options are checked.

import torch

torch.manual_seed(0)
model = build("gradient-net")
print(f"{sum(w.numel() for w in model.parameters())} parameters")

# %%
# Data
# ----
#
# Small phantoms of heads, measured with eight simulated coils, 4-fold undersampled with
# random lines. Coil maps come from the calibration region, as for a measured scan.

import numpy as np

from mrirecon import Problem, espirit, make_mask
from mrirecon.data.phantom import phantom
from mrirecon.data.simulate import simulate_kspace
from mrirecon.physics.operators import Fourier, combine

SHAPE = (64, 56)


def sample(seed: int) -> tuple[Problem, torch.Tensor]:
    """Simulate one slice; return the problem and the fully sampled image."""
    full = torch.from_numpy(
        simulate_kspace(phantom(SHAPE, 1, seed)[0], 8, 30.0, seed).kspace
    )[None]
    mask = torch.from_numpy(
        make_mask("random", SHAPE, 4, calibration=14, seed=seed).mask
    )[None, None].float()
    maps = torch.from_numpy(espirit(full[0], sets=1, size=14).maps)[None]
    return Problem(full * mask, mask, maps).prepared(), combine(
        maps, Fourier().adjoint(full)
    )


training = [sample(seed) for seed in range(8)]
held_out = [sample(seed) for seed in range(100, 103)]

# %%
# Train
# -----
#
# The loop is ordinary PyTorch. ``mrirecon train`` does the same with a configuration, and
# adds states to resume from, validation, mixed precision and several GPUs.

optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
losses = []
for epoch in range(16):
    for problem, reference in training:
        error = (model(problem) - reference).abs()
        loss = error.mean() / reference.abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    if epoch % 4 == 3:
        mean = np.mean(losses[-len(training) :])
        print(f"epoch {epoch + 1}: mean relative error {mean:.3f}")

# %%
# Compare
# -------
#
# On phantoms that were not used in the training. The network has seen phantoms like
# these, and compressed sensing has not: this says nothing about measured heads, for which
# a network needs more data, more varied, and more time.

import matplotlib.pyplot as plt

from mrirecon.metrics import score

methods = {"zero-filled": build("zero-filled"), "cs": build("cs"), "gradient-net": model}
rows = {name: [] for name in methods}
with torch.inference_mode():
    for problem, reference in held_out:
        for name, method in methods.items():
            rows[name].append(score(method(problem)[0, 0], reference[0, 0]))
for name, scores in rows.items():
    ssim, psnr = (np.mean([getattr(s, key) for s in scores]) for key in ("ssim", "psnr"))
    print(f"{name:13s} SSIM {ssim:.3f}, PSNR {psnr:.1f} dB")

problem, reference = held_out[0]
white = float(reference.abs().quantile(0.998))
figure, axes = plt.subplots(1, 5, figsize=(13, 3.4), layout="constrained")
axes[0].plot(losses)
axes[0].set(title="loss", xlabel="step")
axes[1].imshow(reference[0, 0].abs(), cmap="gray", vmax=white)
axes[1].set_title("fully sampled")
with torch.inference_mode():
    for (name, method), axis in zip(methods.items(), axes[2:], strict=True):
        axis.imshow(method(problem)[0, 0].abs(), cmap="gray", vmax=white)
        axis.set_title(f"{name}\nSSIM {rows[name][0].ssim:.3f}")
for one in axes[1:]:
    one.axis("off")
plt.show()
