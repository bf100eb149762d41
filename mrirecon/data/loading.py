"""The order of items, and the workers that make them."""

from __future__ import annotations

import ctypes
import multiprocessing
import pickle
import signal
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
import torch

from mrirecon.data.batch import Batch, stack
from mrirecon.data.items import Recipe
from mrirecon.errors import MriReconError, ResourceError

_ATTEMPTS = 3  # to start workers again that died
_AHEAD = 2  # batches that each worker may be ahead
_PATIENCE = 600  # seconds for one batch
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of mallopt(3)
Address = tuple[int, int, int]  # epoch, number, slot
Made = Batch | MriReconError  # an error as a value: raised in a worker, it would arrive as a text without its parts


@dataclass(frozen=True)
class Order:
    """Which slices come when: a function of (seed, epoch) alone.

    Args:
        recipe: what items are made of; its batch is that of all ranks together.
        length: items in an epoch; None for every slice once.

    """

    recipe: Recipe
    length: int | None = None

    @property
    def steps(self) -> int:
        """Batches in an epoch; what does not fill a batch waits for another epoch."""
        return max(1, (self.length or len(self.recipe.slots)) // self.recipe.batch)

    def epoch(self, epoch: int) -> list[list[Address]]:
        """Return the batches of an epoch: (epoch, number, slot) of each item, slices of one size together."""
        slots, batch = self.recipe.slots, self.recipe.batch
        epoch = epoch % self.recipe.data.rounds if self.recipe.data.rounds else epoch
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


def _make(recipe: Recipe, addresses: Sequence[Address]) -> Made:
    try:
        return stack([recipe.item(*address) for address in addresses])
    except MriReconError as error:
        return error


class Loader:
    """Batches from a step on, made by workers; what was waited for is measured.

    Args:
        order: of the items.
        workers: processes; 0 makes items in this one.
        rank: of this process, which takes its share of every batch.
        ranks: processes that train together.

    """

    def __init__(self, order: Order, workers: int = 0, rank: int = 0, ranks: int = 1) -> None:
        self.order, self.workers, self.rank, self.ranks = order, workers, rank, ranks
        self.waited = 0.0
        self.notes: list[str] = []

    def batches(self, first: int) -> Iterator[Batch]:
        """Yield batches for ever, starting with number ``first`` of the run.

        Raises:
            MriReconError: an item that cannot be made.
            ResourceError: workers died, and again after they were started anew.

        """
        step, failed = first, 0
        while True:
            try:
                with closing(self._made(step)) as source:
                    while True:
                        start = time.perf_counter()
                        batch = next(source)
                        self.waited += time.perf_counter() - start
                        if isinstance(batch, MriReconError):
                            raise batch
                        yield batch
                        step, failed = step + 1, 0
            except (EOFError, OSError) as error:
                failed += 1
                text = str(error) or "one of them died"
                if failed > _ATTEMPTS:
                    raise ResourceError(
                        "the processes that make items keep dying",
                        why=text,
                        fix="give them more memory, or fewer: train.workers",
                    ) from None
                self.notes.append(f"workers were started again before step {step}: {text}")

    def _made(self, first: int) -> Generator[Made]:
        recipe, wanted = self.order.recipe, self._addresses(first)
        if not self.workers:
            for addresses in wanted:
                yield _make(recipe, addresses)
        # Each worker has a pipe of its own, and they share no lock: a worker that is killed, be it amid a message or
        # where torch's DataLoader would hold a lock, is then an end of file, never something to wait for.
        workers = [_Worker(recipe) for _ in range(self.workers)]
        pending: deque[_Worker] = deque()
        try:
            for number, addresses in enumerate(wanted):
                workers[number % len(workers)].pipe.send(addresses)
                pending.append(workers[number % len(workers)])
                if len(pending) > _AHEAD * len(workers):
                    yield pending.popleft().batch()
        finally:
            for worker in workers:
                worker.stop()

    def _addresses(self, first: int) -> Iterator[Sequence[Address]]:
        """Yield this rank's share of every batch, for ever."""
        share = self.order.recipe.batch // self.ranks
        epoch, step = divmod(first, self.order.steps)
        while True:
            for batch in self.order.epoch(epoch)[step:]:
                yield batch[self.rank * share : (self.rank + 1) * share]
            epoch, step = epoch + 1, 0


class _Worker:
    """A process that makes batches, in the order in which they are asked for."""

    def __init__(self, recipe: Recipe) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.Process(target=_serve, args=(recipe, theirs, self.pipe), daemon=True)
        self.process.start()
        theirs.close()  # held by the process alone, it ends with it

    def batch(self) -> Made:
        """Return the next batch that was asked for; EOFError or OSError where the process died."""
        if not self.pipe.poll(_PATIENCE):
            raise TimeoutError(f"no batch in {_PATIENCE} s")
        made: Made = pickle.loads(self.pipe.recv_bytes())
        return made

    def stop(self) -> None:
        """End the process, whatever it is at."""
        self.pipe.close()
        self.process.terminate()
        self.process.join()


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


def _serve(recipe: Recipe, pipe: Connection, parents: Connection) -> None:
    """Work until the parent closes the pipe or dies; signals are left to it."""
    parents.close()  # a copy that a fork makes, with which the pipe would stay open
    hold_memory()
    torch.set_num_threads(1)
    for name, action in (("SIGINT", signal.SIG_IGN), ("SIGUSR1", signal.SIG_IGN), ("SIGTERM", signal.SIG_DFL)):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), action)
    try:
        while True:
            # Bytes: torch would pass tensors as shared memory, of which a killed worker leaves the half.
            pipe.send_bytes(pickle.dumps(_make(recipe, pipe.recv()), protocol=5))
    except (EOFError, OSError):
        return
