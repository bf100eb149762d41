"""Reconstruct many files into one folder, divided among processes, with retries of unfinished files.

The names of all outputs are checked before the first file: two files must not have the same output.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from glob import escape, glob, has_magic
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch

from mrirecon.errors import (
    BusyError,
    InputError,
    MriReconError,
    ResourceError,
    Stopped,
    UnsafeContentError,
    UsageError,
    as_project_error,
)
from mrirecon.io.identify import bruker_error
from mrirecon.io.readers.reader import read
from mrirecon.io.readers.registry import suffixes
from mrirecon.io.safe.atomic import resources
from mrirecon.io.safe.text import parse_json, portable, utf8
from mrirecon.io.writers.bids import bids_path
from mrirecon.io.writers.write import named_format, sidecar_path
from mrirecon.methods.registry import methods
from mrirecon.reconstruction.cohort import FAILURES, TABLE, Subfolders, Table, read_list, subfolder
from mrirecon.reconstruction.file import finished, finished_result, output_path, reconstruct_file, stamp
from mrirecon.reconstruction.plan import Request
from mrirecon.reconstruction.run import Progress
from mrirecon.registries import plugins

RETRY_DELAYS = (1.0, 5.0, 15.0)  # seconds to wait before each new try of a file that is still being written
_RECENT = 10.0  # seconds after the last change of a file in which it counts as unfinished
_PROBE = 64 << 10  # bytes


@dataclass(frozen=True)
class Shard:
    """Select the part of a list of files for one process: every count-th file.

    Attributes:
        number: number of the part, from 1.
        count: number of parts.
        origin: the option or environment variable that defines the part.

    """

    number: int
    count: int
    origin: str = "--shard"

    @staticmethod
    def parse(text: str | None, environment: Mapping[str, str] = os.environ) -> Shard:
        """Parse ``i/N``, or take it from a Slurm array or from torchrun's RANK and WORLD_SIZE; the default is 1/1.

        Raises:
            UsageError: another text, or i outside 1 to N.

        """
        if text is not None:
            match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip())
            if match is None or not 1 <= int(match[1]) <= int(match[2]):
                raise UsageError(f"--shard cannot be {text!r}", fix="write i/N, from 1/N to N/N")
            return Shard(int(match[1]), int(match[2]))

        def value(name: str, default: int) -> int:
            text = environment.get(name, "")
            return int(text) if text.isdecimal() else default

        if environment.get("SLURM_ARRAY_TASK_ID", "").isdecimal():
            first, step = value("SLURM_ARRAY_TASK_MIN", 0), max(1, value("SLURM_ARRAY_TASK_STEP", 1))
            index = (value("SLURM_ARRAY_TASK_ID", 0) - first) // step
            name, count = "SLURM_ARRAY_TASK_ID", value("SLURM_ARRAY_TASK_COUNT", 1)
        else:
            index, name, count = value("RANK", 0), "RANK", value("WORLD_SIZE", 1)
        if not 0 <= index < count:
            raise UsageError(
                "the environment does not define a valid part of the files",
                why=f"{name} is {environment[name]}, number {index + 1} of {count}",
                fix="give --shard i/N, or --shard 1/1 for all files",
            )
        return Shard(index + 1, count, name)

    def select(self, sources: Sequence[Path]) -> list[Path]:
        """Return the files of this part."""
        return list(sources[self.number - 1 :: self.count])


@dataclass(frozen=True)
class Work:
    """Hold the files that this process reconstructs.

    Attributes:
        sources: the files.
        several: whether there is more than one file in all; a single file has no list of failures.
        part: the part of all files for this process.
        failures: file for the list of failures; None for a single file.
        table: file for a table with one row per file, or None.

    """

    sources: list[Path]
    several: bool
    part: Shard
    failures: Path | None
    table: Path | None = None

    @staticmethod
    def of(
        files: Sequence[Path],
        output: Path,
        shard: str | None,
        request: Request | None = None,
        listed: Path | None = None,
    ) -> Work:
        """Expand files, folders and patterns, and select the part given by `shard` or the environment; or read a list.

        Raises:
            UsageError: see `expand` and `Shard.parse`; or a list together with files or `shard`.
            InputError: the list cannot be read.

        """
        if listed is not None:
            if files or shard is not None:
                raise UsageError("--list names all files", fix="omit the other files and --shard, or --list")
            beside = [listed.with_name(listed.name.split(".")[0] + suffix) for suffix in (FAILURES, TABLE)]
            return Work(read_list(listed), True, Shard(1, 1), *beside)
        if not files:
            raise UsageError("no files are given", fix="name files, folders or patterns, or give --list FILE")
        sources = expand(files, output, request)
        if len(sources) == 1 and sources == list(files) and shard is None:
            return Work(sources, False, Shard(1, 1), None)
        part = Shard.parse(shard)
        folder = output if output.is_dir() or not output.suffix else output.parent
        name = f"failed.{part.number}-of-{part.count}.jsonl" if part.count > 1 else "failed.jsonl"
        return Work(part.select(sources), True, part, folder / name)


@dataclass(frozen=True)
class Outcome:
    """Hold the outcome for one file: the result of `reconstruct_file`, or an error."""

    source: Path
    record: dict[str, object] | None = None
    error: MriReconError | None = None


def expand(files: Sequence[Path], output: Path, request: Request | None = None) -> list[Path]:
    """Expand names, folders and patterns to a list of files.

    In folders, hidden files (such as ``._scan.h5``) and images with a sidecar of `reconstruct` are left out.

    Raises:
        UsageError: several files for one output file, an empty folder, or a pattern without matches.

    """
    sources: list[Path] = []
    for path in files:
        if path.is_dir():
            entries = sorted(p for p in path.iterdir() if not p.name.startswith("."))
            names = {p.name for p in entries}
            inside = [
                p
                for p in entries
                if p.name.lower().endswith(suffixes("kspace"))
                and not (sidecar_path(p).name in names and _is_own_output(p))
            ]
            fix, why = "give a folder with k-space files", f"none of {', '.join(suffixes('kspace'))}"
        elif has_magic(str(path)) and not path.exists():
            inside = [Path(p) for p in sorted(glob(str(path), recursive=True)) if Path(p).is_file()]  # noqa: PTH207
            fix, why = "check the pattern; ** matches any folders", "no file matches"
        else:
            inside = [path]
        if not inside:
            raise bruker_error(path) or UsageError("there are no k-space files", where=str(path), why=why, fix=fix)
        sources += inside
    if len(sources) > 1 and named_format(output) is not None and not output.is_dir():
        raise UsageError(f"{len(sources)} files cannot go into one output", where=str(output), fix="give a folder")
    if len(sources) > 1:
        refuse_same_targets(sources, output, request or Request())
    return sources


def _is_own_output(path: Path) -> bool:
    try:
        content = parse_json(sidecar_path(path).read_bytes())
        return "request" in content and any(o["file"] == portable(path.name) for o in content["outputs"])
    except (OSError, ValueError, TypeError, KeyError):
        return False


def refuse_same_targets(sources: Sequence[Path], output: Path, request: Request) -> None:
    """Refuse files with the same output.

    The name of an output leaves out folders, everything after the first dot, and characters that some systems do not
    allow. A label of BIDS holds only letters and digits. So different files can have the same output name.

    Args:
        sources: the files.
        output: output folder.
        request: the user's request; with ``bids``, headers are read if two file names give the same output.

    Raises:
        UsageError: two files with the same output.

    """
    by_target: dict[Path, list[Path]] = {}
    for source in sources:
        target = _place(source, output, request)
        if target is not None:
            by_target.setdefault(target, []).append(source)
    for target, several in by_target.items():
        if len(several) > 1 and request.bids is not None:
            _refuse_same_contrast(several, target, request)
        elif len(several) > 1:
            raise _same(several[0], several[1], target)


def _place(source: Path, output: Path, request: Request) -> Path | None:
    """Return the output as far as the name of the source defines it; files that could collide get the same result."""
    if request.bids is not None:
        try:
            return bids_path(request.bids, source, request.method, contrast=request.contrast or "T1w")
        except UsageError:  # the error is raised again when the file is reconstructed
            return None
    # Reserve room for the longest suffix, so that names that are cut are compared correctly.
    names = [request.method] if request.method != "auto" else sorted(methods())
    return output_path(source, output, max(names, key=len), request.format)


def _refuse_same_contrast(several: Sequence[Path], place: Path, request: Request) -> None:
    """Refuse files with the same BIDS labels, unless their headers state different contrasts."""
    root = request.bids or ""
    by_target: dict[Path, Path] = {}
    unread: Path | None = None
    for source in several:
        try:
            target = bids_path(root, source, request.method, contrast=request.contrast)
        except UsageError:
            try:
                attributes = read(source, axes=request.axes, dataset=request.dataset).attributes
                target = bids_path(root, source, request.method, attributes=attributes)
            except UsageError:  # without a contrast, nothing is written for this file
                continue
            except MriReconError:  # the file may be readable later
                unread, target = source, place
        if target in by_target or (unread is not None and by_target):
            raise _same(by_target.get(target) or next(iter(by_target.values())), source, target)
        by_target[target] = source


def _same(first: Path, second: Path, place: Path) -> UsageError:
    names = [p.name.split(".")[0] for p in (first, second)]
    what = f"two files have the name {names[0]!r}" if names[0] == names[1] else "two files have the same output"
    return UsageError(
        what,
        where=None if names[0] == names[1] else str(place),
        why=f"{first} and {second}",
        fix="use different output folders, or rename one",
    )


def reconstruct_files(
    files: Sequence[Path],
    output: Path,
    request: Request,
    *,
    shard: str | None = None,
    listed: Path | None = None,
    subfolders: Subfolders = 1,
    references: Path | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    preview: bool = False,
    jobs: int = 1,
    command: Sequence[str] | None = None,
    progress: Callable[[str], AbstractContextManager[Progress | None]] | None = None,
) -> tuple[Work, Iterator[Outcome]]:
    """Reconstruct files, folders and patterns, as `mrirecon reconstruct` does.

    Args:
        files: files, folders and patterns.
        output: folder, or a file if there is one source.
        request: the user's request; with several files, it is checked before the first.
        shard: the part of the files for this process, as "i/N"; None takes it from the environment, see `Shard.parse`.
        listed: file with one path a line, instead of `files`; its name with `.csv` and `.failed.jsonl` is used for a
            table with one row per file and for the list of failures.
        subfolders: number of subfolders of the output, see `mrirecon.reconstruction.cohort`.
        references: folder with a reference for each file, named like the file.
        overwrite: replace outputs that exist.
        dry_run: write nothing.
        preview: also draw a picture of each image.
        jobs: number of files that are reconstructed at a time, each in a process of its own.
        command: the command line, for sidecars.
        progress: function that makes a progress callback for a file name.

    Returns:
        The files of this process, and an iterator over their outcomes.

    Raises:
        UsageError: see `expand` and `Shard.parse`.
        MriReconError: see `Request.check`.

    """
    work = Work.of(files, output, shard, request, listed)
    if subfolders > 1 and (request.bids is not None or named_format(output) is not None):
        raise UsageError("subfolders need an output folder", where=str(output), fix="omit --subfolders")
    if work.several:
        request = replace(request, isolate=request.isolate is not False)
        request.check()
    elif jobs > 1:
        raise UsageError("--jobs has no effect on one file", fix="omit --jobs")
    outcomes = run(
        work.sources,
        output,
        request,
        overwrite=overwrite,
        dry_run=dry_run,
        preview=preview,
        jobs=jobs,
        failures=work.failures,
        table=work.table,
        subfolders=subfolders,
        references=references,
        command=command,
        progress=progress,
    )
    return work, outcomes


def run(
    sources: Sequence[Path],
    output: Path,
    request: Request,
    *,
    overwrite: bool = False,
    dry_run: bool = False,
    preview: bool = False,
    jobs: int = 1,
    failures: Path | None = None,
    table: Path | None = None,
    subfolders: Subfolders = 1,
    references: Path | None = None,
    command: Sequence[str] | None = None,
    waits: Sequence[float] | None = None,
    progress: Callable[[str], AbstractContextManager[Progress | None]] | None = None,
) -> Iterator[Outcome]:
    """Reconstruct files one after another and yield the outcome of each; a failure does not stop the others.

    Finished outputs are kept (see `mrirecon.reconstruction.file.finished`). Outputs that another process is writing,
    and inputs that are still being written, are tried again later; an input that did not change between two tries has
    failed.

    Args:
        sources: k-space files.
        output: folder, or a file if there is one source.
        request: the user's request.
        overwrite: replace outputs that exist.
        dry_run: write nothing.
        preview: also draw a picture of each image.
        jobs: number of files at a time, each in a process of its own.
        failures: file for the list of failures, one JSON object per line; an older file is removed.
        table: file for a table with one row per file; an older file is replaced.
        subfolders: number of subfolders of the output.
        references: folder with a reference for each file, named like the file.
        command: the command line, for sidecars.
        waits: seconds to wait before each new try; None takes `RETRY_DELAYS`.
        progress: function that makes a progress callback for a file name.

    Raises:
        ResourceError: the disk is full, so that the other files would fail too.
        UsageError: two sources have the same output; nothing is written.

    """
    if len(sources) > 1:
        refuse_same_targets(sources, output, request)
    if failures is not None and not dry_run:
        with resources(failures), suppress(FileNotFoundError):
            failures.unlink()
    rows = None if table is None or dry_run else Table(table)
    waits = RETRY_DELAYS if waits is None else waits
    existing = _Sidecars(ignored=overwrite or dry_run)
    if jobs > 1:
        existing.add([subfolder(output, source, subfolders) for source in sources])
    settings: dict[str, Any] = {"overwrite": overwrite, "dry_run": dry_run, "preview": preview, "command": command}
    places: dict[str, Any] = {"output": output, "subfolders": subfolders, "references": references}
    titles = _Titles(len(sources))
    queue, before = list(sources), dict[Path, Try]()
    for number, wait in enumerate((0.0, *waits)):
        if not queue:
            return
        time.sleep(wait)
        last, later = number == len(waits), list[Path]()
        # A copy for other processes holds no loaded models.
        shared: dict[str, Any] = {**places, "request": request if jobs == 1 else replace(request)}
        attempt: Callable[..., Try] = partial(_attempt, **shared, existing=existing, settings=settings, wait=last)
        pairs = [(source, before.get(source)) for source in queue]
        if jobs > 1:
            tries = _in_processes(attempt, pairs, jobs)
        else:
            tries = (attempt(pair, progress=progress, title=titles(pair[0])) for pair in pairs)
        for source, (now, outcome, is_new) in zip(queue, tries, strict=True):
            if is_new and outcome.error is not None and not last and _unfinished(outcome.error, now):
                later.append(source)
                before[source] = Try(now, outcome, False)
                continue
            titles.done += 1
            if failures is not None and not dry_run:
                _append_failure(failures, outcome)
            if rows is not None:
                rows.add(outcome)
            yield outcome
            if isinstance(outcome.error, ResourceError):
                _probe(output if len(sources) > 1 or not output.suffix else output.parent, outcome.error)
        queue = later


class Try(NamedTuple):
    """Hold one try of a file: its state before, the outcome, and whether the outcome is new."""

    state: dict[str, int] | None
    outcome: Outcome
    is_new: bool = True


@dataclass
class _Titles:
    """Make titles for progress bars: name and number of the file, and the time left for all."""

    count: int
    done: int = 0
    begun: float = field(default_factory=time.monotonic)

    def __call__(self, source: Path) -> str:
        if self.count == 1:
            return source.name
        title = f"{source.name}, {self.done + 1} of {self.count}"
        if not self.done:
            return title
        left = (time.monotonic() - self.begun) / self.done * (self.count - self.done)
        return f"{title}, {f'{left / 60:.0f} min' if left >= 90 else f'{left:.0f} s'} left for all"


def _in_processes(attempt: Callable[..., Try], pairs: Sequence[tuple[Path, Try | None]], jobs: int) -> Iterator[Try]:
    """Yield tries of files, in their order, from several processes that share the threads of this one."""
    threads = max(1, torch.get_num_threads() // jobs)
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(jobs, len(pairs)), _begin_process, (threads, plugins.files())) as pool:
        yield from pool.imap(attempt, pairs)


def _begin_process(threads: int, plugin_files: Sequence[str]) -> None:
    """Prepare a process: the parent handles Ctrl-C, and stops it by SIGTERM, which removes incomplete files."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, stop)
    torch.set_num_threads(threads)
    plugins.load_files(plugin_files)


def _attempt(
    pair: tuple[Path, Try | None],
    *,
    output: Path,
    request: Request,
    existing: _Sidecars,
    settings: Mapping[str, Any],
    wait: bool,
    subfolders: Subfolders = 1,
    references: Path | None = None,
    progress: Callable[[str], AbstractContextManager[Progress | None]] | None = None,
    title: str = "",
) -> Try:
    """Return the outcome for a source: its finished output if an existing sidecar records it, or a new one.

    Args:
        pair: the source, and its former try that failed, or None. A source that has not changed since has failed.
        output: see `run`.
        request: see `run`.
        existing: sidecars of the output folders.
        settings: arguments of `reconstruct_file`.
        wait: whether to wait for the lock of the output.
        subfolders: see `run`.
        references: see `run`.
        progress: see `run`.
        title: title of the progress bar.

    """
    source, former = pair
    now = None
    with suppress(OSError):
        now = stamp(source)
    if former is not None and former.state == now and not isinstance(former.outcome.error, BusyError):
        return Try(now, former.outcome, False)
    output = subfolder(output, source, subfolders)
    if references is not None:
        request = request.with_reference(_reference_of(source, references))
    try:
        for target in _candidates(source, output, request, existing(output)):
            record = finished(request, source, sidecar_path(target))
            if record is not None and not settings["preview"]:
                return Try(now, Outcome(source, finished_result(record, target)))
        with progress(title) if progress else nullcontext() as callback:
            record = reconstruct_file(
                source, output, request=request, skip_failed=True, wait=wait, progress=callback, **settings
            )
            return Try(now, Outcome(source, record))
    except Exception as error:
        failure = as_project_error(error)
        failure.where = failure.where or str(source)
        if failure is not error:
            failure.__cause__ = error
        return Try(now, Outcome(source, error=failure))


def _candidates(source: Path, output: Path, request: Request, existing: set[str]) -> list[Path]:
    """Return possible outputs of a source that have a sidecar, without reading the source."""
    if request.bids is not None:
        return []  # the name depends on the header of the source
    names = [request.method]
    if request.model is not None:
        names = [request.load(request.model).method]
    elif request.method == "auto":
        names = sorted(methods())
    targets = {output_path(source, output, name, request.format) for name in names} if existing else set()
    return [target for target in targets if sidecar_path(target).name in existing]


def _reference_of(source: Path, references: Path) -> Path | None:
    """Return the reference of a file: the file with the same name, or with the same name up to the first dot."""
    if (references / source.name).exists():
        return references / source.name
    named = references.glob(f"{escape(source.name.split('.')[0])}.*")
    return next((path for path in sorted(named) if path.suffix != ".json"), None)


@dataclass
class _Sidecars:
    """Hold the names of the sidecars of each output folder.

    Each folder is listed once: on a shared file system, this is faster than to look up each name.
    """

    ignored: bool
    names: dict[Path, set[str]] = field(default_factory=dict)

    def __call__(self, folder: Path) -> set[str]:
        if self.ignored:
            return set()
        self.add([folder])
        return self.names[folder]

    def add(self, folders: Sequence[Path]) -> None:
        """List folders that were not listed before."""
        for folder in folders if not self.ignored else ():
            if folder not in self.names:
                self.names[folder] = _sidecars(folder)


def _sidecars(output: Path) -> set[str]:
    with suppress(OSError), os.scandir(output if output.is_dir() else output.parent) as entries:
        return {entry.name for entry in entries if entry.name.endswith(".json")}
    return set()


def _unfinished(error: MriReconError, state: dict[str, int] | None) -> bool:
    """Return whether a file that could not be read may become readable."""
    if isinstance(error, BusyError):
        return True
    recent = state is not None and abs(time.time() - state["mtime_ns"] / 1e9) < _RECENT
    return recent and isinstance(error, InputError) and not isinstance(error, UnsafeContentError)


def _append_failure(failures: Path, outcome: Outcome) -> None:
    """Add a failed file, or its failed items, to the list of failures, if it can be written."""
    items = (outcome.record or {}).get("failed_items", [])
    assert isinstance(items, list), "a sidecar of ours"
    failed = items if outcome.error is None else [outcome.error.as_dict()]
    if not failed:
        return
    lines = [json.dumps({"file": str(outcome.source), **failure}, ensure_ascii=False) + "\n" for failure in failed]
    with suppress(OSError):
        failures.parent.mkdir(parents=True, exist_ok=True)
        with failures.open("ab") as file:
            file.write(utf8("".join(lines)))


def _probe(folder: Path, error: ResourceError) -> None:
    """Raise the error if the folder is no longer writable."""
    probe_file = folder / f".mrirecon-probe-{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with probe_file.open("wb") as file:
            file.write(bytes(_PROBE))
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        error.fix = (
            f"{error.fix or 'make room'}; then run the same command again, which continues with the remaining files"
        )
        raise error from None
    finally:
        with suppress(OSError):
            probe_file.unlink()
