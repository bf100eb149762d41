"""Verbs that make models, and what they need: train, config, simulate."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mrirecon.cli.console import Settings, emit, progress, say
from mrirecon.cli.inspect import AsJson, Device
from mrirecon.errors import UsageError

app = typer.Typer(name="config", help="Make, check and show training configurations.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(help="Configuration, .yaml")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="Override: model.cascades=4. May be repeated.")]


def train(
    config: File,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the run; runs/NAME of the configuration if left out."),
    ] = None,
    sets: Sets = None,
    resume: Annotated[str, typer.Option(help="auto goes on with the run in the folder; never refuses one.")] = "auto",
    minutes: Annotated[
        float | None,
        typer.Option(help="Wall time of this call, all included; the schedule spans it (train.minutes)."),
    ] = None,
    device: Device = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take; write nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a method from a configuration; stop it at any time, and start it again to go on."""
    if resume not in ("auto", "never"):
        raise UsageError(f"--resume cannot be {resume!r}", fix="choose auto or never")
    from mrirecon.training.config import load_config

    loaded = load_config(config, [*(sets or []), *([] if minutes is None else [f"train.minutes={minutes}"])])
    folder = output or Path("runs") / config.name.split(".")[0]
    from mrirecon import training
    from mrirecon.data.loading import hold_memory

    if dry_run:
        plan = training.dry_run(loaded, folder, device)
        return emit(plan) if as_json else typer.echo(_planned(plan))
    hold_memory()
    with progress(f"train {config.name}") as callback:
        done = training.train(
            loaded,
            folder,
            resume=resume,  # type: ignore[arg-type]  # checked above
            device=device,
            progress=callback or Lines(),
            tell=say,
            command=sys.argv,
            begun=Settings.begun,
        )
    if done["rank"]:
        return None  # the first process speaks for all
    if as_json:
        return emit(done)
    if done["learned"]:
        typer.echo(f"model: {folder / 'best'}\nlast:  {folder / 'last'}\nlog:   {folder / 'log.jsonl'}")
        say(f"use it: mrirecon reconstruct FILE --model {folder / 'best'}")
    else:
        typer.echo(", ".join(f"{k} {v:.4g}" for k, v in done["scores"].items() if v is not None))


class Lines:
    """Progress for a stderr that is no terminal: a line now and then, with the time left."""

    def __init__(self, unit: str = "step") -> None:
        self.unit = unit
        self.begun: tuple[float, int] | None = None
        self.last = 0.0

    def __call__(self, step: int, total: int, what: str) -> None:
        """Say how far it is, once a minute at most."""
        import time

        now = time.monotonic()
        self.begun = self.begun or (now, step)
        if now - self.last < 60 or step == self.begun[1] or Settings.quiet:
            return
        self.last = now
        left = (now - self.begun[0]) / (step - self.begun[1]) * (total - step)
        say(f"{self.unit} {step} of {total}, {what}, {_duration(left)} left")


def _duration(seconds: float) -> str:
    whole = round(seconds)
    return (
        f"{whole // 3600} h {whole % 3600 // 60:02d} min" if whole >= 3600 else f"{whole // 60} min {whole % 60:02d} s"
    )


def _planned(plan: dict[str, Any]) -> str:
    people = "; ".join(f"{k}: {len(v)} people, {plan['slices'][k]} slices" for k, v in plan["people"].items())
    lines = [f"{plan['method']} on {plan['device']}, {plan['parameters']} parameters", people, *plan["notes"]]
    if plan["steps"]:
        lines += [
            f"{plan['steps']} steps of {plan['seconds a step']:.2f} s ({plan['waited']:.0%} of it waiting for data): "
            f"about {_duration(plan['seconds in all'])} with validation",
            f"a step takes {plan['memory (MiB)']:.0f} MiB beside the weights",
        ]
    else:
        lines.append("nothing to learn: it would be validated")
    return "\n".join([*lines, f"it would write to {plan['folder']}"])


@app.command()
def init(
    method: Annotated[str, typer.Argument(help="A registered method, see `mrirecon methods`.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write; stdout if left out.")] = None,
) -> None:
    """Write a configuration to start from, with every option, its default and what it means."""
    from mrirecon.io import atomic_path
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
def validate(files: Annotated[list[Path], typer.Argument(help="Configurations, .yaml")], sets: Sets = None) -> None:
    """Check configurations: keys, types, ranges, and what they stand on."""
    from mrirecon.training.config import load_config

    for path in files:
        loaded = load_config(path, sets or [])
        typer.echo(f"{path}: {loaded.settings.method}, in order")


@app.command()
def show(config: File, sets: Sets = None, as_json: AsJson = False) -> None:
    """Print every value that holds, and the file and line that it comes from."""
    from mrirecon.training.config import load_config, render

    loaded = load_config(config, sets or [])
    return emit(loaded.plain()) if as_json else typer.echo(render(loaded, origins=True), nl=False)


@app.command("schema")
def show_schema(
    method: Annotated[str | None, typer.Argument(help="With the options of this method.")] = None,
) -> None:
    """Print the JSON schema, for editors that complete and check."""
    from mrirecon.training.config import schema

    typer.echo(json.dumps(schema(method), indent=2))


def simulate(
    volume: Annotated[str, typer.Argument(help="NIfTI, .npz, .npy or .h5 of magnitudes, or phantom:SEED.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="k-space: {arrays}")],
    name: Annotated[str | None, typer.Option("--volume", help="Its name, where the file holds several.")] = None,
    slices: Annotated[str | None, typer.Option(help="Which, such as 10:20.")] = None,
    coils: Annotated[int, typer.Option(min=1, help="Receiver coils.")] = 8,
    snr: Annotated[float, typer.Option(help="Mean signal over the noise of an average coil image.")] = 30.0,
    seed: Annotated[int, typer.Option(min=0, help="Of every draw.")] = 0,
    lesions: Annotated[int, typer.Option(min=0, help="To insert into each slice.")] = 0,
    lesion_size: Annotated[str, typer.Option(help="Lowest-highest diameter in mm.")] = "3-10",
    lesion_contrast: Annotated[str, typer.Option(help="Lowest-highest |lesion - tissue| / tissue.")] = "0.15-0.6",
    resolution: Annotated[float, typer.Option(help="Pixel density relative to the volume's.")] = 1.0,
    bias: Annotated[float, typer.Option(min=0, help="Strength of the bias field.")] = 0.0,
    phase: Annotated[bool, typer.Option("--phase/--no-phase", help="Whether the object has a phase.")] = True,
    size: Annotated[str | None, typer.Option(help="Samples of the field of view, such as 256x256.")] = None,
    keep_maps: Annotated[bool, typer.Option("--keep-maps", help="Also write the true coil maps.")] = False,
    as_json: AsJson = False,
) -> None:
    """Simulate a multi-coil scan of a magnitude volume, fully sampled, with its reference."""
    from mrirecon.cli.masks import sizes
    from mrirecon.data.scan import simulate_scan

    wanted = None if size is None else sizes(size, "--size")
    if wanted is not None and len(wanted) != 2:
        raise UsageError(f"--size cannot be {size!r}", fix="give y and x: 256x256")
    done = simulate_scan(
        volume,
        output,
        volume=name,
        slices=None if slices is None else two(slices, ":", "--slices", int),
        coils=coils,
        snr=snr,
        seed=seed,
        lesions=lesions,
        lesion_size=two(lesion_size, "-", "--lesion-size", float),
        lesion_contrast=two(lesion_contrast, "-", "--lesion-contrast", float),
        resolution=resolution,
        bias=bias,
        phase=phase,
        size=None if wanted is None else (wanted[0], wanted[1]),
        keep_maps=keep_maps,
        command=sys.argv,
    )
    if as_json:
        return emit(done)
    for note in done["notes"]:  # type: ignore[attr-defined]  # a list of texts
        say(note)
    for path in done["outputs"]:  # type: ignore[attr-defined]
        typer.echo(path)


def two(text: str, between: str, option: str, kind: Any) -> tuple[Any, Any]:
    """Return the two numbers of an option such as 3-10."""
    try:
        first, last = (kind(part) for part in text.split(between))
    except ValueError:
        raise UsageError(f"{option} cannot be {text!r}", fix=f"give two numbers, such as 3{between}10") from None
    return first, last
