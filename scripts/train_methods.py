"""Train several methods one after the other within a time budget; `scripts/train_on_gpu.sh` prepares the machine.

    bash scripts/train_on_gpu.sh VOLUMES... -o FOLDER [--minutes 9] [--methods cirim:4,rim:2,e2evn:2,unet:1]

A method is a name in `scripts/runs/large/` or a configuration, with its relative time after the colon. One archive per
method is written to FOLDER: the best model, its log, and the state for `--resume FOLDER`. log.jsonl has the losses and
scores of all steps. Archives are split into parts of at most 15 MB; `cat METHOD.tar.gz.part-* | tar xz` extracts them
by hand. If the volumes are not those of the configurations, a fifth of their subjects is held out for validation.
"""

from __future__ import annotations

import argparse
import fnmatch
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "scripts" / "runs" / "large"
MEGA = 1_000_000
PACKED_LIMIT = 24  # MB
FINISH = 6.0  # seconds for packing the results of a method and starting the next
GRACE = 20.0  # seconds that a run may exceed its budget before it is stopped
SHORTEST = 10.0  # minimum seconds to start a method


@dataclass
class Method:
    """Hold one run: configuration, relative time, and results."""

    name: str
    config: Path
    share: float
    record: dict[str, object] = field(default_factory=dict)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, pack, and report; return 4 if a method failed."""
    started = time.monotonic()
    options = _options(arguments)
    end = started - options.elapsed + 60 * options.minutes
    methods = [_method(text) for text in options.methods.split(",")]
    output = options.output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    room = Room(output, options.largest, options.total, options.files - 1)  # one of them is the summary
    with tempfile.TemporaryDirectory(prefix="mrirecon-", dir=options.work) as folder:
        work = Path(folder)
        packed = _packed(options.volumes, work)
        say(f"{packed}: {packed.stat().st_size / MEGA:.1f} MB; {_device()}")
        environment = {**os.environ, "PACKED": str(packed), "BANK": str(work / "bank")}
        more = _own_data(packed, methods[0].config) + options.sets
        for number, method in enumerate(methods):
            rest = sum(m.share for m in methods[number:])
            seconds = (end - time.monotonic()) * method.share / rest - FINISH
            run = work / method.name
            try:
                if options.resume is not None:
                    _unpack(options.resume, method.name, run)
                if seconds < SHORTEST:
                    raise RuntimeError(f"no time is left: {max(0, seconds):.0f} s of {SHORTEST:g}")
                method.record = _train(method, run, seconds, environment, options.device, more)
            except Exception as error:  # continue with the other methods
                method.record = {"error": str(error) or type(error).__name__}
            method.record["files"] = room.take(method.name, run) if run.is_dir() else []
            say(f"{method.name}: {json.dumps(method.record)}")
            _summarise(output, methods[: number + 1], started, options)
    failed = [m.name for m in methods if "error" in m.record]
    say(f"{output}: {', '.join(p.name for p in sorted(output.iterdir()))}, {time.monotonic() - started:.0f} s in all")
    if failed:
        say(f"failed: {', '.join(failed)}")
    return 4 if failed else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volumes", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("trained"))
    parser.add_argument("--minutes", type=float, default=9.0, help="wall time of all, from the script's start")
    parser.add_argument("--methods", default="cirim:4,rim:2,e2evn:2,unet:1", help="names or configurations, and shares")
    parser.add_argument("--resume", type=Path, help="the output of an earlier call")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--set", dest="sets", action="append", default=[], help="as of `mrirecon train`, for all methods"
    )
    parser.add_argument("--largest", type=float, default=15.0, help="MB of a file")
    parser.add_argument(
        "--total", type=float, default=66.0, help="MB of all files; where they are more, states go first"
    )
    parser.add_argument("--files", type=int, default=8, help="how many files there may be")
    parser.add_argument("--work", type=Path, help="where temporary files lie; by default where the system has them")
    parser.add_argument("--elapsed", type=float, default=0.0, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def say(text: str) -> None:
    """Print a message to stderr."""
    print(text, file=sys.stderr, flush=True)


def _method(text: str) -> Method:
    name, _, share = text.strip().partition(":")
    config = Path(name) if name.endswith((".yaml", ".yml")) else CONFIGS / f"{name}.yaml"
    try:
        weight = float(share or 1)
    except ValueError:
        weight = 0.0
    if not config.is_file() or weight <= 0:
        known = ", ".join(sorted(p.stem for p in CONFIGS.glob("*.yaml") if p.stem != "base"))
        raise SystemExit(f"{text!r} is no method with a share of the time: choose of {known}, or give a .yaml; cirim:4")
    return Method(config.stem, config, weight)


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"no GPU is seen: on the CPU, torch {torch.__version__}"


def _packed(volumes: Sequence[Path], work: Path) -> Path:
    """Return the packed volumes: the given ones, or volumes packed here with as many slices as fit."""
    if len(volumes) == 1 and volumes[0].suffix == ".npz":
        if not volumes[0].is_file():
            raise SystemExit(f"{volumes[0]} is not there")
        return volumes[0].absolute()
    out = work / "volumes.npz"
    for every in (1, 2, 3, 4, 6, 8):
        command = [sys.executable, str(ROOT / "scripts/pack_volumes.py"), *map(str, volumes), "-o", str(out)]
        command += ["--every", str(every), "--limit", str(PACKED_LIMIT)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return out
        if "is more than" not in done.stderr:
            raise SystemExit(f"the volumes could not be packed:\n{done.stderr[-2000:]}")
    raise SystemExit(f"every eighth slice of the volumes is still more than {PACKED_LIMIT} MB: give fewer")


def _own_data(packed: Path, config: Path) -> list[str]:
    """Return the overrides if the volumes are not those of the configurations."""
    from mrirecon.training.config import load_config

    data = load_config(config).settings.data
    with zipfile.ZipFile(packed) as archive:
        names = [Path(name).stem for name in archive.namelist()]

    def any_of(given: Sequence[str]) -> bool:
        patterns = [text.partition("#")[2] for text in given if text.startswith("$PACKED")]
        return not patterns or any(fnmatch.fnmatch(name, p or "*") for name in names for p in patterns)

    if any_of(data.train) and (not isinstance(data.val, list) or any_of(data.val)):
        return []
    say("volumes of your own: a fifth of their subjects is kept for validation")
    own = ['data.train=["$PACKED"]', "data.val=0.2", "data.source=own volumes", "data.licence=not stated"]
    return [*own, "data.contrasts=[]"]


def _train(
    method: Method, run: Path, seconds: float, environment: dict[str, str], device: str, more: Sequence[str]
) -> dict[str, object]:
    """Run `mrirecon train` for the given time, and return its result."""
    command = [sys.executable, "-m", "mrirecon", "train", str(method.config), "-o", str(run), "--json"]
    command += ["--minutes", f"{seconds / 60:.3f}", "--device", device]
    for one in more:
        command += ["--set", one]
    say(f"{method.name}: {seconds:.0f} s")
    with tempfile.TemporaryFile("w+", encoding="utf-8") as out:
        process = subprocess.Popen(command, stdout=out, env=environment, cwd=ROOT)
        try:
            process.wait(seconds + GRACE / 2)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)  # the run saves its state
            try:
                process.wait(GRACE / 2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            raise RuntimeError(
                "it did not end in time and was stopped; a step may take too long here; give more minutes, or a "
                "smaller --set train.batch"
            ) from None
        out.seek(0)
        text = out.read()
    if process.returncode:
        raise RuntimeError(f"`mrirecon train` ended with {process.returncode}; see above")
    result = json.loads(text)
    return {k: result[k] for k in ("steps", "seconds", "scores", "zero_filled", "best") if k in result}


def _unpack(folder: Path, name: str, run: Path) -> None:
    """Extract the run of a method from the archive of an earlier call, if any."""
    parts = sorted(folder.glob(f"{name}.tar.gz")) + sorted(folder.glob(f"{name}.tar.gz.part-*"))
    if not parts:
        say(f"{name}: {folder} holds no archive of it, so it begins anew")
        return
    whole = io.BytesIO(b"".join(p.read_bytes() for p in parts))
    with tarfile.open(fileobj=whole, mode="r:gz") as archive:
        archive.extractall(run, filter="data")
    if not list((run / "states").glob("*.pt")):  # the state was omitted because it did not fit
        say(f"{name}: its archive holds no state, so it begins anew")
        shutil.rmtree(run)


class Room:
    """Fill the output folder, with limits on the number and sizes of files.

    Args:
        folder: output folder.
        largest: maximum size of a file in MB.
        total: maximum total size in MB.
        files: maximum number of files.

    """

    def __init__(self, folder: Path, largest: float, total: float, files: int) -> None:
        self.folder, self.largest = folder, int(largest * MEGA)
        self.left, self.files = int(total * MEGA), files

    def take(self, name: str, run: Path) -> list[str]:
        """Archive a run, with its state if it fits, and return the names of the files."""
        for old in self.folder.glob(f"{name}.tar.gz*"):
            old.unlink()
        for with_state in (True, False):
            content = _archive(run, with_state)
            count = -(-len(content) // self.largest)
            if len(content) <= self.left and count <= self.files:
                break
            say(f"{name}: {len(content) / MEGA:.1f} MB do not fit{', its state is left out' if with_state else ''}")
        else:
            return []
        self.left, self.files = self.left - len(content), self.files - count
        names = [f"{name}.tar.gz"] if count == 1 else [f"{name}.tar.gz.part-{i:02d}" for i in range(count)]
        for i, part in enumerate(names):
            temporary = self.folder / f".{part}.part"
            temporary.write_bytes(content[i * self.largest : (i + 1) * self.largest])
            temporary.replace(self.folder / part)
        return names


def _archive(run: Path, with_state: bool) -> bytes:
    """Return the archive of a run: its best model, log, last picture, configuration and last state."""
    kept = [
        p for name in ("best", "last") for p in sorted((run / name).glob("*")) if name == "best" or p.suffix == ".md"
    ]
    kept += [p for p in (run / "log.jsonl", run / "config.yaml") if p.is_file()]
    kept += sorted((run / "panels").glob("*.png"))[-1:]
    if with_state:
        kept += sorted((run / "states").glob("*.pt"), key=lambda p: (p.name[:13], p.stat().st_mtime))[-1:]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for path in kept:
            archive.add(path, str(path.relative_to(run)))
    return buffer.getvalue()


def _summarise(output: Path, methods: Sequence[Method], started: float, options: argparse.Namespace) -> None:
    summary = {
        "minutes": options.minutes,
        "seconds": round(time.monotonic() - started + options.elapsed, 1),
        "device": _device(),
        "methods": {m.name: {"share": m.share, **m.record} for m in methods},
    }
    temporary = output / ".summary.json.part"
    temporary.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    temporary.replace(output / "summary.json")


if __name__ == "__main__":
    sys.exit(main())
