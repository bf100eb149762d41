"""Define the commands `demo`, `info`, `methods`, `selftest`, `doctor` and `benchmark`."""

from __future__ import annotations

import inspect
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mrirecon.cli import options as opt
from mrirecon.cli.console import print_json, print_line, progress, table
from mrirecon.errors import InputError

if TYPE_CHECKING:
    from mrirecon.methods.registry import Method


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for images and picture.")] = Path("out/demo"),
    samples: Annotated[Path | None, typer.Option(help="Folder with the sample scan; simulated if absent.")] = None,
    as_json: opt.AsJson = False,
) -> None:
    """Reconstruct the sample scan with four methods, score the images, and draw them side by side."""
    from mrirecon.tools.demo import FULL, PICTURE
    from mrirecon.tools.demo import demo as run

    local_samples = Path("data_samples")
    folder = samples or (local_samples if (local_samples / FULL).exists() else None)
    print_line(f"scan: {folder or 'simulated from a phantom'}; reference: the fully sampled scan, its coils combined")
    with progress("demo") as callback:
        rows = run(output, folder, progress=callback)
    if as_json:
        return print_json({"methods": rows, "picture": str(output / PICTURE)})
    heads = ("method", "SSIM", "PSNR (dB)", "NMSE", "seconds")
    typer.echo(table(heads, [[r["method"], r["ssim"], r["psnr"], r["nmse"], r["seconds"]] for r in rows]))
    typer.echo(f"\nimages:  {', '.join(str(r['file']) for r in rows)}\npicture: {output / PICTURE}")


def info(
    files: Annotated[list[Path], typer.Argument(help="k-space files.")],
    axes: opt.Axes = None,
    dataset: Annotated[str | None, typer.Option(help="Name of the k-space array.")] = None,
    items: opt.Items = None,
    trajectory: opt.Trajectory = None,
    trajectory_units: opt.TrajectoryUnits = "1/fov",
    matrix: opt.Matrix = None,
    delays: opt.Delays = "none",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Picture of the trajectory, .png")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Check all values: ok, look or bad; exit code 3 if one is bad.")
    ] = False,
    isolate: Annotated[
        bool, typer.Option("--isolate", help="First read HDF5 in a separate process, which may crash.")
    ] = False,
    as_json: opt.AsJson = False,
) -> None:
    """Describe a file: axes, coils, mask, calibration region, and the proposed reconstruction."""
    from mrirecon.io.info import describe, describe_images
    from mrirecon.io.readers.images import holds_images
    from mrirecon.io.safe.probe import probe
    from mrirecon.reconstruction.choose import preview

    on_trajectory = opt.trajectory(locals())
    records: list[dict[str, Any]] = []
    for path in files:
        if isolate:
            probe(path, axes=axes, dataset=dataset)
        if axes is None and dataset is None and holds_images(path):
            records.append(describe_images(path))
            continue
        description = describe(path, axes=axes, dataset=dataset, items=items, check=check, trajectory=on_trajectory)
        if output is not None:
            _draw_trajectory(output, path, axes, dataset, on_trajectory)
        description["would"], notes = preview(path, axes=axes, dataset=dataset, items=items, trajectory=on_trajectory)
        description["notes"] = list(dict.fromkeys([*description["notes"], *notes]))  # type: ignore[misc]  # a list of texts
        records.append(description)
    if as_json:
        print_json(records[0] if len(records) == 1 else records)
    else:
        texts = (
            _describe_images(description) if description.get("kind") == "images" else _describe(description)
            for description in records
        )
        typer.echo("\n\n".join(texts))
    if any(finding["verdict"] == "bad" for description in records for finding in description.get("checks", ())):
        raise typer.Exit(InputError.exit_code)


def _draw_trajectory(output: Path, path: Path, axes: str | None, dataset: str | None, options: Any) -> None:
    from mrirecon.errors import UsageError
    from mrirecon.evaluation.pictures import save_trajectory_picture
    from mrirecon.io.readers.reader import read
    from mrirecon.io.trajectory import TrajectoryScan

    scan = read(path, axes=axes, dataset=dataset, trajectory=options)
    if not isinstance(scan, TrajectoryScan):
        fix = "omit --output; `mrirecon masks show` draws a mask"
        raise UsageError("there is no trajectory to draw", where=str(path), why="k-space is Cartesian", fix=fix)
    save_trajectory_picture(output, scan.points[0])


def _describe(one: dict[str, Any]) -> str:
    from mrirecon.io.sampling import format_items

    size = ", ".join(f"{name} {n}" for name, n in one["shape"].items())
    mark = " (unverified)" if one["unverified"] else ""
    lines = [f"{one['path']}: {one['format']}{mark}, {one['bytes'] / 1e6:.1f} MB, {one['dtype']}"]
    lines.append(f"  shape        {size}")
    sampling, region = one["sampling"], one["calibration"]
    for group in one["sampling_groups"] if len(one["sampling_groups"]) > 1 else ():
        box = " x ".join(f"{axis} {size}" for axis, size in group["calibration"].items())
        rate = f"{group['acceleration']:.2f}-fold, {group['pattern']}"
        lines.append(f"  sampling     {format_items(group['items'])}: {rate}; fully sampled centre {box}")
    if sampling and len(one["sampling_groups"]) < 2:
        origin = "" if "trajectory" in one else f" (mask: {sampling['source']})"
        rate = f"{sampling['acceleration']:.2f}-fold, {sampling['pattern']}{origin}"
        lines.append(f"  sampling     {rate}")
        box = " x ".join(f"{axis} {part['size']}" for axis, part in region.items())
        lines.append(f"  calibration  fully sampled centre {box}")
    values = one["values"]
    checked = f"{values['items_checked']} of {one['items']} items checked"
    lines.append(f"  values       largest {values['largest']:.4g}, {values['not_finite']} not finite ({checked})")
    for name in ("reference", "maps", "calibration_scan"):
        if one[name]:
            lines.append(f"  {name.replace('_', ' '):12s} {one[name]['name']} {tuple(one[name]['shape'])}")
    lines += _describe_raw(one)
    taken = {line.split()[0] for line in lines[1:]}  # a header value must not look like a measured one
    for name, value in one["attributes"].items():
        label = f"{name} (header)" if name in taken else name
        lines.append(f"  {label:12s} {value}")
    lines += [f"  {c['verdict']:4s} {c['name']:12s} {c['message']}" for c in one.get("checks", ())]
    return "\n".join([*lines, *(f"  note         {note}" for note in one["notes"]), f"  next         {one['would']}"])


def _describe_images(one: dict[str, Any]) -> str:
    size = " x ".join(str(n) for n in one["shape"])
    lines = [f"{one['path']}: images, {one['bytes'] / 1e6:.1f} MB"]
    array = f" ({one['array']})" if one["array"] else ""
    lines.append(f"  shape        {size}, {'complex' if one['complex'] else 'real'}{array}")
    if one["loops"]:
        lines.append(f"  items        {', '.join(f'{name} {n}' for name, n in one['loops'].items())}")
    known = [f"{name} {s:.4g}" for name, s in zip(("slice", "y", "x"), one["spacing_mm"], strict=True) if s]
    lines.append(f"  position     {'stated' if one['placed'] else 'not stated'}")
    lines.append(f"  spacing      {', '.join(known) + ' mm' if known else 'not stated'}")
    others = [f"{n} {tuple(shape)} {kind}" for n, (shape, kind) in one["arrays"].items() if n != one["array"]]
    lines += [f"  also         {', '.join(others[:12])}"] if others else []
    return "\n".join([*lines, "  next         `mrirecon evaluate` and `convert` read it; reconstruction takes k-space"])


def _describe_raw(one: dict[str, Any]) -> list[str]:
    lines = []
    if one["acquisitions"]:
        lines.append(f"  readouts     {', '.join(f'{n} {kind}' for kind, n in one['acquisitions'].items())}")
    if one["noise"]:
        lines.append(f"  noise        {one['noise'][1]} samples of each of {one['noise'][0]} coils")
    if one["geometry"]:
        view, centre = (" x ".join(f"{n:g}" for n in one["geometry"][key]) for key in ("fov_mm", "position_mm"))
        lines.append(f"  geometry     {view} mm (read, phase, slice), centre {centre.replace(' x ', ', ')} mm LPS")
    return lines


def methods(
    name: Annotated[
        str | None, typer.Argument(help="Explain every option of this method.", autocompletion=opt.complete("methods"))
    ] = None,
    as_json: opt.AsJson = False,
) -> None:
    """List the methods with their options and defaults, or explain one method."""
    from mrirecon.methods.registry import find_method
    from mrirecon.methods.registry import methods as registered

    entries = registered() if name is None else {name: find_method(name)}
    if as_json:
        return print_json(
            [
                {"name": m.name, "summary": m.summary, "learned": m.learned, "options": m.documented_schema}
                for m in entries.values()
            ]
        )
    if name is not None:
        return typer.echo(_explain(entries[name]))
    for m in entries.values():
        options = ", ".join(f"{key}={field.default}" for key, field in m.schema.model_fields.items())
        typer.echo(f"{m.name}\n    {m.summary}\n    options: {options or 'none'}")


def _explain(method: Method) -> str:
    """Return a text on a method: its equation, and default, meaning, range and choices of every option."""
    from mrirecon.models.checkpoints import INFERENCE_OPTIONS, shipped_models

    lines = [method.name, *(inspect.getdoc(method.build) or "").splitlines(), ""]
    for key, field in method.documented_schema["properties"].items():
        text = textwrap.fill(field["description"], 112, break_on_hyphens=False)
        text = textwrap.indent(text, " " * 4)
        lines += [f"{key} = {field.get('default')}", text]
    if method.learned:
        shipped = "; the shipped weights have their own values" if method.name in shipped_models() else ""
        changeable = [key for key in INFERENCE_OPTIONS if key in method.fields]
        lines += ["", f"These are the options of a new model{shipped} (`mrirecon models show`)."]
        lines += [f"In a trained model, --set changes {', '.join(changeable)}; the others need other weights."]
    return "\n".join(lines)


def selftest(device: opt.Device = "auto", as_json: opt.AsJson = False) -> None:
    """Check operators, gradients and solvers on this machine."""
    from mrirecon.tools.selftest import selftest as run

    checks = run(device)
    if as_json:
        print_json([{**asdict(c), "ok": c.ok} for c in checks])
    else:
        rows = [["ok" if c.ok else "WRONG", c.name, float(c.error), float(c.limit)] for c in checks]
        typer.echo(table(("", "property", "error", "limit"), rows))
    wrong = sum(not c.ok for c in checks)
    print_line(f"{len(checks) - wrong} of {len(checks)} properties hold")
    if wrong:
        raise typer.Exit(1)


def doctor(as_json: opt.AsJson = False) -> None:
    """Examine this machine: packages, cores, memory, disks, HDF5, GPU, self-test. Exit code 1 if something is bad."""
    from mrirecon.tools.doctor import examine

    findings = examine()
    bad = sum(finding.verdict == "bad" for finding in findings)
    if as_json:
        print_json({"ok": not bad, "findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            typer.echo(f"{finding.verdict:4s}  {finding.name:24s}  {finding.message}")
            if finding.fix:
                typer.echo(f"{'':30s}  -> {finding.fix}")
    print_line(f"{bad} of {len(findings)} bad" if bad else "nothing is bad")
    if bad:
        raise typer.Exit(1)


def benchmark(
    cases: Annotated[list[str] | None, typer.Argument(help="espirit, wavelet, wavelet2d, tv; by default all.")] = None,
    size: Annotated[int, typer.Option(min=64, help="Matrix size.")] = 320,
    coils: Annotated[int, typer.Option(min=1)] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Number of timed pairs.")] = 5,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    as_json: opt.AsJson = False,
) -> None:
    """Compare time and memory of reconstructions with BART on this machine, in pairs of runs."""
    from mrirecon.tools.benchmark import CASES, run

    with progress("benchmark") as callback:
        settings: dict[str, Any] = {"size": size, "coils": coils, "rounds": rounds, "threads": threads}
        timings = run(cases or CASES, **settings, progress=lambda text: callback(0, 0, text))  # type: ignore[arg-type]  # run checks the names
    if as_json:
        return print_json([asdict(t) for t in timings])
    heads = ("case", "ours (s)", "BART (s)", "ratio", "our error", "BART's", "our MiB", "BART's")
    rows = [[*list(asdict(t).values())[:8]] for t in timings]
    typer.echo(table(heads, rows))
    for t in timings:
        print_line(f"{t.case}: {t.settings}")
