"""Kills units of a flow at random moments and starts them again, all in one thread.

One thread, because the kernel ends a process that asked to die with its parent when the thread that
started it ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.chaos.flow import Unit
from tests.chaos.watch import POLL_S, now_ms
from tests.chaos.world import World

RESUME_S = 10.0
"""A flow must be back within this."""
LOST_S = 45.0
"""Whoever is not back within this never will be; the first start waits for the first rows, too."""
BACK_S = 30.0
"""After an outage clients wait for up to some seconds between two attempts."""
EARLY = 0.3
"""Share of the kills that may come before the flow has resumed."""


class SlowResumeError(AssertionError):
    """A unit that was not back in time."""


@dataclass
class Resumes:
    """How long it took from the start of a unit's processes to its first visible vectors.

    Attributes:
        seconds: of each start that was given the time.
        kills: how many there were.
    """

    seconds: list[float] = field(default_factory=list)
    kills: int = 0

    def __str__(self) -> str:
        ordered = sorted(self.seconds)
        middle, most = ordered[len(ordered) // 2], ordered[-1]
        times = f"p50 {middle:.2f} s, max {most:.2f} s"
        return f"{self.kills} kills; resumed {len(ordered)} times: {times}"


Steps = Iterator[None]
"""What a unit goes through, a short step at a time."""


def pause(seconds: float, unit: Unit) -> Steps:
    """Lets a unit live for a while."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        unit.check_alive()
        yield


def resumed(world: World, unit: Unit, resumes: Resumes | None = None) -> Steps:
    """Waits until all that a unit writes goes on.

    Args:
        world: of the unit.
        unit: that was started.
        resumes: notes how long it took.

    Raises:
        SlowResumeError: when that takes too long.
    """
    parts = world.partitions_of(unit)
    while not world.heard_since(unit.began_ms, parts):
        unit.check_alive()
        took_s = (now_ms() - unit.began_ms) / 1_000
        if took_s > LOST_S:
            msg = f"{unit.name} must be back by now, has taken {took_s:.1f} s"
            raise SlowResumeError(msg)
        yield
    if resumes is not None:
        resumes.seconds.append((now_ms() - unit.began_ms) / 1_000)


def torment(world: World, unit: Unit, kills: int, resumes: Resumes) -> Steps:
    """Kills a unit so many times, at moments from soon after its start on, then lets it resume."""
    chance = world.chance
    unit.start()
    yield from resumed(world, unit)
    for _ in range(kills):
        unit.kill(chance.randrange(max(unit.processes, 1)))
        resumes.kills += 1
        unit.start()
        if chance.random() >= EARLY:
            yield from resumed(world, unit, resumes)
        yield from pause(chance.uniform(0.2, 4.0), unit)
    yield from resumed(world, unit)


def together(*steps: Steps, also: Callable[[], None] = lambda: None) -> None:
    """Takes several units through their steps at the same time."""
    going, done = list(steps), object()
    while going:
        going = [each for each in going if next(each, done) is not done]
        also()
        time.sleep(POLL_S)


def run_until_resumed(made: World, *units: Unit) -> None:
    """Starts units and waits until what they write is visible."""
    for unit in units:
        unit.start()
    together(*(resumed(made, unit) for unit in units))


def live_on(made: World, seconds: float) -> None:
    """Lets all units live for a while."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for unit in made.units:
            unit.check_alive()
        if made.feed is not None:
            made.feed.check_alive()
        time.sleep(POLL_S)


def wait_for_vectors(made: World) -> float:
    """Waits until every partition of the output goes on, and gives the seconds it took."""
    since_ms = now_ms()
    silent = list(range(made.shape.partitions))
    while silent:
        live_on(made, POLL_S)
        silent = [part for part in silent if not made.heard_since(since_ms, [part])]
        late = now_ms() - since_ms >= 1_000 * BACK_S
        assert not (silent and late), f"vectors of {silent} must come again; {made.standing()}"
    took_s = (now_ms() - since_ms) / 1_000
    assert took_s < BACK_S
    return took_s
