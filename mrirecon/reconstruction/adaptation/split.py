"""Split the measured samples of a slice into three parts: input, loss and validation.

The validation part Γ is drawn once. Each split divides the other samples into the input Θ of the network and the
samples Λ of the loss (Yaman et al., ICLR 2022: Ω = Θ ∪ Λ ∪ Γ). The calibration region is in every input, because the
coil maps come from it.

Γ holds the samples that `mrirecon.methods.cross_validation.cross_validated_weight` withholds. So a blend with the
initial image is weighted by samples that the network was not trained with.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mrirecon.errors import InputError
from mrirecon.methods.cross_validation import choose_hidden_samples, withhold
from mrirecon.reconstruction.adaptation.settings import Adaptation

FULLY_SAMPLED_SHARE = 0.99  # share of the samples from which on a slice counts as fully sampled


@dataclass(frozen=True)
class Split:
    """Hold two disjoint masks (*space): the input of the network Θ, and the samples of the loss Λ."""

    input: np.ndarray
    loss: np.ndarray


@dataclass(frozen=True)
class SampleParts:
    """Hold the parts of the measured samples of a slice, masks (*space).

    Attributes:
        importance: importance of the validation samples, (2, *space); 0 for all others. The kinds are scattered samples
            and lines; see `mrirecon.methods.cross_validation.withhold`.
        splits: splits of all other samples.

    """

    importance: np.ndarray
    splits: tuple[Split, ...]

    @property
    def validation(self) -> np.ndarray:
        """Return the validation samples of both kinds, (2, *space) booleans."""
        return np.asarray(self.importance > 0)

    @property
    def visible(self) -> np.ndarray:
        """Return all samples outside the validation part, which are the input of a validation."""
        visible: np.ndarray = self.splits[0].input | self.splits[0].loss
        return visible


def split_measured(mask: np.ndarray, settings: Adaptation, *, location: str, number: int = 0) -> SampleParts:
    """Split the measured samples of a slice.

    For a mask of lines, every second split hides whole lines from the input, as missing lines are what the network must
    predict, and the others hide scattered samples.

    Args:
        mask: (*space), true where sampled.
        settings: share of the samples for the loss, number of splits, and seed.
        location: location of the slice, for messages.
        number: number of the slice, so that slices have different splits.

    Raises:
        InputError: fully sampled, or too few samples outside the calibration region.

    """
    if mask.mean() > FULLY_SAMPLED_SHARE:
        raise InputError(
            "the scan is fully sampled: adapting to it gains nothing for its own images",
            where=location,
            why="its plain coil combination has no aliasing",
            fix="to adapt to this scanner with it, undersample it as your other scans (`mrirecon masks apply`), and "
            "adapt to the result",
        )
    importance = withhold(mask)
    scattered, lines = importance > 0
    if not scattered.any():
        raise _too_few(location)
    has_lines = not np.array_equal(scattered, lines)
    visible = mask & ~(scattered | lines)
    splits = []
    for k in range(settings.splits):
        seed = (settings.seed * 10_007 + number) * 10_007 + k + 1  # not 0, the seed of the validation part
        hidden = None
        if has_lines and k % 2 == 1:
            hidden = choose_hidden_samples(mask & ~lines, settings.share, seed, lines=True)
        if hidden is None:
            hidden = choose_hidden_samples(visible, settings.share, seed)
        if hidden is None:
            raise _too_few(location)
        splits.append(Split(visible & ~hidden, visible & hidden))
    return SampleParts(importance, tuple(splits))


def _too_few(location: str) -> InputError:
    return InputError(
        "too few samples to adapt a model",
        where=location,
        why="outside the calibration region, there are not enough samples for the input, the loss and the validation",
        fix="adapt to a scan with more samples, or use the model as it is",
    )
