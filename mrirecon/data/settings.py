"""Define the sections ``data``, ``simulation`` and ``masks`` of a configuration.

A pair is a range [lowest, highest] to draw from, and one number stands for both ends. The description of a list of
choices says so.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from mrirecon.errors import UsageError
from mrirecon.masks.registry import drawn_families
from mrirecon.registries import OneOf


def _ascending(pair: list[Any]) -> list[Any]:
    if pair[0] > pair[1]:
        raise ValueError("the first number of a range must not exceed the second")
    return pair


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _both_ends(value: object) -> object:
    """Replace one number by a range from it to itself."""
    return [value, value] if _is_number(value) else value


def _listed(value: object) -> object:
    """Replace one thing by a list of it."""
    return value if value is None or isinstance(value, list | float) else [value]


def _choices(value: object) -> object:
    """Replace one number by a list of it."""
    return [value] if _is_number(value) else value


Positive = Annotated[float, Field(gt=0, lt=float("inf"))]
_PAIR = (Field(min_length=2, max_length=2), BeforeValidator(_both_ends), AfterValidator(_ascending))
Range = Annotated[list[Positive], *_PAIR]
Counts = Annotated[list[Annotated[int, Field(ge=0, le=4096)]], *_PAIR]
Strength = Annotated[list[Annotated[float, Field(ge=0, le=100)]], *_PAIR]
CropRange = Annotated[list[Annotated[int, Field(ge=32, le=1024)]], *_PAIR]
Names = Annotated[list[str], BeforeValidator(_listed)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """Define a section of a configuration; unknown keys and wrong types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Lesions(Section):
    """Set the lesions, like those of white matter, that are inserted into simulated images."""

    count: Counts = Field([0, 3], description="lesions in a slice")
    size: Range = Field([3.0, 10.0], description="mean diameter in mm (in pixels where the file has no spacing)")
    contrast: Range = Field([0.15, 0.6], description="|lesion - tissue| / tissue")


class Simulation(Section):
    """Set how multi-coil k-space is simulated from a magnitude volume."""

    coils: Counts = Field([4, 32], description="receiver coils, drawn uniformly in the logarithm")
    snr: Range = Field([10.0, 100.0], description="mean signal over noise of an average coil image")
    noise_correlation: Range = Field([0.05, 0.5], description="share of the noise that coils have in common")
    coil_distance: Range = Field([1.0, 1.4], description="of the coils from the centre, in halves of the field of view")
    phase: Strength = Field([0.5, 3.0], description="strength of the object's phase; [0, 0] for none")
    field_strength: Annotated[list[Positive], Field(min_length=1), BeforeValidator(_choices)] = Field(
        [1.5, 3.0], description="choices of B0 in tesla; with the echo time it turns susceptibility into phase"
    )
    echo_time: Strength = Field([1.5, 12.0], description="echo time of gradient echoes in ms")
    spin_echo_share: Share = Field(0.35, description="share of slices without phase by B0, as spin echoes refocus it")
    fat: Strength = Field([0.3, 1.0], description="share of fat in the signal under the skin and in marrow")
    marrow_fat_share: Share = Field(0.5, description="share of slices with fat in the marrow of the skull, too")
    air: Counts = Field([0, 2], description="spheres of air, besides the air that the volume shows")
    veins: Counts = Field([0, 6], description="veins with blood that is off resonance")
    fine_phase: Strength = Field(
        [0.0, 1.5], description="phase of fine structures (susceptibility), radians per contrast"
    )
    cavities: Counts = Field([0, 8], description="places where the phase varies fast, as at air and vessels")
    bias_field: float = Field(0.25, ge=0, le=2, description="standard deviation of the logarithm of the bias field")
    gamma: Range = Field([0.75, 1.3], description="exponent of the magnitude")
    resolution: Range = Field([0.6, 1.0], description="pixel density, relative to the volume's own")
    aspect: Range = Field([0.85, 1.18], description="height of a pixel over its width")
    flip: bool = Field(True, description="mirror half of the slices along each axis")
    transpose: Share = Field(0.25, description="share of slices that are transposed")
    lesions: Lesions = Field(default_factory=Lesions)

    @model_validator(mode="after")
    def _check_fat_and_coils(self) -> Simulation:
        if self.fat[1] > 1:
            raise ValueError("fat is a share of the signal, at most 1; its phase follows from field and echo")
        if self.coils[0] < 1:
            raise ValueError("coils must be at least 1")
        return self


class Buffer(Section):
    """Set how many samples are held, and how often each is drawn; see `mrirecon.data.loading`."""

    draws_per_sample: int = Field(1, ge=1, le=4, description="how often a sample is drawn, augmented anew each time")
    capacity: Annotated[int, Field(ge=1)] = Field(256, description="samples that each process holds")
    batches_per_chunk: Annotated[int, Field(ge=1)] = Field(
        1, description="batches that are made together, and share a size"
    )
    location: str = Field("host", description="memory of host or device; or a folder, whose samples later runs read")

    def folder(self) -> Path | None:
        """Return the folder that stores samples, with $VARIABLES replaced; None for memory.

        Raises:
            UsageError: a variable is not set.

        """
        if self.location in ("host", "device"):
            return None
        folder = os.path.expandvars(self.location)
        if "$" in folder:
            raise UsageError(
                f"data.buffer.location is {self.location!r}, and there is no such variable",
                fix="set the variable, or name a folder",
            )
        return Path(folder)


class MaskFamily(Section):
    """Set one family of masks that samples are undersampled with."""

    family: Annotated[str, OneOf(drawn_families)]
    acceleration: Annotated[list[Annotated[float, Field(ge=1, le=64)]], BeforeValidator(_choices)] = Field(
        min_length=1, description="choices"
    )
    calibration: Annotated[list[Annotated[int, Field(ge=0, le=512)]], BeforeValidator(_choices)] = Field(
        [], description="choices; none: 32 % of the samples"
    )
    axis: Literal["x", "y", "either"] = Field("either", description="undersampled axis of lines")
    weight: Positive = Field(1.0, description="how often it is drawn, relative to the other families")


def _default_masks() -> list[MaskFamily]:
    return [MaskFamily(family=name, acceleration=[4.0, 8.0]) for name in ("random", "equispaced", "gaussian2d")]


_RENAMED = {
    "bank": "name the folder as buffer.location",
    "rounds": "how often a sample is drawn is buffer.draws_per_sample, and samples of a folder are read again by the "
    "next run",
}


class Data(Section):
    """Set where samples come from, how subjects are kept apart, and how samples are made."""

    train: Names = Field(
        ["phantom:0", "phantom:1"], min_length=1, description="files, folders, patterns, FILE#ARRAYS, phantom:SEED"
    )
    val: Annotated[Names | Annotated[float, Field(gt=0, lt=1)], BeforeValidator(_listed)] = Field(
        ["phantom:100"], description="the same, or the share of subjects held out of train"
    )
    exclude: Names = Field([], description="patterns of names left out of train and val; by item: NAME.h5:0-2,17")
    subject: str = Field(
        r"((?:sub|patient|subject|person|case|file|phantom)[-_:]?[0-9A-Za-z]+)",
        description="regular expression whose first group names the subject in a file's name; else the whole name does",
    )
    licence: str = Field("not stated", description="of the data; goes into the model card")
    source: str = Field("", description="of the data; goes into the model card")
    contrasts: list[Literal["t1w", "t2w", "t2*w", "flair", "pdw"]] = Field(
        [], description="of the data; goes into the model card"
    )
    axes: str | None = Field(None, description="names of the stored axes of k-space, where files do not state them")
    maps: Literal["espirit", "file", "none"] = Field(
        "espirit", description="coil maps: from the calibration region of each sample, from the file, or none"
    )
    target: Literal["clean", "measured"] = Field(
        "clean", description="reference of simulated samples: without noise, or as a full measurement would be"
    )
    crop: CropRange | None = Field(None, description="lowest and highest side of the window cut out before masking")
    items_per_epoch: Annotated[int, Field(ge=1)] | None = Field(
        None, description="samples in an epoch; by default all slices"
    )
    buffer: Buffer = Field(default_factory=Buffer)
    val_items: Annotated[int, Field(ge=1)] = Field(24, description="samples of a validation")
    simulation: Simulation = Field(default_factory=Simulation)
    masks: list[MaskFamily] = Field(default_factory=_default_masks, min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _refuse_old_names(cls, values: object) -> object:
        for old, new in _RENAMED.items():
            if isinstance(values, dict) and old in values:
                raise ValueError(f"{old} is no longer an option: {new}")
        return values
