"""Compute the geometry of charts in SVG units; the page's template draws them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

WIDTH, HEIGHT = 460.0, 250.0
LEFT, RIGHT, TOP, BOTTOM = 56.0, 10.0, 12.0, 34.0
LEAST = 4  # fewest volumes for a box
LETTER = 5.8  # width of a character


@dataclass(frozen=True)
class Tick:
    """Hold the position and the label of a value on an axis."""

    position: float
    text: str


@dataclass(frozen=True)
class Point:
    """Hold the point of one volume (`large`) or one slice.

    Attributes:
        x: horizontal position.
        y: vertical position, downwards.
        text: tooltip.
        case: index of the case.
        large: True for a volume.

    """

    x: float
    y: float
    text: str
    case: int
    large: bool


@dataclass(frozen=True)
class Box:
    """Hold the quartiles and whiskers of one method as y positions; None for fewer than `LEAST` volumes.

    Whiskers end at the last volume within 1.5 interquartile ranges of the box (Tukey, Exploratory Data Analysis, 1977).
    """

    method: str
    label: str
    number: int
    x: float
    width: float
    lines: tuple[float, ...] | None
    points: list[Point]


@dataclass(frozen=True)
class Boxes:
    """Hold the box plot of one metric for all methods."""

    title: str
    ticks: list[Tick]
    boxes: list[Box]


@dataclass(frozen=True)
class Lines:
    """Hold curves over steps: (index of the method, method, points of the SVG polyline, last value)."""

    title: str
    ticks: list[Tick]
    steps: list[Tick]
    curves: list[tuple[int, str, str, float]]


Values = Sequence[
    tuple[int, str, float | None, Sequence[float | None]]
]  # index of the case, its name, value of the volume, values of the slices


def box_plot(title: str, methods: Mapping[str, Values]) -> Boxes | None:
    """Return the box plot of a metric; None if no value is defined.

    Args:
        title: name of the metric.
        methods: for each method, the value of every case and of its slices.

    """
    every = [v for cases in methods.values() for _, _, volume, slices in cases for v in (volume, *slices)]
    defined = [v for v in every if v is not None]
    if not defined:
        return None
    low, high, ticks = _scale(min(defined), max(defined))

    def down(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)

    pitch = (WIDTH - LEFT - RIGHT) / len(methods)
    width = min(pitch * 0.5, 64.0)
    boxes = []
    for number, (method, cases) in enumerate(methods.items()):
        middle = LEFT + pitch * (number + 0.5)
        slices, volumes = [], []
        for case, name, volume, values in cases:
            shown = [v for v in values if v is not None]
            for i, v in enumerate(shown if len(shown) > 1 else []):
                x = middle + width * _scatter(case * 997 + i) * 0.9
                slices.append(Point(x, down(v), f"{name}: {v:.4g}", case, False))
            if volume is not None:
                x = middle + width * _scatter(case) * 0.5
                volumes.append(Point(x, down(volume), f"{name}, {method}: {volume:.4g}", case, True))
        label = method if len(method) * LETTER <= pitch else f"{method[: max(1, int(pitch / LETTER) - 1)]}…"
        five = _five_numbers([v for _, _, v, _ in cases if v is not None])
        lines = None if five is None else tuple(map(down, five))
        boxes.append(Box(method, label, number, middle, width, lines, [*slices, *volumes]))
    return Boxes(title, [Tick(down(t), text) for t, text in ticks], boxes)


def _five_numbers(values: Sequence[float]) -> tuple[float, ...] | None:
    """Return the whisker ends and the quartiles in ascending order; None for fewer than `LEAST` values."""
    if len(values) < LEAST:
        return None
    first, half, third = (float(q) for q in np.quantile(values, (0.25, 0.5, 0.75)))
    reach = 1.5 * (third - first)
    inner = [v for v in values if first - reach <= v <= third + reach]
    return min(inner), first, half, third, max(inner)


def line_plot(title: str, curves: Mapping[str, tuple[int, Sequence[float]]]) -> Lines | None:
    """Return curves over steps on a logarithmic axis; None if there are none.

    Args:
        title: title of the chart.
        curves: for each method, its index and its values from step 1 on; values that are not positive are omitted.

    """
    positive = {m: (n, [(k, v) for k, v in enumerate(c, start=1) if v > 0]) for m, (n, c) in curves.items()}
    points = [point for _, c in positive.values() for point in c]
    if not points:
        return None
    low, high = (math.log10(end(v for _, v in points)) for end in (min, max))
    spare = max(0.05, 0.06 * (high - low))
    low, high = low - spare, high + spare
    last = max(k for k, _ in points)

    def place(k: int, v: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - RIGHT - 8) * ((k - 1) / (last - 1) if last > 1 else 0.5)
        return x, TOP + (HEIGHT - TOP - BOTTOM) * (high - math.log10(v)) / (high - low)

    marks = [m * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for m in (1, 2, 5)]
    step = max(1, -(-last // 8))
    return Lines(
        title,
        [Tick(place(1, m)[1], f"{m:.3g}") for m in marks if low <= math.log10(m) <= high],
        [Tick(place(k, 1.0)[0], str(k)) for k in range(step, last + 1, step)],
        [
            (n, m, " ".join("{:.1f},{:.1f}".format(*place(k, v)) for k, v in c), c[-1][1])
            for m, (n, c) in positive.items()
            if c
        ],
    )


def spread_line(decibels: np.ndarray, floor: float) -> str:
    """Return the polyline of a point spread function (n,) in decibels, ``floor`` at the bottom."""
    n = len(decibels)
    across = [LEFT + (WIDTH - LEFT - RIGHT) * i / max(1, n - 1) for i in range(n)]
    down = TOP + (HEIGHT - TOP - BOTTOM) * (np.clip(decibels, floor, 0) / floor)
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across, down, strict=True))


def _scatter(number: int) -> float:
    """Return a quasi-random number in [−1, 1]: the fractional part of a multiple of the golden ratio."""
    return 2 * math.modf((number + 1) * 0.6180339887498949)[0] - 1


def _scale(low: float, high: float) -> tuple[float, float, list[tuple[float, str]]]:
    """Return the ends of an axis, slightly beyond the values, and its tick values."""
    span = high - low or abs(high) or 1.0
    low, high = low - 0.05 * span, high + 0.05 * span
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough)
    digits = max(0, -math.floor(math.log10(step)) + (1 if round(step / power, 6) == 2.5 else 0))
    first = math.ceil(low / step)
    values = [k * step for k in range(first, math.floor(high / step) + 1)]
    return low, high, [(v, f"{v:.{digits}f}") for v in values]
