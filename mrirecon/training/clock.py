"""Limit the duration of a run by a time budget, which its schedule spans, or by the end of a Slurm job.

In both cases, the last step ends early enough to validate and to write the models and the state.
"""

from __future__ import annotations

import os
import time
from collections import deque

END_OF_JOB = "SLURM_JOB_END_TIME"  # seconds since 1970; set by Slurm from version 22.05 on
MARGIN, LONGEST_MARGIN, SPARE = 0.05, 30.0, 2.0  # unused fraction of the time, and its maximum and minimum in seconds
VALIDATION_INTERVAL = 9.0  # maximum fraction of a time budget for validation


class _Durations:
    """Predict the duration of the next event from the last ones, without the first, which compiles and loads."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=20)
        self._count = 0

    def add(self, seconds: float) -> None:
        """Record the duration of an event."""
        if self._count == 1:
            self._seconds.clear()
        self._seconds.append(seconds)
        self._count += 1

    @property
    def expected(self) -> float:
        """Return the expected duration of the next event in seconds."""
        return (1.5 if self._count > 1 else 1.0) * max(self._seconds, default=0.0)


class Clock:
    """Measure the remaining time of a call of `train`.

    Args:
        minutes: wall-time budget of the call, including everything; None for no budget.
        begun: start of the budget, from `time.monotonic`.
        spent: seconds that earlier calls of the run took.

    """

    def __init__(self, minutes: float | None, begun: float, spent: float = 0.0) -> None:
        self.minutes, self.begun, self.spent = minutes, begun, spent
        ends = [] if minutes is None else [begun + 60 * minutes]
        job = os.environ.get(END_OF_JOB, "")
        if job.isdecimal():
            ends.append(time.monotonic() + int(job) - time.time())
        self.end = min(ends) if ends else None
        self._steps = _Durations()  # of steps, without waiting
        self._chunks = _Durations()  # of waiting for a new chunk
        self._chunks_ahead = 0  # number of new chunks that the next step must wait for
        self.start(0.0)

    def start(self, validation_seconds: float) -> None:
        """Start the loop, with the expected seconds of a validation and the writing after it."""
        self.loop_start = self.last_validation = time.monotonic()
        self.validation_seconds = validation_seconds

    @property
    def remaining(self) -> float:
        """Return the seconds until the end, minus the margin."""
        return float("inf") if self.end is None else self.end - self._margin - time.monotonic()

    @property
    def _margin(self) -> float:
        whole = 0.0 if self.end is None else self.end - self.begun
        return min(SPARE + MARGIN * whole, LONGEST_MARGIN)

    def record_step(self, seconds: float, waited: float = 0.0, chunks_made: int = 0, ahead: int = 0) -> None:
        """Record the duration of a step.

        Args:
            seconds: total duration.
            waited: part of it spent waiting for samples.
            chunks_made: number of chunks of samples computed for the step.
            ahead: number of chunks that must be computed for the next step.

        """
        self._steps.add(seconds - waited)
        if chunks_made:
            self._chunks.add(waited / chunks_made)
        self._chunks_ahead = ahead

    @property
    def _next_step(self) -> float:
        return self._steps.expected + self._chunks_ahead * self._chunks.expected

    def record_validation(self, seconds: float) -> None:
        """Record the duration of a validation."""
        self.validation_seconds, self.last_validation = max(self.validation_seconds, seconds), time.monotonic()

    @property
    def progress(self) -> float:
        """Return the progress of the schedule from 0 to 1: elapsed time over total time of all calls.

        A further call with a new budget lowers the progress, as if the total time had been known from the start.
        """
        if self.minutes is None or self.end is None:
            return 0.0
        elapsed = time.monotonic() - self.loop_start
        whole = self.end - self._margin - self.validation_seconds - self.loop_start
        return min(1.0, max(0.0, (self.spent + elapsed) / max(self.spent + whole, 1e-9)))

    @property
    def out_of_time(self) -> bool:
        """Return whether the remaining time may be too short for one more step and the validation."""
        return self.remaining < self._next_step + self.validation_seconds

    @property
    def validation_due(self) -> bool:
        """Return whether there is time for a validation before the last one; True without a time limit."""
        if self.end is None:
            return True
        if self.remaining < 2 * self.validation_seconds + self._next_step:
            return False
        since = time.monotonic() - self.last_validation
        return self.minutes is None or since >= VALIDATION_INTERVAL * self.validation_seconds
