"""A vector is a pure function of the rows in its window: however they came, the same bits."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_repo.bars_from_trades import bars_from_trades, market_from_trades
from feature_repo.machine import asset_over, machine_at
from feature_repo.market import market
from feature_repo.market_lab import market_lab
from feature_repo.waveform import waveform
from operators.engine import Engine
from operators.feature_set import FeatureSet
from operators.plan import compile_plan
from operators.streams import Stream
from tests import strategies
from tests.driver import (
    batches,
    emitted,
    emitted_by_shards,
    in_bits,
    partitions_of,
    shown,
)
from tests.naive import naive_vectors
from tests.naive_rows import Row, arrival_ns

machine = machine_at(20.0)
forgetful = replace(market, name="forgetful", ttl="20m")
SETS = {
    s.name: s
    for s in (
        forgetful,
        market, market_lab, bars_from_trades, market_from_trades, waveform, machine,
        asset_over(machine),
    )
}  # fmt: skip
EXAMPLES = settings(
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    max_examples=15,
)


def streams_of(data: st.DataObject, feature_set: FeatureSet) -> dict[str, list[Row]]:
    """Random rows of every stream that a set reads."""
    return {s.name: data.draw(strategies.rows(s), label=s.name) for s in feature_set.streams}


def strategies_rows(stream: Stream) -> list[Row]:
    """A hundred rows of each run, the same ones always."""
    rows: list[Row] = []
    for entity, series in strategies.KEYS[stream.name]:
        for i in range(100):
            ts = strategies.START_NS + i * strategies.STEPS_NS[stream.name]
            row: Row = {"entity": entity, "series": series, "ts": ts, "arrival": ts}
            for place, field in enumerate(stream.fields):
                row[field.name] = i if field.kind == "id" else ((i * 37 + place) % 101) / 101
            if "high" in row:
                row |= {"high": 2.0, "low": 0.001}
            rows.append(row)
    return sorted(rows, key=arrival_ns)


def arrangement(
    data: st.DataObject, rows: dict[str, list[Row]], *, end: bool = True
) -> list[strategies.Read]:
    """A random way in which the rows are spread, cut and interleaved."""
    parts = {name: data.draw(strategies.partitions(whole)) for name, whole in rows.items()}
    return data.draw(strategies.reads(parts, end=end))


ILL_CONDITIONED = {"dominant_frequency", "spectral_rolloff"}
"""They jump between bins of equal power; tests/test_spectra.py has them."""


def assert_close(found: dict[str, Any], expected: dict[str, Any], feature_set: FeatureSet) -> None:
    """Equal flags and nulls, and numbers within what the two ways of computing may differ by."""
    assert found["quality"] == expected["quality"], (found, expected)
    for name in (*feature_set.feature_exprs, "coverage"):
        value, true = found[name], expected[name]
        assert math.isnan(value) == (true is None), (name, found, expected)
        if true is not None and name not in ILL_CONDITIONED:
            assert value == pytest.approx(float(true), rel=1e-6, abs=1e-6), (name, found, expected)


@pytest.mark.parametrize("name", SETS)
@EXAMPLES
@given(data=st.data())
def test_after_every_batch_the_emitted_set_is_what_the_oracle_gives_for_the_clock(
    name: str, data: st.DataObject
) -> None:
    feature_set = SETS[name]
    rows = streams_of(data, feature_set)
    reads = arrangement(data, rows)
    read = batches(feature_set, reads)
    engine = Engine(compile_plan(feature_set), partitions_of(read))
    found: dict[Any, dict[str, Any]] = {}
    keyed: dict[Any, dict[str, Any]] = {}
    for number, batch in enumerate(read):
        found.update(shown(feature_set, engine.process(batch).vectors))
        ended = number == len(read) - 1
        if ended or number % 3 == 0:
            expected = naive_vectors(feature_set, rows, engine.clock_ns, end=ended)
            keyed = {
                (v[feature_set.entity], v.get(feature_set.series or "", ""), v["ts"]): v
                for v in expected
            }
            assert found.keys() == keyed.keys()
    for identity, vector in found.items():
        assert_close(vector, keyed[identity], feature_set)


@pytest.mark.parametrize("name", SETS)
@EXAMPLES
@given(data=st.data())
def test_cuts_partitions_interleavings_restarts_and_shards_leave_every_bit_alone(
    name: str, data: st.DataObject
) -> None:
    feature_set = SETS[name]
    rows = streams_of(data, feature_set)
    one_batch_each = arrangement(data, rows)
    expected = in_bits(emitted(feature_set, batches(feature_set, one_batch_each)))
    read = batches(feature_set, arrangement(data, rows))
    restarts = data.draw(st.lists(st.integers(0, len(read)), max_size=3))
    assert in_bits(emitted(feature_set, read, restarts=restarts)) == expected
    shards = data.draw(st.integers(2, 3))
    assert in_bits(emitted_by_shards(feature_set, read, shards)) == expected


def test_engines_that_run_in_threads_at_once_leave_every_bit_alone() -> None:
    rows = {s.name: strategies_rows(s) for s in market.streams}
    read = batches(
        market,
        [
            strategies.Read(name, "part-0", whole, max(map(arrival_ns, whole)), end=True)
            for name, whole in rows.items()
        ],
    )
    expected = in_bits(emitted(market, read))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: in_bits(emitted_by_shards(market, read, 3)), range(8)))
    assert expected
    assert all(each == expected for each in found)
