"""What is to be done to a scan before and after its reconstruction."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal, get_args

from mrirecon.errors import UsageError

Whiten = Literal["loud", "none", "auto", "noise", "background", "rim"]
Compress = Literal["svd", "geometric"]
PartialFourier = Literal["pocs", "homodyne", "zero", "refuse"]


@dataclass(frozen=True)
class Preprocess:
    """Options, in the order in which they are applied; the defaults change nothing but coils that are loud.

    Attributes:
        average: take the complex mean of k-space over repetitions and averages; else each is an item.
        whiten: where the noise covariance for prewhitening comes from: the scan's ``noise``, the ``background`` of its
            images, the ``rim`` of its k-space; ``auto`` takes the first, else the second where k-space is all but fully
            sampled, else the null space of the calibration region where there is one, else the third; ``loud`` divides
            coils whose noise exceeds that of the others many times by as much, and leaves others; ``none`` leaves all.
        readout: name of the fully sampled readout, for what follows; None for the one that the file or the mask tells.
        oversampling: factor by which the field of view along the readout is too large; 1 leaves it.
        coils: how many virtual coils; None, with ``energy`` None too, leaves the coils.
        energy: or the share of the energy that they are to keep, such as 0.95.
        compress: one matrix (``svd``), or one for each place along the readout (``geometric``).
        partial_fourier: what to do with an image whose k-space was measured to one side: ``pocs``, ``homodyne``,
            ``zero`` (nothing is filled in by symmetry), ``refuse``.
        echoes: combine echoes by the root sum of squares; else each is an item.

    Raises:
        UsageError: a value that cannot be meant.

    """

    average: bool = False
    whiten: Whiten = "loud"
    readout: str | None = None
    oversampling: float = 1.0
    coils: int | None = None
    energy: float | None = None
    compress: Compress = "svd"
    partial_fourier: PartialFourier = "zero"
    echoes: bool = False

    def __post_init__(self) -> None:
        for name, kind in (("whiten", Whiten), ("compress", Compress), ("partial_fourier", PartialFourier)):
            value, choices = getattr(self, name), get_args(kind)
            if value not in choices:
                raise UsageError(f"{name} cannot be {value!r}", fix=f"choose {', '.join(choices)}")
        if not 1 <= self.oversampling < 100:
            raise UsageError(f"oversampling cannot be {self.oversampling:g}", fix="give a factor from 1 on, such as 2")
        if self.coils is not None and self.energy is not None:
            raise UsageError("coils are compressed to a number, or by the energy to keep: give one of them")
        if self.coils is not None and self.coils < 1:
            raise UsageError(f"there cannot be {self.coils} virtual coils", fix="give 1 or more")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise UsageError(
                f"a share of energy cannot be {self.energy:g}", fix="give a number in (0, 1], such as 0.95"
            )

    @property
    def compressing(self) -> bool:
        """Whether coils are compressed."""
        return self.coils is not None or self.energy is not None

    @property
    def geometry(self) -> Preprocess:
        """Only what changes shape or number of the images: what a reference must undergo, too."""
        return Preprocess(whiten="none", average=self.average, readout=self.readout, oversampling=self.oversampling)

    def as_dict(self) -> dict[str, object]:
        """Return the options that differ from the defaults, for a sidecar."""
        usual = asdict(Preprocess())
        return {name: value for name, value in asdict(self).items() if value != usual[name]}
