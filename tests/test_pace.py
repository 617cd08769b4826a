"""The pace of reading: turns, and rounds that are as long as their work asks for."""

from datetime import UTC, datetime
from time import sleep, thread_time

from sources.pace import LONGEST_ROUND_S, SHORTEST_ROUND_S, Pace


def ahead_s(pace: Pace, number: int = 0) -> float:
    return (pace.next_round(number) - datetime.now(UTC)).total_seconds()


def work(seconds: float) -> float:
    """Works until so much processor time is spent; gives how much it was."""
    began_s = thread_time()
    while thread_time() - began_s < seconds:
        pass
    return thread_time() - began_s


def test_rounds_without_work_are_short():
    pace = Pace()
    pace.next_round(0)
    sleep(LONGEST_ROUND_S)
    assert 0 < ahead_s(pace) <= SHORTEST_ROUND_S


def test_a_round_is_longer_than_the_work_of_the_last_but_not_too_long():
    pace = Pace()
    pace.next_round(0)
    sleep(LONGEST_ROUND_S)
    pace.next_round(0)
    sleep(LONGEST_ROUND_S)
    spent_s = work(0.010)
    assert spent_s < ahead_s(pace) <= LONGEST_ROUND_S
    work(4 * LONGEST_ROUND_S)
    assert LONGEST_ROUND_S / 2 < ahead_s(pace) <= LONGEST_ROUND_S


def test_all_of_a_number_that_ask_within_a_round_are_told_one_moment():
    pace = Pace()
    told = [pace.next_round(0) for _ in range(5)]
    assert (max(told) - min(told)).total_seconds() < 0.001


def looked_at(pace: Pace, *names: str) -> list[str]:
    """Who may read when these are due at one moment."""
    return [name for name in names if pace.may_read(name, int(name[-1]))]


def test_those_of_one_number_are_read_together_and_numbers_take_turns():
    pace = Pace()
    due = ("bars/0", "bars/1", "bars/2", "news/0", "news/1", "news/2")
    assert looked_at(pace, *due) == ["bars/0", "news/0"]
    assert looked_at(pace, *due) == ["bars/1", "news/1"]
    assert looked_at(pace, *due) == ["bars/2", "news/2"]
    assert looked_at(pace, *due) == ["bars/0", "news/0"]


def test_who_is_not_due_does_not_hold_up_the_others():
    pace = Pace()
    assert looked_at(pace, "bars/0", "bars/1", "bars/2") == ["bars/0"]
    assert looked_at(pace, "bars/1", "bars/2") == ["bars/1"]
    # The next in turn does not come: it is passed over.
    looks = [looked_at(pace, "bars/0", "bars/1") for _ in range(8)]
    assert all(len(look) <= 1 for look in looks)
    assert looks[-2:] in ([["bars/0"], ["bars/1"]], [["bars/1"], ["bars/0"]])


def test_one_alone_may_always_read():
    pace = Pace()
    assert [looked_at(pace, "bars/3") for _ in range(3)] == [["bars/3"]] * 3
