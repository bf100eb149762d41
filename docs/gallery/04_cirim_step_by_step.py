r"""
CIRIM step by step
==================

A cascade of independently recurrent inference machines (CIRIM) repeats one update with
a recurrent network,

.. math::

    h_{t+1}, \Delta_t = R([x_t, A^H (A x_t - y)], h_t), \qquad x_{t+1} = x_t + \Delta_t

and starts the next cascade at the last image of the one before. This example looks at
every iterate of the shipped model.
"""

# %%
# The model
# ---------
#
# The shipped CIRIM has three cascades of six steps, and starts at the image of compressed
# sensing.

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import torch

from mrirecon import Problem, espirit, load_model, read
from mrirecon.metrics import score
from mrirecon.models.checkpoints import shipped_models
from mrirecon.physics.operators import norm

trained = load_model(shipped_models()["cirim"])
model = trained.model
print(
    {
        key: value
        for key, value in trained.options.items()
        if key in ("cascades", "steps", "features", "cell", "start")
    }
)

scan = read("../../data_samples/brain_4x.h5")
reference = read("../../data_samples/brain_full.h5").reference[1]
y = torch.from_numpy(scan.kspace(1))[None]
mask = torch.from_numpy(scan.mask(1))[None, None].float()
maps = torch.from_numpy(espirit(scan.kspace(1), sets=1).maps)[None]
problem = Problem(y, mask, maps).prepared()

# %%
# Every iterate
# -------------
#
# ``normalize`` gives the problem that the network sees, at unit scale and with its
# initial image, and ``undo`` brings an image back into the scale of the data. In between,
# the engine runs the steps. (``model.images(problem)`` is short for this loop, and
# ``model(problem)`` for its last image.)

with torch.inference_mode():
    normalized = model.normalize(problem)
    iterates = [normalized.undo(normalized.problem.starting_image)]
    for step, outcome in model.engine.iterates(normalized.problem):
        iterates.append(normalized.undo(step.image(outcome.state, normalized.problem)))

scores = [score(x[0, 0], reference) for x in iterates]
misfits = [float(norm(problem.residual(x)) / norm(problem.y)) for x in iterates]
changes = [float((b - a).norm() / b.norm()) for a, b in pairwise(iterates)]

steps = trained.options["steps"]
figure, axes = plt.subplots(1, 3, figsize=(12, 3.2), layout="constrained")
axes[0].plot([s.psnr for s in scores], "o-", markersize=3)
axes[0].set(title="PSNR (dB)", xlabel="step")
axes[1].plot(misfits, "o-", markersize=3)
axes[1].set(title="‖A x − y‖ / ‖y‖", xlabel="step")
axes[2].plot(range(1, len(iterates)), changes, "o-", markersize=3)
axes[2].set(title="relative change", xlabel="step")
for one in axes:
    for cascade in range(1, trained.options["cascades"]):
        one.axvline(cascade * steps + 0.5, color="0.8", zorder=0)
plt.show()

# %%
# The grey lines separate the cascades, each with weights of its own. Intermediate images
# of a cascade are not meant to be good: the loss of the training weights the last steps
# most.
#
# What each cascade changes
# -------------------------

ends = [
    iterates[0],
    *(iterates[cascade * steps] for cascade in range(1, trained.options["cascades"] + 1)),
]
white = np.percentile(reference, 99.8)
figure, axes = plt.subplots(2, len(ends), figsize=(11, 6.6), layout="constrained")
for number, (x, above, below) in enumerate(zip(ends, *axes, strict=True)):
    one = score(x[0, 0], reference)
    magnitude = x[0, 0].abs().numpy() * one.scale
    above.imshow(magnitude, cmap="gray", vmax=white)
    above.set_title(
        f"{f'cascade {number}' if number else 'initial image'}\n{one.psnr:.1f} dB"
    )
    below.imshow(np.abs(magnitude - reference), cmap="gray", vmax=white / 10)
    below.set_title("error × 10")
for one in axes.flat:
    one.axis("off")
plt.show()

# %%
# How much of it is used
# ----------------------
#
# A network may harm an image of a scanner that it has not seen. Samples hidden from the
# network decide how much of its change is used (``blend=cross_validated``). That is part
# of ``undo``, so it applies to all images above:

print(normalized.explain(outcome.reasons(0.0))[0])

# sphinx_gallery_thumbnail_number = 2
