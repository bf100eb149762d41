"""Define the sections ``data``, ``simulation`` and ``masks`` of a configuration.

A pair is a range [lowest, highest] to draw from; a single number is a range from it to itself. Lists of choices are
described as such.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from mrirecon.errors import UsageError
from mrirecon.masks.make import check_family
from mrirecon.masks.registry import compats, seeded_families
from mrirecon.masks.trajectories import PLANAR
from mrirecon.registries import OneOf


def _ascending(pair: list[Any]) -> list[Any]:
    if pair[0] > pair[1]:
        raise ValueError("the first number of a range must not exceed the second")
    return pair


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _both_ends(value: object) -> object:
    """Convert a single number to a range from it to itself."""
    return [value, value] if _is_number(value) else value


def _listed(value: object) -> object:
    """Wrap a single entry in a list."""
    return value if value is None or isinstance(value, list | float) else [value]


def as_list(value: object) -> object:
    """Wrap a single number in a list."""
    return [value] if _is_number(value) else value


Positive = Annotated[float, Field(gt=0, lt=float("inf"))]
Count = Annotated[int, Field(ge=1)]
_PAIR = (Field(min_length=2, max_length=2), BeforeValidator(_both_ends), AfterValidator(_ascending))
Range = Annotated[list[Positive], *_PAIR]
Counts = Annotated[list[Annotated[int, Field(ge=0, le=4096)]], *_PAIR]
Strength = Annotated[list[Annotated[float, Field(ge=0, le=100)]], *_PAIR]
CropRange = Annotated[list[Annotated[int, Field(ge=32, le=1024)]], *_PAIR]
Names = Annotated[list[str], BeforeValidator(_listed)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """Define a section of a configuration, which rejects unknown keys and wrong types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Lesions(Section):
    """Set the lesions, similar to white-matter lesions, that are inserted into simulated images."""

    count: Counts = Field([0, 3], description="number of lesions in a slice")
    size: Range = Field([3.0, 10.0], description="mean diameter in mm (in pixels if the file has no spacing)")
    contrast: Range = Field([0.15, 0.6], description="|lesion - tissue| / tissue")


class Simulation(Section):
    """Set how multi-coil k-space is simulated from a magnitude volume."""

    coils: Counts = Field([4, 32], description="number of receiver coils, drawn log-uniformly")
    snr: Range = Field([10.0, 100.0], description="mean signal over noise of an average coil image")
    noise_correlation: Range = Field(
        [0.05, 0.5], description="fraction of the noise variance from the body, correlated between coils"
    )
    coil_distance: Range = Field(
        [1.0, 1.4], description="distance of the coils from the centre, in halves of the field of view"
    )
    phase: Strength = Field([0.5, 3.0], description="strength of the object's phase; [0, 0] for none")
    field_strength: Annotated[list[Positive], Field(min_length=1), BeforeValidator(as_list)] = Field(
        [1.5, 3.0], description="choices of B0 in tesla; field and echo time determine the phase from susceptibility"
    )
    echo_time: Strength = Field([1.5, 12.0], description="echo time of gradient echoes in ms")
    spin_echo_share: Share = Field(0.35, description="fraction of slices without phase from B0, as in spin echoes")
    fat: Strength = Field([0.3, 1.0], description="signal fraction of fat under the skin and in marrow")
    marrow_fat_share: Share = Field(0.5, description="fraction of slices with fat also in the marrow of the skull")
    air: Counts = Field([0, 2], description="number of spheres of air, in addition to the air in the volume")
    veins: Counts = Field([0, 6], description="number of veins with off-resonant blood")
    fine_phase: Strength = Field(
        [0.0, 1.5], description="phase of fine structures (susceptibility), radians per contrast"
    )
    cavities: Counts = Field(
        [0, 8], description="number of places where the phase varies rapidly, as near air and vessels"
    )
    bias_field: float = Field(0.25, ge=0, le=2, description="standard deviation of the logarithm of the bias field")
    gamma: Range = Field([0.75, 1.3], description="exponent of the magnitude")
    resolution: Range = Field([0.6, 1.0], description="pixel density, relative to the volume's own")
    aspect: Range = Field([0.85, 1.18], description="height of a pixel over its width")
    flip: bool = Field(True, description="mirror half of the slices along each axis")
    transpose: Share = Field(0.25, description="fraction of slices that are transposed")
    lesions: Lesions = Field(default_factory=Lesions)

    @model_validator(mode="after")
    def _check_fat_and_coils(self) -> Simulation:
        if self.fat[1] > 1:
            raise ValueError("fat is a fraction of the signal, at most 1; field and echo time determine its phase")
        if self.coils[0] < 1:
            raise ValueError("coils must be at least 1")
        return self


class Buffer(Section):
    """Set the number of buffered samples and of draws per sample; see `mrirecon.data.loading`."""

    draws_per_sample: int = Field(
        1, ge=1, le=4, description="number of draws per sample, each with another augmentation"
    )
    capacity: Count = Field(256, description="number of samples that each process holds")
    batches_per_chunk: Count = Field(
        1, description="number of batches that are computed together, with samples of one size"
    )
    location: str = Field("host", description="host or device (memory), or a folder, whose samples later runs reuse")

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
                f"data.buffer.location is {self.location!r}, but the variable is not set",
                fix="set the variable, or name a folder",
            )
        return Path(folder)


class MaskFamily(Section):
    """Set one family of undersampling masks."""

    family: Annotated[str, OneOf(seeded_families)]
    acceleration: Annotated[list[Annotated[float, Field(ge=1, le=64)]], BeforeValidator(as_list)] = Field(
        min_length=1, description="acceleration factors, of which one is drawn"
    )
    calibration: Annotated[list[Annotated[int, Field(ge=0, le=512)]], BeforeValidator(as_list)] = Field(
        [], description="sizes of the calibration region, of which one is drawn; none: 32 % of the samples"
    )
    compat: Annotated[str, OneOf(compats)] = Field(
        "none", description="toolkit whose masks are drawn; those of mridc (the CIRIM papers) have a centre of 2 %"
    )
    fwhm: Positive | None = Field(
        None, description="width of a Gaussian family at half maximum, from -1 to 1; none: 1, or 0.7 with compat: mridc"
    )
    axis: Literal["x", "y", "either"] = Field("either", description="undersampled axis of masks of lines")
    weight: Positive = Field(1.0, description="relative frequency of the family")

    @model_validator(mode="after")
    def _check_family(self) -> MaskFamily:
        try:
            check_family(self.family, self.compat, self.fwhm, bool(self.calibration))
        except UsageError as error:
            raise ValueError(f"{error.what}; {error.fix}") from None
        return self


class Trajectory(Section):
    """Set one kind of trajectory, which is turned by a random angle for every sample."""

    kind: Annotated[str, OneOf(lambda: tuple(PLANAR))]
    readouts: Annotated[list[Annotated[int, Field(ge=1, le=4096)]], BeforeValidator(as_list)] = Field(
        min_length=1, description="numbers of readouts or interleaves, of which one is drawn"
    )
    weight: Positive = Field(1.0, description="relative frequency of the kind")


def _default_masks() -> list[MaskFamily]:
    return [MaskFamily(family=name, acceleration=[4.0, 8.0]) for name in ("random", "equispaced", "gaussian2d")]


_RENAMED = {
    "bank": "set the folder as buffer.location",
    "rounds": "set the draws per sample as buffer.draws_per_sample; the next run reuses the samples of a folder",
}


class Data(Section):
    """Set the sources of samples, the split by subject, and the computation of samples."""

    train: Names = Field(
        ["phantom:0", "phantom:1"],
        min_length=1,
        description="training data: files, folders, patterns, FILE#ARRAYS, phantom:SEED",
    )
    val: Annotated[Names | Annotated[float, Field(gt=0, lt=1)], BeforeValidator(_listed)] = Field(
        ["phantom:100"],
        description="validation data, as for train; or the fraction of subjects to hold out of train",
    )
    exclude: Names = Field([], description="patterns of names to exclude from train and val; items: NAME.h5:0-2,17")
    subject: str = Field(
        r"((?:subject|sub(?!ject)|patient|person|case|file|phantom)[-_:]?[0-9A-Za-z]+)",
        description="regular expression whose first group matches the subject in a file name; else the whole name",
    )
    licence: str = Field("not stated", description="licence of the data, for the model card")
    source: str = Field("", description="source of the data, for the model card")
    contrasts: list[Literal["t1w", "t2w", "t2*w", "flair", "pdw"]] = Field(
        [], description="contrasts of the data, for the model card"
    )
    axes: str | None = Field(None, description="names of the stored axes of k-space, if the files do not state them")
    maps: Literal["espirit", "file", "none"] = Field(
        "espirit", description="coil maps: from the calibration region of each sample, from the file, or none"
    )
    target: Literal["clean", "measured"] = Field(
        "clean", description="reference of simulated samples: without noise, or as a full measurement would be"
    )
    crop: CropRange | None = Field(
        None, description="smallest and largest side of the window that is cropped before undersampling"
    )
    items_per_epoch: Count | None = Field(None, description="number of samples in an epoch; by default all slices")
    buffer: Buffer = Field(default_factory=Buffer)
    val_items: Count = Field(24, description="number of samples of a validation")
    simulation: Simulation = Field(default_factory=Simulation)
    masks: list[MaskFamily] = Field(default_factory=_default_masks, min_length=1)
    trajectories: list[Trajectory] = Field(
        [], description="kinds of trajectories to sample along, instead of masks; none: Cartesian k-space"
    )

    @model_validator(mode="after")
    def _check_trajectories(self) -> Data:
        if self.trajectories and self.buffer.draws_per_sample > 1:
            raise ValueError("samples on trajectories cannot be mirrored: set buffer.draws_per_sample to 1")
        return self

    @model_validator(mode="before")
    @classmethod
    def _refuse_old_names(cls, values: object) -> object:
        for old, new in _RENAMED.items():
            if isinstance(values, dict) and old in values:
                raise ValueError(f"{old} is no longer an option: {new}")
        return values
