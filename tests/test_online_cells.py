"""What is packed by hand is what Feast packs, byte for byte."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from feast.infra.key_encoding_utils import deserialize_entity_key, serialize_entity_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import StringList, Value
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from sinks.online_cells import (
    NO_MARK,
    KeyEncoder,
    bytes_cell,
    cells,
    mark_cells,
    raised,
    read_bytes_cell,
    read_marks,
    sliced,
    texts,
    timestamps,
)

INTEGERS = st.integers(-(2**63), 2**63 - 1)
NUMBERS = st.floats(allow_infinity=False) | st.sampled_from([-0.0, 5e-324, 1.7976931348623157e308])
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def value(**fields):
    return Value(**fields).SerializeToString()


@given(st.lists(NUMBERS))
def test_numbers(numbers):
    packed = cells("number", np.array(numbers, np.float64))
    assert packed == [b"" if math.isnan(x) else value(double_val=x) for x in numbers]


@given(st.lists(st.integers(-(2**53), 2**53) | st.none()))
def test_counts(numbers):
    packed = cells("count", np.array([np.nan if x is None else x for x in numbers], np.float64))
    assert packed == [b"" if x is None else value(int64_val=x) for x in numbers]


def test_flags():
    packed = cells("flag", np.array([0.0, 1.0, np.nan]))
    assert packed == [value(bool_val=False), value(bool_val=True), value()]


@given(st.lists(NAMES, unique=True, max_size=20), st.data())
def test_names_of_flags(names, data):
    patterns = data.draw(st.lists(st.integers(0, 2 ** len(names) - 1), max_size=5))
    wanted = [
        value(string_list_val=StringList(val=[n for bit, n in enumerate(names) if p >> bit & 1]))
        for p in patterns
    ]
    assert raised(names, np.array(patterns, np.int64)) == wanted


@given(st.binary(max_size=300))
def test_bytes(content):
    packed = bytes_cell(content)
    assert Value.FromString(packed).bytes_val == content
    assert read_bytes_cell(packed) == content
    assert read_bytes_cell(value(double_val=1.0)) == read_bytes_cell(b"") == b""


@given(st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=4, unique_by=lambda pair: pair[0]))
def test_entities(pairs):
    names, parts = zip(*pairs, strict=True)
    packed = KeyEncoder(names)(parts)
    key = EntityKey(join_keys=names, entity_values=[Value(string_val=part) for part in parts])
    assert packed == serialize_entity_key(key, 3)


@pytest.mark.parametrize("parts", [("A", "1m"), ("", ""), ("é\n", "'\"")])
def test_entities_are_read_by_feast(parts):
    found = deserialize_entity_key(KeyEncoder(["instrument_id", "timeframe"])(parts), 3)
    assert [each.string_val for each in found.entity_values] == list(parts)


@given(st.lists(st.integers(-(2**62), 2**62)))
def test_times_have_microseconds_as_those_that_feast_reads_from_a_frame(times_ns):
    wanted = []
    for time_ns in times_ns:
        stamp = Timestamp()
        stamp.FromDatetime(
            datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_ns // 1000)
        )
        wanted.append(stamp.SerializeToString())
    assert timestamps(np.array(times_ns, np.int64)) == wanted


@given(st.lists(st.tuples(INTEGERS, INTEGERS, INTEGERS, st.integers(0, 1))))
def test_marks_are_values_and_read_back(marks):
    marks = np.array(marks, np.int64).reshape(-1, 4)
    packed = mark_cells(marks)
    found = sliced(packed.tobytes(), packed.shape[1])
    assert all(len(Value.FromString(cell).bytes_val) == 25 for cell in found)
    assert (read_marks(found, [None] * len(found)) == marks).all()


def test_what_has_no_mark_counts_by_its_time():
    own = sliced(mark_cells(np.array([[5, 6, 7, 1]])).tobytes(), 27)
    found = read_marks([None, b"", b"?", *own, b"\x0a" + bytes(26)], [None, 1, 2, 9, 3])
    assert found.tolist() == [
        [NO_MARK] * 4, [1, 0, 0, 0], [2, 0, 0, 0], [5, 6, 7, 1], [3, 0, 0, 0]
    ]  # fmt: skip


def test_texts_are_pythons():
    assert texts("number", np.array([0.1, -0.0, np.nan, 1e300])) == ["0.1", "-0.0", None, "1e+300"]
    assert texts("count", np.array([3.0, np.nan])) == ["3", None]
    assert texts("flag", np.array([1.0, 0.0])) == ["True", "False"]
