"""The schema of a study's configuration: data, masks, methods, a budget for training, and metrics.

A study crosses its three lists. Entries are named, and names become folders; ``--set methods.rim-gru.steps=500``
reaches any value.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from mrirecon.data.settings import Names, Section
from mrirecon.masks.registry import compats, seeded_families
from mrirecon.metrics import METRICS, score_metrics
from mrirecon.metrics.presets import Preset
from mrirecon.registries import OneOf


def _several(value: object) -> object:
    """Return one number as a list."""
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else value


Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_+-]{0,63}$")]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, lt=float("inf"))]
Rates = Annotated[list[Annotated[float, Field(ge=1, le=64)]], BeforeValidator(_several), Field(min_length=1)]
Pair = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)]


class Source(Section):
    """Scans of one kind: measured and fully sampled, or simulated from magnitudes."""

    files: Names = Field([], description="fully sampled k-space: files, folders, patterns, $VARIABLES in them")
    volumes: Names = Field([], description="magnitudes to simulate scans from: files, FILE#ARRAY, phantom:SEED")
    axes: str | None = Field(None, description="names of the stored axes of k-space, where files leave them open")
    optional: bool = Field(False, description="leave out, with a note, files that are missing")
    slices: Pair | None = Field(None, description="of simulated scans, first and last + 1; all by default")
    coils: Count = Field(8, description="of simulated scans")
    snr: Positive = Field(30.0, description="of simulated scans: mean signal over the noise of an average coil image")
    resolution: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="of simulated scans, of the volume's own")

    @model_validator(mode="after")
    def _one_kind(self) -> Source:
        if bool(self.files) == bool(self.volumes):
            raise ValueError("give either files or volumes")
        return self


class MaskSetting(Section):
    """One family of masks, at one or several accelerations; each scan has a mask of its own, the same for all."""

    family: Annotated[str, OneOf(seeded_families)]
    acceleration: Rates = Field(description="one or several")
    calibration: Annotated[int, Field(ge=0)] | None = Field(
        None, description="lines or side of the box; by default 32 % of the samples"
    )
    axis: Literal["x", "y"] = Field("x", description="undersampled axis of lines")
    compat: Annotated[str, OneOf(compats)] = Field("none", description="draw as another toolkit does")


class MethodSetting(Section):
    """One method: registered, trained before, or to be trained."""

    method: str | None = Field(
        None, description="registered; a learned one takes shipped weights, see `mrirecon methods`"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="of the registered method")
    lam: Annotated[float, Field(ge=0)] | Literal["auto"] | None = Field(
        None, description="regularization weight; its default, or by noise: auto"
    )
    model: str | None = Field(None, description="folder of a trained model")
    train: str | None = Field(None, description="training configuration, .yaml")
    overrides: Names = Field([], description="overrides of that configuration, such as model.cell=mgu")
    steps: Count | None = Field(None, description="length of its training, in place of the budget's")
    minutes: Positive | None = Field(None, description="the same as time, on the machine that trains it")

    @model_validator(mode="after")
    def _one_kind(self) -> MethodSetting:
        given = [n for n in ("method", "model", "train") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of method, model and train, not {' and '.join(given) or 'none'}")
        if self.train is None and (self.overrides or self.steps or self.minutes):
            raise ValueError("overrides, steps and minutes belong to train")
        if self.method is None and (self.options or self.lam is not None):
            raise ValueError("options and lam belong to method")
        return self


class Budget(Section):
    """Length of training of each method that does not set its own."""

    steps: Count | None = Field(None, description="optimizer steps")
    minutes: Positive | None = Field(None, description="minutes; the steps that fit are measured first, and kept")

    @model_validator(mode="after")
    def _one(self) -> Budget:
        if self.steps and self.minutes:
            raise ValueError("give either steps or minutes")
        return self


class StudySettings(Section):
    """A whole study."""

    title: str = Field("", description="the heading of its report")
    seed: Annotated[int, Field(ge=0)] = Field(0, description="of masks and simulated scans")
    data: dict[Name, Source] = Field(min_length=1, description="scans to reconstruct, by name")
    masks: dict[Name, MaskSetting] = Field(min_length=1, description="how they are undersampled, by name")
    methods: dict[Name, MethodSetting] = Field(min_length=1, description="what reconstructs them, by name")
    budget: Budget = Field(default_factory=Budget, description="for training: steps or minutes of each method")
    preset: Preset = Field("mrirecon", description="whose definition of the scores")
    metrics: Annotated[Names, Field(min_length=1)] = Field(
        default_factory=lambda: list(score_metrics()),
        description=f"any of {', '.join(METRICS)}; differences are of the first",
    )
    subject: str | None = Field(None, description="expression whose first group names the subject in a scan's name")
    compare: list[Annotated[list[str], Field(min_length=2, max_length=2)]] | None = Field(
        None, description="pairs of methods whose difference is asked; all by default, which leaves each less power"
    )
    pictures: bool = Field(True, description="draw all methods side by side, for the first scan of each kind")

    @model_validator(mode="after")
    def _known_pairs(self) -> StudySettings:
        unknown = sorted({n for pair in self.compare or [] for n in pair} - set(self.methods))
        if unknown:
            raise ValueError(f"compare names {', '.join(unknown)}; the methods are {', '.join(self.methods)}")
        return self
