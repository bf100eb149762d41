"""Limit the duration of a run: by a budget of time that its schedule spans, or by the end of a Slurm job.

Either way the run ends whole: the last step ends early enough for the validation, the models and the state after it.
"""

from __future__ import annotations

import os
import time
from collections import deque

END_OF_JOB = "SLURM_JOB_END_TIME"  # seconds since 1970, which Slurm sets from version 22.05 on
MARGIN, LONGEST_MARGIN, SPARE = 0.05, 30.0, 2.0  # unused share of the time, its largest and its least seconds
VALIDATION_INTERVAL = 9.0  # under a budget, validation takes at most a tenth of the time


class _Durations:
    """Predict how long the next event takes from the last ones; the first, which compiles and loads, counts alone."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=20)
        self._count = 0

    def add(self, seconds: float) -> None:
        """Record how long an event took."""
        if self._count == 1:
            self._seconds.clear()
        self._seconds.append(seconds)
        self._count += 1

    @property
    def expected(self) -> float:
        """Seconds to allow for the next event."""
        return (1.5 if self._count > 1 else 1.0) * max(self._seconds, default=0.0)


class Clock:
    """Measure the time that a call of `train` has left.

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
        self._steps, self._chunks = _Durations(), _Durations()  # of steps without waiting; of waiting for a new chunk
        self._chunks_ahead = 0  # new chunks that the next step has to wait for
        self.start(0.0)

    def start(self, validation_seconds: float) -> None:
        """Begin the loop, with the seconds that a validation and the writing after it are expected to take."""
        self.loop_start = self.last_validation = time.monotonic()
        self.validation_seconds = validation_seconds

    @property
    def remaining(self) -> float:
        """Seconds until the end, less the margin."""
        return float("inf") if self.end is None else self.end - self._margin - time.monotonic()

    @property
    def _margin(self) -> float:
        whole = 0.0 if self.end is None else self.end - self.begun
        return min(SPARE + MARGIN * whole, LONGEST_MARGIN)

    def record_step(self, seconds: float, waited: float = 0.0, made: int = 0, ahead: int = 0) -> None:
        """Record the duration of a step.

        Args:
            seconds: in all.
            waited: of them, for samples.
            made: chunks of samples that were made for it.
            ahead: chunks that have to be made for the next one.

        """
        self._steps.add(seconds - waited)
        if made:
            self._chunks.add(waited / made)
        self._chunks_ahead = ahead

    @property
    def _next_step(self) -> float:
        return self._steps.expected + self._chunks_ahead * self._chunks.expected

    def record_validation(self, seconds: float) -> None:
        """Record the duration of a validation."""
        self.validation_seconds, self.last_validation = max(self.validation_seconds, seconds), time.monotonic()

    @property
    def progress(self) -> float:
        """Progress of the schedule from 0 to 1: the time of all calls over that at the end of the budget.

        A further budget lowers it: the schedule continues as if the sum had been known from the start.
        """
        if self.minutes is None or self.end is None:
            return 0.0
        here = time.monotonic() - self.loop_start
        whole = self.end - self._margin - self.validation_seconds - self.loop_start
        return min(1.0, max(0.0, (self.spent + here) / max(self.spent + whole, 1e-9)))

    @property
    def out_of_time(self) -> bool:
        """Whether one more step and the validation might not fit."""
        return self.remaining < self._next_step + self.validation_seconds

    @property
    def validation_due(self) -> bool:
        """Whether there is time for a validation before the last one; always where there is no end."""
        if self.end is None:
            return True
        if self.remaining < 2 * self.validation_seconds + self._next_step:
            return False
        since = time.monotonic() - self.last_validation
        return self.minutes is None or since >= VALIDATION_INTERVAL * self.validation_seconds
