"""How long an operation on S3 is tried before its caller is told that there is no answer."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from lake.s3_errors import Failure, Verdict
from lake.store import StoreUnavailable


@dataclass(frozen=True, slots=True)
class Patience:
    """Short: the caller has a backoff of its own, without end, and can be asked to stop between two operations."""

    connect_seconds: float = 5.0  # two SYNs lost and sent again take 3
    read_seconds: float = 20.0  # of silence; S3 answers an upload of 64 MiB within a few
    give_up_seconds: float = 10.0  # after the first failure
    first_backoff_seconds: float = 0.1
    last_backoff_seconds: float = 2.0


@dataclass(frozen=True, slots=True)
class Time:
    """Passed in, so that tests need not wait."""

    monotonic_seconds: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    uniform: Callable[[float, float], float] = random.uniform


PATIENCE = Patience()
REAL_TIME = Time()


class Tries:
    """The attempts of one operation.

    in_doubt: an attempt failed in a way that does not tell whether it happened.
    """

    def __init__(self, what: str, patience: Patience, time: Time) -> None:
        self.in_doubt = False
        self._what = what
        self._patience = patience
        self._time = time
        self._failures = 0
        self._first_failure_seconds = 0.0

    def after(self, failure: Failure) -> None:
        """Waits before the next attempt. Raises the StoreError where there is none.

        The wait is drawn between 0 and the backoff ("full jitter"), so that those who collided do not meet again.
        Source: aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter
        """
        if failure.verdict is not Verdict.PASSING:
            raise failure.error(self._what)
        self.in_doubt = True
        now_seconds = self._time.monotonic_seconds()
        if not self._failures:
            self._first_failure_seconds = now_seconds
        backoff_seconds = min(
            self._patience.first_backoff_seconds * 2.0**self._failures, self._patience.last_backoff_seconds
        )
        wait_seconds = self._time.uniform(0.0, backoff_seconds)
        self._failures += 1
        if now_seconds + wait_seconds - self._first_failure_seconds > self._patience.give_up_seconds:
            tries = f"{self._failures} tries" if self._failures > 1 else "1 try"
            raise StoreUnavailable(f"{self._what}: {failure.what}, after {tries}{failure.then}")
        self._time.sleep(wait_seconds)
