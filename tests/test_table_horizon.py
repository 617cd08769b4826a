"""The horizon of a table, against transactions that are simulated: what is below it is complete."""

from __future__ import annotations

from collections.abc import Callable, Collection

import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st

from sources.table_horizon import NEVER_US, Horizon

ACTS = ["write", "write", "prepare", "commit", "roll back", "look", "look", "restart"]
SCHEDULES = st.lists(st.tuples(st.integers(0, 2), st.sampled_from(ACTS)), max_size=25)
Schedule = list[tuple[int, str]]


class Transaction:
    """What one connection does in one transaction, which begins with its first row."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows: list[int] = []


def lost(make: Callable[[int], Horizon], schedule: Schedule) -> set[int]:
    """The rows that became visible behind the horizon, each by its arrival."""
    horizon = make(NEVER_US)
    open_: dict[int, Transaction] = {}
    visible: list[int] = []
    given_: set[int] = set()
    committed: set[int] = set()

    def look(now: int) -> None:
        below = horizon.look(now, [each.name for each in open_.values()])
        given_.update(row for row in visible if row < below)
        visible[:] = [row for row in visible if row >= below]

    def end(number: int, *, kept: bool) -> None:
        rows = open_.pop(number).rows
        if kept:
            committed.update(rows)
            # A row that arrived before what was read up to is not asked for any more.
            visible.extend(row for row in rows if row >= horizon.at_us)

    now = 0
    for now, (number, act) in enumerate(schedule):
        if act == "look":
            look(now)
        elif act == "restart":  # of the reader, which goes on with what its snapshot holds
            horizon = make(horizon.at_us)
        elif act == "write":
            if number in open_ and open_[number].name.startswith("-1/"):
                continue  # only its end can follow
            open_.setdefault(number, Transaction(f"{number}/{now}")).rows.append(now)
        elif number in open_:
            if act == "prepare":
                open_[number].name = f"-1/{now}"
            else:
                end(number, kept=act == "commit")
    for number in list(open_):
        end(number, kept=True)
    look(now + 2)
    return committed - given_


@settings(max_examples=1_000)
@given(schedule=SCHEDULES)
def test_no_row_becomes_visible_below_the_horizon(schedule: Schedule) -> None:
    assert not lost(Horizon, schedule)


@given(schedule=SCHEDULES)
def test_it_never_goes_back_and_reaches_the_clock_when_nobody_writes(schedule: Schedule) -> None:
    horizon, seen = Horizon(), [NEVER_US]
    for now, (number, act) in enumerate(schedule):
        seen.append(horizon.look(now, [f"{number}/1"] if act == "write" else []))
        assert act == "write" or seen[-1] == now
    assert seen == sorted(seen)


class Hasty(Horizon):
    """Takes all that is visible to be all there is."""

    def look(self, now_us: int, writers: Collection[str]) -> int:
        return super().look(now_us, ())


class Late(Horizon):
    """Takes a writer to have begun when it was first seen."""

    def look(self, now_us: int, writers: Collection[str]) -> int:
        self._looked_us = now_us
        return super().look(now_us, writers)


class Simple(Horizon):
    """Takes a prepared transaction for one that has just begun."""

    def look(self, now_us: int, writers: Collection[str]) -> int:
        return super().look(now_us, [writer.replace("-1/", "9/") for writer in writers])


class Trusting(Horizon):
    """Takes those that write when it starts to have begun no earlier."""

    def look(self, now_us: int, writers: Collection[str]) -> int:
        self._looked_us = max(self._looked_us, now_us - 1)
        return super().look(now_us, writers)


@pytest.mark.parametrize("careless", [Hasty, Late, Simple, Trusting])
def test_careless_horizons_are_caught(careless: type[Horizon]) -> None:
    assert find(SCHEDULES, lambda schedule: bool(lost(careless, schedule)))
