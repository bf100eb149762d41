"""The order of items, and the workers that make them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import DataLoader, Dataset

from mrirecon.data.batch import Batch, stack
from mrirecon.data.items import Recipe
from mrirecon.errors import MriReconError, ResourceError

_ATTEMPTS = 3  # to start workers again that died
Address = tuple[int, int, int]  # epoch, number, slot


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


class _Items(Dataset[Batch | MriReconError]):
    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def __getitem__(self, address: Address) -> Batch | MriReconError:
        # As a value: a worker's exception would arrive as a text without its parts.
        try:
            return self.recipe.item(*address)
        except MriReconError as error:
            return error


def _stack(items: Sequence[Batch | MriReconError]) -> Batch | MriReconError:
    failed = next((i for i in items if isinstance(i, MriReconError)), None)
    if failed is not None:
        return failed
    try:
        return stack([i for i in items if isinstance(i, Batch)])
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
            source = iter(self._loader(step))
            try:
                while True:
                    start = time.perf_counter()
                    batch = next(source)
                    self.waited += time.perf_counter() - start
                    if isinstance(batch, MriReconError):
                        raise batch
                    yield batch
                    step, failed = step + 1, 0
            except MriReconError:
                raise
            except RuntimeError as error:
                if not self.workers or "DataLoader" not in str(error):
                    raise
                failed += 1
                text = str(error).splitlines()[0]
                if failed > _ATTEMPTS:
                    raise ResourceError(
                        "the processes that make items keep dying",
                        why=text,
                        fix="give them more memory, or fewer: train.workers",
                    ) from None
                self.notes.append(f"workers were started again before step {step}: {text}")

    def _loader(self, first: int) -> DataLoader[Batch | MriReconError]:
        return DataLoader(
            _Items(self.order.recipe),
            batch_sampler=_Addresses(self.order, first, self.rank, self.ranks),  # type: ignore[arg-type]
            collate_fn=_stack,
            num_workers=self.workers,
            timeout=600 if self.workers else 0,
            prefetch_factor=2 if self.workers else None,
        )


class _Addresses:
    """An endless sampler that starts anywhere."""

    def __init__(self, order: Order, first: int, rank: int, ranks: int) -> None:
        self.order, self.first, self.rank, self.ranks = order, first, rank, ranks

    def __iter__(self) -> Iterator[Sequence[Address]]:
        share = self.order.recipe.batch // self.ranks
        epoch, step = divmod(self.first, self.order.steps)
        while True:
            for batch in self.order.epoch(epoch)[step:]:
                yield batch[self.rank * share : (self.rank + 1) * share]
            epoch, step = epoch + 1, 0
