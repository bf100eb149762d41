"""Define the settings of a training run, with its sections ``loss`` and ``train``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, create_model, model_validator

from mrirecon.data.settings import Count, Data, Positive, Section, Share
from mrirecon.metrics.registry import LOSSES

Fraction = Annotated[float, Field(ge=0, lt=1)]


if TYPE_CHECKING:
    _LossWeights = Section
else:  # one weight per loss that is registered when configurations are first read
    _weight = Annotated[float, Field(ge=0, lt=float("inf"))]
    _fields = {name: (_weight, Field(0.0, description=loss.summary)) for name, loss in LOSSES.items()}
    _LossWeights = create_model("LossWeights", __base__=Section, **_fields)


class LossSettings(_LossWeights):
    """Set the weights of the losses and the images that they compare."""

    log: bool = Field(
        False,
        description="use the logarithm of each term, so that small and large errors have equal weight",
    )
    compare: Literal["magnitude", "complex"] = Field("magnitude", description="values that l1 and l2 compare")
    region: Literal["field_of_view", "object"] = Field(
        "field_of_view", description="region in which images are compared"
    )
    steps: Literal["last", "mean", "log"] = Field(
        "log",
        description="weights of the steps of a recurrence: last, equal, or 10^(-(T-t)/(T-1)) as in the CIRIM paper",
    )
    cascades: Literal["last", "mean"] = Field("mean", description="weights of the cascades: last only, or equal")
    held_out_share: float = Field(
        0.4, gt=0, lt=1, description="fraction of the acquired samples that only the loss ssdu uses"
    )

    @model_validator(mode="after")
    def _check_terms(self) -> LossSettings:
        if not self.active:
            raise ValueError(f"give at least one of {', '.join(_LossWeights.model_fields)} a weight")
        alone = [name for name in self.active if not LOSSES[name].supervised]
        if alone and len(self.active) > len(alone):
            raise ValueError(f"{alone[0]} needs no reference, and cannot be mixed with terms that need one")
        return self

    @property
    def active(self) -> dict[str, float]:
        """Return the losses with a weight, and their weights."""
        return {name: weight for name in _LossWeights.model_fields if (weight := getattr(self, name))}

    @property
    def supervised(self) -> bool:
        """Return whether the loss needs a reference image."""
        return all(LOSSES[name].supervised for name in self.active)

    @property
    def full(self) -> bool:
        """Return whether the loss needs full k-space."""
        return any(LOSSES[name].domain == "kspace" for name in self.active) and self.supervised


class Train(Section):
    """Set the optimization of the weights."""

    steps: Count | None = Field(None, description="number of optimizer steps, instead of epochs")
    epochs: Count | None = Field(None, description="number of passes over the data, instead of steps")
    minutes: Positive | None = Field(
        None, description="total wall time of a call, instead of steps and epochs; the schedule spans it"
    )
    batch: Count = Field(1, description="samples per step over all processes")
    accumulate: Count = Field(1, description="number of batches whose gradients are accumulated per step")
    initial_weights: str | None = Field(
        None,
        description="folder of a trained model with the same method and sizes, whose weights are the initial weights",
    )
    freeze: list[str] = Field(
        default_factory=list,
        description="weights that keep their initial values: names, or beginnings of names such as engine.blocks.0",
    )
    optimizer: Literal["adam", "adamw"] = Field("adam", description="optimizer of the weights")
    lr: Positive = Field(1e-3, description="learning rate")
    betas: Annotated[list[Fraction], Field(min_length=2, max_length=2)] = Field(
        [0.9, 0.999], description="coefficients beta of Adam"
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="decay of the weights in each step")
    warmup: Annotated[int, Field(ge=0)] = Field(0, description="steps over which the learning rate rises from zero")
    schedule: Literal["constant", "cosine", "step", "inverse-sqrt"] = Field(
        "constant", description="how the learning rate changes over the run"
    )
    lr_decay_every: Count = Field(10_000, description="steps between decays of the schedule step")
    lr_decay: Annotated[float, Field(gt=0, le=1)] = Field(0.1, description="factor of each decay of the schedule step")
    final_lr_share: Share = Field(0.01, description="fraction of lr at the end of the cosine schedule")
    gradient_clip: Positive | None = Field(None, description="maximum norm of the gradient")
    ema: Fraction = Field(0.0, description="decay of the moving average of the weights; 0 for none")
    precision: Literal["float32", "bfloat16", "auto"] = Field(
        "auto",
        description="precision of the networks; auto: bfloat16 if AMX or a GPU makes it faster, fixed per run",
    )
    seed: Annotated[int, Field(ge=0)] = Field(0, description="seed of weights, samples and masks")
    validate_every: Count | None = Field(None, description="steps between validations; by default an epoch")
    patience: Count | None = Field(None, description="validations without a better score before the run stops early")
    checkpoint_every: Count = Field(200, description="steps between resumable states")
    checkpoint_seconds: Positive = Field(300.0, description="seconds between resumable states")
    log_every: Count = Field(10, description="steps per line of log.jsonl")
    validation_images: Annotated[int, Field(ge=0, le=16)] = Field(3, description="number of validation slices to draw")
    workers: Annotated[int, Field(ge=0, le=256)] | None = Field(
        None, description="number of worker processes that compute samples"
    )
    tensorboard: bool = Field(False, description="also write TensorBoard files")

    @model_validator(mode="after")
    def _one_length(self) -> Train:
        lengths = [length for length in (self.steps, self.epochs) if length is not None]
        if len(lengths) == 2 or not (lengths or self.minutes):
            raise ValueError("set one of steps, epochs and minutes")
        return self


class Settings(Section):
    """Define a whole configuration."""

    method: str = Field(description="a registered method, see `mrirecon methods`")
    model: dict[str, Any] = Field(default_factory=dict, description="options of the method")
    data: Data = Field(default_factory=Data)
    loss: LossSettings = Field(default_factory=lambda: LossSettings.model_validate({"l1": 1.0}))
    train: Train = Field(default_factory=lambda: Train(steps=1000))
