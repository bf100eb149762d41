"""Order samples into epochs, buffer them, and load them with worker processes.

Samples are made in chunks of ``data.buffer.batches_per_chunk`` batches, in a fixed order. Each is drawn
``data.buffer.draws_per_sample`` times, first when it is made and last when ``data.buffer.capacity`` samples were made
after it; then it is dropped. Which chunk is drawn when is a function of the number of the draw alone, so that a resumed
run continues as it would have: chunks that it needs again are made again, or read from the buffer's folder.

How to choose the sizes. Training takes b samples a step of t seconds, and a core makes a sample in m seconds: with w
worker cores (``train.workers``), training never waits where draws_per_sample · w / m ≥ b / t. Without workers samples
are made on the training device between steps, in b · m / draws_per_sample seconds a step; on a GPU, a larger
``batches_per_chunk`` lowers m until the GPU is busy. With workers a smaller one is better: the first step waits for a
whole chunk of one core. ``capacity`` should be some hundreds, so that the draws of a sample lie far apart; 8 coils of
160 × 160 take 1.6 MB. A method whose step takes less time than making a sample should draw each up to four
times. A folder pays off where several runs learn from the same samples.
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

from mrirecon.data.batch import Batch, Packed, pack, part_of, unpack
from mrirecon.data.fields import generator
from mrirecon.data.samples import SampleFactory, SampleKey
from mrirecon.errors import MriReconError, ResourceError
from mrirecon.registries import plugins

_RESTARTS = 3  # of dead workers, without a batch in between
_PREFETCH = 2  # chunks that each worker may be ahead
_SAMPLE_BYTES = 4 * 2**20  # of a large sample as it is sent: 16 coils of 176 × 176
_FEED_A_GPU = 8  # with fewer workers than that, a GPU makes samples faster itself
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of mallopt(3)
# An error is passed as a value: raised in a worker, it would arrive as text, without where, why and fix.
Chunk = Batch | Packed | MriReconError


@dataclass(frozen=True)
class EpochSampler:
    """Choose the slices of each epoch: a function of (seed, epoch) alone.

    Args:
        factory: makes the samples; its batch is a chunk of all ranks together.
        items_per_epoch: samples in an epoch; None for every slice once.

    """

    factory: SampleFactory
    items_per_epoch: int | None = None

    @property
    def chunks_per_epoch(self) -> int:
        """Chunks in an epoch; samples that do not fill a chunk are left for another epoch."""
        return max(1, (self.items_per_epoch or len(self.factory.slices)) // self.factory.batch)

    def epoch(self, epoch: int) -> list[list[SampleKey]]:
        """Return the chunks of an epoch: (epoch, number, slice) of each sample, slices of one size together."""
        slices, size = self.factory.slices, self.factory.batch
        rng = generator(self.factory.seed, epoch, 2)
        wanted = self.chunks_per_epoch * size
        drawn = np.concatenate([rng.permutation(len(slices)) for _ in range(-(-wanted // len(slices)))])
        groups: dict[tuple[int, ...], list[int]] = {}
        chunks: list[list[int]] = []
        for index in drawn.tolist():
            # With a window, volumes give samples of one size; scans keep their coils.
            cropped = slices[index].simulated and self.factory.data.crop is not None
            key = () if cropped else slices[index].shape
            group = groups.setdefault(key, [])
            group.append(index)
            if len(group) == size:
                chunks.append(groups.pop(key))
        # Sizes too rare to fill a chunk are repeated.
        chunks += [[group[i % len(group)] for i in range(size)] for group in groups.values()]
        chosen = enumerate(chunks[: self.chunks_per_epoch])
        return [[(epoch, number * size + i, index) for i, index in enumerate(chunk)] for number, chunk in chosen]


class SampleLoader:
    """Yield batches from any step on, and count waiting time and fresh samples.

    Args:
        sampler: chooses the chunks.
        workers: processes that make them; 0 makes them in this one.
        rank: of this process, which takes its share of every batch.
        ranks: processes that train together.
        device: where batches are wanted; without workers they are made there.

    Attributes:
        seconds_waited: for samples.
        chunks_made: since `batches` was called.
        notes: on workers that were restarted.

    """

    def __init__(
        self, sampler: EpochSampler, workers: int = 0, rank: int = 0, ranks: int = 1, device: torch.device | str = "cpu"
    ) -> None:
        self.sampler, self.workers, self.rank, self.ranks = sampler, workers, rank, ranks
        self.device, self.buffer = torch.device(device), sampler.factory.data.buffer
        self.batch = sampler.factory.batch // self.buffer.batches_per_chunk
        self.notes: list[str] = []
        self._start(0)

    def _start(self, first: int) -> None:
        self.seconds_waited, self.chunks_made, self._samples_drawn = 0.0, 0, 0
        self._started = time.perf_counter()
        self._position = divmod(first, self.buffer.batches_per_chunk)  # the next draw, and the batch of its chunk
        self._cached = dict[int, Batch | Packed]()

    def chunks_before(self, batches: int) -> int:
        """Return how many chunks have to be made before the next so many batches can be had."""
        draw, part = self._position
        begun = part > 0  # the chunk of this draw was made, though it may have been dropped
        draws = range(draw + begun, draw - (-(part + batches) // self.buffer.batches_per_chunk))
        return sum(1 for _ in self._needed(islice(self._draws(draws.start), len(draws)), set(self._cached)))

    def statistics(self) -> dict[str, float]:
        """Return the share of time waited, fresh samples a second, and draws of each sample, since the start."""
        seconds = time.perf_counter() - self._started
        made = self.chunks_made * (self.sampler.factory.batch // self.ranks)
        uses = self._samples_drawn / max(1, made)
        return {"waited": self.seconds_waited / seconds, "fresh samples/s": made / seconds, "uses": uses}

    def batches(self, first: int) -> Iterator[Batch]:
        """Yield batches for ever, starting with number ``first`` of the run.

        Raises:
            MriReconError: a sample that cannot be made.
            ResourceError: workers die again and again.

        """
        self._start(first)
        per_chunk, share, failures = self.buffer.batches_per_chunk, self.batch // self.ranks, 0
        while True:
            draw, _ = self._position
            needed = self._needed(self._draws(draw), set(self._cached))
            source = self._make_chunks(self._sample_keys(chunk) for chunk in needed)
            try:
                for chunk, use in self._draws(draw):
                    begun = time.perf_counter()
                    batch = self._augmented(self._cached_chunk(chunk, source), chunk, use)
                    if use == self.buffer.draws_per_sample - 1:
                        del self._cached[chunk]
                    self.seconds_waited += time.perf_counter() - begun
                    draw, first_part = self._position
                    for part in range(first_part, per_chunk):
                        self._samples_drawn += share
                        self._position = (draw, part + 1) if part + 1 < per_chunk else (draw + 1, 0)
                        yield part_of(batch, slice(part * share, (part + 1) * share))
                    failures = 0
            except _WorkerDied as error:
                failures += 1
                if failures > _RESTARTS:
                    raise ResourceError(
                        "the processes that make samples keep dying",
                        why=str(error),
                        fix="give them more memory (in a container shared memory, too), or fewer: train.workers",
                    ) from None
                draw, part = self._position
                self.notes.append(f"workers were started again before step {draw * per_chunk + part}: {error}")

    def _cached_chunk(self, chunk: int, source: Iterator[Chunk]) -> Batch | Packed:
        """Return a chunk from the buffer, or the next one made, which goes to the buffer."""
        if chunk not in self._cached:
            made = next(source)
            if isinstance(made, MriReconError):
                raise made
            if self.workers and not isinstance(made, Batch):
                # Workers send chunks in shared memory, which is scarce: they are copied out of it.
                place = self.device if self.buffer.location == "device" else torch.device("cpu")
                made = {k: v.to(place, copy=True) for k, v in made.items()}
            self._cached[chunk] = made
            self.chunks_made += 1
        return self._cached[chunk]

    def _augmented(self, made: Batch | Packed, chunk: int, use: int) -> Batch:
        """Return a chunk as it is augmented when it is drawn for the ``use``-th time."""
        keys = self._sample_keys(chunk)
        if self.buffer.folder() is not None:
            batch = self.sampler.factory.load_or_make(keys, self.device)
        elif isinstance(made, Batch):
            batch = made.to(self.device)
        else:
            batch = unpack({k: v.to(self.device) for k, v in made.items()})
        return self.sampler.factory.augment(batch, keys, use)

    def _draws(self, first: int) -> Iterator[tuple[int, int]]:
        """Yield (chunk, how often it was drawn before) for ever, from a draw on, counted from 0.

        Draws come in rounds, one for each new chunk: it is drawn, and so is each older chunk that has reached one of
        fixed ages.
        """
        uses = self.buffer.draws_per_sample
        chunks = max(1, self.buffer.capacity * self.ranks // self.sampler.factory.batch)
        ages = [use * (chunks - 1) // max(1, uses - 1) for use in range(uses)]
        newest = 0
        while True:
            if ages[-1] <= newest:  # from here on all rounds are of one length
                newest, first = newest + first // uses, first % uses
            now = [(newest - age, use) for use, age in enumerate(ages) if age <= newest]
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
        return [key for start in starts for key in whole[start : start + share]]

    def _make_chunks(self, wanted: Iterable[Sequence[SampleKey]]) -> Iterator[Chunk]:
        """Yield chunks as they are made."""
        if self.workers:
            return _from_workers(_ChunkDataset(self.sampler.factory), wanted, self.workers)
        return (_make_chunk(self.sampler.factory, keys, self.device) for keys in wanted)


def workers_for(device: torch.device, chunk: int, cores: int, shared: int) -> int:
    """Return how many processes should make samples beside the training.

    A core makes two samples a second (8 to 16 coils, 150 × 150, with maps and initial image). A process that makes them
    on a GPU makes at most fifteen, as drawing the scene and the mask on the CPU takes 65 ms a sample.

    Args:
        device: of the training.
        chunk: samples that are made at once.
        cores: that may be used.
        shared: bytes that are free for what processes send each other.

    """
    if device.type == "cpu":
        return 0 if cores <= 2 else min(8, cores // 2)
    most = min(cores - 1, shared // (_SAMPLE_BYTES * chunk * (_PREFETCH + 1)))
    return most if most >= _FEED_A_GPU else 0


def free_shared_memory() -> int:
    """Return the bytes that are free for what processes send each other; in containers that is often little."""
    try:
        return shutil.disk_usage("/dev/shm").free
    except OSError:  # outside of Linux nothing limits it
        return 2**40


def _make_chunk(factory: SampleFactory, keys: Sequence[SampleKey], device: torch.device | str = "cpu") -> Chunk:
    """Return a chunk: packed, where it is drawn again; empty, where the buffer's folder holds it."""
    buffer = factory.data.buffer
    try:
        batch = factory.load_or_make(keys, device)
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
    """Make chunks in a worker."""

    def __init__(self, factory: SampleFactory) -> None:
        self.factory = factory
        self.plugins = plugins.files()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Load the parent's plug-ins, which a worker that was not forked lacks."""
        self.__dict__ |= state
        plugins.load_files(self.plugins)

    def __getitem__(self, keys: Sequence[SampleKey]) -> Chunk:
        return _make_chunk(self.factory, keys)


def _from_workers(chunks: _ChunkDataset, wanted: Iterable[Sequence[SampleKey]], workers: int) -> Iterator[Chunk]:
    """Yield the chunks that processes make, in order.

    Raises:
        _WorkerDied: one of them died.

    """
    before = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
    loader = DataLoader(
        chunks,
        sampler=wanted,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=_PREFETCH,
        collate_fn=cast("Any", _identity),  # torch annotates it for lists of samples
        worker_init_fn=_init_worker,
    )
    try:
        source = iter(loader)
        if before is not None and signal.getsignal(signal.SIGCHLD) is not before:
            # torch's handler would raise at any place in the trainer; a dead process is noticed below within seconds
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
    """Prepare a worker: one thread, and signals are left to the parent."""
    keep_freed_memory()
    torch.set_num_threads(1)
    for name, action in (("SIGINT", signal.SIG_IGN), ("SIGUSR1", signal.SIG_IGN), ("SIGTERM", signal.SIG_DFL)):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), action)


def keep_freed_memory() -> None:
    """Have glibc keep freed memory for the rest of this process; does nothing elsewhere.

    Otherwise the memory of each batch, tens of megabytes, is mapped anew: to receive 8 samples of 16 coils of 160 × 160
    took 74 ms of processor time with 19,000 page faults, and 55 ms with 2,700 so.
    """
    try:
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(_MMAP_THRESHOLD, 1 << 30)
        library.mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)
    except (OSError, AttributeError):
        return
