"""Provisional vectors: of the entities that rows came in for, what would be final if all ended."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import provisional as module
from operators.batch import NO_CLOCK_NS, Batch, Vectors
from operators.engine import Engine, Output
from operators.feature_set import FeatureSet
from operators.instants import Hop
from operators.kernels import tails
from operators.plan import compile_plan
from operators.snapshot import restore, snapshot
from tests import golden
from tests.driver import Identity, batches, in_bits, partitions_of, shown
from tests.golden import by_time, in_turns, interleaved, rows_of
from tests.naive_rows import Row
from tests.strategies import BARS, MINUTE_NS, NEWS, START_NS, Read, batch_of
from tests.test_parity import EXAMPLES, SETS, arrangement, streams_of

market = golden.SETS["market"]
close = BARS.col("close")
one_series = FeatureSet(
    "one_series",
    "v1",
    BARS.one_series("1m"),
    {
        "mean": BARS.one_series("1m").col("close").rolling_mean(3, min_samples=1),
        "news": NEWS.col("sentiment").rolling_mean("15m"),
    },
    ttl="30m",
)
ALL = {**SETS, "one_series": one_series}
Found = dict[Identity, dict[str, Any]]


def told(feature_set: FeatureSet, vectors: Vectors | None, *, copied: bool = True) -> Found:
    """Vectors in bits, with what they have seen.

    A copy has forgotten the rows of runs that a time to live has emptied, so it counts fewer.
    """
    found = in_bits(shown(feature_set, vectors))
    if vectors is None or (copied and feature_set.ttl is not None):
        return found
    seen = zip(vectors.known_at_ns.tolist(), vectors.n_rows.tolist(), strict=True)
    series = vectors.series.strings() if vectors.series else [""] * len(vectors)
    identities = zip(vectors.keys.strings(), series, vectors.ts_ns.tolist(), strict=True)
    for identity, pair in zip(identities, seen, strict=True):
        found[identity]["seen"] = pair
    return found


def if_all_ended(engine: Engine) -> Found:
    """What would be final if all partitions ended here, by a copy whose partitions do."""
    fork = engine.fork()
    fork.end_ns = NO_CLOCK_NS
    found: Found = {}
    for stream, partition in [p for p in fork.clocks if p not in fork.ended]:
        ended = batch_of(fork.streams[stream], [], partition, end=True)
        found |= told(fork.set, fork.process(ended).vectors)
    return found


def earliest_of(batch: Batch, output: Output, earliest: dict[str, int]) -> None:
    """Notes the time of the earliest row that was taken in, for each entity."""
    refused = [part.batch.positions for part in output.refused if part.batch.positions is not None]
    taken_in = np.ones(len(batch), np.bool_)
    taken_in[[position for positions in refused for position in positions]] = False
    kept = batch.take(taken_in)
    for entity, ts_ns in zip(kept.keys.strings(), kept.ts_ns.tolist(), strict=True):
        earliest[entity] = min(earliest.get(entity, ts_ns), ts_ns)


def has_hops(feature_set: FeatureSet) -> bool:
    """Whether clocks alone can make vectors."""
    return any(isinstance(d.instants, Hop) for d in compile_plan(feature_set).domains)


@pytest.mark.parametrize("name", ALL)
@settings(EXAMPLES, max_examples=8)
@given(data=st.data())
def test_they_are_what_would_be_final_for_the_entities_touched_and_no_change_is_left_out(
    name: str, data: st.DataObject
) -> None:
    feature_set = ALL[name]
    read = [
        replace(batch, positions=np.arange(len(batch)))
        for batch in batches(feature_set, arrangement(data, streams_of(data, feature_set)))
    ]
    plan, partitions = compile_plan(feature_set), partitions_of(read)
    engine, plain = Engine(plan, partitions), Engine(plan, partitions)
    provisional = engine.keep_provisional()
    earliest: dict[str, int] = {}
    told_last: Found = {}
    restarted = False
    for batch in read:
        output = engine.process(batch)
        final = told(feature_set, output.vectors)
        assert final == told(feature_set, plain.process(batch).vectors)
        earliest_of(batch, output, earliest)
        if not data.draw(st.booleans(), label="asked"):
            continue
        if data.draw(st.integers(0, 4), label="restarted") == 0:
            # Which of two equal rows of two partitions is the duplicate may differ from now on.
            restarted = True
            engine = restore(plan, partitions, snapshot(engine))
            provisional = engine.keep_provisional()
            earliest = dict.fromkeys(
                (entity for table in engine.tables for entity, _ in table.keys), NO_CLOCK_NS
            )
        before = snapshot(engine)
        found = told(feature_set, vectors := provisional.vectors())
        assert vectors is None or not vectors.final
        assert snapshot(engine) == before
        assert restarted or before == snapshot(plain)
        everything = if_all_ended(engine)
        assert told(feature_set, engine.provisional()) == everything
        asked = {
            identity: vector
            for identity, vector in everything.items()
            if identity[2] >= earliest.get(identity[0], identity[2] + 1)
        }
        assert found == asked
        told_last |= found
        if not has_hops(feature_set):
            assert {i: told_last.get(i) for i in everything} == everything
        earliest = {}
        assert provisional.vectors() is None


# -- put back -------------------------------------------------------------------------------------

COUNTS = {"bars": 120, "news": 60, "trades": 200, "readings": 150, "windows": 20}
wide = FeatureSet(
    "wide",
    "v1",
    BARS,
    {
        "mean": close.rolling_mean("50m"),
        "std": close.rolling_std(40, min_samples=2),
        "slope": close.rolling_slope("20m"),
        "skew": close.rolling_skew("15m"),
        "news": NEWS.col("sentiment").rolling_std("30m"),
        "weighted": NEWS.col("sentiment").rolling_weighted_mean(NEWS.col("confidence"), "2h"),
    },
    ttl="5m",
)
"""Windows so long that much of them is remembered between two batches."""


def long_read(feature_set: FeatureSet, seed: int, size: int = 5) -> list[Batch]:
    """Small batches of rows that come late, twice and corrected."""
    rows = {s.name: rows_of(s, COUNTS[s.name], seed=seed) for s in feature_set.streams}
    spread = in_turns(rows, 2) if seed % 2 else by_time(rows)
    return batches(feature_set, interleaved(spread, size, seed))


def read_out_of_order(last: tuple[int, ...]) -> list[Batch]:
    """A run whose last rows come in one by one; all are settled with the last of them."""
    prices = {"open": 10.0, "high": 11.0, "low": 9.0, "volume": 3.0}
    rows: list[Row] = [
        {"entity": "A", "series": "1m", "close": 10 + i / 7, **prices} for i in range(40)
    ]
    for i, row in enumerate(rows):
        row["ts"] = START_NS + i * MINUTE_NS
    cuts = [rows[: min(last)], *([rows[i]] for i in last)]
    clock_ns = rows[min(last) - 1]["ts"] + wide.max_delay_ns + 1
    read = [Read("news", "part-0", [], clock_ns, end=True)]
    read += [Read("bars", "part-0", cut, clock_ns, end=False) for cut in cuts]
    read[-1] = replace(read[-1], end=True)
    return batches(wide, read)


def finals(feature_set: FeatureSet, read: list[Batch], *, asked: bool) -> Found:
    """The final vectors of an engine that may be asked for provisional ones after every batch."""
    engine = Engine(compile_plan(feature_set), partitions_of(read))
    provisional = engine.keep_provisional()
    found: Found = {}
    for batch in read:
        found |= told(feature_set, engine.process(batch).vectors, copied=False)
        if asked:
            provisional.vectors()
    return found


@pytest.mark.parametrize("name", [*golden.SETS, "wide"])
@pytest.mark.parametrize("seed", [1, 2])
def test_final_vectors_are_the_same_bits_however_often_provisional_ones_were_asked_for(name, seed):
    feature_set = {**golden.SETS, "wide": wide}[name]
    read = long_read(feature_set, seed)
    expected = finals(feature_set, read, asked=False)
    assert finals(feature_set, read, asked=True) == expected
    assert expected


def test_a_row_that_comes_in_between_others_that_were_tried_is_told_anew_and_changes_no_bit():
    read = read_out_of_order((36, 38, 39, 37))
    assert finals(wide, read, asked=True) == finals(wide, read, asked=False)
    engine = Engine(compile_plan(wide), partitions_of(read))
    provisional = engine.keep_provisional()
    given = []
    for batch in read:
        engine.process(replace(batch, end=batch.stream == "news"))
        given.append([i[2] for i in told(wide, provisional.vectors())])
    assert [len(instants) for instants in given[2:]] == [1, 1, 1, 3]


def kept_whole(marks: Any, state: Any, runs: Any, kept_marks: Any, kept_state: Any) -> None:
    """Puts marks back though the suffix they speak of may be another one."""
    marks[runs], state[runs] = kept_marks, kept_state


BROKEN = {
    "the end of runs": lambda patch: patch.setattr(module, "TRIED", ("floor", "carry", "last_ns")),
    "resets of runs": lambda patch: patch.setattr(module, "TRIED", ("end", "carry", "last_ns")),
    "greatest arrivals": lambda patch: patch.setattr(module, "TRIED", ("end", "floor", "last_ns")),
    "last times": lambda patch: patch.setattr(module, "TRIED", ("end", "floor", "carry")),
    "what windows remember": lambda patch: patch.setattr(tails, "put_back", lambda *_: None),
    "suffixes": lambda patch: patch.setattr(tails, "put_back", kept_whole),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_trial_that_does_not_put_everything_back_is_noticed(what, monkeypatch):
    reads = [long_read(wide, seed, size) for seed, size in ((1, 5), (2, 23))]
    reads.append(read_out_of_order((38, 37)))
    expected = [finals(wide, read, asked=False) for read in reads]
    BROKEN[what](monkeypatch)
    try:
        found = [finals(wide, read, asked=True) for read in reads]
    except (AssertionError, IndexError):
        return
    assert found != expected


def test_a_trial_that_fails_leaves_everything_as_it_was(monkeypatch):
    read = long_read(market, 1)
    expected = finals(market, read, asked=False)
    engine = Engine(compile_plan(market), partitions_of(read))
    provisional = engine.keep_provisional()
    found: Found = {}

    def failing(*_: Any) -> None:
        raise MemoryError

    for number, batch in enumerate(read):
        found |= told(market, engine.process(batch).vectors, copied=False)
        with monkeypatch.context() as patch:
            if number % 2 and engine.provisional() is not None:
                patch.setattr(Engine, "vectors_of", failing)
                before = snapshot(engine)
                with pytest.raises(MemoryError):
                    engine.provisional()
                assert snapshot(engine) == before
            else:
                provisional.vectors()
    assert found == expected
