"""Make the items of a configuration's bank beforehand, on all cores, with the first images computed on a GPU.

    PACKED=volumes.npz BANK=items python scripts/fill_bank.py scripts/runs/cirim.yaml [--processes 16] [--shard 0/3]

A run makes what it lacks by itself, one batch at a time; filled beforehand, several runs can read the same items at
once. Items that are there already stay. Several shards keep a GPU busier than one. On a GPU the first images differ in
rounding from those of a run on a CPU.
"""

from __future__ import annotations

import argparse
import multiprocessing
import pickle
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from mrirecon.config import load_config
from mrirecon.data.bank import keep
from mrirecon.data.batch import Batch, stack
from mrirecon.data.items import Recipe
from mrirecon.data.loading import Address, Order
from mrirecon.data.sources import open_sources
from mrirecon.training.setup import make_model, make_recipes

_recipes: dict[str, Recipe] = {}  # of a process of the pool


def main() -> None:
    """Fill, and say how fast."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shard", default="0/1", help="take every N-th batch, from the i-th on")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    config = load_config(options.config, overrides=options.overrides)
    settings = config.settings
    if settings.data.bank is None or not settings.data.rounds:
        raise SystemExit("the configuration has no data.bank, or data.rounds is 0: its items never repeat")
    sources = open_sources(settings.data, config.path.parent)
    recipe, check = make_recipes(settings, make_model(settings), sources)
    order = Order(recipe, settings.data.epoch)
    batches = [batch for epoch in range(settings.data.rounds) for batch in order.epoch(epoch)]
    # Validation looks at each of its slices once, and at their zero-filled images.
    once: list[list[Address]] = [[(0, n, n)] for n in range(len(check.slots))]
    recipes = {"learn": recipe, "check": check, "plain": replace(check, informed=False, start=None)}
    wanted = [("learn", batch) for batch in batches] + [(kind, one) for kind in ("check", "plain") for one in once]
    todo = [(kind, batch) for kind, batch in wanted if not all(recipes[kind].place(*a).exists() for a in batch)]
    first, count = (int(part) for part in options.shard.split("/"))
    todo = todo[first::count]
    started = time.perf_counter()
    context = multiprocessing.get_context("fork")
    bare = {kind: replace(one, start=None) for kind, one in recipes.items()}
    with context.Pool(options.processes, _begin, (bare,)) as pool:
        for number, made in enumerate(pool.imap_unordered(_make, todo)):
            kind, addresses, items = pickle.loads(made)
            for address, item in zip(addresses, _started(recipes[kind], items, options.device), strict=True):
                keep(recipes[kind].place(*address), item)
            if number % 50 == 49:
                rate = (number + 1) * recipe.batch / (time.perf_counter() - started)
                print(f"{number + 1} of {len(todo)} batches, {rate:.1f} items/s", flush=True)
    print(f"{len(todo)} batches in {time.perf_counter() - started:.0f} s")


def _begin(recipes: dict[str, Recipe]) -> None:
    torch.set_num_threads(1)
    _recipes.update(recipes)


def _make(task: tuple[str, Sequence[Address]]) -> bytes:
    kind, addresses = task
    # bytes: tensors would each take a descriptor of shared memory
    return pickle.dumps((kind, addresses, [_recipes[kind].made(*address) for address in addresses]), protocol=5)


def _started(recipe: Recipe, items: list[Batch], device: str) -> list[Batch]:
    """Return the items with their first images, all computed at once."""
    if recipe.start is None:
        return items
    with torch.no_grad():
        first = recipe.start(stack(items).problem.to(device).prepared()).cpu()
    return [replace(i, problem=replace(i.problem, start=first[n : n + 1])) for n, i in enumerate(items)]


if __name__ == "__main__":
    main()
