"""Define a plug-in of mrirecon with one entry of each kind that can be registered."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from mrirecon.coils.registry import register_calibration
from mrirecon.engine import Schedule
from mrirecon.errors import InputError
from mrirecon.io.axes import make_layout
from mrirecon.io.readers.assemble import assemble
from mrirecon.io.readers.registry import Source, register_reader
from mrirecon.io.scan import Scan
from mrirecon.masks import register_mask
from mrirecon.methods.registry import register
from mrirecon.methods.steps import InImage
from mrirecon.methods.updates import NetworkPart, Refine
from mrirecon.metrics import register_loss, register_metric
from mrirecon.networks import ConvStack
from mrirecon.physics.operators import Fourier, root_sum_of_squares


@register(learned=True)
def example_net(
    *, features: Annotated[int, Field(ge=1)] = 8, layers: Annotated[int, Field(ge=2)] = 3
) -> Schedule[Tensor]:
    """Refine the zero-filled image by a few convolutions."""
    network = ConvStack(2, features, layers)
    return Schedule([InImage(Refine(NetworkPart(network)))])


@register_mask(over="lines")
def cosine(rng, space, count, box, *, power: Annotated[float, Field(gt=0)] = 2.0):
    """Draw lines whose density falls as a power of a cosine towards the edge of k-space."""
    n = space[0]
    chosen = np.zeros(n, dtype=bool)
    chosen[box[0]] = True
    others = np.flatnonzero(~chosen)
    weight = np.cos(np.pi / 2 * (others - n // 2) / (n / 2 + 1)) ** power
    wanted = count - int(chosen.sum())
    if wanted:
        chosen[rng.choice(others, wanted, replace=False, p=weight / weight.sum())] = True
    return chosen, ""


MAGIC = b"EXAMPLE1"


@register_reader("example", signature=(MAGIC,), suffixes=(".example",))
def read_example(source: Source, *, axes: str | None = None) -> Scan:
    """Read one slice: a mark of 8 bytes, three numbers of 4 bytes (coils, y, x), then complex64."""
    shape = struct.unpack_from("<3I", source.head, len(MAGIC))
    layout = make_layout(axes or "coil,y,x", shape, str(source.path))
    return assemble(source, ExampleStore(source.path, shape), "example", "kspace", layout)


class ExampleStore:
    """The samples of a file, read when they are asked for."""

    def __init__(self, path, shape):
        wanted, size = 20 + 8 * int(np.prod(shape)), path.stat().st_size
        if size != wanted:
            raise InputError(f"{path} is truncated", why=f"{size} bytes, not {wanted}", fix="copy it again")
        self.path, self.files, self.shape = path, (path,), shape
        self.arrays = {"kspace": (shape, np.dtype("<c8"))}

    def read(self, name, index=()):
        """Return a part of the array."""
        return np.array(np.memmap(self.path, "<c8", "r", 20, self.shape)[index])


def write_example(path: Path, kspace: np.ndarray) -> None:
    """Write a file for the reader."""
    path.write_bytes(MAGIC + struct.pack("<3I", *kspace.shape) + kspace.astype("<c8").tobytes())


@register_metric(label="MAE", about="mean absolute error over the reference's mean; 0 is equality")
def mae(image, reference):
    """Return the mean absolute error of each slice, relative to the reference's mean."""
    x, r = torch.as_tensor(image), torch.as_tensor(reference)
    return (x - r).abs().mean((-2, -1)) / r.mean((-2, -1))


@register_loss(about="mean log cosh(x - r)")
def logcosh(image: Tensor, about) -> Tensor:
    """Return the mean of log cosh of the error of each item."""
    return about.mean(torch.log(torch.cosh(about.difference(image))))


@register_calibration(label="low resolution")
def low(region: Tensor, space: tuple[int, ...]) -> Tensor:
    """Estimate maps (B, 1, C, *space) as the images of the calibration region over their root sum of squares."""
    padded = torch.zeros(*region.shape[:2], *space, dtype=region.dtype)
    inside = [slice(n // 2 - b // 2, n // 2 - b // 2 + b) for n, b in zip(space, region.shape[2:], strict=True)]
    padded[(..., *inside)] = region
    images = Fourier(tuple(range(-len(space), 0))).adjoint(padded)
    return (images / root_sum_of_squares(images, 1, keepdim=True).clamp_min(1e-20)).unsqueeze(1)
