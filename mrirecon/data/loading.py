"""Order samples into epochs, buffer them, and load them with worker processes.

Samples are computed in chunks of ``data.buffer.batches_per_chunk`` batches, in a fixed order. Each sample is drawn
``data.buffer.draws_per_sample`` times: first when it is computed, last when ``data.buffer.capacity`` later samples have
been computed; then it is discarded. The chunk of a draw depends on the number of the draw only, so that a resumed run
continues in the same order; it recomputes the chunks that it needs, or reads them from the buffer's folder.

To choose the sizes: let training use b samples per step of t seconds, and let a core compute a sample in m seconds.
With w worker cores (``train.workers``), training never waits if draws_per_sample · w / m ≥ b / t. Without workers,
samples are computed on the training device between steps, which takes b · m / draws_per_sample seconds per step; on a
GPU, a larger ``batches_per_chunk`` reduces m until the GPU is fully used. With workers, a smaller value is better,
because the first step waits for a whole chunk of one core. ``capacity`` should be several hundred, so that the draws of
a sample are far apart; a sample of 8 coils of 160 × 160 takes 1.6 MB. If a training step is faster than computing a
sample, draw each sample up to four times. A folder is useful if several runs use the same samples.
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

_RESTARTS = 3  # restarts of dead workers in a row, without a batch in between
_PREFETCH = 2  # chunks that each worker prepares in advance
_SAMPLE_BYTES = 4 * 2**20  # bytes of a large sample in transfer: 16 coils of 176 × 176
_FEED_A_GPU = 8  # with fewer workers, the GPU computes samples faster
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # constants of mallopt(3)
# Errors are passed as values: an exception raised in a worker arrives as text, without its fields where, why and fix.
Chunk = Batch | Packed | MriReconError


@dataclass(frozen=True)
class EpochSampler:
    """Choose the slices of each epoch as a function of (seed, epoch) only.

    Args:
        factory: factory of the samples, whose batch size is a chunk of all ranks together.
        items_per_epoch: number of samples in an epoch; None to use every slice once.

    """

    factory: SampleFactory
    items_per_epoch: int | None = None

    @property
    def chunks_per_epoch(self) -> int:
        """Return the number of full chunks in an epoch; the remaining samples are not used in this epoch."""
        return max(1, (self.items_per_epoch or len(self.factory.slices)) // self.factory.batch)

    def epoch(self, epoch: int) -> list[list[SampleKey]]:
        """Return the chunks of an epoch: (epoch, number, slice) of each sample; a chunk has slices of one size."""
        slices, size = self.factory.slices, self.factory.batch
        rng = generator(self.factory.seed, epoch, 2)
        wanted = self.chunks_per_epoch * size
        drawn = np.concatenate([rng.permutation(len(slices)) for _ in range(-(-wanted // len(slices)))])
        groups: dict[tuple[int, ...], list[int]] = {}
        chunks: list[list[int]] = []
        for index in drawn.tolist():
            # With a window, all samples of volumes have one size; scans keep their number of coils.
            cropped = slices[index].simulated and self.factory.data.crop is not None
            key = () if cropped else slices[index].shape
            group = groups.setdefault(key, [])
            group.append(index)
            if len(group) == size:
                chunks.append(groups.pop(key))
        # Slices of a size that is too rare to fill a chunk are repeated.
        chunks += [[group[i % len(group)] for i in range(size)] for group in groups.values()]
        chosen = enumerate(chunks[: self.chunks_per_epoch])
        return [[(epoch, number * size + i, index) for i, index in enumerate(chunk)] for number, chunk in chosen]


class SampleLoader:
    """Yield batches, starting at any step, and measure the waiting time and the number of new samples.

    Args:
        sampler: sampler that chooses the chunks.
        workers: number of processes that compute samples; 0 computes them in this process.
        rank: rank of this process, which takes its part of every batch.
        ranks: number of processes that train together.
        device: device of the batches; without workers, they are also computed there.

    Attributes:
        seconds_waited: time spent waiting for samples.
        chunks_made: number of chunks computed since `batches` was called.
        notes: notes on restarted workers.

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
        self._position = divmod(first, self.buffer.batches_per_chunk)  # next draw, batch within its chunk
        self._cached = dict[int, Batch | Packed]()

    def chunks_before(self, batches: int) -> int:
        """Return the number of chunks that must be computed before the next given number of batches."""
        draw, part = self._position
        begun = part > 0  # the chunk of this draw was computed, but may have been discarded
        draws = range(draw + begun, draw - (-(part + batches) // self.buffer.batches_per_chunk))
        return sum(1 for _ in self._needed(islice(self._draws(draws.start), len(draws)), set(self._cached)))

    def statistics(self) -> dict[str, float]:
        """Return the fraction of time spent waiting, the new samples per second, and the draws per sample."""
        seconds = time.perf_counter() - self._started
        samples = self.chunks_made * (self.sampler.factory.batch // self.ranks)
        uses = self._samples_drawn / max(1, samples)
        return {"waited": self.seconds_waited / seconds, "fresh samples/s": samples / seconds, "uses": uses}

    def batches(self, first: int) -> Iterator[Batch]:
        """Yield batches without end, starting with number ``first`` of the run.

        Raises:
            MriReconError: a sample cannot be computed.
            ResourceError: workers die repeatedly.

        """
        self._start(first)
        per_chunk, share, failures = self.buffer.batches_per_chunk, self.batch // self.ranks, 0
        while True:
            draw, _ = self._position
            needed = self._needed(self._draws(draw), set(self._cached))
            source = self._make_chunks(self._sample_keys(chunk) for chunk in needed)
            try:
                for chunk, use in self._draws(draw):
                    start = time.perf_counter()
                    batch = self._augmented(self._cached_chunk(chunk, source), chunk, use)
                    if use == self.buffer.draws_per_sample - 1:
                        del self._cached[chunk]
                    self.seconds_waited += time.perf_counter() - start
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
                        "the worker processes that compute samples die repeatedly",
                        why=str(error),
                        fix="provide more memory (in a container, also shared memory), or reduce train.workers",
                    ) from None
                draw, part = self._position
                self.notes.append(f"workers were restarted before step {draw * per_chunk + part}: {error}")

    def _cached_chunk(self, chunk: int, source: Iterator[Chunk]) -> Batch | Packed:
        """Return a chunk from the buffer, or take the next computed chunk and store it in the buffer."""
        if chunk not in self._cached:
            content = next(source)
            if isinstance(content, MriReconError):
                raise content
            if self.workers and not isinstance(content, Batch):
                # Workers send chunks in shared memory, which is scarce, so they are copied to normal memory.
                place = self.device if self.buffer.location == "device" else torch.device("cpu")
                content = {k: v.to(place, copy=True) for k, v in content.items()}
            self._cached[chunk] = content
            self.chunks_made += 1
        return self._cached[chunk]

    def _augmented(self, content: Batch | Packed, chunk: int, use: int) -> Batch:
        """Augment a chunk for its draw number ``use``."""
        keys = self._sample_keys(chunk)
        if self.buffer.folder() is not None:
            batch = self.sampler.factory.load_or_make(keys, self.device)
        elif isinstance(content, Batch):
            batch = content.to(self.device)
        else:
            batch = unpack({k: v.to(self.device) for k, v in content.items()})
        return self.sampler.factory.augment(batch, keys, use)

    def _draws(self, first: int) -> Iterator[tuple[int, int]]:
        """Yield (chunk, number of its earlier draws) without end, starting at a draw, counted from 0.

        Each round draws one new chunk, and each older chunk that has reached one of several fixed ages.
        """
        uses = self.buffer.draws_per_sample
        chunks = max(1, self.buffer.capacity * self.ranks // self.sampler.factory.batch)
        ages = [use * (chunks - 1) // max(1, uses - 1) for use in range(uses)]
        newest = 0
        while True:
            if ages[-1] <= newest:  # from here on, all rounds have the same length
                newest, first = newest + first // uses, first % uses
            now = [(newest - age, use) for use, age in enumerate(ages) if age <= newest]
            yield from now[first:]
            newest, first = newest + 1, max(0, first - len(now))

    def _needed(self, draws: Iterable[tuple[int, int]], held: set[int]) -> Iterator[int]:
        """Yield the chunks that must be computed for these draws, in order, except for buffered chunks."""
        for chunk, use in draws:
            if chunk not in held:
                held.add(chunk)
                yield chunk
            if use == self.buffer.draws_per_sample - 1:
                held.discard(chunk)

    def _sample_keys(self, chunk: int) -> list[SampleKey]:
        """Return this rank's part of every batch of a chunk."""
        epoch, number = divmod(chunk, self.sampler.chunks_per_epoch)
        whole, share = self.sampler.epoch(epoch)[number], self.batch // self.ranks
        starts = range(self.rank * share, len(whole), self.batch)
        return [key for start in starts for key in whole[start : start + share]]

    def _make_chunks(self, wanted: Iterable[Sequence[SampleKey]]) -> Iterator[Chunk]:
        """Compute and yield chunks."""
        if self.workers:
            return _from_workers(_ChunkDataset(self.sampler.factory), wanted, self.workers)
        return (_make_chunk(self.sampler.factory, keys, self.device) for keys in wanted)


def workers_for(device: torch.device, chunk: int, cores: int, shared: int) -> int:
    """Return the number of worker processes for samples.

    A core computes two samples per second (8 to 16 coils, 150 × 150, with maps and initial image). On a GPU, a process
    computes at most fifteen, because drawing the scene and the mask on the CPU takes 65 ms per sample.

    Args:
        device: device of the training.
        chunk: number of samples that are computed together.
        cores: number of usable cores.
        shared: free bytes of shared memory.

    """
    if device.type == "cpu":
        return 0 if cores <= 2 else min(8, cores // 2)
    most = min(cores - 1, shared // (_SAMPLE_BYTES * chunk * (_PREFETCH + 1)))
    return most if most >= _FEED_A_GPU else 0


def free_shared_memory() -> int:
    """Return the free bytes of shared memory, which is often small in containers."""
    try:
        return shutil.disk_usage("/dev/shm").free
    except OSError:  # unlimited outside Linux
        return 2**40


def _make_chunk(factory: SampleFactory, keys: Sequence[SampleKey], device: torch.device | str = "cpu") -> Chunk:
    """Compute a chunk: packed if it is drawn again; empty if it is stored in the buffer's folder."""
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
    """Report that a worker process died."""


class _ChunkDataset(Dataset[Chunk]):
    """Compute chunks in a worker."""

    def __init__(self, factory: SampleFactory) -> None:
        self.factory = factory
        self.plugins = plugins.files()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Load the parent's plug-ins, which are missing in a worker that was not forked."""
        self.__dict__ |= state
        plugins.load_files(self.plugins)

    def __getitem__(self, keys: Sequence[SampleKey]) -> Chunk:
        return _make_chunk(self.factory, keys)


def _from_workers(chunks: _ChunkDataset, wanted: Iterable[Sequence[SampleKey]], workers: int) -> Iterator[Chunk]:
    """Yield the chunks from worker processes, in order.

    Raises:
        _WorkerDied: a worker died.

    """
    before = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
    loader = DataLoader(
        chunks,
        sampler=wanted,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=_PREFETCH,
        collate_fn=cast("Any", _identity),  # torch's type annotation expects lists of samples
        worker_init_fn=_init_worker,
    )
    try:
        source = iter(loader)
        if before is not None and signal.getsignal(signal.SIGCHLD) is not before:
            # torch's handler could raise anywhere in the trainer; the code below detects a dead process within seconds
            signal.signal(signal.SIGCHLD, before)
        while True:
            yield next(source)
    except (EOFError, OSError) as error:
        raise _WorkerDied(str(error) or "a worker died") from None
    except RuntimeError as error:
        if "DataLoader" not in str(error):
            raise
        raise _WorkerDied(str(error).partition("\n")[0]) from None


def _identity(chunk: Chunk) -> Chunk:
    return chunk


def _init_worker(number: int) -> None:
    """Prepare a worker: use one thread, and leave signals to the parent."""
    keep_freed_memory()
    torch.set_num_threads(1)
    for name, action in (("SIGINT", signal.SIG_IGN), ("SIGUSR1", signal.SIG_IGN), ("SIGTERM", signal.SIG_DFL)):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), action)


def keep_freed_memory() -> None:
    """Make glibc keep freed memory in this process; do nothing with other C libraries.

    Otherwise, the memory of each batch (tens of megabytes) is mapped again: receiving 8 samples of 16 coils of 160 ×
    160 took 74 ms of CPU time and 19,000 page faults, compared with 55 ms and 2,700 page faults.
    """
    try:
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(_MMAP_THRESHOLD, 1 << 30)
        library.mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)
    except (OSError, AttributeError):
        return
