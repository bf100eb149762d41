"""Which method suits which items of a scan: those that are sampled alike are reconstructed alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mrirecon.calibrate import Source
from mrirecon.checkpoints import Trained, load_model, shipped
from mrirecon.coverage import choose_method, outside
from mrirecon.errors import BusyError, InputError, ModelMismatchError, UsageError
from mrirecon.hybrid import Slices, slices, stand_in, volumes
from mrirecon.io import Scan
from mrirecon.io.sampling import alike, in_words
from mrirecon.registry import find


@dataclass(frozen=True)
class Group:
    """Items that are reconstructed alike.

    Attributes:
        items: of the scan.
        method: that suits them.
        why: in words.

    """

    items: tuple[int, ...]
    method: str
    why: str


def choose(
    scan: Scan,
    maps: Source = "auto",
    options: Mapping[str, object] | None = None,
    example: tuple[Scan, int] | None = None,
) -> list[Group]:
    """Return the methods that suit the items of a scan, the most frequent one first; see `choose_method`.

    Items that are sampled alike (`mrirecon.io.sampling.alike`) are decided about by the one in their middle, for which
    another one takes its place if it cannot be read. Those without signal are in no group.

    Args:
        scan: what is to be reconstructed.
        maps: where coil maps come from.
        options: of the method.
        example: what `mrirecon.streaming.example` returned, whose slices need not be read once more.

    Raises:
        InputError: no item can be read; what is wrong with the first.

    """
    found: list[Group] = []
    failed: InputError | None = None
    for items, candidates in representatives(scan, options, example):
        for one in candidates:
            try:
                method, why = choose_method(*one, maps)
            except BusyError:
                raise
            except InputError as error:
                failed = failed or error
                continue
            found.append(Group(items, method, why))
            break
    if not found:
        if failed is None:
            scan.mask(scan.example())  # which says that there is no signal
        assert failed is not None, "there is a group where an item can be read"
        raise failed
    count = Counter(method for group in found for method in [group.method] * len(group.items))
    return sorted(found, key=lambda group: (group.method == "zero-filled", -count[group.method]))


def representatives(
    scan: Scan, options: Mapping[str, object] | None = None, example: tuple[Scan, int] | None = None
) -> Iterator[tuple[tuple[int, ...], Iterator[tuple[Scan, int]]]]:
    """Yield items that are sampled alike, each with (scan, item) that may stand for them, the best first.

    Args:
        scan: what is to be reconstructed.
        options: of the method.
        example: see `choose`.

    """
    if len(scan) == 1:
        yield (0,), iter([example or stand_in(scan, options)])
        return
    whole = example is not None and not isinstance(example[0], Slices)  # slices were tried, or are no question
    taken_apart = None if whole else volumes(scan, options)
    for group in alike(scan):

        def one(item: int) -> tuple[Scan, int]:
            if example is not None and isinstance(example[0], Slices) and example[0].volume == item:
                return example
            part = None if taken_apart is None else slices(scan, item, options, taken_apart[:1])
            return (scan, item) if part is None else (part, len(part) // 2)

        yield group.items, map(one, group.candidates)


def summary(groups: Sequence[Group]) -> tuple[str, str]:
    """Return one method and reason for all: those of the first group; where there are others, which items have which.

    The first is the most frequent of those that undo undersampling, if any do; see `choose`.
    """
    first = groups[0]
    if len(groups) == 1:
        return first.method, first.why
    return first.method, "; ".join(f"{in_words(g.items)} by {g.method}: {g.why}" for g in groups)


def outside_of(
    card: Mapping[str, object],
    scan: Scan,
    options: Mapping[str, object] | None = None,
    example: tuple[Scan, int] | None = None,
    *,
    strict: bool = False,
) -> list[str]:
    """Return notes on what of a scan lies outside a model's card, of all items that are sampled alike at once.

    Args:
        card: of the model.
        scan: what is to be reconstructed.
        options: of the method.
        example: see `choose`.
        strict: refuse in place of noting.

    Raises:
        ModelMismatchError: with ``strict``, something lies outside.

    """
    notes = []
    for items, candidates in representatives(scan, options, example):
        for one in candidates:
            try:
                beyond = outside(card, *one)
            except BusyError:
                raise
            except InputError:
                continue  # reconstructing it will tell
            if beyond and strict:
                raise ModelMismatchError(
                    "the model was not trained for such data",
                    where=one[0].where(one[1]),
                    why="; ".join(beyond),
                    fix="use --method cs, a model that was, or leave --strict-model out",
                )
            of = f" ({in_words(items)})" if beyond and len(items) < len(scan) else ""
            notes += [f"outside what the model was trained for{of}: {'; '.join(beyond)}"] if beyond else []
            break
    return notes


@dataclass(frozen=True)
class Task:
    """What is asked of one method.

    Attributes:
        method: its name.
        options: for it.
        lam: regularization weight, or how it is found; see `mrirecon.inference.reconstruct`.
        model: its weights, if it is learned.

    """

    method: str
    options: Mapping[str, object]
    lam: float | Literal["auto"] | None
    model: Trained | None


def tasks(
    groups: Sequence[Group],
    options: Mapping[str, object],
    lam: float | Literal["auto"] | None,
    model: Trained | None,
) -> list[Task]:
    """Return what is to be done by each method of some groups.

    Options and weight are meant for the method of the first group. Those of the others take them where they have such
    options, and else their own.

    Raises:
        UsageError: options or a weight for a method that has none; a learned method without a model.

    """
    found: dict[str, Task] = {}
    for method in dict.fromkeys(group.method for group in groups):
        asked, weight = options, lam
        trained = model if model is not None and model.method == method else None
        if trained is None and method in shipped():
            trained = load_model(shipped()[method])
        if found:
            known = find(method).schema.model_fields
            asked = options if trained is None and set(options) <= set(known) else {}
            weight = lam if trained is None and "lam" in known else None
        if trained is not None and asked:
            raise UsageError(f"{method} comes trained, with its own options", fix="leave --set out, or train your own")
        if trained is not None and weight is not None:
            raise UsageError("a trained model has no regularization weight to set", fix="leave --lambda out")
        if trained is None and find(method).learned:
            fix = "give a trained model with --model DIR"
            raise UsageError(f"method {method!r} is learned: it needs weights", fix=fix)
        found[method] = Task(method, asked, weight, trained)
    return list(found.values())
