"""Write the results of a study: tables as CSV, JSON and Markdown, a report in words, and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrirecon.data.volumes import PHANTOM
from mrirecon.evaluation import Difference, Summary, compare_runs, summarize, write_csv
from mrirecon.evaluation.paired import LEAST, SUBJECT
from mrirecon.evaluation.pictures import save_comparison
from mrirecon.evaluation.study.plan import Plan
from mrirecon.io.readers.images import read_image
from mrirecon.io.safe.atomic import atomic_path
from mrirecon.io.safe.text import utf8
from mrirecon.io.writers.write import write_json
from mrirecon.metrics import METRICS

Record = dict[str, Any]


def write_results(
    plan: Plan,
    records: Sequence[Record],
    models: Mapping[str, Record],
    out: Path,
    versions: Mapping[str, str],
    inputs: str,
) -> Record:
    """Write all tables, pictures and the report into a study's folder; return the content of ``table.json``.

    Args:
        plan: plan of the study.
        records: one per cell, in order: data, scan, subject, mask, method, status; for an image, also the achieved
            acceleration, seconds per slice, scores and notes; for a failed cell, the error.
        models: steps, seconds and folder of each method trained by the study, keyed by name.
        out: output folder.
        versions: versions of the programs.
        inputs: hash of everything from which the tables are computed.

    """
    metrics = plan.settings.metrics
    rows = _rows(plan, records)
    pairs = _differences(plan, records)
    place = ("data", "scan", "mask", "method")
    content: Record = {
        "title": plan.settings.title,
        "preset": plan.settings.preset,
        "rows": rows,
        "differences": [vars(d) | {"metric": metrics[0], "mask": d.metric} for d in pairs],
        "failed": [{k: r[k] for k in (*place, "error")} for r in records if r["status"] == "failed"],
        "methods": [{"name": m.name, "what": m.description, **models.get(m.name, {})} for m in plan.methods],
        "notes": plan.notes,
        "versions": dict(versions),
        "inputs": inputs,
    }
    for name, table in (
        ("table.csv", [_table_row(row, metrics) for row in rows]),
        ("cells.csv", [_cell_row(r, metrics) for r in records]),
    ):
        write_csv(out / name, list(table[0]), table)
    summary = _summary_table(rows, metrics)
    pictures = _draw_pictures(plan, records, out) if plan.settings.pictures else []
    report = _report(plan, content, records, summary, pairs, pictures)
    for name, text in (("table.md", summary), ("report.md", report)):
        with atomic_path(out / name) as temporary:
            temporary.write_bytes(utf8(text + "\n"))
    content["files"] = ["cells.csv", "table.csv", "table.md", "report.md", *pictures]
    write_json(out / "table.json", content)  # last, because it states that the other files are complete
    return content


def _rows(plan: Plan, records: Sequence[Record]) -> list[Record]:
    """Return one row for each kind of data, mask and method: each metric over its scans."""
    cells: dict[tuple[str, str, str], list[Record]] = {}
    for entry in dict.fromkeys(s.entry for s in plan.scans):
        cells |= {(entry, mask.name, method.name): [] for mask in plan.masks for method in plan.methods}
    for r in records:
        cells[r["data"], r["mask"], r["method"]].append(r)
    rows = []
    for (entry, mask_name, method_name), mine in cells.items():
        seconds = [r["seconds a slice"] for r in mine if r["status"] == "done"]
        drawn = [r["achieved"] for r in mine if "achieved" in r]
        row: Record = {"data": entry, "mask": mask_name, "acceleration": None, "method": method_name}
        row["acceleration"] = float(np.mean(drawn)) if len(drawn) == len(mine) else None
        row |= {"scans": len(mine), "failed": len(mine) - len(seconds)}
        # failed cells have no score and count as undefined
        row["scores"] = {n: vars(summarize([_score(r, n) for r in mine])) for n in plan.settings.metrics}
        row["seconds a slice"] = float(np.mean(seconds)) if seconds else None
        rows.append(row)
    return rows


def _score(record: Record, metric: str) -> float | None:
    value: float | None = record.get("scores", {}).get(metric)
    return value


def _differences(plan: Plan, records: Sequence[Record]) -> list[Difference]:
    """Compare the first metric of the methods under each mask, paired by subject, and adjust all tests together."""
    metric, masks = plan.settings.metrics[0], [m.name for m in plan.masks]
    runs: dict[str, dict[str, dict[str, float | None]]] = {}
    for r in records:
        runs.setdefault(r["method"], {}).setdefault(r["scan"], {})[r["mask"]] = _score(r, metric)
    if len(runs) < 2:
        return []
    pairs = plan.settings.compare
    # Pass each mask as a metric, so that all masks form one family of tests.
    differences = compare_runs(
        runs,
        masks,
        subject=plan.settings.subject or SUBJECT,
        pairs=None if pairs is None else [(a, b) for a, b in pairs],
        higher=dict.fromkeys(masks, METRICS[metric].higher),
    )
    return sorted(differences, key=lambda d: masks.index(d.metric))


def _table_row(row: Record, metrics: Sequence[str]) -> Record:
    flat = {k: v for k, v in row.items() if k != "scores"}
    for name in metrics:
        s = row["scores"][name]
        flat |= {name: s["mean"], f"{name} SD": s["deviation"], f"{name} low": s["low"], f"{name} high": s["high"]}
    return flat


def _cell_row(r: Record, metrics: Sequence[str]) -> Record:
    error = r.get("error") or {}
    return {
        **{name: r[name] for name in ("data", "scan", "subject", "mask", "method")},
        "acceleration": r.get("achieved"),
        "status": r["status"],
        **{name: _score(r, name) for name in metrics},
        "seconds a slice": r.get("seconds a slice"),
        "reason": "; ".join(str(error[k]) for k in ("what", "why") if error.get(k)),
    }


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Return the lines of a table."""
    lines = [f"| {' | '.join(map(_safe, cells))} |" for cells in (heads, *rows)]
    return [lines[0], "|" + "---|" * len(heads), *lines[1:]]


def _safe(text: object) -> str:
    """Escape text for Markdown, so that no name can end a table cell or start markup."""
    return str(text).replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}g}"


def _summary_table(rows: Sequence[Record], metrics: Sequence[str]) -> str:
    heads = ["data", "mask", "method", *(METRICS[m].title for m in metrics), "scans", "failed", "s a slice"]
    table = [
        [
            *(row["data"], row["mask"], row["method"]),
            *(_mean_and_deviation(Summary(**row["scores"][m])) for m in metrics),
            row["scans"] - row["failed"],
            f"**{row['failed']}**" if row["failed"] else "0",
            _number(row["seconds a slice"], 2),
        ]
        for row in rows
    ]
    return "\n".join(_markdown(heads, table))


def _mean_and_deviation(s: Summary) -> str:
    return _number(s.mean) + ("" if s.deviation is None else f" ± {_number(s.deviation, 2)}")


def _report(
    plan: Plan,
    content: Record,
    records: Sequence[Record],
    summary: str,
    pairs: Sequence[Difference],
    pictures: Sequence[str],
) -> str:
    settings, subjects = plan.settings, {s.subject for s in plan.scans}
    metric = METRICS[settings.metrics[0]].title
    reference = "coils of the full scan combined with ESPIRiT maps of all samples"
    if settings.preset == "fastmri":
        reference = f"reconstruction_rss or reconstruction_esc from the file, else {reference}"
    definition = ": inside the object, after one least-squares scale" if settings.preset == "mrirecon" else ""
    lines = [
        f"# {_safe(settings.title or plan.path.stem)}",
        "",
        f"{len(plan.scans)} scans of {len(subjects)} {'subject' if len(subjects) == 1 else 'subjects'}, "
        f"{len(plan.masks)} masks, {len(plan.methods)} methods. All methods share the samples of each scan, the coil "
        f"maps (ESPIRiT from the calibration region of these samples), the reference ({reference}), and the definition "
        f"of the scores ({settings.preset}{definition}). Scores are means over scans ± their standard deviation.",
        "",
        summary,
        "",
        f"## Differences in {metric}",
        "",
        *_difference_lines(pairs),
        "",
    ]
    if content["failed"]:
        lines += ["## Failed", "", "These cells have no score and are excluded from the means.", ""]
        for f in content["failed"]:
            reason = f" ({_safe(f['error']['why'])})" if f["error"]["why"] else ""
            lines.append(
                f"- {_safe(', '.join((f['mask'], f['method'], f['scan'])))}: {_safe(f['error']['what'])}{reason}"
            )
        lines.append("")
    notes = _notes(records)
    if notes:
        lines += ["## Notes on images", "", *(f"- {_safe(text)}" for text in notes), ""]
    lines += ["## Methods", "", *(f"- **{_safe(m['name'])}**: {_method_line(m)}" for m in content["methods"])]
    if plan.trained:
        lines += ["", "Each method was trained once with one seed, so the variation between trainings is unknown."]
    if any(s.source.startswith(PHANTOM) for s in plan.scans):
        lines += ["", "Phantoms count as subjects here; the results may not apply to human subjects."]
    if plan.notes:
        lines += ["", "## Notes", "", *(f"- {_safe(n)}" for n in plan.notes)]
    if pictures:
        lines += ["", "## Pictures", "", "The middle slice of the first scan; below each image, its error × 5."]
        lines += ["", *(f"![{_safe(p)}]({p})" for p in pictures)]
    lines += ["", f"mrirecon {content['versions']['mrirecon']}, torch {content['versions']['torch']}. For research."]
    return "\n".join(lines)


def _notes(records: Sequence[Record]) -> list[str]:
    """Return the notes on images, merged by method, with the number of cells.

    Notes that are equal up to their first colon are merged.
    """
    cells: dict[str, int] = {}
    by_kind: dict[tuple[str, str], list[str]] = {}
    for r in records:
        if r["status"] == "done":
            cells[r["method"]] = cells.get(r["method"], 0) + 1
            for text in dict.fromkeys(r["notes"]):
                by_kind.setdefault((r["method"], text.partition(":")[0]), []).append(text)
    by_text: dict[str, list[str]] = {}
    for (method, _), texts in by_kind.items():
        shown = texts[0] + (" (and the like)" if len(set(texts)) > 1 else "")
        by_text.setdefault(shown, []).append(f"{method} ({len(texts)} of {cells[method]})")
    every = [text for text, methods in by_text.items() if 1 < len(methods) == len(cells)]
    return [f"{'all methods' if t in every else ', '.join(methods)}: {t}" for t, methods in by_text.items()]


def _difference_lines(pairs: Sequence[Difference]) -> list[str]:
    if not pairs:
        return ["There are fewer than two methods to compare."]
    most = max(d.subjects for d in pairs)
    text = "Paired by subject: Wilcoxon's test, adjusted by Holm for all rows together."
    if most < LEAST:
        text = f"A test needs {LEAST} subjects; there are {most}. The results apply to these subjects only."
    rows = [
        [
            *(d.metric, f"{d.a} - {d.b}", _number(d.mean)),
            "-" if d.low is None else f"{_number(d.low)} to {_number(d.high)}",
            *(_number(d.effect, 2), d.subjects, d.verdict),
        ]
        for d in pairs
    ]
    heads = ("mask", "methods", "difference", "95 % interval", "effect", "subjects", "verdict")
    return [text, "", *_markdown(heads, rows)]


def _method_line(m: Record) -> str:
    description = _safe(m["what"])
    if "steps" not in m:
        return description
    description = description.replace("to be trained for", "trained here for")
    return f"{description} ({m['steps']} steps in {m['seconds']:.0f} s, {_safe(m['model'])})"


def _draw_pictures(plan: Plan, records: Sequence[Record], out: Path) -> list[str]:
    """Draw the middle slice of the first scan by all successful methods, for each mask and data entry."""
    first = {s.entry: s for s in reversed(plan.scans)}
    names = []
    for entry in dict.fromkeys(s.entry for s in plan.scans):
        scan = first[entry].name
        for mask in plan.masks:
            done = [r for r in records if (r["scan"], r["mask"], r["status"]) == (scan, mask.name, "done")]
            if done:
                names.append(f"pictures/{mask.name}-{scan}.png")
                _draw_picture(out, names[-1], done, scan)
    return names


def _draw_picture(out: Path, name: str, records: Sequence[Record], scan: str) -> None:
    reference, mask = np.abs(read_image(out / "references" / f"{scan}.h5")), records[0]["mask"]
    item = len(reference) // 2
    truth = _middle(reference[item])
    images = []
    for r in records:
        image = _middle(np.abs(read_image(out / "images" / mask / r["method"] / f"{scan}.h5"))[item])
        scale = float((image * truth).sum() / max(float((image * image).sum()), 1e-30))
        scores = [(METRICS[k].title.removesuffix(" (dB)"), v) for k, v in list(r["scores"].items())[:2]]
        text = ", ".join(f"{title} {v:.4g}" for title, v in scores if v is not None)
        images.append((r["method"], scale * image, text))
    sampled = _middle(np.load(out / "masks" / mask / f"{scan}.npy"))
    save_comparison(out / name, truth, sampled, images, f"{scan}, {mask} (scores: mean over slices)")


def _middle(image: np.ndarray) -> np.ndarray:
    return image if image.ndim == 2 else image[len(image) // 2]
