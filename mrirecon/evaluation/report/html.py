"""Write a report as one HTML file with scores, pictures and settings.

    evaluation = compare(images, truth, prediction="scan.h5", reference="full.h5", kind="images")
    case = Case("scan", [Result("cs", images, evaluation)], truth, "images")
    write_report("report.html", [case], About("My study"))

The file contains pictures, styles and script, and loads nothing from elsewhere. Its content security policy allows this
one script only, so that no name in the report can run as a script.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from mrirecon.errors import InputError, UsageError
from mrirecon.evaluation.report import charts
from mrirecon.evaluation.report.cases import ZERO_FILLED, About, Case
from mrirecon.evaluation.report.slices import FLOOR, WHITE, SliceImages, choose_slices, pack_slices
from mrirecon.evaluation.report.tables import (
    PRESETS,
    differences,
    lesion_rows,
    median_recoveries,
    merge_texts,
    method_names,
    method_rows,
    natural,
    result_of,
    worst_first,
)
from mrirecon.io.safe.atomic import atomic_path
from mrirecon.io.safe.text import utf8
from mrirecon.metrics import METRICS

LIMIT = 20e6  # bytes; most mail servers accept this size
INSTALL = "pip install 'mrirecon[report]'"
GAIN = 5  # initial gain of error maps
_PROGRAM = ("pixels.js", "drawing.js", "viewer.js", "page.js")


@dataclass(frozen=True)
class WrittenReport:
    """Hold the size and the number of cases and slices of a written report.

    Attributes:
        path: file of the report.
        bytes: size of the file.
        cases: number of cases.
        slices: number of slices.
        shown: number of slices with pictures.
        failed: number of failed results.

    """

    path: Path
    bytes: int
    cases: int
    slices: int
    shown: int
    failed: int


def write_report(
    path: str | Path,
    cases: Iterable[Case],
    about: About | None = None,
    *,
    limit: float = LIMIT,
    full_images: bool = False,
    inputs: Sequence[str | Path] = (),
    progress: Callable[[int, str], None] | None = None,
) -> WrittenReport:
    """Write a report of cases as one HTML file, atomically.

    Args:
        path: output file.
        cases: iterable of cases; each is packed and released before the next, so that an iterator needs the memory of
            one case.
        about: title, scores and settings.
        limit: maximum size in bytes; to stay below it, values are rounded more coarsely, then slices are omitted
            evenly, and the report states this.
        full_images: show the whole field of view instead of the object with a margin.
        inputs: input files, which must not be overwritten.
        progress: called with (cases done, name of the last).

    Raises:
        UsageError: jinja2 is not installed.
        InputError: there are no cases, or two results of a case have the same name.
        ResourceError: the disk is full or not writable.

    """
    about = about or About()
    environment = _environment()
    albums: list[SliceImages] = []
    for case in cases:
        albums.append(pack_slices(case, about.options, full_images=full_images))
        if progress is not None:
            progress(len(albums), case.name)
    if not albums:
        raise InputError("no cases to report", where=str(path), fix="give folders that contain images")
    albums = [albums[i] for i in worst_first([a.case for a in albums], about.options.metrics[0])]
    bare = len(utf8(_page(environment, albums, about, limit, empty=True)))
    choose_slices(albums, limit - bare)
    content = utf8(_page(environment, albums, about, limit))
    with atomic_path(path, inputs=inputs) as temporary:
        temporary.write_bytes(content)
    return WrittenReport(
        Path(path),
        len(content),
        len(albums),
        sum(len(a.slices) for a in albums),
        sum(len(a.shown_slices) for a in albums),
        sum(r.failure is not None for a in albums for r in a.case.results),
    )


def _environment() -> Any:
    try:
        import jinja2
    except ImportError:
        raise UsageError("reports need jinja2, which is not installed", fix=INSTALL) from None
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mrirecon.evaluation.report", "page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "plain": _plain}
    return environment


def _page(environment: Any, albums: list[SliceImages], about: About, limit: float, *, empty: bool = False) -> str:
    """Return the page, without pictures if ``empty``."""
    cases = [a.case for a in albums]
    methods = method_names(cases)
    groups = list(dict.fromkeys(sorted((case.group for case in cases), key=natural)))
    metrics = {m: METRICS[m] for m in about.options.metrics}
    program, style = _joined(*_PROGRAM), _joined("page.css")
    text: str = environment.get_template("page.html").render(
        about=about,
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        program=program,
        style=style,
        hashes={"program": _hash(program), "style": _hash(style)},
        names={m: metric.title for m, metric in metrics.items()},
        digits={m: metric.digits for m, metric in metrics.items()},
        higher={m for m, metric in metrics.items() if metric.higher},
        preset=PRESETS[about.options.preset],
        definitions={m: metric.summary for m, metric in metrics.items()},
        methods=methods,
        blocks=[_group_context(cases, group, methods, about) for group in groups],
        contexts=[_case_context(number, album, methods, about, empty) for number, album in enumerate(albums)],
        settings=[(m, _settings(cases, m)) for m in methods],
        chart=charts,
        floor=FLOOR,
        limit=limit,
        kinds=list(dict.fromkeys(case.kind for case in cases if case.kind)),
        coarse=any(a.fineness > 0 for a in albums),
        white=WHITE,
        slices=sum(len(a.slices) for a in albums),
        shown_slices=sum(len(a.shown_slices) for a in albums),
    )
    return text


def _group_context(cases: list[Case], group: str, methods: list[str], about: About) -> dict[str, Any]:
    """Return the template context of a group: scores over its cases."""
    members = [case for case in cases if case.group == group]
    pairs, reason = differences(members, about.options)
    plots = [_box_plot(cases, group, methods, metric) for metric in about.options.metrics]
    return {
        "group": group,
        "rows": method_rows(members, methods, about.options),
        "plots": [plot for plot in plots if plot is not None],
        "differences": pairs,
        "differences_missing": reason,
    }


def _box_plot(cases: list[Case], group: str, methods: list[str], metric: str) -> charts.Boxes | None:
    values = {
        method: [
            (n, case.name, r.evaluation.mean[metric], [row.get(metric) for row in r.evaluation.slices])
            for n, case in enumerate(cases)
            if case.group == group and (r := result_of(case, method)) is not None and r.evaluation is not None
        ]
        for method in methods
    }
    return charts.box_plot(METRICS[metric].title, values)


def _case_context(number: int, album: SliceImages, methods: list[str], about: About, empty: bool) -> dict[str, Any]:
    """Return the template context of a case: tables, charts, and the JSON for the viewer."""
    case, shown, metric = album.case, [] if empty else album.shown_slices, about.options.metrics[0]
    evaluated = [(r.method, r.evaluation) for r in case.results if r.evaluation is not None]
    data = {
        "ny": album.shape[0],
        "nx": album.shape[1],
        "dy": case.spacing[0] if case.spacing else 1.0,
        "dx": case.spacing[1] if case.spacing else 1.0,
        "white": 0 if album.depth is None else album.depth.white,
        "gain": GAIN,
        "columns": [
            {"name": name, "number": methods.index(name) if name in methods else None} for name in album.columns
        ],
        "slices": [album.slices[i] for i in shown],
        "flicker": next((k for k, n in enumerate(album.columns) if k and n != ZERO_FILLED), 0),
        "start": shown.index(album.start) if album.start in shown else 0,
        "reference": album.truth,
        "sampling": {key: value for key, value in album.sampling.items() if key != "line"},
        "floor": FLOOR,
        # the first metric of every slice, also of slices without pictures
        "profile": {
            "metric": METRICS[metric].title,
            "curves": [
                {"number": methods.index(m), "values": [row.get(metric) for row in e.slices]} for m, e in evaluated
            ],
        },
        "shown": shown,
    }
    lesions, line = lesion_rows(case), album.sampling.get("line")
    curves = {r.method: (methods.index(r.method), r.steps) for r in case.results if len(r.steps)}
    notes: dict[str, list[str]] = {}  # keys: notes; values: methods
    for r in case.results:
        for note in (*r.notes, *(r.evaluation.notes if r.evaluation is not None else ())):
            notes.setdefault(note, []).append(r.method)
    return {
        "number": number,
        "case": case,
        "album": album,
        "shown_slices": shown,
        "data": json_text(data),
        "line": None if line is None else charts.spread_line(line, float(FLOOR)),
        "lesions": [(row, *_lesion_slice(album, row.lesion, shown)) for row in lesions],
        "medians": median_recoveries(case, lesions),
        "convergence": charts.line_plot(next((r.steps_are for r in case.results if len(r.steps)), ""), curves),
        "failed": [r for r in case.results if r.failure is not None],
        "notes": [(", ".join(dict.fromkeys(names)), note) for note, names in notes.items()],
        "cells": [_cell(case, m, metric) for m in methods],
        "stopped": {r.method: merge_texts(r.stopped) for r in case.results},
    }


def _lesion_slice(album: SliceImages, lesion: tuple[int, int], shown: list[int]) -> tuple[str, int | None]:
    """Return the name of a lesion (item, label), and the index of the slice that shows it among the shown ones."""
    item, label = lesion
    index = album.lesions.get(lesion)
    name = f"item {item + 1}" if index is None else album.slices[index]["name"]
    return f"{name}, lesion {label}", shown.index(index) if index in shown else None


def _cell(case: Case, method: str, metric: str) -> dict[str, Any]:
    """Return the first score of a method for the list of cases, or why it is missing."""
    result = result_of(case, method)
    failed = result is not None and result.failure is not None
    if result is None:
        text, reason = "not run", "there is no image"
    elif result.failure is not None:
        text, reason = "failed", result.failure
    elif result.evaluation is None:
        text, reason = "no reference", "images without a reference have no scores"
    else:
        missing = sum(result.evaluation.undefined.values())
        text = _number(result.evaluation.mean[metric], METRICS[metric].digits)
        reason = f"{missing} values are undefined" if missing else ""
    return {"text": text, "failed": failed, "reason": reason}


def _settings(cases: list[Case], method: str) -> list[tuple[str, list[str]]]:
    """Return each setting of a method with its distinct values as text."""
    settings: dict[str, dict[str, None]] = {}
    for case in cases:
        result = result_of(case, method)
        for key, value in result.settings.items() if result is not None else ():
            settings.setdefault(key, {})[_plain(value)] = None
    return [(key, texts) for key, values in settings.items() if (texts := [v for v in values if v])]


def json_text(data: object) -> str:
    """Return JSON that is safe in a script element: no text in it can end the element or act as markup."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _number(value: float | None, digits: int = 4) -> str:
    if value is None:
        return "–"
    # 32.20, not 32.2: all digits shown are significant
    text = f"{value:.0f}" if 10**digits <= abs(value) < 1e9 else f"{value:#.{digits}g}".rstrip(".")
    return text.replace("-", "−")


def _plain(value: object) -> str:
    """Return plain data as text; "" for empty values."""
    if value is None:
        return ""
    if isinstance(value, dict):
        return ", ".join(f"{k} = {_plain(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _joined(*names: str) -> str:
    folder = resources.files("mrirecon.evaluation.report") / "page"
    return "\n".join((folder / name).read_text(encoding="utf-8").strip() for name in names)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
