"""Items of a scan that cannot be reconstructed, and whether the others are done all the same."""

from __future__ import annotations

from dataclasses import dataclass, field

from mrirecon.errors import BusyError, InputError, NoSignalError
from mrirecon.io import Scan
from mrirecon.io.sampling import in_words


@dataclass
class Failures:
    """What became of the items of one scan.

    An item without signal has an image of zeros, and a note. One that is bad in another way stops the scan, unless the
    others are to be done without it. A scan of which nothing is left is refused in either case.

    Attributes:
        scan: whose items they are.
        go_on: whether the others are done where one is bad.
        empty: items without signal; volumes, where those are solved slice by slice.
        bad: what is wrong with others, in the order in which it was found.

    """

    scan: Scan
    go_on: bool = False
    empty: list[int] = field(default_factory=list)
    bad: list[InputError] = field(default_factory=list)
    _first: InputError | None = None
    _lost: int = 0

    def add(self, item: int, error: InputError, count: int = 1) -> str:
        """Note that an item cannot be reconstructed, by which ``count`` images are lost, and return why, in short.

        Raises:
            InputError: that error, where the others are not to be done.

        """
        empty = isinstance(error, NoSignalError)
        if isinstance(error, BusyError) or self.scan.strict or not (empty or self.go_on):
            raise error
        self._first = self._first or error
        self._lost += count
        if empty:
            self.empty.append(item)
            return "no signal"
        self.bad.append(error)
        return f"not reconstructed: {error.what}"

    def conclude(self, count: int) -> list[str]:
        """Return what is to be noted once all ``count`` images were tried.

        Raises:
            InputError: nothing is left; what is wrong with the first.

        """
        if self._lost >= count and self._first is not None:
            raise self.bad[0] if self.bad else self._first
        notes = [f"no signal in {in_words(self.empty)}: the image is zero there"] if self.empty else []
        return notes + [f"not reconstructed, and zero in the output: {e.where}: {e.what}" for e in self.bad[:8]]
