"""Vectors become the JSON that msgspec writes of the same values, byte for byte."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators import batch
from operators.batch import Labels, Vectors
from operators.frames import vectors_table
from sinks import vector_json
from sinks.vector_json import NotFiniteError, VectorJson
from tests.kafka_topics import TINY, tiny_vectors

JSON = VectorJson(TINY)
names = st.text(st.characters(codec="utf-8"), max_size=40)
times = st.integers(-(2**62), 2**63 - 1)


@st.composite
def drawn_vectors(draw: st.DrawFn) -> Vectors:
    count = draw(st.integers(1, 12))

    def column(cells: st.SearchStrategy[Any], kind: type) -> np.ndarray:
        return np.array(draw(st.lists(cells, min_size=count, max_size=count)), kind)

    def labels() -> Labels:
        there = draw(st.lists(names, min_size=1, max_size=20, unique=True))
        return Labels(column(st.integers(0, len(there) - 1), np.int32), tuple(there))

    instants = draw(st.lists(times, min_size=1, max_size=3))
    features = {
        "close": column(st.floats(allow_infinity=False), np.float64),
        "seen": column(st.just(math.nan) | st.integers(-(2**53), 2**53), np.float64),
        "up": column(st.sampled_from([math.nan, 0.0, -0.0, 1.0]), np.float64),
    }
    return Vectors(
        labels(),
        labels(),
        column(st.sampled_from(instants), np.int64),
        features,
        column(st.integers(0, 3), np.int64),
        column(st.floats(0, 1), np.float64),
        column(times, np.int64),
        column(st.integers(0, 2**63 - 1), np.int64),
        draw(st.booleans()),
    )


def expected(vectors: Vectors) -> list[bytes]:
    """The cells of the table of vectors, one by one."""
    rows = vectors_table(TINY, vectors)
    times_ns = {"ts": vectors.ts_ns, "known_at": vectors.known_at_ns}
    columns = {
        name: spelled(times_ns[name]) if name in times_ns else rows[name].to_pylist()
        for name in rows.column_names
    }
    lines = zip(*columns.values(), strict=True)
    return [msgspec.json.encode(dict(zip(columns, line, strict=True))) for line in lines]


def spelled(times_ns: np.ndarray) -> list[str]:
    texts = np.datetime_as_string(times_ns.view("datetime64[ns]"), unit="ns").tolist()
    return [text.rstrip("0").rstrip(".") + "Z" for text in texts]


@given(drawn_vectors())
def test_vectors_are_written_as_msgspec_writes_their_cells(vectors):
    assert JSON.values(vectors) == expected(vectors)


def test_many_vectors_are_written_in_pieces():
    count = 2 * vector_json.MOST_ROWS + 3
    vectors = tiny_vectors(range(count))
    assert JSON.values(vectors) == expected(vectors)
    assert JSON.values(vectors.take(np.array([], np.int64))) == []


def test_names_are_spelled_anew_when_too_many_are_known(monkeypatch):
    monkeypatch.setattr(vector_json, "MOST_KNOWN", 2)
    vectors = tiny_vectors(range(4))
    vectors = replace(vectors, keys=Labels(np.arange(4, dtype=np.int32), ("a", "b", "c", '"')))
    assert VectorJson(TINY).values(vectors) == expected(vectors)


@given(st.lists(drawn_vectors(), min_size=2, max_size=4))
def test_more_names_and_flags_than_are_kept_at_hand_are_spelled_all_the_same(drawn):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(batch, "MOST_AT_HAND", 2)
        patched.setattr(vector_json, "MOST_PATTERNS", 2)
        messages = VectorJson(TINY)
        for vectors in [*drawn, *drawn]:
            assert messages.values(vectors) == expected(vectors)


def test_names_that_stay_are_spelled_once(monkeypatch):
    messages, vectors = VectorJson(TINY), tiny_vectors(range(4))
    wanted = messages.values(vectors)
    monkeypatch.setattr(vector_json, "_Texts", lambda *_: pytest.fail("spelled again"))
    assert messages.values(vectors) == wanted
    assert messages.values(vectors.take(np.array([2, 1]))) == [wanted[2], wanted[1]]


def test_an_infinite_feature_is_refused_and_an_infinite_coverage_is_null():
    vectors = tiny_vectors([1])
    vectors.coverage[0] = math.inf
    assert b'"coverage":null' in JSON.values(vectors)[0]
    vectors.features["close"][0] = -math.inf
    with pytest.raises(NotFiniteError, match=r"`tiny`, feature `close`: must be .* found -inf"):
        JSON.values(vectors)
