"""What proofs compare with: right by the naive twin, and no difference escapes it."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from tests.chaos import oracle
from tests.chaos.log import Entry
from tests.chaos.messages import BAD, Market, Message, Shape, partition_of
from tests.chaos.oracle import FORMULAS, IN_BITS, PLACE, in_one_go
from tests.chaos.sets import market
from tests.naive import naive_vectors
from tests.naive_rows import Row

START_MS = 1_790_000_000_000
SHAPE = Shape(instruments=12, news_per_s=40, bad=0.02, late=0.05)


def arrived(seed: int, seconds: int) -> dict[str, list[Entry]]:
    """What the topics would hold had each message arrived when it was due."""
    messages = Market(seed, START_MS, SHAPE).messages()
    until_ms = START_MS + seconds * 1_000
    found: dict[str, list[Entry]] = {"bars": [], "news": []}
    for message in itertools.takewhile(lambda message: message.due_ms < until_ms, messages):
        found[message.topic].append(entry_of(message, len(found[message.topic])))
    return found


def entry_of(message: Message, offset: int) -> Entry:
    part = message.partition
    if part is None:
        part = partition_of(message.key, SHAPE.partitions)
    headers = () if message.bad is None else ((BAD, message.bad.encode()),)
    return Entry(part, offset, message.due_ms, message.key, message.value, headers)


@pytest.fixture(scope="module")
def inputs() -> dict[str, oracle.Input]:
    entries = arrived(5, 30)
    return {
        "bars": oracle.read_input([entries["bars"]], oracle.Bar, SHAPE.partitions),
        "news": oracle.read_input([entries["news"]], oracle.News, SHAPE.partitions),
    }


@pytest.fixture(scope="module")
def vectors(inputs) -> pl.DataFrame:
    return oracle.expected_vectors(inputs["bars"].rows, inputs["news"].rows)


@pytest.fixture(scope="module")
def at_once(inputs) -> pl.DataFrame:
    return in_one_go(inputs["bars"].rows, inputs["news"].rows)


def rows_of(frame: pl.DataFrame, series: str | None) -> list[Row]:
    """The rows as the naive twin has them."""
    found = []
    for row in frame.to_dicts():
        fixed = {"entity": row.pop("instrument_id"), "ts": row.pop("ts_ns")}
        fixed["arrival"] = row.pop("arrival_ts_ns")
        if series:
            fixed["series"] = row.pop(series)
        found.append({**fixed, **row})
    return found


def test_a_market_sends_the_same_messages_for_the_same_seed():
    assert arrived(3, 5) == arrived(3, 5)
    assert arrived(3, 5) != arrived(4, 5)


def test_a_market_sends_what_flows_stumble_over(inputs):
    bars, news = inputs["bars"], inputs["news"]
    assert len(bars.late) > 10
    assert len({entry.header(BAD) for each in inputs.values() for entry in each.bad}) == 10
    assert not bars.rows["ts_ns"].is_sorted()
    identity = pl.struct(oracle.KEY)
    again = bars.rows.filter(identity.is_duplicated()).select(*oracle.KEY, "volume")
    distinct = again.unique()
    assert len(distinct) < len(again)
    assert distinct.filter(identity.is_duplicated()).height
    assert news.rows.filter(pl.struct("instrument_id", "ts_ns").is_duplicated()).height
    assert bars.rows.group_by("instrument_id", "ts_ns").len()["len"].max() > 1


def test_keys_go_where_kafkas_own_clients_put_them():
    # The Java client's tests for its partitioner have these.
    known = {b"21": -973932308, b"foobar": -790332482, b"abc": 479470107}
    for key, murmur2 in known.items():
        assert partition_of(key, 2**31) == murmur2 & 0x7FFFFFFF


def test_the_formulas_are_those_of_the_naive_twin(inputs, vectors):
    few = ["I0003", "I0007"]
    chosen = [inputs[n].rows.filter(pl.col("instrument_id").is_in(few)) for n in ("bars", "news")]
    rows = {"bars": rows_of(chosen[0], "timeframe"), "news": rows_of(chosen[1], None)}
    naive = []
    for each in naive_vectors(market, rows, 2**62):
        flags = sum(oracle.FLAGS[name] for name in each.pop("quality"))
        naive.append({**each, "ts_ns": each.pop("ts"), "flags": flags})
    expected = pl.DataFrame(naive, infer_schema_length=None)
    expected = expected.with_columns(
        pl.col(name).cast(pl.Float64).fill_null(float("nan"))
        for name in (*oracle.FLOATS, "coverage")
    ).with_columns(pl.col("event_count_10s").cast(pl.Int64))
    found = vectors.filter(pl.col("instrument_id").is_in(few))
    assert len(found) > 100
    assert oracle.compare_keys(found, expected) == []
    assert oracle.compare_values(found, expected, FORMULAS, 1e-12) == []


def test_an_engine_in_one_go_gives_what_the_formulas_say(vectors, at_once):
    assert oracle.compare_keys(at_once, vectors) == []
    assert oracle.compare_values(at_once, vectors, FORMULAS, 1e-9) == []
    assert oracle.compare_values(at_once, at_once, IN_BITS, 0) == []


def test_keys_that_are_not_there_once_are_seen(vectors):
    said = oracle.compare_keys(vectors[1:], vectors)
    assert "1 vectors missing" in said[0]
    said = oracle.compare_keys(pl.concat([vectors, vectors[4:5]]), vectors)
    assert "2 vectors twice" in said[0]
    said = oracle.compare_keys(vectors, vectors[:-3])
    assert "3 vectors extra" in said[0]


def test_a_changed_bit_is_seen(at_once):
    values = at_once["volume_5s"].to_numpy().copy()
    values[17] = np.nextafter(values[17], np.inf)
    changed = at_once.with_columns(volume_5s=pl.Series(values))
    assert oracle.compare_values(changed, at_once, oracle.FLOATS, 1e-9) == []
    said = oracle.compare_values(changed, at_once, oracle.FLOATS, 0)
    assert "1 values of volume_5s differ" in said[0]


def test_a_null_is_no_number(at_once):
    nulled = at_once.with_columns(coverage=pl.lit(float("nan")))
    said = oracle.compare_values(nulled, at_once, ["coverage"], 1e-9)
    assert f"{len(at_once)} values of coverage differ" in said[0]


def test_letters_that_are_not_there_once_and_unchanged_are_seen(inputs):
    late = inputs["bars"].late[:5]

    def letter(entry: Entry) -> Entry:
        place = (
            (PLACE["partition"], b"%d" % entry.partition),
            (PLACE["offset"], b"%d" % entry.offset),
        )
        return replace(entry, headers=(*entry.headers, *place), offset=entry.offset + 100)

    found = [letter(entry) for entry in late]
    assert oracle.same_letters(found, late, PLACE) == []
    assert "1 letters missing" in oracle.same_letters(found[1:], late, PLACE)[0]
    assert "1 letters extra" in oracle.same_letters(found, late[1:], PLACE)[0]
    assert "stands twice" in oracle.same_letters([*found, found[0]], late, PLACE)[0]
    changed = [replace(found[0], value=json.dumps(json.loads(found[0].value or b"")).encode())]
    assert "is not as it was" in oracle.same_letters([*changed, *found[1:]], late, PLACE)[0]
