"""What is read back from messages is what was written, to the bit."""

from __future__ import annotations

import json
import math
import struct

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.batch import Labels, Vectors
from operators.frames import schema, vectors_table
from sinks.vector_messages import (
    UnreadableMessageError,
    VectorMessages,
    parsed_ns,
    read_vectors_messages,
)
from tests.kafka_topics import TINY, tiny_vectors

MESSAGES = VectorMessages(TINY)
floats = st.floats(allow_infinity=False)
times = st.integers(631_152_000_000_000_000, 4_102_444_800_000_000_000)


def bits(value: float | None) -> bytes | None:
    return None if value is None else struct.pack("<d", value)


def vectors_of(rows: list[tuple[str, int, float, float, float, int, float, int]]) -> Vectors:
    entity, ts, close, seen, up, quality, coverage, known = zip(*rows, strict=True)
    codes = np.arange(len(rows), dtype=np.int32)
    return Vectors(
        Labels(codes, entity),
        Labels(np.zeros(len(rows), np.int32), ("1m",)),
        np.array(ts, np.int64),
        {"close": np.array(close), "seen": np.array(seen), "up": np.array(up)},
        np.array(quality, np.int64),
        np.array(coverage),
        np.array(known, np.int64),
        np.array([abs(k) % 1_000 for k in known], np.int64),
    )


rows = st.lists(
    st.tuples(
        st.text(st.characters(codec="utf-8"), max_size=8),
        times,
        floats,
        st.one_of(st.just(math.nan), st.integers(0, 2**53).map(float)),
        st.sampled_from([math.nan, 0.0, 1.0]),
        st.integers(0, 3),
        st.floats(0, 1),
        times,
    ),
    min_size=1,
    max_size=8,
)


@given(rows)
def test_vectors_survive_both_forms_to_the_bit(drawn):
    vectors = vectors_of(drawn)
    table = vectors_table(TINY, vectors).cast(schema(TINY))
    for values in (MESSAGES.values(vectors), MESSAGES.arrow(vectors)):
        found = read_vectors_messages(TINY, values)
        assert found.schema == schema(TINY)
        assert found.drop_columns(["close", "coverage"]) == table.drop_columns(
            ["close", "coverage"]
        )
        for name in ("close", "coverage"):
            read, written = found[name].to_pylist(), table[name].to_pylist()
            assert list(map(bits, read)) == list(map(bits, written))
    assert MESSAGES.keys(vectors) == [row[0].encode() for row in drawn]


def test_extreme_numbers_survive_to_the_bit():
    random = np.random.default_rng(0).bytes(8 * 20_000)
    drawn = np.frombuffer(random, np.float64)
    edges = [5e-324, -0.0, 0.0, 2.2250738585072014e-308, 1.7976931348623157e308, 1e16, 1e22, 1e23]
    close = np.concatenate([drawn[np.isfinite(drawn)], edges])
    vectors = tiny_vectors(range(len(close)))
    vectors.features["close"][:] = close
    found = read_vectors_messages(TINY, MESSAGES.values(vectors))["close"].to_numpy()
    assert found.tobytes() == close.tobytes()


def test_a_message_has_the_columns_in_order_and_says_them_as_the_contract_does():
    vectors = tiny_vectors([1])
    vectors.features["close"][0] = math.nan
    vectors.quality[0] = 3
    (value,) = MESSAGES.values(vectors)
    expected = (
        '{"instrument_id":"A0","timeframe":"1m","venue":"the \\"old\\" one",'
        '"ts":"2026-01-01T00:00:01Z","feature_set":"tiny","version":"v1","close":null,"seen":3,'
        '"up":true,"quality":["HIGH","LOW"],"coverage":1.0,'
        '"known_at":"2026-01-01T00:00:01.000000005Z","n_rows":3,"final":true}'
    )
    assert value.decode() == expected
    assert list(json.loads(value)) == schema(TINY).names


@given(times)
def test_times_survive(time_ns):
    vectors = tiny_vectors([1])
    vectors.ts_ns[0] = time_ns
    (value,) = MESSAGES.values(vectors)
    text = json.loads(value)["ts"]
    assert parsed_ns([text]).tolist() == [time_ns]
    assert text.endswith("Z")
    assert not text.partition(".")[2].removesuffix("Z").endswith("0")


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"{}",
        b"[1]",
        b'{"instrument_id":1}',
        MESSAGES.values(tiny_vectors([1]))[0].replace(b'"close"', b'"clos"'),
        MESSAGES.values(tiny_vectors([1]))[0].replace(b"Z", b"+00:00", 1),
        MESSAGES.arrow(tiny_vectors([1]))[0][:-100],
    ],
)
def test_what_is_no_vector_is_refused(value):
    good = MESSAGES.values(tiny_vectors([1]))
    with pytest.raises(UnreadableMessageError, match=r"must be a vector of tiny\.v1"):
        read_vectors_messages(TINY, [*good, value])


def test_arrow_messages_of_another_set_are_refused():
    table = pa.table({"a": [1]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(UnreadableMessageError, match=r"message 0: must be a vector of tiny\.v1"):
        read_vectors_messages(TINY, [sink.getvalue().to_pybytes()])


def test_large_items_become_several_arrow_messages():
    vectors = tiny_vectors(range(20_000))
    values = MESSAGES.arrow(vectors)
    assert len(values) > 1
    assert max(map(len, values)) < 1_000_000
    assert read_vectors_messages(TINY, values).num_rows == 20_000


def test_forms_may_be_mixed_and_keep_their_order():
    values = [
        *MESSAGES.values(tiny_vectors([1])),
        *MESSAGES.arrow(tiny_vectors([2])),
        *MESSAGES.values(tiny_vectors([3])),
    ]
    found = read_vectors_messages(TINY, values)
    assert [time.second for time in found["ts"].to_pylist()] == [1, 2, 3]
    assert read_vectors_messages(TINY, []).num_rows == 0
