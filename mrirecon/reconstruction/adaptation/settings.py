"""Define the settings of an adaptation."""

from __future__ import annotations

from dataclasses import dataclass

from mrirecon.errors import UsageError


@dataclass(frozen=True)
class Adaptation:
    """Hold the settings of an adaptation.

    Attributes:
        steps: largest number of optimizer steps; one split of one slice per step.
        minutes: limit of the wall time, with the preparation; None for no limit. With a limit, the result depends on
            the speed of the machine.
        rate: learning rate of Adam.
        slices: number of slices of each scan to train on: those with the most signal.
        splits: number of splits of each slice into input and loss.
        share: share of the samples outside the calibration region that only the loss uses.
        validate_every: number of steps between validations.
        patience: number of validations without improvement after which the training stops.
        seed: seed of the splits and of their order.

    Raises:
        UsageError: a value out of range.

    """

    steps: int = 60
    minutes: float | None = None
    rate: float = 5e-4
    slices: int = 3
    splits: int = 8
    share: float = 0.3
    validate_every: int = 5
    patience: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        counts = {n: getattr(self, n) for n in ("steps", "slices", "splits", "validate_every", "patience")}
        wrong = [f"{name} must be at least 1, and is {value}" for name, value in counts.items() if value < 1]
        wrong += [f"rate must be positive, and is {self.rate:g}"] * (not self.rate > 0)
        wrong += [f"share must be between 0 and 1, and is {self.share:g}"] * (not 0 < self.share < 1)
        if self.minutes is not None and not self.minutes > 0:
            wrong.append(f"minutes must be positive, and is {self.minutes:g}")
        if wrong:
            raise UsageError("these settings of an adaptation are not possible", why="; ".join(wrong))
