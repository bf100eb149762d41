"""Register mask families: a family is one function that draws lines or a plane."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mrirecon.registries import Entry, Registry


@dataclass(frozen=True)
class Family(Entry):
    """A mask family.

    The function takes ``(rng, space, count, box)``: a `numpy.random.RandomState`, the lengths of the undersampled axes,
    the number of samples to take, those of the calibration region included, and that region as one slice an axis. It
    returns ``(mask, note)``: booleans of the shape ``space`` with exactly ``count`` true, the region among them, and a
    note for the user, or "". It draws from no other generator.

    Attributes:
        over: ``lines`` (one undersampled axis), ``plane`` (two), or ``file``, whose function reads a mask.
        own: whether the family can be drawn by our own rule, not only by those of ``compat``.
        compat: toolkits whose masks of this family can be drawn exactly as they do.
        slow: whether drawing takes so long that training samples share a few masks of a size, mirrored.

    """

    over: Literal["lines", "plane", "file"] = "lines"
    own: bool = True
    compat: tuple[str, ...] = ()
    slow: bool = False


FAMILIES = Registry("mask family", Family, package="mrirecon.masks", group="masks")
register_mask = FAMILIES.register


def drawn_families() -> tuple[str, ...]:
    """Return the families that can be drawn by our own rule, which training and simulation use."""
    return tuple(name for name, family in FAMILIES.items() if family.over != "file" and family.own)


def seeded_families() -> tuple[str, ...]:
    """Return the families that are drawn rather than read, by our own rule or another toolkit's."""
    return tuple(name for name, family in FAMILIES.items() if family.over != "file")


def compats() -> tuple[str, ...]:
    """Return ``none`` and the toolkits whose masks can be drawn."""
    return ("none", *dict.fromkeys(name for family in FAMILIES.values() for name in family.compat))


def describe_families() -> str:
    """Return all drawn families and what they undersample in one line, for help texts."""
    parts = [
        f"{', '.join(names)} ({what})"
        for over, what in (("lines", "lines"), ("plane", "planes"))
        if (names := [name for name in drawn_families() if FAMILIES[name].over == over])
    ]
    others = [
        f"{name} with {' or '.join(FAMILIES[name].compat)}" for name in seeded_families() if not FAMILIES[name].own
    ]
    return "; ".join([", ".join(parts), *others])
