"""Of each entity the newest vector, however vectors come."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sinks.online_cells import NO_MARK, KeyEncoder
from sinks.online_rows import Newest, not_older
from tests.online_repos import ASSET, PROBE, T0, mark, row, vectors

KEYS = [("A", "1m"), ("A", "1h"), ("B", "1m"), ("é", "")]
MARKS = st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 2), st.booleans())
GIVEN = st.lists(
    st.tuples(
        st.booleans(),
        st.lists(st.tuples(st.sampled_from(KEYS), MARKS), min_size=1, max_size=6),
    ),
    max_size=12,
)


def value(found):
    """Equal marks mean equal vectors."""
    ts, known, n_rows, final = found
    return float(ts * 1000 + known * 100 + n_rows * 10 + final)


def batch(some, final):
    rows = [
        row(key, ts, known, n_rows, ret=value((ts, known, n_rows, final)))
        for key, (ts, known, n_rows, _) in some
    ]
    return rows, vectors(rows, final=final)


@given(GIVEN)
def test_the_newest_is_kept_in_every_order(given_):
    newest, count = Newest(PROBE), 0
    wanted: dict[tuple[str, ...], Any] = {}
    for final, some in given_:
        rows, part = batch(some, final)
        newest.add(part)
        count += len(rows)
        for each in rows:
            found = (mark(each, final), each["ret"])
            wanted[each["key"]] = max(wanted.get(each["key"], found), found)
    assert held(newest) == wanted
    assert newest.passed_over == count - len(wanted)


def held(newest):
    rows = newest.rows(np.arange(len(newest)))
    encode = KeyEncoder(["instrument_id", "timeframe"])
    known = {encode(key): key for key in KEYS}
    return {
        known[key]: (tuple(marks), values[0])
        for key, marks, values in zip(
            rows.keys, rows.marks.tolist(), rows.features.tolist(), strict=True
        )
    }


@given(GIVEN, st.dictionaries(st.sampled_from(KEYS), MARKS), st.randoms())
def test_only_what_is_newer_than_the_stores_is_written(given_, before, random):
    """A store that has marks of its own, a lane that asks for them, and is resumed in between."""
    newest = Newest(PROBE)
    wanted: dict[bytes, tuple[int, ...]] = {}
    encode = KeyEncoder(["instrument_id", "timeframe"])
    store = {encode(key): (T0 + m[0], T0 + m[1], m[2], int(m[3])) for key, m in before.items()}
    for final, some in given_:
        rows, part = batch(some, final)
        newest.add(part)
        for each in rows:
            key = encode(each["key"])
            wanted[key] = max(wanted.get(key, store.get(key, mark(each, final))), mark(each, final))
        if random.random() < 0.5:
            write(newest, store)
        if random.random() < 0.2:
            resumed = Newest(PROBE)
            resumed.load(newest.dump())
            newest = resumed
        if random.random() < 0.2:
            newest.doubt()
    write(newest, store)
    assert {**store, **wanted} == store


def write(newest, store):
    while len(at := newest.due(3)):
        asked = newest.unrecalled(at)
        none = (NO_MARK,) * 4
        newest.recall(
            asked,
            np.array([store.get(k, none) for k in newest.keys(asked)], np.int64).reshape(-1, 4),
        )
        at = newest.worth_writing(at)
        rows = newest.rows(at)
        for key, marks in zip(rows.keys, rows.marks.tolist(), strict=True):
            assert tuple(marks) >= store.get(key, none)
            store[key] = tuple(marks)
        newest.wrote(at)
    assert not newest.waiting


@given(st.lists(st.tuples(MARKS, MARKS)))
def test_marks_are_ordered_as_tuples(pairs):
    left, right = (np.array([pair[n] for pair in pairs], np.int64).reshape(-1, 4) for n in (0, 1))
    assert not_older(left, right).tolist() == [a >= b for a, b in pairs]


def test_a_doubted_vector_is_written_only_where_the_store_has_another():
    newest = Newest(PROBE)
    newest.add(vectors([row(ret=1.0), row(("B", "1m"), ret=2.0)]))
    at = newest.due(9)
    newest.recall(at, np.full((2, 4), NO_MARK))
    newest.wrote(newest.worth_writing(at))
    newest.doubt()
    assert newest.due(9).tolist() == [0, 1]
    newest.recall(np.array([0, 1]), np.array([[T0, T0, 1, 1], [T0 - 1, T0, 1, 1]]))
    assert newest.worth_writing(np.array([0, 1])).tolist() == [1]
    assert newest.due(9).tolist() == [1]


def test_many_entities_and_what_a_snapshot_keeps_of_them():
    newest = Newest(ASSET)
    rows = [row(f"e{n}", n, mean=float(n) if n % 3 else np.nan, quality=0) for n in range(1_000)]
    newest.add(vectors(rows, ASSET))
    resumed = Newest(ASSET)
    resumed.load(newest.dump())
    left, right = (each.rows(np.arange(1_000)) for each in (newest, resumed))
    assert left.keys == right.keys
    assert (left.marks == right.marks).all()
    assert np.array_equal(left.features, right.features, equal_nan=True)
    assert resumed.waiting == 1_000


def test_nothing_is_kept_of_nothing_or_of_another_declaration():
    empty = Newest(PROBE)
    assert empty.due(9).tolist() == []
    resumed = Newest(PROBE)
    resumed.load(empty.dump())
    assert len(resumed) == 0
    other = Newest(ASSET)
    other.add(vectors([row("e")], ASSET))
    resumed.load(other.dump())
    assert len(resumed) == 0
