"""Define options that several commands share, and parse their values.

Choices and lists in help texts come from the library, which is imported only when help is printed or a value is
checked, so that the command line starts fast.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from typer.core import TyperCommand

from mrirecon.errors import UsageError

if TYPE_CHECKING:
    from mrirecon.io.trajectory import TrajectoryOptions
    from mrirecon.reconstruction.plan import Request

# Value of {name} in a help text: module, name in the module, and separator of the entries. The name refers to a
# sequence, a mapping, a Literal, or a function that returns one of these or a text.
LISTS = {
    "families": ("masks.registry", "describe_families", ", "),
    "compats": ("masks.registry", "compats", ", "),
    "mask_files": ("masks.files", "SUFFIXES", " or "),
    "arrays": ("io.writers.write", "ARRAY_FORMATS", ", "),
    "trajectories": ("masks.trajectories", "TRAJECTORIES", ", "),
    "planar_trajectories": ("masks.trajectories", "PLANAR", ", "),
    "metrics": ("metrics", "METRICS", ","),
    "score": ("metrics", "score_metrics", ","),
    "presets": ("metrics.presets", "PRESETS", ", "),
    "calibrations": ("coils.registry", "CALIBRATIONS", ", "),
}


def look_up(module: str, name: str) -> Any:
    """Look up an object of the library: call a function, and convert a Literal to its values as texts."""
    target = getattr(import_module(f"mrirecon.{module}"), name)
    if get_args(target):
        return [str(value) for value in get_args(target)]
    return target() if callable(target) else target


def list_text(name: str) -> str:
    """Return the text for {name} in help texts; ``module:Literal`` gives the values of a Literal."""
    module, _, literal = name.partition(":")
    home, key, between = (module, literal, "|") if literal else LISTS[name]
    entries = look_up(home, key)
    return entries if isinstance(entries, str) else between.join(entries)


class Derived(TyperCommand):
    """Replace {families}, {metrics} and similar in the help texts of a command by the registered entries."""

    def format_help(self, context: Any, formatter: Any) -> None:  # private classes of typer
        """Print the help."""
        for parameter in self.params:
            for key in ("help", "metavar"):
                text = getattr(parameter, key, None)
                if text:
                    setattr(parameter, key, re.sub(r"\{([\w.:]+)\}", lambda match: list_text(match[1]), text))
        super().format_help(context, formatter)


def choice(home: str, *flags: str, **more: Any) -> Any:
    """Make an option whose value must be one of the values of a Literal of the library.

    Args:
        home: ``module:Literal``.
        *flags: flags of the option, by default from the name of the parameter.
        **more: further arguments of `typer.Option`.

    """

    def parse(text: str) -> str:
        choices = look_up(*home.split(":"))
        if text not in choices:
            raise typer.BadParameter(f"{text!r} is not one of {', '.join(map(repr, choices))}.")
        return text

    def candidates(incomplete: str) -> list[str]:
        return [value for value in look_up(*home.split(":")) if value.startswith(incomplete)]

    return typer.Option(*flags, parser=parse, metavar=f"[{{{home}}}]", autocompletion=candidates, **more)


# What the shell completes: home of the names, as in `look_up`.
_COMPLETED = {
    "methods": ("methods.registry", "methods"),
    "maps": ("coils.registry", "CALIBRATIONS"),
    "families": ("masks.registry", "FAMILIES"),
    "metrics": ("metrics", "METRICS"),
    "presets": ("metrics.presets", "PRESETS"),
    "compats": ("masks.registry", "compats"),
}


def complete(name: str, *also: str) -> Callable[[str], list[str]]:
    """Return a function that completes names of a registry, and the words ``also``, in the shell."""

    def candidates(incomplete: str) -> list[str]:
        return [value for value in (*also, *look_up(*_COMPLETED[name])) if value.startswith(incomplete)]

    return candidates


def complete_files(*suffixes: str) -> Callable[[str], list[str]]:
    """Return a function that completes folders, and files with one of the suffixes."""

    def candidates(incomplete: str) -> list[str]:
        folder = Path(incomplete) if incomplete.endswith("/") else Path(incomplete).parent
        found = sorted(folder.iterdir()) if folder.is_dir() else []
        names = [f"{p}/" if p.is_dir() else str(p) for p in found if p.is_dir() or p.name.endswith(suffixes)]
        return [name for name in names if name.startswith(incomplete)]

    return candidates


AsJson = Annotated[bool, typer.Option("--json", help="Results as JSON.")]
Axes = Annotated[str | None, typer.Option(help='Axes as stored, if the file does not state them: "slice,coil,y,x".')]
Dataset = Annotated[str | None, typer.Option(help="Name of the k-space array, if there are several.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
Format = Annotated[str | None, choice("io.writers.write:ImageFormat", help="By default that of the file name.")]
Items = Annotated[str | None, typer.Option("--items", help="Items, counted from 0, such as 3-17 or 0,5-.")]
Lambda = Annotated[
    str | None, typer.Option("--lambda", help="Regularization weight; auto, the default: from the noise.")
]
LesionContrast = Annotated[str, typer.Option(help="Lowest-highest |lesion - tissue| / tissue.")]
LesionSize = Annotated[str, typer.Option(help="Lowest-highest diameter in mm.")]
Maps = Annotated[
    str,
    typer.Option(
        help="auto, {calibrations}, or a file with coil maps.",
        autocompletion=complete("maps", "auto"),
    ),
]
MapSets = Annotated[
    str, choice("reconstruction.calibrate:MapSets", help="Two sets if the object exceeds the field of view.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="Option of the method: key=value.")]

TRAJECTORY: dict[str, Any] = {"rich_help_panel": "Trajectory"}
Trajectory = Annotated[
    Path | None,
    typer.Option("--trajectory", help="File with the trajectory, if not in that of k-space.", **TRAJECTORY),
]
TrajectoryUnits = Annotated[
    str, choice("io.trajectory:Units", "--trajectory-units", help="Unit of the trajectory.", **TRAJECTORY)
]
Matrix = Annotated[
    str | None,
    typer.Option("--matrix", help="Size of the image, such as 256x256; by default from the trajectory.", **TRAJECTORY),
]
Weighting = Annotated[
    str,
    choice("physics.nonuniform:Weighting", "--weighting", help="Weights of samples on a trajectory.", **TRAJECTORY),
]
Delays = Annotated[
    str, choice("io.trajectory:Delays", "--delays", help="ring: correct gradient delays of radial scans.", **TRAJECTORY)
]

PREPROCESSING: dict[str, Any] = {"rich_help_panel": "Preprocessing"}
Combine = Annotated[
    list[str] | None,
    choice(
        "reconstruction.preprocess:Combine",
        help="average: mean of repetitions and averages; echoes: root sum of squares. By default each is an item.",
        **PREPROCESSING,
    ),
]
Compress = Annotated[
    str | None,
    typer.Option(
        help="Number of virtual coils, or the energy to keep, such as 0.95; none: keep all. Default: at most 32.",
        **PREPROCESSING,
    ),
]
CompressBy = Annotated[
    str,
    choice(
        "reconstruction.preprocess:Compress",
        help="geometric: one matrix for each position along the readout.",
        **PREPROCESSING,
    ),
]
Oversampling = Annotated[
    float, typer.Option("--remove-oversampling", help="Remove readout oversampling by this factor.", **PREPROCESSING)
]
PartialFourier = Annotated[
    str,
    choice("reconstruction.preprocess:PartialFourier", help="zero: do not fill in by symmetry.", **PREPROCESSING),
]
Readout = Annotated[str | None, typer.Option(help="Name of the readout axis, if it is not known.", **PREPROCESSING)]
Whiten = Annotated[
    str,
    choice(
        "reconstruction.preprocess:Whiten",
        help="loud: only scale very noisy coils; noise: use the noise scan.",
        **PREPROCESSING,
    ),
]


Family = Annotated[str, typer.Argument(help="{families}", autocompletion=complete("families"))]
Yaml: dict[str, Any] = {"autocompletion": complete_files(".yaml", ".yml")}


def trajectory(given: Mapping[str, Any]) -> TrajectoryOptions | None:
    """Return what the user states about a trajectory; None for nothing."""
    from mrirecon.io.trajectory import TrajectoryOptions

    options = TrajectoryOptions(
        file=given.get("trajectory"),
        units=given.get("trajectory_units", TrajectoryOptions.units),
        matrix=sizes(given["matrix"], "--matrix") if given.get("matrix") is not None else None,
        weighting=given.get("weighting", "density"),
        delays=given.get("delays", TrajectoryOptions.delays),
    )
    return None if options == TrajectoryOptions() else options


def request(given: Mapping[str, Any]) -> Request:
    """Convert the parameters of `mrirecon reconstruct` to a request.

    Raises:
        UsageError: an invalid value.

    """
    from mrirecon.coils.registry import CALIBRATIONS
    from mrirecon.reconstruction.calibrate import EspiritOptions
    from mrirecon.reconstruction.plan import Request
    from mrirecon.reconstruction.preprocess import Preprocess
    from mrirecon.reconstruction.preprocess.prepare import ManyCoils

    lam, maps, compress, combine = given["lam"], given["maps"], given["compress"], given["combine"] or ()
    if compress is None and given["compress_by"] != "svd":
        raise UsageError("--compress-by needs a number of coils", fix="also give --compress 8, or --compress 0.95")
    coils = energy = None
    many: ManyCoils = "keep" if compress == "none" else "compress"
    if compress is not None and compress.isdigit():
        coils = int(compress)
    elif compress not in (None, "none"):
        energy = number(compress, "--compress", "give a number of coils, such as 8, a share, such as 0.95, or none")
    if lam not in (None, "auto"):
        lam = number(lam, "--lambda", "give a number, such as 0.003, or auto")
    values = {name: given[name] for name in Request.__dataclass_fields__ if given.get(name) is not None}
    values["trajectory"] = trajectory(given)
    values |= {"lam": lam, "options": pairs(given["options"]), "espirit": EspiritOptions(map_sets(given["map_sets"]))}
    if maps != "auto" and maps not in CALIBRATIONS:
        values["maps_file"] = Path(values.pop("maps"))
    values["preprocess"] = Preprocess(
        average="average" in combine,
        echoes="echoes" in combine,
        coils=coils,
        energy=energy,
        many_coils=many,
        compress=given["compress_by"],
        **{name: given[name] for name in ("whiten", "readout", "oversampling", "partial_fourier")},
    )
    return Request(**values)


def number(text: str, option: str, fix: str) -> float:
    """Parse the number of an option.

    Raises:
        UsageError: another text.

    """
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{option} cannot be {text!r}", fix=fix) from None


def pairs(options: list[str] | None) -> dict[str, object]:
    """Parse key=value options; values are YAML scalars, and 1e-3 is a number.

    Raises:
        UsageError: no key, no value, or an invalid value.

    """
    import yaml

    values: dict[str, object] = {}
    for text in options or []:
        key, equals, value = text.partition("=")
        if not (key and equals and value):
            raise UsageError(f"--set cannot be {text!r}", fix="write --set key=value, such as --set iterations=50")
        try:
            number = "e" in value.lower() and value[0] in "+-.0123456789"
            values[key] = float(value) if number else yaml.safe_load(value)
        except (ValueError, yaml.YAMLError):
            raise UsageError(f"--set {key} cannot be {value!r}", fix="give a number, true, false or a word") from None
    return values


def subfolders(number: int) -> int:
    """Check --subfolders.

    Raises:
        UsageError: no power of 16, or too large.

    """
    if number not in (1, 16, 256, 4096):
        raise UsageError(f"--subfolders cannot be {number}", fix="give 1, 16, 256 or 4096")
    return number


def map_sets(text: str) -> Any:
    """Parse --map-sets: "auto" or a number."""
    return text if text == "auto" else int(text)


def words(text: str) -> tuple[str, ...]:
    """Parse words separated by commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def numbers(text: str, between: str, option: str, kind: Callable[[str], Any] = int) -> tuple[Any, Any]:
    """Parse the two numbers of an option such as 3-10.

    Raises:
        UsageError: not two numbers.

    """
    try:
        first, last = (kind(part) for part in text.split(between))
    except ValueError:
        raise UsageError(f"{option} cannot be {text!r}", fix=f"give two numbers, such as 3{between}10") from None
    return first, last


def sizes(text: str, option: str) -> tuple[int, ...]:
    """Parse "320x320" as (320, 320).

    Raises:
        UsageError: not integers.

    """
    try:
        return tuple(int(part) for part in text.lower().replace("×", "x").replace(",", "x").split("x"))
    except ValueError:
        raise UsageError(f"{option} must be whole numbers", why=f"it is {text!r}", fix="such as 320x320") from None


def box(text: str | None) -> int | tuple[int, ...] | None:
    """Parse --calibration: "24" as 24, "24x16" as (24, 16)."""
    if text is None:
        return None
    sides = sizes(text, "--calibration")
    return sides[0] if len(sides) == 1 else sides


def require_free(path: Path, overwrite: bool) -> None:
    """Refuse an output that exists.

    Raises:
        UsageError: the output exists.

    """
    from mrirecon.io.safe.atomic import refuse_existing

    refuse_existing([path], overwrite)
