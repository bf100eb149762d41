"""Measure what a file costs besides its reconstruction, and simulate a million files on a thousand tasks from it.

    python scripts/measure_scaling.py measure --items 20000 --processes 16 -o costs.json
    python scripts/measure_scaling.py simulate --costs costs.json

``measure`` runs the real bookkeeping on tiny scans (hard links to a few files): flat, where every process lists the
folders and takes every n-th file, and divided, where every process reads its own list and writes into subfolders.
Both are run once more, where every file is finished already. With strace, it counts the system calls of an item.

``simulate`` follows every item of every task through two queues: the metadata server, which all operations share, and
the folder of the output, in which operations that add or remove a name wait for each other. Rates of the file system
are assumptions, because they differ between sites; the number of operations is measured.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from mrirecon.io import write_kspace
from mrirecon.reconstruction import batch, cohort
from mrirecon.reconstruction.plan import Request

# System calls by what they cost on a shared file system: those that change a folder wait for each other.
CHANGES = ("mkdir", "rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir", "link", "symlink")
LOOKUPS = ("openat", "open", "stat", "newfstatat", "lstat", "access", "faccessat2", "readlink", "statx", "chmod")
SYNCS = ("fsync", "fdatasync")
TRACED = (*CHANGES, *LOOKUPS, *SYNCS, "flock", "getdents64")


@dataclass(frozen=True)
class Costs:
    """Hold the measured operations of one item.

    Attributes:
        changes: operations that add, rename or remove a name in the output folder, with the creation of files.
        lookups: files opened, and names looked up, each once.
        syncs: flushes to the disk.
        locks: lock operations.
        seconds: processor seconds of an item, with the reconstruction of 16 × 16 pixels.

    """

    changes: float
    lookups: float
    syncs: float
    locks: float
    seconds: float


def make_scans(folder: Path, items: int) -> None:
    """Write eight scans of noise, and hard links to them for the other items."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    first: list[Path] = []
    for number in range(items):
        path = folder / f"scan{number:06d}.h5"
        if number < 8:
            kspace = rng.normal(size=(2, 1, 2, 16, 16)).astype(np.float32)
            write_kspace(path, (kspace[0] + 1j * kspace[1]).astype(np.complex64))
            first.append(path)
        else:
            os.link(first[number % 8], path)


def share(folder: Path, out: Path, number: int, processes: int, *, divided: bool) -> None:
    """Reconstruct the files of one process; write its seconds, the part of the model and the number of failures."""
    begun, processor, model, failed = time.perf_counter(), time.process_time(), 0.0, 0
    request = Request(method="zero-filled", maps="unit", isolate=False)
    if divided:
        listed = out.parent / "lists" / f"{number}.txt"
        _, outcomes = batch.reconstruct_files([], out, request, listed=listed, subfolders=256)
    else:
        _, outcomes = batch.reconstruct_files([folder], out, request, shard=f"{number + 1}/{processes}")
    start = None
    for outcome in outcomes:
        start = start or time.perf_counter()  # the first file is done: the files are listed
        failed += outcome.record is None
        seconds = (outcome.record or {}).get("seconds", [])
        if not (outcome.record or {}).get("finished"):
            assert isinstance(seconds, list), "one number an item"
            model += sum(seconds)
    times = {"before": (start or begun) - begun, "seconds": time.perf_counter() - begun}
    times["processor"] = time.process_time() - processor
    content = {**times, "model": model, "failed": failed}
    (out.parent / f"share-{number}.json").write_text(json.dumps(content))


def run_all(folder: Path, out: Path, processes: int, *, divided: bool) -> dict[str, float]:
    """Run all processes at the same time; return their times in seconds."""
    begun = time.perf_counter()
    if divided:
        lists = out.parent / "lists"
        lists.mkdir(exist_ok=True)
        sources = batch.expand([folder], out, Request(method="zero-filled"))
        for number, part in enumerate(cohort.divide(sources, out, 256, processes)):
            cohort.write_list(lists / f"{number}.txt", part)
    submitted = time.perf_counter() - begun
    children = []
    for number in range(processes):
        child = os.fork()  # torch is imported once
        if not child:
            share(folder, out, number, processes, divided=divided)
            os._exit(0)
        children.append(child)
    for child in children:
        _, status = os.waitpid(child, 0)
        if status:
            raise SystemExit("a process failed")
    shares = [json.loads((out.parent / f"share-{n}.json").read_text()) for n in range(processes)]
    return {
        "listing once (s)": submitted,
        "before the first item (s)": sum(s["before"] for s in shares) / processes,
        "wall time (s)": time.perf_counter() - begun,
        "processes (s)": sum(s["seconds"] for s in shares),
        "processor (s)": sum(s["processor"] for s in shares),
        "reconstruction (s)": sum(s["model"] for s in shares),
        "failed": sum(s["failed"] for s in shares),
    }


def count_calls(items: int) -> dict[str, float]:
    """Count the system calls of an item with strace: the difference between two batches of different size."""
    counts = []
    for number in (items, 3 * items):
        with tempfile.TemporaryDirectory() as name:
            folder, out = Path(name) / "in", Path(name) / "out"
            make_scans(folder, number)
            (Path(name) / "lists").mkdir()
            cohort.write_list(Path(name) / "lists" / "0.txt", sorted(folder.iterdir()))
            trace = Path(name) / "trace"
            command = ["strace", "-f", "-qq", "-e", f"trace={','.join(TRACED)}", "-o", str(trace)]
            subprocess.run([*command, sys.executable, __file__, "share", str(folder), str(out)], check=True)
            counts.append(_calls(trace.read_text(errors="replace").splitlines(), name))
    return {call: (counts[1].get(call, 0) - counts[0].get(call, 0)) / (2 * items) for call in counts[1]}


def _calls(lines: Sequence[str], folder: str) -> dict[str, int]:
    """Count the system calls on files in a folder; a client keeps what it has looked up, so names count once."""
    counts: dict[str, int] = {}
    looked_up = set[str]()
    for line in lines:
        match = re.match(r"\d+\s+(\w+)\((?:AT_FDCWD, )?(?:\"([^\"]*)\")?", line)
        if match is None or (match[1] in (*CHANGES, *LOOKUPS) and folder not in (match[2] or "")):
            continue  # a file of Python or of the system
        call, path = match[1], match[2]
        if call in ("open", "openat"):
            call = "create" if "O_EXCL" in line or (path.endswith(".lock") and "O_CREAT" in line) else "open"
        elif call in LOOKUPS or (call in CHANGES and " = -1 " in line):
            call = "repeated lookup" if path in looked_up else "lookup"
            looked_up.add(path)
        counts[call] = counts.get(call, 0) + 1
    return counts


def measure(items: int, processes: int, output: Path, layouts: Sequence[str]) -> None:
    """Measure and print, and write the costs of an item."""
    calls = count_calls(50) if shutil.which("strace") else {}
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(dir=output.resolve().parent) as name:
        folder = Path(name) / "in"
        make_scans(folder, items)
        for title in layouts:
            out = Path(name) / title / "out"
            out.parent.mkdir()
            for again in ("", ", second run"):
                results[title + again] = run_all(folder, out, processes, divided=title == "divided")
            images = sorted(out.rglob("*.h5"))
            results[title]["images"] = len(images)
            results[title]["largest folder"] = max(len(list(p.iterdir())) for p in [out, *out.glob("part-*")])
    for title, times in results.items():
        print(title)
        for key, value in times.items():
            print(f"  {key:28} {value:10.2f}")
        print(f"  {'items/s':28} {items / times['wall time (s)']:10.1f}")
    print("system calls of an item: " + ", ".join(f"{call} {number:.1f}" for call, number in sorted(calls.items())))
    costs = Costs(
        changes=sum(calls.get(call, 0) for call in (*CHANGES, "create")),
        lookups=calls.get("open", 0) + calls.get("lookup", 0),
        syncs=sum(calls.get(call, 0) for call in SYNCS),
        locks=calls.get("flock", 0),
        seconds=results[layouts[0]]["processor (s)"] / items,
    )
    output.write_text(json.dumps({"costs": asdict(costs), "calls": calls, "runs": results}, indent=2) + "\n")


@dataclass(frozen=True)
class Site:
    """Hold the rates of a shared file system and of the computation.

    Attributes:
        operations: metadata operations that the server does in a second.
        change: seconds for which an operation that changes a folder locks it.
        entries: folder entries that a process lists in a second.
        compute: seconds to reconstruct an item.

    """

    operations: float
    change: float
    entries: float
    compute: float


def simulate(
    costs: Costs, site: Site, items: int, tasks: int, folders: int, *, listed: bool, failures: float
) -> dict[str, float]:
    """Simulate all items of all tasks in the order of their times.

    Args:
        costs: operations of an item.
        site: rates.
        items: number of items.
        tasks: number of tasks, which start together.
        folders: number of output folders; the items of a task are in consecutive ones.
        listed: whether each task reads its own list; otherwise it lists inputs and outputs, and looks at the sidecar of
            each input.
        failures: share of the items that fail and are tried once more at the end of the task.

    Returns:
        Hours until the end, share of the time of all tasks that is spent computing, minutes until the first item,
        entries of the largest folder, and the busy shares of the server and of the busiest folder.

    """
    rng = random.Random(0)
    per_task = items // tasks
    before = 3 * per_task / site.entries if listed else (3 * items) / site.entries  # an image, a sidecar, an input
    looks = 0 if listed else items  # of each task
    server_free, server_busy = 0.0, 0.0
    begins = []
    for _ in range(tasks):
        work = looks / site.operations
        server_free += work
        server_busy += work
        begins.append(server_free + before)
    folder_free, folder_busy = [0.0] * folders, [0.0] * folders
    events = [(begin + rng.expovariate(1 / site.compute), task, 0) for task, begin in enumerate(begins)]
    heapq.heapify(events)
    extra = [sum(rng.random() < failures for _ in range(per_task)) for _ in range(tasks)]
    end = computed = 0.0
    per_item = costs.changes + costs.lookups + costs.locks
    while events:
        now, task, done = heapq.heappop(events)
        position = (task * per_task + min(done, per_task - 1)) * folders // (per_task * tasks)
        server_free = max(server_free, now) + per_item / site.operations
        server_busy += per_item / site.operations
        changed = max(server_free, folder_free[position]) + costs.changes * site.change
        folder_free[position] = changed
        folder_busy[position] += costs.changes * site.change
        end = max(end, changed)
        if done + 1 < per_task + extra[task]:
            seconds = rng.expovariate(1 / site.compute)
            computed += seconds
            heapq.heappush(events, (changed + costs.seconds + seconds, task, done + 1))
    return {
        "hours": end / 3600,
        "computing": computed / (end * tasks),
        "minutes before the first item": max(begins) / 60,
        "entries of a folder": 2 * items / folders,
        "server busy": server_busy / end,
        "folder busy": max(folder_busy) / end,
        "tried again": float(sum(extra)),
    }


def run_simulation(path: Path, items: int, tasks: int) -> None:
    """Simulate several sites and layouts, and print a table."""
    costs = Costs(**json.loads(path.read_text())["costs"])
    print(
        f"{items} items, {tasks} tasks, 0.1 % of the items tried again; an item: {costs.changes:.0f} changes of a "
        f"folder, {costs.lookups:.0f} lookups, {costs.locks:.0f} locks, {1000 * costs.seconds:.0f} ms of a core"
    )
    heads = ["operations/s", "lock of a folder (ms)", "item (s)", "layout", "hours", "computing", "first item (min)"]
    heads += ["entries of a folder", "server busy", "folder busy"]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    layouts = (
        ("flat, listed by each task", 1, False),
        ("flat, lists", 1, True),
        ("4096 folders, lists", 4096, True),
    )
    for operations, change, compute in ((5e3, 1e-3, 1), (20e3, 3e-4, 1), (20e3, 3e-4, 20)):
        site = Site(operations, change, 50e3, compute)
        for title, folders, listed in layouts:
            r = simulate(costs, site, items, tasks, folders, listed=listed, failures=0.001)
            cells = [f"{operations:.0f}", f"{1000 * change:.1f}", f"{compute:.0f}", title, f"{r['hours']:.2f}"]
            cells += [f"{r['computing']:.0%}", f"{r['minutes before the first item']:.1f}"]
            cells += [f"{r['entries of a folder']:.0f}", f"{r['server busy']:.0%}", f"{r['folder busy']:.0%}"]
            print(f"| {' | '.join(cells)} |")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure")
    measuring.add_argument("--items", type=int, default=20_000)
    measuring.add_argument("--processes", type=int, default=16)
    measuring.add_argument("--layouts", nargs="+", choices=("flat", "divided"), default=["divided", "flat"])
    measuring.add_argument("-o", "--output", type=Path, default=Path("costs.json"))
    part = commands.add_parser("share", help="one process of the measurement")
    part.add_argument("folder", type=Path)
    part.add_argument("out", type=Path)
    simulation = commands.add_parser("simulate")
    simulation.add_argument("--costs", type=Path, default=Path(__file__).with_name("scaling_costs.json"))
    simulation.add_argument("--items", type=int, default=1_000_000)
    simulation.add_argument("--tasks", type=int, default=1000)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    commands_by_name: dict[str, Callable[[], None]] = {
        "measure": lambda: measure(options.items, options.processes, options.output, options.layouts),
        "share": lambda: share(options.folder, options.out, 0, 1, divided=True),
        "simulate": lambda: run_simulation(options.costs, options.items, options.tasks),
    }
    commands_by_name[options.command]()


if __name__ == "__main__":
    main()
