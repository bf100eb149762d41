"""Define the options for weights that were trained in other toolkits: scale, Fourier transform, initial image, maps.

Every learned method has them. `mrirecon.models.importing` sets them for imported weights.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal, get_args

import torch
from pydantic import Field
from torch import Tensor

from mrirecon.coils.sensitivity_net import SensitivityNet
from mrirecon.engine import StartImage
from mrirecon.physics.conventions import FourierRule
from mrirecon.physics.operators import per_item
from mrirecon.physics.problem import Problem
from mrirecon.physics.transforms import Prior

PeerStart = Literal["zero-filled-max", "zero-filled-minmax", "rss", "rss-max", "rss-minmax"]
OwnMaps = Literal[
    "none",
    "fastmri",
    "fastmri-all",
    "mridc-2d",
    "atommic-1d",
    "atommic-2d",
    "atommic-all",
    "direct",
    "direct-norm",
    "direct-calibration",
]
FourierOption = Annotated[
    FourierRule,
    Field(description="Fourier transform of the training images: centred, or without shifts, as of Calgary-Campinas."),
]
OwnMapsOption = Annotated[
    OwnMaps, Field(description="Estimate the coil maps as another toolkit does, mostly by a network of the model.")
]
OwnMapsChannels = Annotated[int, Field(ge=1, description="Channels of the first level of the network for own_maps.")]
OwnMapsPools = Annotated[int, Field(ge=1, le=8, description="Number of pools of the network for own_maps.")]

_NETWORKS: dict[str, dict[str, Any]] = {
    "fastmri": {"padding": 15, "region": "columns"},
    "fastmri-all": {"padding": 15, "region": "all"},
    "mridc-2d": {"padding": 15, "region": "rows"},
    "atommic-1d": {"padding": 15, "region": "columns", "magnitudes": True},
    "atommic-2d": {"padding": 15, "region": "rows", "magnitudes": True},
    "atommic-all": {"padding": 15, "region": "all", "magnitudes": True},
    "direct": {"padding": 0, "normalize": False, "unit_input": True},
    "direct-norm": {"padding": 15, "unit_input": True},
}


def maps_estimator(kind: OwnMaps, channels: int, pools: int, fourier: FourierRule) -> SensitivityNet | None:
    """Return the module that estimates the coil maps, or None for given maps."""
    unshifted = fourier == "unshifted"
    if kind == "none":
        return None
    if kind == "direct-calibration":
        return SensitivityNet(0, unshifted=unshifted)
    return SensitivityNet(channels, pools, unshifted=unshifted, **_NETWORKS[kind])


def peer_start(kind: str) -> StartImage | None:
    """Return the function of a `PeerStart`; None for other initial images."""
    return partial(_initial_image, kind) if kind in get_args(PeerStart) else None


def _initial_image(kind: str, p: Problem, prior: Prior | None) -> Tensor:
    """Return the initial image of ATOMMIC (B, M, *space), normalized on its own for ``-max`` and ``-minmax``.

    Its root sum of squares is taken of real and imaginary parts separately.
    """
    image = p.zero_filled
    if kind.startswith("rss"):
        coils = p.coil_images
        parts = (part.square().sum(1, keepdim=True).sqrt() for part in (coils.real, coils.imag))
        image = torch.complex(*parts).expand_as(image)
    if not kind.endswith("max"):
        return image
    magnitude = image.abs().flatten(1)
    low = magnitude.amin(1) if kind.endswith("minmax") else torch.zeros_like(magnitude[:, 0])
    return (image - per_item(low, image)) / per_item(magnitude.amax(1) - low, image)
