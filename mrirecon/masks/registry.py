"""Register mask families, each a function that draws lines or a plane."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mrirecon.registries import Entry, Registry


@dataclass(frozen=True)
class Family(Entry):
    """Describe a mask family.

    The function takes ``(rng, space, count, box)``: a `numpy.random.RandomState`, the lengths of the undersampled axes,
    the number of samples including the calibration region, and this region as one slice per axis. It returns ``(mask,
    note)``: booleans of the shape ``space`` with exactly ``count`` true values, including the region, and a note for
    the user or "". It uses no other random generator.

    Attributes:
        over: ``lines`` (one undersampled axis), ``plane`` (two), or ``file``, whose function reads a mask.
        own: whether the family exists without ``compat``.
        compat: toolkits whose masks of this family can be reproduced exactly.
        slow: whether drawing is slow, so that training samples share a few masks per size, mirrored.

    """

    over: Literal["lines", "plane", "file"] = "lines"
    own: bool = True
    compat: tuple[str, ...] = ()
    slow: bool = False


FAMILIES = Registry("mask family", Family, package="mrirecon.masks", group="masks")
register_mask = FAMILIES.register


def drawn_families() -> tuple[str, ...]:
    """Return the families that can be drawn without ``compat``, for training and simulation."""
    return tuple(name for name, family in FAMILIES.items() if family.over != "file" and family.own)


def seeded_families() -> tuple[str, ...]:
    """Return the families that are drawn, not read from a file, with or without ``compat``."""
    return tuple(name for name, family in FAMILIES.items() if family.over != "file")


def compats() -> tuple[str, ...]:
    """Return ``none`` and the toolkits whose masks can be reproduced."""
    return ("none", *dict.fromkeys(name for family in FAMILIES.values() for name in family.compat))


def describe_families() -> str:
    """Return one line that lists all drawn families and their undersampled axes, for help texts."""
    parts = [
        f"{', '.join(names)} ({what})"
        for over, what in (("lines", "lines"), ("plane", "planes"))
        if (names := [name for name in drawn_families() if FAMILIES[name].over == over])
    ]
    others = [
        f"{name} with {' or '.join(FAMILIES[name].compat)}" for name in seeded_families() if not FAMILIES[name].own
    ]
    return "; ".join([", ".join(parts), *others])
