"""Define the options that several methods have: type, range and description.

A method's keyword-only parameters are its options. A parameter annotated with one of these types gets its description
in the schema of the method.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field

from mrirecon.engine import Step

Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0, lt=float("inf"))]

# iterations
Lam = Annotated[Weight, Field(description="Regularization weight, relative to the scale of the data.")]
Iterations = Annotated[Count, Field(description="Maximum number of iterations.")]
Tolerance = Annotated[
    Weight, Field(description="Stop when the relative change falls below this; 0 runs all iterations.")
]
Ndim = Annotated[int, Field(ge=2, le=3, description="Spatial axes that the regularization acts on.")]
Solver = Annotated[
    Literal["fista", "admm", "primal-dual"], Field(description="Algorithm that minimizes the objective.")
]
Rho = Annotated[float, Field(gt=0, lt=float("inf"), description="Weight of the splitting, for admm.")]

# images
Combine = Annotated[
    Literal["sense", "rss"], Field(description="Combine the coils with the maps, or by root sum of squares.")
]

# networks
Cascades = Annotated[Count, Field(description="Number of cascades.")]
Steps = Annotated[Count, Field(description="Number of time steps of a cascade.")]
Channels = Annotated[Count, Field(description="Channels of the first level of the network.")]
Features = Annotated[Count, Field(description="Channels of the hidden states.")]
Pools = Annotated[int, Field(ge=1, le=8, description="Number of times that the U-Net halves the resolution.")]
Padding = Annotated[
    int,
    Field(ge=-1, le=255, description="Pad n pixels to ((n - 1) | padding) + 1; -1 pads to multiples of 2^pools."),
]
NormalizeInput = Annotated[bool, Field(description="Normalize the input of the U-Net to mean 0 and deviation 1.")]
Cell = Annotated[Literal["gru", "mgu", "indrnn"], Field(description="Type of the recurrent units.")]
Kernel = Annotated[Literal[1, 3, 5], Field(description="Kernel size of the recurrent units.")]
Symmetries = Annotated[
    Literal[1, 2, 4, 8],
    Field(description="Average the network over the image (1), its complex conjugate (2) and mirror images (4, 8)."),
]
ShareWeights = Annotated[bool, Field(description="Use one set of weights for all cascades.")]

# data consistency
DataConsistency = Annotated[
    Literal["none", "gradient", "soft", "hard", "proximal"],
    Field(description="Explicit data consistency: none, a gradient step, soft or hard replacement, or CG (MoDL)."),
]
Skip = Annotated[bool, Field(description="Add the network's output to its input (residual connection).")]
Sign = Annotated[Literal[-1, 1], Field(description="Sign of the network's output in the sum.")]


def copies(count: int, share: bool, make: Callable[[], Step[Any]]) -> list[Step[Any]]:
    """Return ``count`` new steps, or with ``share`` the same step ``count`` times."""
    return [make()] * count if share else [make() for _ in range(count)]
