"""The order of samples, and the buffer between those who make them and the training.

Samples are made in chunks of ``data.buffer.batches_per_chunk`` batches, in a fixed order. Each is drawn
``data.buffer.draws_per_sample`` times, the first time when it is made and the last time when as many as
``data.buffer.capacity`` came after it; then it is given up. Which chunk is drawn when is a function of the number of
the draw alone, so that a run that is resumed goes on as it would have: chunks that it needs again are made again, or
read from the buffer's folder.

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
from mrirecon.data.items import SampleFactory, SampleKey
from mrirecon.data.packing import Packed, pack, unpack
from mrirecon.errors import MriReconError, ResourceError
from mrirecon.registries import plugins

_ATTEMPTS = 3  # to start workers again that died
_AHEAD = 2  # chunks that each worker may be ahead
_SAMPLE = 4 * 2**20  # bytes, of a large one as it is sent: 16 coils of 176 × 176
_FEED_A_GPU = 8  # workers, below which a GPU makes samples faster itself
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of mallopt(3)
Chunk = (
    Batch | Packed | MriReconError
)  # an error as a value: raised in a worker, it would arrive as a text without its parts


@dataclass(frozen=True)
class EpochSampler:
    """Which slices come when: a function of (seed, epoch) alone.

    Args:
        factory: what items are made of; its batch is a chunk, that of all ranks together.
        items_per_epoch: items in an epoch; None for every slice once.

    """

    factory: SampleFactory
    items_per_epoch: int | None = None

    @property
    def chunks_per_epoch(self) -> int:
        """Chunks in an epoch; what does not fill a chunk waits for another epoch."""
        return max(1, (self.items_per_epoch or len(self.factory.slices)) // self.factory.batch)

    def epoch(self, epoch: int) -> list[list[SampleKey]]:
        """Return the chunks of an epoch: (epoch, number, slot) of each item, slices of one size together."""
        slots, batch = self.factory.slices, self.factory.batch
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.factory.seed, epoch, 2])))
        wanted = self.chunks_per_epoch * batch
        drawn = np.concatenate([rng.permutation(len(slots)) for _ in range(-(-wanted // len(slots)))])
        groups: dict[tuple[int, ...], list[int]] = {}
        batches: list[list[int]] = []
        for slot in drawn.tolist():
            # With a window, volumes give items of one size; scans keep their coils.
            key = slots[slot].shape if not slots[slot].simulated or self.factory.data.crop is None else ()
            group = groups.setdefault(key, [])
            group.append(slot)
            if len(group) == batch:
                batches.append(groups.pop(key))
        # Sizes too rare to fill a batch are filled up by repetition.
        rare = [[group[i % len(group)] for i in range(batch)] for group in groups.values()]
        batches = (batches + rare)[: self.chunks_per_epoch]
        return [[(epoch, b * batch + i, slot) for i, slot in enumerate(group)] for b, group in enumerate(batches)]


class SampleLoader:
    """Batches from a step on; what was waited for, and how many samples were fresh, is counted.

    Args:
        sampler: of the chunks.
        workers: processes that make them; 0 makes them in this one.
        rank: of this process, which takes its share of every batch.
        ranks: processes that train together.
        device: where batches are wanted; with no workers they are made there.

    """

    def __init__(
        self, sampler: EpochSampler, workers: int = 0, rank: int = 0, ranks: int = 1, device: torch.device | str = "cpu"
    ) -> None:
        self.sampler, self.workers, self.rank, self.ranks = sampler, workers, rank, ranks
        self.device, self.buffer = torch.device(device), sampler.factory.data.buffer
        self.batch = sampler.factory.batch // self.buffer.batches_per_chunk
        self.seconds_waited, self.samples_made, self.samples_drawn = 0.0, 0, 0
        self.chunks_made = 0  # that were made
        self.notes: list[str] = []
        self._started = time.perf_counter()
        self._position, self._cached = (0, 0), dict[int, Batch | Packed]()  # (draw, batch of its chunk) that comes next

    def chunks_before(self, batches: int) -> int:
        """Return how many chunks have to be made before the next so many batches can be had."""
        draw, part = self._position
        begun = part > 0  # the chunk of this draw is there, though it may not be held any more
        draws = range(draw + begun, draw - (-(part + batches) // self.buffer.batches_per_chunk))
        return sum(1 for _ in self._needed(islice(self._draws(draws.start), len(draws)), set(self._cached)))

    def statistics(self) -> dict[str, float]:
        """Return, since the loader was made: share of time waited, fresh samples a second, and uses of each so far."""
        spent = time.perf_counter() - self._started
        uses = self.samples_drawn / max(1, self.samples_made)
        return {"waited": self.seconds_waited / spent, "fresh samples/s": self.samples_made / spent, "uses": uses}

    def batches(self, first: int) -> Iterator[Batch]:
        """Yield batches for ever, starting with number ``first`` of the run.

        Raises:
            MriReconError: an item that cannot be made.
            ResourceError: workers died, and again after they were started anew.

        """
        draw, part = divmod(first, self.buffer.batches_per_chunk)
        held: dict[int, Batch | Packed] = {}
        failed = 0
        self._started, self.seconds_waited, self.samples_made, self.samples_drawn, self.chunks_made = (
            time.perf_counter(),
            0.0,
            0,
            0,
            0,
        )
        self._position, self._cached = (draw, part), held
        while True:
            source = self._make_chunks(self._sample_keys(chunk) for chunk in self._needed(self._draws(draw), set(held)))
            try:
                for chunk, use in self._draws(draw):
                    begun = time.perf_counter()
                    if chunk not in held:
                        made = next(source)
                        if isinstance(made, MriReconError):
                            raise made
                        held[chunk] = self._to_cache_device(made)
                        self.chunks_made += 1
                        self.samples_made += self.sampler.factory.batch // self.ranks
                    batch = self._augmented(held[chunk], chunk, use)
                    if use == self.buffer.draws_per_sample - 1:
                        del held[chunk]
                    self.seconds_waited += time.perf_counter() - begun
                    share = self.batch // self.ranks
                    for number in range(part, self.buffer.batches_per_chunk):
                        self.samples_drawn += share
                        part = number + 1
                        self._position = (draw, part) if part < self.buffer.batches_per_chunk else (draw + 1, 0)
                        yield part_of(batch, slice(number * share, (number + 1) * share))
                    draw, part, failed = draw + 1, 0, 0
            except _WorkerDied as error:
                failed += 1
                if failed > _ATTEMPTS:
                    raise ResourceError(
                        "the processes that make items keep dying",
                        why=str(error),
                        fix="give them more memory (in a container shared memory, too), or fewer: train.workers",
                    ) from None
                step = draw * self.buffer.batches_per_chunk + part
                self.notes.append(f"workers were started again before step {step}: {error}")

    def _to_cache_device(self, made: Batch | Packed) -> Batch | Packed:
        """Return a chunk where it is held: shared memory, in which other processes send it, is scarce."""
        if isinstance(made, Batch) or not self.workers:
            return made
        place = self.device if self.buffer.location == "device" else torch.device("cpu")
        return {k: v.to(place, copy=True) for k, v in made.items()}

    def _augmented(self, made: Batch | Packed, chunk: int, use: int) -> Batch:
        """Return a chunk as it is seen when it is drawn for the ``use``-th time."""
        addresses = self._sample_keys(chunk)
        if self.buffer.folder() is not None:
            made = self.sampler.factory.load_or_make(addresses, self.device)
        found = made if isinstance(made, Batch) else unpack({k: v.to(self.device) for k, v in made.items()})
        return self.sampler.factory.augment(found.to(self.device), addresses, use)

    def _draws(self, first: int) -> Iterator[tuple[int, int]]:
        """Yield (chunk, how often it was drawn before) for ever, from a draw on, counted from 0."""
        uses, chunks = (
            self.buffer.draws_per_sample,
            max(1, self.buffer.capacity * self.ranks // self.sampler.factory.batch),
        )
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
            if use == self.buffer.draws_per_sample - 1:
                held.discard(chunk)

    def _sample_keys(self, chunk: int) -> list[SampleKey]:
        """Return this rank's share of every batch of a chunk."""
        epoch, number = divmod(chunk, self.sampler.chunks_per_epoch)
        whole, share = self.sampler.epoch(epoch)[number], self.batch // self.ranks
        starts = range(self.rank * share, len(whole), self.batch)
        return [address for start in starts for address in whole[start : start + share]]

    def _make_chunks(self, wanted: Iterable[Sequence[SampleKey]]) -> Iterator[Chunk]:
        """Yield chunks as they are made."""
        if self.workers:
            return _from_workers(_ChunkDataset(self.sampler.factory), wanted, self.workers)
        return (_make_chunk(self.sampler.factory, addresses, self.device) for addresses in wanted)


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


def free_shared_memory() -> int:
    """Return the bytes that are free for what processes send each other; in containers that is often little."""
    try:
        return shutil.disk_usage("/dev/shm").free
    except OSError:  # elsewhere than on Linux, nothing limits it
        return 2**40


def _make_chunk(recipe: SampleFactory, addresses: Sequence[SampleKey], device: torch.device | str = "cpu") -> Chunk:
    """Return a chunk: packed, where it is drawn again; nothing where it lies in a file."""
    buffer = recipe.data.buffer
    try:
        batch = recipe.load_or_make(addresses, device)
    except MriReconError as error:
        return error
    if buffer.folder() is not None:
        return {}
    if buffer.draws_per_sample == 1:
        return batch
    return {k: v if buffer.location == "device" else v.cpu() for k, v in pack(batch).items()}


class _WorkerDied(Exception):
    """A process died."""


class _ChunkDataset(Dataset[Chunk]):
    """What workers do: from addresses to a chunk."""

    def __init__(self, factory: SampleFactory) -> None:
        self.factory = factory
        self.plugins = plugins.files()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Load what the parent was told to load: a worker that was not forked begins without it."""
        self.__dict__ |= state
        plugins.load_files(self.plugins)

    def __getitem__(self, addresses: Sequence[SampleKey]) -> Chunk:
        return _make_chunk(self.factory, addresses)


def _from_workers(chunks: _ChunkDataset, wanted: Iterable[Sequence[SampleKey]], workers: int) -> Iterator[Chunk]:
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
        collate_fn=cast("Any", _identity),  # torch annotates it for lists of samples
        worker_init_fn=_init_worker,
    )
    try:
        source = iter(loader)
        if before is not None and signal.getsignal(signal.SIGCHLD) is not before:
            # torch would raise in whatever the trainer is at; a dead process is noticed below, within seconds
            signal.signal(signal.SIGCHLD, before)
        while True:
            yield next(source)
    except (EOFError, OSError) as error:
        raise _WorkerDied(str(error) or "one of them died") from None
    except RuntimeError as error:
        if "DataLoader" not in str(error):
            raise
        raise _WorkerDied(str(error).partition("\n")[0]) from None


def _identity(made: Chunk) -> Chunk:
    return made


def _init_worker(number: int) -> None:
    """Set a worker up: one thread, and signals are left to the parent."""
    keep_freed_memory()
    torch.set_num_threads(1)
    for name, action in (("SIGINT", signal.SIG_IGN), ("SIGUSR1", signal.SIG_IGN), ("SIGTERM", signal.SIG_DFL)):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), action)


def keep_freed_memory() -> None:
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
