"""Draw grey-scale images and labelled panels with Pillow, and show results in notebooks (`Shown`)."""

from __future__ import annotations

import base64
import io
import math
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from mrirecon.errors import InputError, SignalError

if TYPE_CHECKING:  # Pillow is imported to draw, not to describe
    from PIL import Image, ImageDraw, ImageFont

    Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

Numbers = npt.NDArray[Any]  # any real or complex dtype

BACKGROUND, TITLE, NOTE, HEADING = (17, 19, 24), (236, 239, 244), (150, 158, 172), (255, 255, 255)
GAP, MARGIN = 14, 20
# Smaller panels are enlarged by the smallest whole factor that gives their longer side at least this size.
SMALLEST_SIDE = 300
# Substitutes for letters that the font of Pillow does not have.
GREEK = {"λ": "lambda", "σ": "sigma", "µ": "u", "Δ": "delta"}
SPELLED = str.maketrans({"×": "x", "−": "-", "–": "-", "≤": "<=", "≥": ">=", "≈": "~", "→": "->", "ℓ": "l"} | GREEK)


@dataclass(frozen=True)
class Panel:
    """Hold one panel of a figure.

    Args:
        title: the line above the image.
        image: (y, x), real; for complex values the magnitude is drawn.
        vmin: the value drawn as black.
        vmax: the value drawn as white; None takes the 99.8th percentile of the image.
        note: the line below the image, for example a score; may be empty.
        colours: ``gray``, or ``heat`` (black, red, yellow, white) for error maps.

    """

    title: str
    image: Numbers
    vmin: float = 0.0
    vmax: float | None = None
    note: str = ""
    colours: Literal["gray", "heat"] = "gray"


def to_gray(image: Numbers, vmax: float | None = None, vmin: float = 0.0) -> npt.NDArray[np.uint8]:
    """Map an image to grey levels, ``vmin`` to 0 and ``vmax`` to 255; values outside are clipped.

    Args:
        image: (y, x), real or complex (then its magnitude), in any unit.
        vmax: white, in the unit of the image; None takes the 99.8th percentile, so that a few bright pixels do not
            darken the image.
        vmin: black, in the image's unit.

    Returns:
        (y, x), uint8. An image without contrast (``vmax <= vmin``) is black.

    Raises:
        InputError: not two-dimensional, or empty.
        SignalError: NaN or infinite values, which have no grey level.

    """
    values = np.abs(image) if np.iscomplexobj(image) else np.asarray(image)
    if values.ndim != 2 or values.size == 0:
        why = f"the array has the shape {tuple(values.shape)}"
        raise InputError("an image for PNG must have two axes", why=why, fix="select one slice: image[item]")
    values = values.astype(np.float64)
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        raise SignalError(
            "the image holds NaN or infinite values, which have no grey level",
            why=f"{bad} of {values.size} pixels are NaN or infinite",
            fix="find the cause in the reconstruction, or replace them first: numpy.nan_to_num(image)",
        )
    white = float(np.percentile(values, 99.8)) if vmax is None else float(vmax)
    if white <= vmin:
        return np.zeros(values.shape, np.uint8)
    return np.rint(np.clip((values - vmin) / (white - vmin), 0, 1) * 255).astype(np.uint8)


def draw_panels(panels: Sequence[Panel], columns: int | None = None, heading: str | None = None) -> Image.Image:
    """Draw panels side by side in one labelled picture on a dark background.

    Small images are enlarged by a whole factor without smoothing, so that pixels keep their values. Panels of different
    sizes are centred in cells of the largest size.

    Args:
        panels: panels, row by row.
        columns: panels in a row; None puts up to 5 in one row, and more in a nearly square grid.
        heading: one line above all panels.

    Raises:
        InputError: no panels, fewer than 1 column, or an image that ``to_gray`` refuses.

    """
    from PIL import Image, ImageDraw

    if not panels or (columns is not None and columns < 1):
        raise InputError(
            "a figure needs at least one panel and one column",
            why=f"{len(panels)} panels, columns={columns}",
            fix="pass at least one Panel and columns=1 or more",
        )
    count = len(panels)
    across = min(count, columns or (count if count <= 5 else math.ceil(math.sqrt(count))))
    pictures = [_picture(p) for p in panels]
    width, height = max(p.width for p in pictures), max(p.height for p in pictures)
    # The font scales with the panels, so that text has the same relative size for panels of 300 and of 900 pixels.
    big, small = max(15, round(width / 18)), max(13, round(width / 22))
    above = big + 12 if any(p.title for p in panels) else 0
    below = small + 12 if any(p.note for p in panels) else 0
    top = MARGIN + (big + 22 if heading else 0)
    cell, rows = above + height + below, math.ceil(count / across)
    size = (2 * MARGIN + across * width + (across - 1) * GAP, top + rows * cell + (rows - 1) * GAP + MARGIN)
    sheet = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    if heading:
        text, font = _fit(draw, heading, size[0] - 2 * MARGIN, big + 4)
        draw.text((MARGIN, MARGIN - 4), text, fill=HEADING, font=font)
    for number, (panel, picture) in enumerate(zip(panels, pictures, strict=True)):
        row, column = divmod(number, across)
        left, up = MARGIN + column * (width + GAP), top + row * (cell + GAP)
        sheet.paste(picture, (left + (width - picture.width) // 2, up + above + (height - picture.height) // 2))
        for label, font_size, colour, y in (
            (panel.title, big, TITLE, up + above // 2),
            (panel.note, small, NOTE, up + above + height + below // 2),
        ):
            text, font = _fit(draw, label, width, font_size)
            draw.text((left + width / 2 - draw.textlength(text, font=font) / 2, y), text, colour, font, anchor="lm")
    return sheet


def slice_panels(images: Numbers, limit: int = 16, name: str = "slice") -> list[Panel]:
    """Return panels for slices of images, with the same window.

    Args:
        images: (..., y, x), real or complex; a memory map is read only where it is shown.
        limit: largest number of slices; of more, slices at equal distances are shown.
        name: what a slice is, for the titles.

    """
    count = math.prod(images.shape[:-2])
    numbers = np.unique(np.linspace(0, count - 1, min(count, limit)).round().astype(int))
    shown = [np.abs(images[np.unravel_index(number, images.shape[:-2])]) for number in numbers]
    white = float(np.percentile(np.stack(shown), 99.8))
    titles = ["" if count == 1 else f"{name} {number} of {count}" for number in numbers]
    return [Panel(title, image, vmax=white) for title, image in zip(titles, shown, strict=True)]


@dataclass(frozen=True)
class Curve:
    """Hold one curve of a graph.

    Args:
        title: the line above the graph.
        points: (x, y), x ascending; points whose y is not finite are left out.
        level: a horizontal line for comparison; None for none.
        level_name: what the line shows.

    """

    title: str
    points: Sequence[tuple[float, float]]
    level: float | None = None
    level_name: str = ""


def draw_curves(curves: Sequence[Curve], heading: str = "", size: tuple[int, int] = (640, 260)) -> Image.Image:
    """Draw graphs below each other, each from its smallest to its largest value.

    Args:
        curves: one curve per graph.
        heading: one line above all graphs.
        size: width and height of a graph in pixels.

    """
    from PIL import Image, ImageDraw, ImageFont

    width, height = size
    sheet = Image.new("RGB", (width + 2 * MARGIN, (height + 80) * len(curves) + 50), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=15)
    draw.text((MARGIN, 14), _plain(heading), HEADING, font)
    for number, curve in enumerate(curves):
        points = [(x, y) for x, y in curve.points if math.isfinite(y)]
        left, up = MARGIN, 50 + number * (height + 80) + 26
        draw.text((left, up - 24), _plain(curve.title), TITLE, font)
        draw.rectangle((left, up, left + width, up + height), outline=NOTE)
        if not points:
            continue
        values = [y for _, y in points] + ([] if curve.level is None else [curve.level])
        low, high, last = min(values), max(values), max(x for x, _ in points) or 1.0
        span = (high - low) or 1.0
        row = [up + height - 8 - (height - 16) * (y - low) / span for _, y in points]
        line = [(left + width * x / last, y) for (x, _), y in zip(points, row, strict=True)]
        if len(line) > 1:
            draw.line(line, fill=(110, 190, 255), width=2)
        for x, y in line if len(line) <= 50 else ():
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=(110, 190, 255))
        scale = f"{low:.4g} to {high:.4g}; last {points[-1][1]:.4g} at step {points[-1][0]:g}"
        if curve.level is not None:
            y = up + height - 8 - (height - 16) * (curve.level - low) / span
            draw.line((left, y, left + width, y), fill=(255, 170, 80))
            scale += f"; orange: {curve.level_name} {curve.level:.4g}"
        draw.text((left, up + height + 6), _plain(scale), NOTE, font)
    return sheet


class Shown(ABC):
    """Show a result as a picture with a caption, in notebooks and in scripts."""

    @abstractmethod
    def panels(self) -> list[Panel]:
        """Return the panels of the picture; without any, only the caption is shown."""

    @abstractmethod
    def caption(self) -> list[str]:
        """Return lines of text that describe the result."""

    @property
    def picture(self) -> Image.Image:
        """Return the picture; its method ``save("name.png")`` writes it."""
        return draw_panels(self.panels())

    def show(self) -> None:
        """Show the picture and its caption below the cell of a notebook, or else the picture in the system's viewer."""
        try:
            from IPython import display, get_ipython  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            self._view()
            return
        if get_ipython() is None:
            self._view()
        else:
            display.display(self)

    def _view(self) -> None:
        """Show the picture in the system's viewer; without a picture, print the caption."""
        if self.panels():
            self.picture.show()
        else:
            print("\n".join(self.caption()))

    def _repr_html_(self) -> str:
        """Return the picture and the caption as HTML without links, which notebooks show."""
        text = f"<p>{'<br>'.join(escape(line) for line in self.caption())}</p>"
        if not self.panels():
            return text
        content = io.BytesIO()
        self.picture.save(content, format="PNG", optimize=True)
        source = base64.b64encode(content.getvalue()).decode()
        return f'<img src="data:image/png;base64,{source}" style="max-width:100%" alt="">{text}'


def _picture(panel: Panel) -> Image.Image:
    """Return the panel's image in colour, enlarged by a whole factor."""
    from PIL import Image

    levels = to_gray(panel.image, panel.vmax, panel.vmin)
    factor = max(1, math.ceil(SMALLEST_SIDE / max(levels.shape)))
    ramp = np.repeat(np.arange(256)[:, None], 3, axis=-1)
    if panel.colours == "heat":
        ramp = np.clip(3 * ramp - np.array([0, 255, 510]), 0, 255)  # red saturates first, then green, then blue
    return Image.fromarray(ramp.astype(np.uint8)[levels].repeat(factor, axis=0).repeat(factor, axis=1))


def _fit(draw: ImageDraw.ImageDraw, text: str, width: int, size: int) -> tuple[str, Font]:
    """Fit text into ``width`` pixels: reduce the font size first, then shorten with an ellipsis."""
    from PIL import ImageFont

    text = " ".join(_plain(text).split())  # one line: a line break would overlap neighbouring panels
    for smaller in range(size, max(11, round(size * 0.7)) - 1, -1):
        font = ImageFont.load_default(size=smaller)
        if draw.textlength(text, font=font) <= width:
            return text, font
    while text and draw.textlength(text + "…", font=font) > width:
        text = text[:-1].rstrip()
    return text + "…", font


def _plain(text: str) -> str:
    """Replace letters that the font does not have: drop accents, and use question marks for others."""
    letters = unicodedata.normalize("NFKD", text.translate(SPELLED))
    return "".join(c if c.isascii() or c in "…·±°" else "?" for c in letters if not unicodedata.combining(c))
