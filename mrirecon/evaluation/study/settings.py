"""Define the schema of a study's configuration: data, masks, methods, training budget and metrics.

A study combines all data, masks and methods. The names of entries become folders; ``--set methods.rim-gru.steps=500``
sets any value.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from mrirecon.data.settings import Count, Names, Positive, Section, as_list
from mrirecon.masks.registry import compats, seeded_families
from mrirecon.metrics import METRICS, score_metrics
from mrirecon.metrics.presets import Preset
from mrirecon.registries import OneOf

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_+-]{0,63}$")]
Rates = Annotated[list[Annotated[float, Field(ge=1, le=64)]], BeforeValidator(as_list), Field(min_length=1)]
Pair = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)]


class Source(Section):
    """Set one entry of data: measured, fully sampled scans, or scans simulated from magnitudes."""

    files: Names = Field([], description="fully sampled k-space: files, folders or patterns; $VARIABLES are expanded")
    volumes: Names = Field([], description="magnitudes to simulate scans from: files, FILE#ARRAY, phantom:SEED")
    axes: str | None = Field(None, description="names of the stored axes of k-space, if the files do not state them")
    optional: bool = Field(False, description="omit missing files, with a note")
    slices: Pair | None = Field(None, description="slices to simulate, first and last + 1; all by default")
    coils: Count = Field(8, description="number of receiver coils of simulated scans")
    snr: Positive = Field(
        30.0,
        description="signal-to-noise ratio of simulated scans: mean signal over the noise of an average coil image",
    )
    resolution: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="fraction of the volume's resolution, for simulated scans"
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Source:
        if bool(self.files) == bool(self.volumes):
            raise ValueError("give either files or volumes")
        return self


class MaskSetting(Section):
    """Set one family of masks at one or several accelerations; each scan has its own mask, shared by all methods."""

    family: Annotated[str, OneOf(seeded_families)]
    acceleration: Rates = Field(description="one or several acceleration factors")
    calibration: Annotated[int, Field(ge=0)] | None = Field(
        None, description="calibration lines, or side of the box; by default 32 % of the samples"
    )
    axis: Literal["x", "y"] = Field("x", description="undersampled axis of masks of lines")
    compat: Annotated[str, OneOf(compats)] = Field("none", description="draw the mask as another toolkit does")


class MethodSetting(Section):
    """Set one method: registered, trained before, or to be trained."""

    method: str | None = Field(
        None, description="name of a registered method; a learned method uses its shipped weights"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="options of the registered method")
    lam: Annotated[float, Field(ge=0)] | Literal["auto"] | None = Field(
        None, description="regularization weight; by default the method's; auto: from the noise"
    )
    model: str | None = Field(None, description="folder of a trained model")
    train: str | None = Field(None, description="training configuration, .yaml")
    overrides: Names = Field([], description="overrides of that configuration, such as model.cell=mgu")
    steps: Count | None = Field(None, description="number of training steps; replaces the budget")
    minutes: Positive | None = Field(None, description="minutes of training on this machine; replaces the budget")

    @model_validator(mode="after")
    def _one_kind(self) -> MethodSetting:
        kinds = [n for n in ("method", "model", "train") if getattr(self, n) is not None]
        if len(kinds) != 1:
            raise ValueError(f"give one of method, model and train, not {' and '.join(kinds) or 'none'}")
        if self.train is None and (self.overrides or self.steps or self.minutes):
            raise ValueError("overrides, steps and minutes belong to train")
        if self.method is None and (self.options or self.lam is not None):
            raise ValueError("options and lam belong to method")
        return self


class Budget(Section):
    """Set the training length of all methods that do not set their own."""

    steps: Count | None = Field(None, description="number of optimizer steps")
    minutes: Positive | None = Field(
        None, description="minutes; the number of steps that fit is measured at the first run"
    )

    @model_validator(mode="after")
    def _one(self) -> Budget:
        if self.steps and self.minutes:
            raise ValueError("give either steps or minutes")
        return self


class StudySettings(Section):
    """Set a whole study."""

    title: str = Field("", description="heading of the report")
    seed: Annotated[int, Field(ge=0)] = Field(0, description="seed of masks and simulated scans")
    data: dict[Name, Source] = Field(min_length=1, description="scans to reconstruct, by name")
    masks: dict[Name, MaskSetting] = Field(min_length=1, description="masks, by name")
    methods: dict[Name, MethodSetting] = Field(min_length=1, description="methods, by name")
    budget: Budget = Field(default_factory=Budget, description="training budget: steps or minutes of each method")
    preset: Preset = Field("mrirecon", description="preset that defines the scores")
    metrics: Annotated[Names, Field(min_length=1)] = Field(
        default_factory=lambda: list(score_metrics()),
        description=f"any of {', '.join(METRICS)}; differences are of the first",
    )
    subject: str | None = Field(
        None, description="regular expression whose first group matches the subject in a scan's name"
    )
    compare: list[Annotated[list[str], Field(min_length=2, max_length=2)]] | None = Field(
        None, description="pairs of methods to compare; by default all, which reduces the power of each test"
    )
    pictures: bool = Field(True, description="draw all methods side by side, for the first scan of each entry")

    @model_validator(mode="after")
    def _known_pairs(self) -> StudySettings:
        unknown = sorted({n for pair in self.compare or [] for n in pair} - set(self.methods))
        if unknown:
            raise ValueError(f"compare names {', '.join(unknown)}; the methods are {', '.join(self.methods)}")
        return self
