"""What a study found: tables as CSV, JSON and Markdown, a report in words that claim no more, and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrirecon.data.volumes import PHANTOM
from mrirecon.evaluation import Difference, Summary, compare_runs, summarize, write_csv
from mrirecon.evaluation.paired import LEAST, PERSON
from mrirecon.evaluation.study.parts import Plan
from mrirecon.io import atomic_path, read_image, write_json
from mrirecon.io.safe.text import utf8
from mrirecon.io.writers.pictures import Panel, save_panels
from mrirecon.metrics import METRICS

Record = dict[str, Any]
_GAIN = 5  # of errors in pictures


def write_results(
    plan: Plan, records: Sequence[Record], models: Mapping[str, Record], out: Path, versions: Mapping[str, str]
) -> Record:
    """Write all tables, pictures and the report into a study's folder; return the content of ``table.json``."""
    rows = _rows(plan, records)
    pairs = _differences(plan, records)
    metrics = plan.settings.metrics
    told: Record = {
        "title": plan.settings.title,
        "preset": plan.settings.preset,
        "rows": rows,
        "differences": [d.as_dict() | {"metric": metrics[0], "mask": d.metric} for d in pairs],
        "failed": [_place(r) | {"error": r["error"]} for r in records if r["status"] == "failed"],
        "methods": [{"name": m.name, "what": m.what, **models.get(m.name, {})} for m in plan.methods],
        "notes": plan.notes,
        "versions": dict(versions),
    }
    write_json(out / "table.json", told)
    flat = [_flat(row, metrics) for row in rows]
    write_csv(out / "table.csv", list(flat[0]), flat)
    each = [_cell(r, metrics) for r in records]
    write_csv(out / "cells.csv", list(each[0]), each)
    table = _markdown(rows, metrics)
    pictures = _pictures(plan, records, out) if plan.settings.pictures else []
    report = _report(plan, told, records, table, pairs, pictures)
    for path, text in ((out / "table.md", table), (out / "report.md", report)):
        with atomic_path(path) as temporary:
            temporary.write_bytes(utf8(text + "\n"))
    return told


def _rows(plan: Plan, records: Sequence[Record]) -> list[Record]:
    """Return one row for each kind of data, mask and method: each metric over its scans."""
    rows = []
    for entry in dict.fromkeys(s.entry for s in plan.scans):
        for mask in plan.masks:
            for method in plan.methods:
                mine = [r for r in records if (r["data"], r["mask"], r["method"]) == (entry, mask.name, method.name)]
                done = [r for r in mine if r["status"] == "done"]
                seconds = [r["seconds a slice"] for r in done]
                rows.append(
                    {
                        "data": entry,
                        "mask": mask.name,
                        "acceleration": float(np.mean([r["achieved"] for r in mine])) if _all(mine) else None,
                        "method": method.name,
                        "scans": len(mine),
                        "failed": len(mine) - len(done),
                        # what failed has no score, and counts as undefined
                        "scores": {n: vars(summarize([_value(r, n) for r in mine])) for n in plan.settings.metrics},
                        "seconds a slice": float(np.mean(seconds)) if seconds else None,
                    }
                )
    return rows


def _all(records: Sequence[Record]) -> bool:
    return all("achieved" in r for r in records)


def _value(record: Record, metric: str) -> float | None:
    found = record.get("scores", {}).get(metric)
    return None if found is None else float(found)


def _differences(plan: Plan, records: Sequence[Record]) -> list[Difference]:
    """Compare methods under each mask in the first metric, paired by person; all tests are adjusted together."""
    metric = plan.settings.metrics[0]
    masks = [m.name for m in plan.masks]
    runs: dict[str, dict[str, dict[str, float | None]]] = {}
    for r in records:
        runs.setdefault(r["method"], {}).setdefault(r["scan"], {})[r["mask"]] = _value(r, metric)
    pairs = plan.settings.compare
    if len(runs) < 2:
        return []
    # Masks take the place of metrics: one family of tests, the first metric under each mask.
    found = compare_runs(
        runs,
        masks,
        person=plan.settings.person or PERSON,
        pairs=None if pairs is None else [(a, b) for a, b in pairs],
        higher=dict.fromkeys(masks, METRICS[metric].higher),
    )
    return sorted(found, key=lambda d: masks.index(d.metric))


def _flat(row: Record, metrics: Sequence[str]) -> Record:
    out = {k: v for k, v in row.items() if k != "scores"}
    for name in metrics:
        s = row["scores"][name]
        out |= {name: s["mean"], f"{name} SD": s["deviation"], f"{name} low": s["low"], f"{name} high": s["high"]}
    return out


def _cell(r: Record, metrics: Sequence[str]) -> Record:
    error = r.get("error") or {}
    reason = "; ".join(str(error[k]) for k in ("what", "why") if error.get(k))
    told = {"data": r["data"], "scan": r["scan"], "person": r["person"], "mask": r["mask"], "method": r["method"]}
    told |= {"acceleration": r.get("achieved"), "status": r["status"]}
    told |= {name: _value(r, name) for name in metrics}
    return told | {"seconds a slice": r.get("seconds a slice"), "reason": reason}


def _markdown(rows: Sequence[Record], metrics: Sequence[str]) -> str:
    heads = ["data", "mask", "method", *(METRICS[m].title for m in metrics), "scans", "failed", "s a slice"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        scores = [_spread(Summary(**row["scores"][m])) for m in metrics]
        done = row["scans"] - row["failed"]
        lost = f"**{row['failed']}**" if row["failed"] else "0"
        cells = [row["data"], row["mask"], row["method"], *scores, str(done), lost, _number(row["seconds a slice"], 2)]
        lines.append("| " + " | ".join(map(_safe, cells)) + " |")
    return "\n".join(lines)


def _spread(s: Summary) -> str:
    if s.mean is None:
        return "-"
    return _number(s.mean) + ("" if s.deviation is None else f" ± {_number(s.deviation, 2)}")


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}g}"


def _safe(text: object) -> str:
    """Names come from files: nothing in them may end a cell or begin markup."""
    return str(text).replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _report(
    plan: Plan,
    told: Record,
    records: Sequence[Record],
    table: str,
    pairs: Sequence[Difference],
    pictures: Sequence[str],
) -> str:
    people = {s.person for s in plan.scans}
    metric = METRICS[plan.settings.metrics[0]].title
    reference = "coils of the full scan combined with ESPIRiT maps of all samples"
    if plan.settings.preset == "fastmri":
        reference = f"reconstruction_rss or reconstruction_esc where the file holds it, else {reference}"
    lines = [f"# {_safe(plan.settings.title or plan.path.stem)}", ""]
    lines += [
        f"{len(plan.scans)} scans of {len(people)} {'person' if len(people) == 1 else 'persons'}, {len(plan.masks)} "
        f"masks, {len(plan.methods)} methods. For all methods the same: the samples of each scan, coil maps (ESPIRiT "
        f"from the calibration region of these samples), the reference ({reference}), and the definition of the scores "
        f"({plan.settings.preset}"
        f"{': inside the object, after one least-squares scale' if plan.settings.preset == 'mrirecon' else ''}). "
        "Scores are means over scans ± their standard deviation.",
        "",
        table,
        "",
        f"## Differences in {metric}",
        "",
        *_told(pairs, metric),
        "",
    ]
    if told["failed"]:
        lines += ["## Failed", "", "These have no score, and are in no mean.", ""]
        lines += [
            f"- {_safe(f['mask'])}, {_safe(f['method'])}, {_safe(f['scan'])}: {_safe(f['error']['what'])}"
            + (f" ({_safe(f['error']['why'])})" if f["error"]["why"] else "")
            for f in told["failed"]
        ]
        lines.append("")
    remarks = _remarks(records)
    if remarks:
        lines += ["## What was noticed", "", *(f"- {_safe(r)}" for r in remarks), ""]
    lines += ["## Methods", ""]
    lines += [f"- **{_safe(m['name'])}**: {_trained(m)}" for m in told["methods"]]
    if any(m.config is not None for m in plan.methods):
        lines += ["", "Each was trained once, from one seed: how much trainings differ by themselves is not seen here."]
    if any(s.source.startswith(PHANTOM) for s in plan.scans):
        lines += ["", "Phantoms count as persons here; what holds for them need not hold for people."]
    if plan.notes:
        lines += ["", "## Notes", "", *(f"- {_safe(n)}" for n in plan.notes)]
    if pictures:
        lines += ["", "## Pictures", "", "The middle slice of the first scan; below each image its error, five times."]
        lines += ["", *(f"![{_safe(p)}]({p})" for p in pictures)]
    lines += ["", f"mrirecon {told['versions']['mrirecon']}, torch {told['versions']['torch']}. For research."]
    return "\n".join(lines)


def _remarks(records: Sequence[Record]) -> list[str]:
    """Return what was said while images were made and scored, once for each method, and in how many cells."""
    cells: dict[str, int] = {}
    said: dict[tuple[str, str], list[str]] = {}
    for r in records:
        if r["status"] == "done":
            cells[r["method"]] = cells.get(r["method"], 0) + 1
            for text in dict.fromkeys([*r["notes"], *r["remarks"]]):
                # what differs in its numbers alone is one remark
                said.setdefault((r["method"], text.partition(":")[0]), []).append(text)
    by_text: dict[str, list[str]] = {}
    for (method, _), texts in said.items():
        shown = texts[0] + (" (and the like)" if len(set(texts)) > 1 else "")
        by_text.setdefault(shown, []).append(f"{method} ({len(texts)} of {cells[method]})")
    # what is said of the data is said of them under every method
    by_text = {t: who if len(who) < len(cells) or len(who) == 1 else ["all methods"] for t, who in by_text.items()}
    return [f"{', '.join(who)}: {text}" for text, who in by_text.items()]


def _told(pairs: Sequence[Difference], metric: str) -> list[str]:
    if not pairs:
        return ["There are no two methods to compare."]
    most = max(d.persons for d in pairs)
    few = f"A test needs {LEAST} persons, and here are {most}: nothing is said of other persons than these."
    lines = (
        [few, ""]
        if most < LEAST
        else ["Paired by person: Wilcoxon's test, adjusted by Holm for all rows together.", ""]
    )
    lines += ["| mask | methods | difference | 95 % interval | effect | persons | verdict |", "|" + "---|" * 7]
    for d in pairs:
        interval = "-" if d.low is None else f"{_number(d.low)} to {_number(d.high)}"
        cells = [d.metric, f"{d.a} - {d.b}", _number(d.mean), interval, _number(d.effect, 2), d.persons, d.verdict]
        lines.append("| " + " | ".join(map(_safe, cells)) + " |")
    return lines


def _trained(m: Record) -> str:
    what = _safe(m["what"])
    if "steps" not in m:
        return what
    done = what.replace("to be trained for", "trained here for")
    return f"{done} ({m['steps']} steps in {m['seconds']:.0f} s, {_safe(m['model'])})"


def _place(r: Record) -> Record:
    return {k: r[k] for k in ("data", "scan", "mask", "method")}


def _pictures(plan: Plan, records: Sequence[Record], out: Path) -> list[str]:
    """Draw, for each mask and kind of data, the middle slice of the first scan by all methods that did it."""
    found = []
    for entry in dict.fromkeys(s.entry for s in plan.scans):
        scan = next(s for s in plan.scans if s.entry == entry)
        for mask in plan.masks:
            mine = [r for r in records if (r["scan"], r["mask"], r["status"]) == (scan.name, mask.name, "done")]
            if mine:
                name = f"pictures/{mask.name}-{scan.name}.png"
                _picture(out, name, mine, scan.name)
                found.append(name)
    return found


def _picture(out: Path, name: str, records: Sequence[Record], scan: str) -> None:
    reference = np.abs(read_image(out / "references" / f"{scan}.h5"))
    item = len(reference) // 2
    truth = _plane(reference[item])
    white = float(np.percentile(truth, 99.8))
    mask = np.load(out / "masks" / records[0]["mask"] / f"{scan}.npy")
    rate = f"{records[0]['achieved']:.3g}x fewer"
    above = [Panel("fully sampled", truth, vmax=white, note="the reference")]
    below = [Panel("samples of k-space", _plane(mask).astype(np.float64), vmax=1, note=rate)]
    for r in records:
        image = _plane(np.abs(read_image(out / "images" / r["mask"] / r["method"] / f"{scan}.h5"))[item])
        scale = float((image * truth).sum() / max(float((image * image).sum()), 1e-30))
        score = ", ".join(
            f"{METRICS[k].title.removesuffix(' (dB)')} {v:.4g}"
            for k, v in list(r["scores"].items())[:2]
            if v is not None
        )
        error = np.abs(scale * image - truth)
        above.append(Panel(r["method"], scale * image, vmax=white, note=score))
        below.append(Panel(f"error × {_GAIN}", error, vmax=white / _GAIN))
    heading = f"{scan}, {records[0]['mask']} (scores: mean over slices)"
    save_panels(out / name, [*above, *below], columns=len(above), heading=heading)


def _plane(image: np.ndarray) -> np.ndarray:
    return image if image.ndim == 2 else image[len(image) // 2]
