"""All that a training run is told."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mrirecon.data.settings import Data, Section
from mrirecon.training.config.loss import LossSettings

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, lt=float("inf"))]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Train(Section):
    """How weights are learned."""

    steps: Count | None = Field(None, description="optimizer steps; or give epochs")
    epochs: Count | None = Field(None, description="passes over the data; or give steps")
    minutes: Positive | None = Field(
        None, description="of wall time of a call, all included, in place of steps and epochs; the schedule spans them"
    )
    batch: Count = Field(1, description="items of a step, all processes together")
    accumulate: Count = Field(1, description="batches whose gradients are added up before a step")
    initial: str | None = Field(
        None, description="folder of a trained model of the same method and sizes, whose weights training starts from"
    )
    optimizer: Literal["adam", "adamw"] = "adam"
    lr: Positive = Field(1e-3, description="learning rate")
    betas: Annotated[list[Fraction], Field(min_length=2, max_length=2)] = Field([0.9, 0.999], description="of Adam")
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    warmup: Annotated[int, Field(ge=0)] = Field(0, description="steps over which the learning rate rises from zero")
    schedule: Literal["constant", "cosine", "step", "inverse-sqrt"] = "constant"
    decay_every: Count = Field(10_000, description="steps, of the schedule step")
    decay: Annotated[float, Field(gt=0, le=1)] = Field(0.1, description="factor, of the schedule step")
    final: Annotated[float, Field(ge=0, le=1)] = Field(0.01, description="share of lr that the cosine ends at")
    clip: Positive | None = Field(None, description="largest norm of the gradient")
    ema: Fraction = Field(0.0, description="decay of the moving average of the weights; 0 for none")
    precision: Literal["float32", "bfloat16", "auto"] = Field(
        "auto", description="of the networks; auto is bfloat16 where AMX or a GPU makes it faster, and stays in a run"
    )
    seed: Annotated[int, Field(ge=0)] = 0
    validate_every: Count | None = Field(None, description="steps; by default an epoch")
    patience: Count | None = Field(None, description="validations without a better score before it stops early")
    checkpoint_every: Count = Field(200, description="steps between resumable states")
    checkpoint_seconds: Positive = Field(300.0, description="and seconds")
    log_every: Count = Field(10, description="steps of a line in log.jsonl")
    panels: Annotated[int, Field(ge=0, le=16)] = Field(3, description="validation slices drawn")
    workers: Annotated[int, Field(ge=0, le=256)] | None = Field(None, description="processes that make items")
    tensorboard: bool = Field(False, description="also write TensorBoard's files")

    @model_validator(mode="after")
    def _one_length(self) -> Train:
        if self.steps is not None and self.epochs is not None:
            raise ValueError("give either steps or epochs")
        if self.steps is None and self.epochs is None and self.minutes is None:
            raise ValueError("give either steps or epochs, or minutes")
        return self


class Settings(Section):
    """A whole configuration, every value resolved."""

    method: str = Field(description="a registered method, see `mrirecon methods`")
    model: dict[str, Any] = Field(default_factory=dict, description="options of the method")
    data: Data = Field(default_factory=Data)
    loss: LossSettings = Field(default_factory=lambda: LossSettings.model_validate({"l1": 1.0}))
    train: Train = Field(default_factory=lambda: Train(steps=1000))
