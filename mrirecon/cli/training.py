"""Define the commands `train`, `config` and `simulate`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mrirecon.cli import options as opt
from mrirecon.cli.console import ConsoleSettings, format_duration, print_json, print_line, progress
from mrirecon.errors import UsageError

app = typer.Typer(name="config", help="Make, check and show training configurations.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(help="Configuration, .yaml", **opt.Yaml)]
Sets = Annotated[list[str] | None, typer.Option("--set", help="Override: model.cascades=4. May be repeated.")]


def train(
    config: File,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the run; by default runs/NAME of the configuration."),
    ] = None,
    sets: Sets = None,
    resume: Annotated[
        Literal["auto", "never"],
        typer.Option(help="auto continues the run in the folder; never refuses an existing run."),
    ] = "auto",
    minutes: Annotated[
        float | None,
        typer.Option(help="Wall time of this call; the schedule is adapted to it (train.minutes)."),
    ] = None,
    device: opt.Device = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show time and memory; write nothing.")] = False,
    as_json: opt.AsJson = False,
) -> None:
    """Train a method from a configuration; stop it at any time, and start it again to continue."""
    from mrirecon import training
    from mrirecon.data.loading import keep_freed_memory
    from mrirecon.training.config import load_config

    loaded = load_config(config, [*(sets or []), *([] if minutes is None else [f"train.minutes={minutes}"])])
    folder = output or Path("runs") / config.name.split(".")[0]
    if dry_run:
        with progress(f"plan {config.name}", "part") as callback:
            plan = training.dry_run(loaded, folder, device, callback)
        return print_json(plan) if as_json else typer.echo(_plan_text(plan))
    keep_freed_memory()
    with progress(f"train {config.name}", quiet_seconds=0) as callback:
        result = training.train(
            loaded,
            folder,
            resume=resume,
            device=device,
            progress=callback,
            on_message=print_line,
            command=sys.argv,
            begun=ConsoleSettings.begun,
        )
    if result["rank"]:
        return None  # only the first process prints
    if as_json:
        return print_json(result)
    if result["learned"]:
        typer.echo(f"model: {folder / 'best'}\nlast:  {folder / 'last'}\nlog:   {folder / 'log.jsonl'}")
        print_line(f"use it: mrirecon reconstruct FILE --model {folder / 'best'}")
    else:
        typer.echo(", ".join(f"{k} {v:.4g}" for k, v in result["scores"].items() if v is not None))


def _plan_text(plan: dict[str, Any]) -> str:
    subjects = "; ".join(f"{k}: {len(v)} subjects, {plan['slices'][k]} slices" for k, v in plan["subjects"].items())
    lines = [f"{plan['method']} on {plan['device']}, {plan['parameters']} parameters", subjects, *plan["notes"]]
    if plan["steps"]:
        lines += [
            f"{plan['steps']} steps of {plan['seconds a step']:.2f} s ({plan['waited']:.0%} of it waiting for data): "
            f"about {format_duration(plan['seconds in all'])} with validation",
            f"a step needs {plan['memory (MiB)']:.0f} MiB in addition to the weights",
        ]
    else:
        lines.append("no parameters to train: it would only be validated")
    return "\n".join([*lines, f"it would write to {plan['folder']}"])


@app.command()
def init(
    method: Annotated[
        str, typer.Argument(help="A registered method, see `mrirecon methods`.", autocompletion=opt.complete("methods"))
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write; by default stdout.")] = None,
) -> None:
    """Write a template of a configuration, with the default and the meaning of every option."""
    from mrirecon.io.safe.atomic import atomic_path
    from mrirecon.training.config import template

    text = template(method)
    if output is None:
        return typer.echo(text, nl=False)
    if output.exists():
        raise UsageError(f"{output} exists already", fix="choose another name")
    with atomic_path(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    typer.echo(str(output))


@app.command()
def validate(
    files: Annotated[list[Path], typer.Argument(help="Configurations, .yaml", **opt.Yaml)], sets: Sets = None
) -> None:
    """Check configurations: keys, types, ranges, and the files that they extend."""
    from mrirecon.training.config import load_config

    for path in files:
        loaded = load_config(path, sets or [])
        typer.echo(f"{path}: {loaded.settings.method}, in order")


@app.command()
def show(config: File, sets: Sets = None, as_json: opt.AsJson = False) -> None:
    """Print every value with the file and line of its origin."""
    from mrirecon.training.config import load_config, render

    loaded = load_config(config, sets or [])
    return print_json(loaded.plain()) if as_json else typer.echo(render(loaded, origins=True), nl=False)


@app.command("schema")
def show_schema(
    method: Annotated[
        str | None, typer.Argument(help="Include the options of this method.", autocompletion=opt.complete("methods"))
    ] = None,
) -> None:
    """Print the JSON schema, for completion and checks in editors."""
    from mrirecon.training.config import schema

    typer.echo(json.dumps(schema(method), indent=2))


def simulate(
    volume: Annotated[str, typer.Argument(help="NIfTI, .npz, .npy or .h5 of magnitudes, or phantom:SEED.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="k-space: {arrays}")],
    name: Annotated[str | None, typer.Option("--volume", help="Name of the array, if there are several.")] = None,
    slices: Annotated[str | None, typer.Option(help="Slices, such as 10:20.")] = None,
    coils: Annotated[int, typer.Option(min=1, help="Number of receiver coils.")] = 8,
    snr: Annotated[float, typer.Option(help="Mean signal divided by the noise of an average coil image.")] = 30.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of random numbers.")] = 0,
    lesions: Annotated[int, typer.Option(min=0, help="Number of lesions to insert into each slice.")] = 0,
    lesion_size: opt.LesionSize = "3-10",
    lesion_contrast: opt.LesionContrast = "0.15-0.6",
    resolution: Annotated[float, typer.Option(help="Pixel density relative to that of the volume.")] = 1.0,
    bias: Annotated[float, typer.Option(min=0, help="Strength of the bias field.")] = 0.0,
    phase: Annotated[bool, typer.Option("--phase/--no-phase", help="Whether the object has a phase.")] = True,
    size: Annotated[str | None, typer.Option(help="Matrix size of the field of view, such as 256x256.")] = None,
    keep_maps: Annotated[bool, typer.Option("--keep-maps", help="Also write the true coil maps.")] = False,
    trajectory: Annotated[
        str | None, typer.Option("--trajectory", help="Sample along a trajectory: {planar_trajectories}.")
    ] = None,
    readouts: Annotated[int, typer.Option(min=1, help="With --trajectory: readouts or interleaves.")] = 64,
    as_json: opt.AsJson = False,
) -> None:
    """Simulate a multi-coil scan of a magnitude volume, full or along a trajectory, with its reference."""
    from mrirecon.data.scan import simulate_scan

    result = simulate_scan(
        volume,
        output,
        volume=name,
        slices=None if slices is None else opt.numbers(slices, ":", "--slices"),
        coils=coils,
        snr=snr,
        seed=seed,
        lesions=lesions,
        lesion_size=opt.numbers(lesion_size, "-", "--lesion-size", float),
        lesion_contrast=opt.numbers(lesion_contrast, "-", "--lesion-contrast", float),
        resolution=resolution,
        bias=bias,
        phase=phase,
        size=None if size is None else opt.numbers(size.lower().replace("×", "x"), "x", "--size"),
        keep_maps=keep_maps,
        trajectory=None if trajectory is None else (trajectory, readouts),
        command=sys.argv,
    )
    if as_json:
        return print_json(result)
    for note in result["notes"]:  # type: ignore[attr-defined]  # a list of texts
        print_line(note)
    for path in result["outputs"]:  # type: ignore[attr-defined]
        typer.echo(path)
