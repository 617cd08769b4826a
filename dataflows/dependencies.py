"""What a process needs from outside, as those that use it tell of it."""

from __future__ import annotations

import math
from collections.abc import Callable

BEAT_S = 5.0
"""Who waits for something says so more often than this."""
PATIENCE_S = 15.0
"""Waiting for so long, without the end of an epoch, is trouble; commits take milliseconds."""
STILL_S = 15.0
"""Something that changes many times a second and has not for so long stands still."""


class Dependency:
    """Something outside that the process needs.

    Args:
        name: what messages call it.
        now_s: a clock that never goes back.
        probe: gives in words what is wrong with it, None while nothing is; must not wait.

    Attributes:
        failures: how many attempts failed.
        heard_s: when somebody last told of it, or waited for it, and so was not hanging.
    """

    def __init__(
        self,
        name: str,
        now_s: Callable[[], float],
        probe: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.name = name
        self.failures = 0
        self.heard_s = -math.inf
        self._now_s = now_s
        self._probe = probe
        self._reported: str | None = None
        self._since_s = -math.inf
        self._waiting_since_s = -math.inf
        self._beat_s = -math.inf

    def report(self, trouble: str | None) -> None:
        """Says that an attempt failed, and why; or, by None, that one succeeded."""
        if trouble is None and self._reported is None:
            return  # nothing is waited for, so this is no excuse either
        self.heard_s = self._now_s()
        if trouble is not None:
            self.failures += 1
            if self._reported is None:
                self._since_s = self.heard_s
        self._reported = trouble

    def beat(self) -> None:
        """Says that the flow waits for it, and is not hanging; is called again and again."""
        now_s = self._now_s()
        if now_s - self._beat_s > BEAT_S:
            self._waiting_since_s = now_s
        self._beat_s = self.heard_s = now_s

    def progressed(self) -> None:
        """Says that an epoch ended, so that whatever was waited for has come."""
        self._waiting_since_s = self._beat_s

    @property
    def trouble(self) -> str | None:
        """In words, what is wrong with it; None while nothing is."""
        if self._reported is not None:
            return f"{self._reported} (for {self._now_s() - self._since_s:.0f} s)"
        found = self._probe()
        waited_s = self._beat_s - self._waiting_since_s
        if found is None and self._now_s() - self._beat_s <= BEAT_S and waited_s >= PATIENCE_S:
            return f"the flow waits for it, for {waited_s:.0f} s"
        return found


class StandsStill:
    """Tells that something that moved has not changed for a while, whenever it is asked.

    What has never moved may have nobody who moves it, as in a process that reads no partition.

    Args:
        words: what it is.
        read: gives it as it is now.
        now_s: a clock that never goes back.
    """

    def __init__(self, words: str, read: Callable[[], object], now_s: Callable[[], float]) -> None:
        self._words = words
        self._read = read
        self._now_s = now_s
        self._held = read()
        self._since_s: float | None = None

    def __call__(self) -> str | None:
        """In words, what stands still; None while it does not."""
        now_s, found = self._now_s(), self._read()
        if found != self._held:
            self._held, self._since_s = found, now_s
        if self._since_s is None or now_s - self._since_s <= STILL_S:
            return None
        return f"{self._words} stands still, for {now_s - self._since_s:.0f} s"
