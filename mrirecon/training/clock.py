"""How long a run may last: a budget of time that its schedule spans, and the end of a Slurm job.

Both end the run whole: the last step is taken early enough for the validation, the models and the state after it.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence

END_OF_JOB = "SLURM_JOB_END_TIME"  # seconds since 1970, which Slurm sets from version 22.05 on
MARGIN, LONGEST_MARGIN, SPARE = 0.05, 30.0, 2.0  # share of the time that is left unused, at most, and at least (s)
VALIDATION_INTERVAL = 9.0  # under a budget, validation takes at most a tenth of the time


class Clock:
    """The time that a call of `train` has.

    Args:
        minutes: of wall time, all included; None for no budget.
        begun: when they began, of `time.monotonic`.
        spent: seconds that the run took in earlier calls.

    """

    def __init__(self, minutes: float | None, begun: float, spent: float = 0.0) -> None:
        self.minutes, self.begun, self.spent = minutes, begun, spent
        ends = [] if minutes is None else [begun + 60 * minutes]
        job = os.environ.get(END_OF_JOB, "")
        if job.isdecimal():
            ends.append(time.monotonic() + int(job) - time.time())
        self.end = min(ends) if ends else None
        self.validation_seconds = 0.0  # seconds that a validation takes, with what is written after it
        self.loop_start = self.last_validation = time.monotonic()  # of the loop; of the last validation
        # Of the last steps: seconds without waiting, and seconds that a chunk of new samples was waited for. What the
        # first took, which loads and compiles besides, counts while there is nothing else.
        self.steps: deque[float] = deque(maxlen=20)
        self.waits: deque[float] = deque(maxlen=20)
        self.steps_taken = self.chunk_waits = 0  # steps, and steps that waited for a chunk
        self.chunks_ahead = 0  # that the next step has to wait for

    @property
    def remaining(self) -> float:
        """Seconds until the end, less what is left unused."""
        if self.end is None:
            return float("inf")
        return self.end - self._margin - time.monotonic()

    @property
    def _margin(self) -> float:
        whole = 0.0 if self.end is None else self.end - self.begun
        return min(SPARE + MARGIN * whole, LONGEST_MARGIN)

    def start(self, check: float) -> None:
        """Begin the loop, with the seconds that a validation is expected to take."""
        self.loop_start = self.last_validation = time.monotonic()
        self.validation_seconds = check

    def record_step(self, seconds: float, waited: float = 0.0, made: int = 0, ahead: int = 0) -> None:
        """Note what a step took.

        Args:
            seconds: in all.
            waited: of them, for samples.
            made: chunks of samples that were made for it.
            ahead: chunks that have to be made for the next one.

        """
        if self.steps_taken == 1:
            self.steps.clear()
        self.steps.append(seconds - waited)
        self.steps_taken, self.chunks_ahead = self.steps_taken + 1, ahead
        if made:
            if self.chunk_waits == 1:
                self.waits.clear()
            self.waits.append(waited / made)
            self.chunk_waits += 1

    @property
    def _next(self) -> float:
        """Seconds to allow for the next step."""
        return _expected_seconds(self.steps, self.steps_taken) + self.chunks_ahead * _expected_seconds(
            self.waits, self.chunk_waits
        )

    def record_validation(self, seconds: float) -> None:
        """Note what a validation took."""
        self.validation_seconds, self.last_validation = max(self.validation_seconds, seconds), time.monotonic()

    @property
    def progress(self) -> float:
        """How far the schedule is, from 0 to 1: the time of all calls, of what it will be at the end of the budget.

        A further budget lowers it: the schedule goes on as if the whole had been known from the start.
        """
        if self.minutes is None or self.end is None:
            return 0.0
        now = time.monotonic()
        here, whole = now - self.loop_start, self.end - self._margin - self.validation_seconds - self.loop_start
        return min(1.0, max(0.0, (self.spent + here) / max(self.spent + whole, 1e-9)))

    @property
    def out_of_time(self) -> bool:
        """Whether one more step and the validation might not fit any more."""
        return self.remaining < self._next + self.validation_seconds

    @property
    def validation_due(self) -> bool:
        """Whether the last validation is long enough ago for another, under a budget or before the end of a job."""
        if self.end is None:
            return True
        if self.remaining < 2 * self.validation_seconds + self._next:
            return False
        return (
            self.minutes is None
            or time.monotonic() - self.last_validation >= VALIDATION_INTERVAL * self.validation_seconds
        )


def _expected_seconds(seconds: Sequence[float], count: int) -> float:
    """Return the seconds to allow for one more of what took so long the last times; the first time takes longer."""
    return (1.5 if count > 1 else 1.0) * max(seconds, default=0.0)
