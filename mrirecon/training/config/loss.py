"""The section ``loss`` of a configuration: a weight for each registered loss, and what they look at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, create_model, model_validator

from mrirecon.data.settings import Section
from mrirecon.metrics.registry import LOSSES

Weight = Annotated[float, Field(ge=0, lt=float("inf"))]


def _weights() -> type[Section]:
    """Return a section with one weight for each loss: those that are registered when configurations are first read."""
    fields: dict[str, Any] = {
        name: (Weight, Field(0.0, description=loss.summary)) for name, loss in LOSSES.items()
    }  # create_model takes (type, default) pairs of any type
    return create_model("LossWeights", __base__=Section, **fields)


if TYPE_CHECKING:
    _Weights = Section
else:
    _Weights = _weights()


class LossSettings(_Weights):
    """The section ``loss`` of a configuration: weights of the terms, and what they look at."""

    log: bool = Field(
        False, description="the logarithm of each term: an item that is good already counts like a bad one"
    )
    on: Literal["magnitude", "complex"] = Field("magnitude", description="what l1 and l2 compare")
    region: Literal["field", "object"] = Field("field", description="where images are compared")
    steps: Literal["last", "mean", "log"] = Field(
        "log", description="steps of a recurrence: the last, all alike, or 10^(-(T-t)/(T-1)) as in the CIRIM paper"
    )
    cascades: Literal["last", "mean"] = Field("mean", description="cascades: the last, or all alike")
    split: float = Field(0.4, gt=0, lt=1, description="of the samples, that ssdu keeps from the network")

    @model_validator(mode="after")
    def _something(self) -> LossSettings:
        active = self.active
        if not active:
            raise ValueError(f"give at least one of {', '.join(_Weights.model_fields)} a weight")
        alone = [name for name in active if not LOSSES[name].supervised]
        if alone and len(active) > len(alone):
            raise ValueError(f"{alone[0]} needs no reference, and mixes with no term that has one")
        return self

    @property
    def active(self) -> dict[str, float]:
        """The losses that have a weight, and their weights."""
        return {name: weight for name in _Weights.model_fields if (weight := getattr(self, name))}

    @property
    def supervised(self) -> bool:
        """Whether an image is compared with."""
        return all(LOSSES[name].supervised for name in self.active)

    @property
    def full(self) -> bool:
        """Whether all of k-space is compared with."""
        return any(LOSSES[name].domain == "kspace" for name in self.active) and self.supervised
