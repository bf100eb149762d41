"""The order of samples, and the buffer between those who make them and the training.

Samples are made in chunks of ``data.buffer.together`` batches, in a fixed order. Each is drawn ``data.buffer.uses``
times, the first time when it is made and the last time when as many as ``data.buffer.samples`` came after it; then it
is given up. Which chunk is drawn when is a function of the number of the draw alone, so that a run that is resumed goes
on as it would have: chunks that it needs again are made again, or read from the buffer's folder.

How to size it. Training takes b items a step of t seconds, and making a sample takes m seconds of a core: with w cores
that make samples (``train.workers``), nobody waits where uses · w / m ≥ b / t. With no workers samples are made on the
device itself, between steps, in the time b · m / uses a step; on a GPU, larger ``together`` makes m smaller, until the
GPU is full. With workers smaller ``together`` is better: the first step waits for one whole chunk of one core.
``samples`` should be some hundreds, so that the uses of a sample lie far apart: 1.6 MB each, at 8 coils of 160 × 160.
A method whose step takes less than making a sample should use each up to four times. A folder pays where several runs
learn from the same samples.
"""

from __future__ import annotations

import ctypes
import shutil
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from mrirecon.data.batch import Batch, part_of
from mrirecon.data.items import Address, Recipe
from mrirecon.data.packing import Packed, pack, unpack
from mrirecon.errors import MriReconError, ResourceError
from mrirecon.registries import plugins

_ATTEMPTS = 3  # to start workers again that died
_AHEAD = 2  # chunks that each worker may be ahead
_SAMPLE = 4 * 2**20  # bytes, of a large one as it is sent: 16 coils of 176 × 176
_FEED_A_GPU = 8  # workers, below which a GPU makes samples faster itself
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of mallopt(3)
Made = (
    Batch | Packed | MriReconError
)  # an error as a value: raised in a worker, it would arrive as a text without its parts


@dataclass(frozen=True)
class Order:
    """Which slices come when: a function of (seed, epoch) alone.

    Args:
        recipe: what items are made of; its batch is a chunk, that of all ranks together.
        length: items in an epoch; None for every slice once.

    """

    recipe: Recipe
    length: int | None = None

    @property
    def steps(self) -> int:
        """Chunks in an epoch; what does not fill a chunk waits for another epoch."""
        return max(1, (self.length or len(self.recipe.slots)) // self.recipe.batch)

    def epoch(self, epoch: int) -> list[list[Address]]:
        """Return the chunks of an epoch: (epoch, number, slot) of each item, slices of one size together."""
        slots, batch = self.recipe.slots, self.recipe.batch
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.recipe.seed, epoch, 2])))
        wanted = self.steps * batch
        drawn = np.concatenate([rng.permutation(len(slots)) for _ in range(-(-wanted // len(slots)))])
        groups: dict[tuple[int, ...], list[int]] = {}
        batches: list[list[int]] = []
        for slot in drawn.tolist():
            # With a window, volumes give items of one size; scans keep their coils.
            key = slots[slot].shape if not slots[slot].simulated or self.recipe.data.crop is None else ()
            group = groups.setdefault(key, [])
            group.append(slot)
            if len(group) == batch:
                batches.append(groups.pop(key))
        # Sizes too rare to fill a batch are filled up by repetition.
        rare = [[group[i % len(group)] for i in range(batch)] for group in groups.values()]
        batches = (batches + rare)[: self.steps]
        return [[(epoch, b * batch + i, slot) for i, slot in enumerate(group)] for b, group in enumerate(batches)]


class Loader:
    """Batches from a step on; what was waited for, and how many samples were fresh, is counted.

    Args:
        order: of the chunks.
        workers: processes that make them; 0 makes them in this one.
        rank: of this process, which takes its share of every batch.
        ranks: processes that train together.
        device: where batches are wanted; with no workers they are made there.

    """

    def __init__(
        self, order: Order, workers: int = 0, rank: int = 0, ranks: int = 1, device: torch.device | str = "cpu"
    ) -> None:
        self.order, self.workers, self.rank, self.ranks = order, workers, rank, ranks
        self.device, self.buffer = torch.device(device), order.recipe.data.buffer
        self.batch = order.recipe.batch // self.buffer.together
        self.waited, self.fresh, self.drawn = 0.0, 0, 0
        self.chunks = 0  # that were made
        self.notes: list[str] = []
        self._begun = time.perf_counter()
        self._place, self._held = (0, 0), dict[int, Batch | Packed]()  # (draw, batch of its chunk) that comes next

    def chunks_before(self, batches: int) -> int:
        """Return how many chunks have to be made before the next so many batches can be had."""
        draw, part = self._place
        begun = part > 0  # the chunk of this draw is there, though it may not be held any more
        draws = range(draw + begun, draw - (-(part + batches) // self.buffer.together))
        return sum(1 for _ in self._needed(islice(self._draws(draws.start), len(draws)), set(self._held)))

    def figures(self) -> dict[str, float]:
        """Return, since the loader was made: share of time waited, fresh samples a second, and uses of each so far."""
        spent = time.perf_counter() - self._begun
        uses = self.drawn / max(1, self.fresh)
        return {"waited": self.waited / spent, "fresh samples/s": self.fresh / spent, "uses": uses}

    def batches(self, first: int) -> Iterator[Batch]:
        """Yield batches for ever, starting with number ``first`` of the run.

        Raises:
            MriReconError: an item that cannot be made.
            ResourceError: workers died, and again after they were started anew.

        """
        draw, part = divmod(first, self.buffer.together)
        held: dict[int, Batch | Packed] = {}
        failed = 0
        self._begun, self.waited, self.fresh, self.drawn, self.chunks = time.perf_counter(), 0.0, 0, 0, 0
        self._place, self._held = (draw, part), held
        while True:
            source = self._made(self._addresses(chunk) for chunk in self._needed(self._draws(draw), set(held)))
            try:
                for chunk, use in self._draws(draw):
                    begun = time.perf_counter()
                    if chunk not in held:
                        made = next(source)
                        if isinstance(made, MriReconError):
                            raise made
                        held[chunk] = self._received(made)
                        self.chunks += 1
                        self.fresh += self.order.recipe.batch // self.ranks
                    batch = self._seen(held[chunk], chunk, use)
                    if use == self.buffer.uses - 1:
                        del held[chunk]
                    self.waited += time.perf_counter() - begun
                    share = self.batch // self.ranks
                    for number in range(part, self.buffer.together):
                        self.drawn += share
                        part = number + 1
                        self._place = (draw, part) if part < self.buffer.together else (draw + 1, 0)
                        yield part_of(batch, slice(number * share, (number + 1) * share))
                    draw, part, failed = draw + 1, 0, 0
            except _Lost as error:
                failed += 1
                if failed > _ATTEMPTS:
                    raise ResourceError(
                        "the processes that make items keep dying",
                        why=str(error),
                        fix="give them more memory (in a container shared memory, too), or fewer: train.workers",
                    ) from None
                step = draw * self.buffer.together + part
                self.notes.append(f"workers were started again before step {step}: {error}")

    def _received(self, made: Batch | Packed) -> Batch | Packed:
        """Return a chunk where it is held: shared memory, in which other processes send it, is scarce."""
        if isinstance(made, Batch) or not self.workers:
            return made
        place = self.device if self.buffer.where == "device" else torch.device("cpu")
        return {k: v.to(place, copy=True) for k, v in made.items()}

    def _seen(self, made: Batch | Packed, chunk: int, use: int) -> Batch:
        """Return a chunk as it is seen when it is drawn for the ``use``-th time."""
        addresses = self._addresses(chunk)
        if self.buffer.folder() is not None:
            made = self.order.recipe.kept(addresses, self.device)
        found = made if isinstance(made, Batch) else unpack({k: v.to(self.device) for k, v in made.items()})
        return self.order.recipe.turned(found.to(self.device), addresses, use)

    def _draws(self, first: int) -> Iterator[tuple[int, int]]:
        """Yield (chunk, how often it was drawn before) for ever, from a draw on, counted from 0."""
        uses, chunks = self.buffer.uses, max(1, self.buffer.samples * self.ranks // self.order.recipe.batch)
        ages = [use * (chunks - 1) // max(1, uses - 1) for use in range(uses)]
        newest = 0
        while True:
            now = [(newest - age, use) for use, age in enumerate(ages) if age <= newest]
            if len(now) == uses:  # from here on all rounds are of one length
                newest, first = newest + first // uses, first % uses
                now = [(newest - age, use) for use, age in enumerate(ages)]
            yield from now[first:]
            newest, first = newest + 1, max(0, first - len(now))

    def _needed(self, draws: Iterable[tuple[int, int]], held: set[int]) -> Iterator[int]:
        """Yield the chunks that have to be made for these draws, in order, where some are held."""
        for chunk, use in draws:
            if chunk not in held:
                held.add(chunk)
                yield chunk
            if use == self.buffer.uses - 1:
                held.discard(chunk)

    def _addresses(self, chunk: int) -> list[Address]:
        """Return this rank's share of every batch of a chunk."""
        epoch, number = divmod(chunk, self.order.steps)
        whole, share = self.order.epoch(epoch)[number], self.batch // self.ranks
        starts = range(self.rank * share, len(whole), self.batch)
        return [address for start in starts for address in whole[start : start + share]]

    def _made(self, wanted: Iterable[Sequence[Address]]) -> Iterator[Made]:
        """Yield chunks as they are made."""
        if self.workers:
            return _from_workers(_Chunks(self.order.recipe), wanted, self.workers)
        return (_make(self.order.recipe, addresses, self.device) for addresses in wanted)


def workers_for(device: torch.device, chunk: int, cores: int, shared: int) -> int:
    """Return how many processes should make samples beside the training.

    A core makes two samples a second (8 to 16 coils, 150 × 150, with maps and start), and a GPU is fed by one process
    with no more than fifteen, for what is drawn on the CPU, the scene and the mask, takes 65 ms a sample.

    Args:
        device: of the training.
        chunk: samples that are made at once.
        cores: that may be used.
        shared: bytes that are free for what processes send each other.

    """
    if device.type == "cpu":
        return 0 if cores <= 2 else min(8, cores // 2)
    most = min(cores - 1, shared // (_SAMPLE * chunk * (_AHEAD + 1)))
    return most if most >= _FEED_A_GPU else 0


def shared_memory() -> int:
    """Return the bytes that are free for what processes send each other; in containers that is often little."""
    try:
        return shutil.disk_usage("/dev/shm").free
    except OSError:  # elsewhere than on Linux, nothing limits it
        return 2**40


def _make(recipe: Recipe, addresses: Sequence[Address], device: torch.device | str = "cpu") -> Made:
    """Return a chunk: packed, where it is drawn again; nothing where it lies in a file."""
    buffer = recipe.data.buffer
    try:
        batch = recipe.kept(addresses, device)
    except MriReconError as error:
        return error
    if buffer.folder() is not None:
        return {}
    if buffer.uses == 1:
        return batch
    return {k: v if buffer.where == "device" else v.cpu() for k, v in pack(batch).items()}


class _Lost(Exception):
    """A process died."""


class _Chunks(Dataset[Made]):
    """What workers do: from addresses to a chunk."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.plugins = plugins.files()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Load what the parent was told to load: a worker that was not forked begins without it."""
        self.__dict__ |= state
        plugins.load_files(self.plugins)

    def __getitem__(self, addresses: Sequence[Address]) -> Made:
        return _make(self.recipe, addresses)


def _from_workers(chunks: _Chunks, wanted: Iterable[Sequence[Address]], workers: int) -> Iterator[Made]:
    """Yield what processes make, in order.

    Raises:
        _Lost: one of them died.

    """
    before = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
    loader = DataLoader(
        chunks,
        sampler=wanted,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=_AHEAD,
        collate_fn=cast("Any", _as_it_is),  # torch annotates it for lists of samples
        worker_init_fn=_begin,
    )
    try:
        source = iter(loader)
        if before is not None and signal.getsignal(signal.SIGCHLD) is not before:
            # torch would raise in whatever the trainer is at; a dead process is noticed below, within seconds
            signal.signal(signal.SIGCHLD, before)
        while True:
            yield next(source)
    except (EOFError, OSError) as error:
        raise _Lost(str(error) or "one of them died") from None
    except RuntimeError as error:
        if "DataLoader" not in str(error):
            raise
        raise _Lost(str(error).partition("\n")[0]) from None


def _as_it_is(made: Made) -> Made:
    return made


def _begin(number: int) -> None:
    """Set a worker up: one thread, and signals are left to the parent."""
    hold_memory()
    torch.set_num_threads(1)
    for name, action in (("SIGINT", signal.SIG_IGN), ("SIGUSR1", signal.SIG_IGN), ("SIGTERM", signal.SIG_DFL)):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), action)


def hold_memory() -> None:
    """Have glibc keep what is freed for the rest of this process (elsewhere, nothing happens).

    Batches of tens of megabytes come and go, and each would be mapped anew. To receive 8 items of 16 coils and
    160 × 160 took 74 ms of processor time with 19,000 page faults, and so 55 ms with 2,700.
    """
    try:
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(_MMAP_THRESHOLD, 1 << 30)
        library.mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)
    except (OSError, AttributeError):
        return
