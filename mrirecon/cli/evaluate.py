"""Define the commands `evaluate` and `compare`, which score images and compare runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mrirecon.cli import options as opt
from mrirecon.cli.console import fail, print_json, print_line, progress, table
from mrirecon.errors import PartialFailure

if TYPE_CHECKING:
    from mrirecon.evaluation import Difference, Evaluation, Evaluations, Options

Preset = Annotated[
    str, typer.Option(help="Definition of the scores: {presets}.", autocompletion=opt.complete("presets"))
]
Metrics = Annotated[
    str | None, typer.Option(help="Any of {metrics}; by default {score}.", autocompletion=opt.complete("metrics"))
]


def _options(preset: str, metrics: str | None, *more: Any) -> Options:
    """Return the options of an evaluation."""
    from mrirecon.evaluation import Options
    from mrirecon.metrics import score_metrics

    return Options(preset, score_metrics() if metrics is None else opt.words(metrics), *more)  # type: ignore[arg-type]  # the callee checks the names


def _title(metric: str) -> str:
    from mrirecon.metrics import METRICS

    return METRICS[metric].title


def evaluate(
    prediction: Annotated[Path, typer.Argument(help="Reconstructed images: a file, or a folder of them.")],
    reference: Annotated[Path, typer.Argument(help="Reference images, or fully sampled scans: a file or a folder.")],
    preset: Preset = "mrirecon",
    metrics: Metrics = None,
    mask: Annotated[Path | None, typer.Option(help="Pixels to evaluate instead of the object.")] = None,
    region: Annotated[
        Path | None, typer.Option(help="Lesions to measure: labels, or a mask. NIfTI is resampled to NIfTI images.")
    ] = None,
    spacing: Annotated[
        tuple[float, float] | None, typer.Option(help="Pixel spacing along y and x in mm, if files do not state it.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="File for the scores of every slice.")] = None,
    volumes: Annotated[Path | None, typer.Option(help="File for the scores of every file of two folders.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Name of the images in the prediction.")] = None,
    reference_dataset: Annotated[str | None, typer.Option(help="Name of the images in the reference.")] = None,
    axes: opt.Axes = None,
    items: opt.Items = None,
    overwrite: opt.Overwrite = False,
    as_json: opt.AsJson = False,
) -> None:
    """Score images by mrirecon's definition (inside the object, after a least-squares scale) or by others."""
    from mrirecon.evaluation import evaluate_paths

    named: dict[str, Any] = {"dataset": dataset, "reference_dataset": reference_dataset, "axes": axes, "items": items}
    tables: dict[str, Any] = {"csv": csv, "volumes": volumes, "overwrite": overwrite}
    options = _options(preset, metrics, mask, region, spacing)
    with progress("evaluate", "file") as callback:
        scored = evaluate_paths(prediction, reference, options=options, progress=callback, **tables, **named)
    if as_json:
        print_json((scored if scored.folders else scored.done[0]).as_dict())
    elif scored.folders:
        _print_all(scored)
    else:
        _print_one(scored.done[0])
    _fail_if_lacking(scored, as_json)


def _fail_if_lacking(scored: Evaluations, as_json: bool) -> None:
    lacking = scored.missing_scores()
    if lacking:
        why = "; ".join([*lacking[1:], *(f"{e.where}: {e.what}" for e in scored.failed)]) or None
        fix = "all defined scores are written; repair the other files, or remove them"
        fail(PartialFailure(lacking[0], why=why, fix=fix), as_json)


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Two or more: folders of images, or the output of `evaluate --json` for folders."),
    ],
    reference: Annotated[
        Path | None, typer.Option("--reference", "-r", help="Folder of references, if runs are folders of images.")
    ] = None,
    preset: Preset = "mrirecon",
    metrics: Metrics = None,
    subject: Annotated[
        str | None, typer.Option(help="Regular expression whose first group is the subject in a file name.")
    ] = None,
    axes: opt.Axes = None,
    as_json: opt.AsJson = False,
) -> None:
    """Compare runs, paired by subject: differences with intervals, and a test for six subjects or more."""
    from mrirecon.evaluation import compare_paths

    options = _options(preset, metrics)
    differences, lacking = compare_paths(runs, reference, options=options, axes=axes, subject=subject)
    _print_differences(differences, as_json)
    if lacking:
        what, fix = f"{len(lacking)} files could not be scored and are left out", "repair them, and compare again"
        fail(PartialFailure(what, why="; ".join(lacking), fix=fix), as_json)


def _print_differences(differences: list[Difference], as_json: bool) -> None:
    if as_json:
        return print_json([vars(d) for d in differences])
    for d in differences:
        if d.left_out:
            print_line(f"{d.metric}: {d.left_out} subjects have a value in only one run, and are left out")
    heads = ("runs", "metric", "difference", "95 % interval", "effect", "subjects", "p (Holm)", "")
    rows: list[list[object]] = []
    for d in differences:
        pair, interval = [f"{d.a} - {d.b}", _title(d.metric)], _interval(d.low, d.high)
        rows.append([*pair, d.mean, interval, d.effect, d.subjects, d.adjusted, d.verdict])
    typer.echo(table(heads, rows))
    for d in differences:
        if d.p is None and d.each:
            each = ", ".join(f"{name} {value:+.4g}" for name, value in d.each.items())
            typer.echo(f"{d.a} - {d.b}, {_title(d.metric)}: {each}")


def _print_one(one: Evaluation) -> None:
    names = one.options.metrics
    print_line(f"reference: {one.kind}; definition: {one.options.preset}")
    for note in one.notes:
        print_line(f"note: {note}")
    labels = (f"{r['item']}" if r["slice"] is None else f"{r['item']}, z {r['slice']}" for r in one.rows())
    rows = [[label, *(r[n] for n in names), r["reason"] or ""] for label, r in zip(labels, one.rows(), strict=True)]
    lost = ", ".join(f"{_title(n)} in {k} of {len(one.slices)}" for n, k in one.undefined.items() if k)
    undefined = f"undefined: {lost} slices" if lost else ""
    rows.append(["mean" if one.options.preset == "mrirecon" else "volume", *(one.mean[n] for n in names), undefined])
    typer.echo(table(("slice", *(_title(n) for n in names), ""), rows))
    if one.options.region is not None:
        _print_lesions(one.as_dict()["lesions"])


def _print_lesions(lesions: dict[str, Any]) -> None:
    columns = ("diameter", "contrast", "contrast_reference", "recovery", "cnr", "cnr_reference", "sharpness")
    heads = ("lesion", "mm", "contrast", "of reference", "recovery", "CNR", "of reference", "sharpness (1/mm)", "")
    rows = [[f"{s['item']}, {s['label']}", *(s[c] for c in columns), s["reason"] or ""] for s in lesions["each"]]
    if not rows:
        return typer.echo("no lesions in the region")
    typer.echo(table(heads, rows))
    _print_sizes(lesions["by_size"])


def _print_sizes(groups: list[dict[str, Any]]) -> None:
    """Print medians for each group of diameters."""
    columns = ("lesions", "contrast", "contrast_reference", "recovery", "cnr", "cnr_reference", "sharpness")
    heads = ("mm", "lesions", "contrast", "of reference", "recovery", "CNR", "of reference", "sharpness (1/mm)")
    spans = [f"{g['from mm']:g} to {g['to mm']:g}" if g["to mm"] else f"{g['from mm']:g} and more" for g in groups]
    typer.echo(
        "\nmedians by diameter\n"
        + table(heads, [[s, *(g[c] for c in columns)] for s, g in zip(spans, groups, strict=True)])
    )


def _print_all(scored: Evaluations) -> None:
    names = scored.options.metrics
    print_line(f"definition: {scored.options.preset}")
    for paths, what in ((scored.without_reference, "reference"), (scored.without_prediction, "prediction")):
        if paths:
            print_line(f"no {what} for {len(paths)}: {', '.join(p.name for p in paths)}")
    for result in scored.done:
        for note in result.notes:
            print_line(f"note: {result.prediction.name}: {note}")
    rows = [[result.prediction.name, len(result.slices), *(result.mean[n] for n in names)] for result in scored.done]
    typer.echo(table(("file", "slices", *(_title(n) for n in names)), rows))
    summary = scored.summary()
    heads = ("over volumes", "mean", "SD", "95 % interval", "volumes", "undefined")
    sums = [
        [_title(n), s.mean, s.deviation, _interval(s.low, s.high), s.volumes, s.undefined] for n, s in summary.items()
    ]
    typer.echo("\n" + table(heads, sums))
    if scored.options.region is not None:
        _print_sizes(scored.as_dict()["lesions"])


def _interval(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{low:.4g} to {high:.4g}"
