"""What an engine keeps: whole, no more than it needs, and refused where it does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest

from operators.account import Fate
from operators.batch import Batch, Vectors
from operators.engine import Engine
from operators.expr import Expr
from operators.feature_set import FeatureSet
from operators.plan import compile_plan
from operators.snapshot import SnapshotMismatchError, read, restore, snapshot
from operators.windows import WarmUp
from tests import golden
from tests.driver import Identity, batches, emitted, in_bits, partitions_of, shown
from tests.golden import by_time, in_turns, interleaved, rows_of
from tests.naive_rows import Row, is_late
from tests.strategies import BARS, MINUTE_NS, NEWS, START_NS, batch_of

close, volume = BARS.col("close"), BARS.col("volume")
market = golden.SETS["market"]
forgetful = FeatureSet(
    "forgetful",
    "v1",
    BARS,
    {
        "mean_8": close.rolling_mean(8, min_samples=1),
        "mean_10m": close.rolling_mean("10m"),
        "news": NEWS.col("sentiment").rolling_mean("15m"),
    },
    ttl="3m",
)
SETS = {**golden.SETS, "forgetful": forgetful}
COUNTS = {"bars": 50, "news": 30, "trades": 100, "readings": 100, "windows": 10}
Found = dict[Identity, dict[str, Any]]


def rows_for(feature_set: FeatureSet, counts: dict[str, int]) -> dict[str, list[Row]]:
    """Rows of every stream that a set reads."""
    return {s.name: rows_of(s, counts[s.name]) for s in feature_set.streams}


def read_for(feature_set: FeatureSet, seed: int = 1, size: int = 17) -> list[Batch]:
    """Batches of two partitions of each stream."""
    parts = in_turns(rows_for(feature_set, COUNTS), 2)
    return batches(feature_set, interleaved(parts, size, seed))


def fed(feature_set: FeatureSet, taken: Sequence[Batch], *, of: Sequence[Batch] = ()) -> Engine:
    """An engine that has taken some batches, of partitions that all have been told at start."""
    engine = Engine(compile_plan(feature_set), partitions_of(of or taken))
    for batch in taken:
        engine.process(batch)
    return engine


def going_on(engine: Engine, taken: Sequence[Batch]) -> Found:
    """What an engine gives for further batches, in bits."""
    found: Found = {}
    for batch in taken:
        found |= shown(engine.set, engine.process(batch).vectors)
    return in_bits(found)


# -- restart --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETS)
def test_a_restart_after_every_batch_changes_no_bit(name):
    taken = read_for(SETS[name])
    straight = in_bits(emitted(SETS[name], taken))
    assert in_bits(emitted(SETS[name], taken, restarts=range(len(taken)))) == straight
    assert straight


@pytest.mark.parametrize("name", SETS)
def test_equal_states_have_equal_bytes_however_often_they_were_restored(name):
    taken = read_for(SETS[name])
    plan, partitions = compile_plan(SETS[name]), partitions_of(taken)
    one, other = Engine(plan, partitions), Engine(plan, partitions)
    for batch in taken:
        one.process(batch)
        other.process(batch)
        data = snapshot(one)
        assert data == snapshot(one) == snapshot(other)
        other = restore(plan, partitions, data)
        assert snapshot(other) == data


@pytest.mark.parametrize("name", ["market", "machine", "bars_from_trades", "waveform"])
def test_the_same_rows_in_other_cuts_leave_the_same_bytes(name):
    parts = in_turns(rows_for(SETS[name], COUNTS), 1)
    cuts = [batches(SETS[name], interleaved(parts, size, 1)) for size in (7, 40)]
    ends = [snapshot(fed(SETS[name], taken)) for taken in cuts]
    if len(parts) == 1:
        assert ends[0] == ends[1]
    else:  # the runs of a stream may be met in another order
        assert len(ends[0]) == len(ends[1])


# -- another plan ---------------------------------------------------------------------------------


def with_features(**features: Expr) -> FeatureSet:
    """`market` with further features."""
    return replace(market, features={**market.features, **features})


BARS_OF_MARKET = next(s for s in market.streams if s.name == "bars")
NEWS_OF_MARKET = next(s for s in market.streams if s.name == "news")
TRADED = BARS_OF_MARKET.col("volume")
CLOSED = BARS_OF_MARKET.col("close")
WIDER = {
    "another column": (
        with_features(volume_mean=TRADED.rolling_mean(20)),
        r"needs \['bars.volume'\], which it does not hold; it holds \[.*'bars.close', 'news",
    ),
    "a window of more rows": (
        with_features(mean_100=CLOSED.rolling_mean(100)),
        r"longer windows of bars \(100 rows",
    ),
    "a longer span": (
        with_features(news_2h=NEWS_OF_MARKET.col("sentiment").rolling_count("2h")),
        r"longer windows of news \(\d+ rows and 7200000000000 ns",
    ),
    "one series of it": (
        with_features(hourly=BARS_OF_MARKET.one_series("5m").col("close")),
        r"rows of bars\[timeframe=5m\]",
    ),
}


@pytest.mark.parametrize("what", WIDER)
def test_a_feature_that_needs_more_than_is_held_is_refused_by_name(what):
    wider, message = WIDER[what]
    taken = read_for(market)
    data = snapshot(fed(market, taken[:8], of=taken))
    with pytest.raises(SnapshotMismatchError, match=message):
        restore(compile_plan(wider), partitions_of(taken), data)


@pytest.mark.parametrize("what", WIDER)
@pytest.mark.parametrize("half", [3, 9, 14])
def test_a_feature_is_added_with_a_rebuilt_state_as_if_it_had_always_been_there(what, half):
    wider, _ = WIDER[what]
    taken = read_for(market)
    data = snapshot(fed(market, taken[:half], of=taken))
    donor = snapshot(fed(wider, taken[:half], of=taken))
    engine = restore(compile_plan(wider), partitions_of(taken), data, rebuilt=donor)
    straight = fed(wider, taken[:half], of=taken)
    assert going_on(engine, taken[half:]) == going_on(straight, taken[half:])


def test_a_feature_that_needs_only_what_is_held_is_added_at_once():
    taken = read_for(market)
    wider = with_features(mean_5=CLOSED.rolling_mean(5))
    data = snapshot(fed(market, taken[:9], of=taken))
    engine = restore(compile_plan(wider), partitions_of(taken), data)
    straight = fed(wider, taken[:9], of=taken)
    assert going_on(engine, taken[9:]) == going_on(straight, taken[9:])


def test_a_feature_is_removed_without_rebuilding():
    taken = read_for(market)
    smaller = replace(market, features={"ret_1": market.features["ret_1"]}, quality={})
    data = snapshot(fed(market, taken[:9], of=taken))
    bars_only = [batch for batch in taken[9:] if batch.stream == "bars"]
    engine = restore(compile_plan(smaller), [], data)
    found = going_on(engine, bars_only)
    full = going_on(fed(market, taken[:9], of=taken), taken[9:])
    assert found
    assert {i: v["ret_1"] for i, v in found.items()}.items() <= {
        i: v["ret_1"] for i, v in full.items()
    }.items()


def test_a_rebuilt_state_must_have_every_section_and_the_same_clock():
    taken = read_for(market)
    wider, _ = WIDER["another column"]
    data = snapshot(fed(market, taken[:9], of=taken))
    plan, partitions = compile_plan(wider), partitions_of(taken)
    with pytest.raises(SnapshotMismatchError, match="it lacks"):
        restore(plan, partitions, data, rebuilt=data)
    elsewhere = snapshot(fed(wider, taken[:16], of=taken))
    with pytest.raises(SnapshotMismatchError, match="must have settled the input up to"):
        restore(plan, partitions, data, rebuilt=elsewhere)


def changed(data: bytes, **fields: Any) -> bytes:
    """A snapshot with other fields."""
    return msgspec.msgpack.encode(msgspec.structs.replace(read(data), **fields))


REFUSED = {
    "another set": (lambda d: changed(d, set_name="other"), "must be one of feature set `market`"),
    "another ttl": (lambda d: changed(d, ttl_ns=5), "`ttl` must be 5 ns"),
    "other bits": (lambda d: changed(d, bits_version=-1), "kernels must be of BITS_VERSION -1"),
    "another schema": (lambda d: changed(d, schema=99), "schema must be 1, got 99"),
    "garbage": (lambda d: b"garbage", "must be a MessagePack document"),
    "nothing": (lambda d: b"", "must be a MessagePack document"),
    "a half": (lambda d: d[: len(d) // 2], "must be a MessagePack document"),
    "all but a byte": (lambda d: d[:-1], "must be a MessagePack document"),
    "a byte more": (lambda d: d + b"\0", "must be a MessagePack document"),
    "no sections": (lambda d: changed(d, sections={}), "needs .*rows of bars"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_a_snapshot_that_does_not_fit_is_refused(what):
    spoil, message = REFUSED[what]
    taken = read_for(market)
    data = snapshot(fed(market, taken[:9], of=taken))
    with pytest.raises(SnapshotMismatchError, match=message):
        restore(compile_plan(market), partitions_of(taken), spoil(data))


def test_new_partitions_are_added_and_hold_the_clock_back_until_they_are_heard_of():
    taken = read_for(market)
    data = snapshot(fed(market, taken[:9], of=taken))
    engine = restore(compile_plan(market), [*partitions_of(taken), ("bars", "new")], data)
    before_ns = engine.settled_ns
    assert not going_on(engine, taken[9:])
    assert engine.settled_ns == before_ns


# -- the account ----------------------------------------------------------------------------------


def imbalance(engine: Engine) -> list[int]:
    """Rows of each partition that came in, less those that are somewhere."""
    counts = engine.account.counts
    missing = counts[:, Fate.IN] - counts[:, Fate.APPLIED :].sum(axis=1)
    for pending in engine.pending.values():
        rows = pending.joined()
        if rows is not None:
            missing = missing - np.bincount(rows.partition, minlength=len(missing))
    return [int(count) for count in missing]


def without_late(batch: Batch, feature_set: FeatureSet) -> Batch:
    """A batch as from a source that takes late rows out itself."""
    delay_ns = next(s.max_delay_ns for s in feature_set.streams if s.name == batch.stream)
    arrival_ns = batch.ts_ns if batch.arrival_ns is None else batch.arrival_ns
    return batch.take(arrival_ns - batch.ts_ns <= delay_ns)


@pytest.mark.parametrize("name", SETS)
def test_late_rows_that_a_source_has_taken_out_are_missing_in_the_account_and_nowhere_else(name):
    feature_set, taken = SETS[name], read_for(SETS[name])
    engine, spared = fed(feature_set, [], of=taken), fed(feature_set, [], of=taken)
    for batch in taken:
        found = shown(feature_set, engine.process(batch).vectors)
        output = spared.process(without_late(batch, feature_set))
        assert in_bits(shown(feature_set, output.vectors)) == in_bits(found)
        assert not any(refused.fate is Fate.LATE for refused in output.refused)
        assert not any(imbalance(spared))
        assert spared.pending_rows == engine.pending_rows
    late = total(engine, Fate.LATE)
    assert total(spared, Fate.IN) == [
        n - m for n, m in zip(total(engine, Fate.IN), late, strict=True)
    ]
    assert total(spared, Fate.APPLIED) == total(engine, Fate.APPLIED)


def test_an_engine_tells_how_much_it_keeps():
    taken = read_for(market)
    engine = fed(market, [], of=taken)
    for batch in taken:
        engine.process(batch)
        assert engine.pending_rows == sum(map(len, engine.pending.values()))
    assert engine.run_count == len(golden.KEYS["bars"]) + len(golden.KEYS["news"])
    columns = [array for table in engine.tables for array in (table.ts, *table.columns.values())]
    assert sum(array.nbytes for array in columns) < engine.state_bytes < 10_000_000


def total(engine: Engine, fate: Fate) -> list[int]:
    """Rows of that fate in each partition."""
    return [int(count) for count in engine.account.counts[:, fate]]


@pytest.mark.parametrize("name", SETS)
def test_every_row_is_accounted_for_after_every_batch_and_after_a_restart(name):
    taken = read_for(SETS[name])
    engine = Engine(compile_plan(SETS[name]), partitions_of(taken))
    for number, batch in enumerate(taken):
        engine.process(batch)
        assert not any(imbalance(engine))
        if number % 3 == 0:
            counts = engine.account.table()
            engine = engine.fork()
            assert not any(imbalance(engine))
            assert engine.account.table() == counts
    assert sum(total(engine, Fate.IN)) == sum(map(len, taken))
    assert all(line["pending"] == 0 for line in engine.account.table())
    if SETS[name].streams[0] is not SETS["waveform"].streams[0]:  # ten messages know no accidents
        for fate in (Fate.APPLIED, Fate.DUPLICATE, Fate.SUPERSEDED, Fate.LATE):
            assert sum(total(engine, fate)), fate


def test_rows_over_the_cap_on_keys_are_dead_and_the_others_are_as_before():
    lab = SETS["market_lab"]
    capped = replace(lab, max_entities=1)
    rows = rows_for(lab, COUNTS)
    first = rows["bars"][0]["entity"]
    alone = {s: [row for row in of if row["entity"] == first] for s, of in rows.items()}
    taken = batches(capped, interleaved(in_turns(rows, 1), 17, 1))
    engine, dead = fed(capped, [], of=taken), 0
    found: Found = {}
    for batch in taken:
        output = engine.process(batch)
        found |= shown(capped, output.vectors)
        refused = [r for r in output.refused if r.fate is Fate.DEAD]
        assert all("more than 1 keys" in r.reason for r in refused)
        assert all(first not in r.batch.keys.strings() for r in refused)
        dead += sum(len(r.batch) for r in refused)
        assert not any(imbalance(engine))
    expected = emitted(lab, batches(lab, interleaved(in_turns(alone, 1), 17, 1)))
    assert in_bits(found) == in_bits(expected)
    assert dead == int(engine.account.counts[:, Fate.DEAD].sum()) > 0


# -- provisional vectors --------------------------------------------------------------------------


def now_ended(engine: Engine) -> Found:
    """What would be final if all partitions ended here."""
    fork = engine.fork()
    ends = []
    for stream, partition in fork.clocks:
        if (stream, partition) not in fork.ended:
            declared = fork.streams[stream]
            ends.append(replace(batch_of(declared, [], partition, end=True)))
    return going_on(fork, ends)


def pairs(vectors: Vectors | None) -> dict[Identity, tuple[int, int]]:
    """What a reader keeps the greater of."""
    if vectors is None:
        return {}
    series = vectors.series.strings() if vectors.series else [""] * len(vectors)
    identities = zip(vectors.keys.strings(), series, vectors.ts_ns.tolist(), strict=True)
    known = zip(vectors.known_at_ns.tolist(), vectors.n_rows.tolist(), strict=True)
    return dict(zip(identities, known, strict=True))


@pytest.mark.parametrize("name", SETS)
def test_provisional_vectors_are_those_of_an_input_that_ends_now_and_change_nothing(name):
    taken = read_for(SETS[name])
    engine = Engine(compile_plan(SETS[name]), partitions_of(taken))
    seen = 0
    for batch in taken:
        engine.process(batch)
        before = snapshot(engine)
        vectors = engine.provisional()
        assert vectors is None or not vectors.final
        assert in_bits(shown(SETS[name], vectors)) == now_ended(engine)
        assert snapshot(engine) == before
        seen += len(vectors) if vectors is not None else 0
    assert seen


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("spread", [in_turns, by_time])
def test_what_a_vector_has_seen_never_grows_less_up_to_the_final_one(name, spread):
    feature_set = SETS[name]
    parts = in_turns(rows_for(feature_set, COUNTS), 3)
    if spread is by_time:
        parts = by_time(rows_for(feature_set, COUNTS))
    taken = batches(feature_set, interleaved(parts, 9, 4))
    engine = Engine(compile_plan(feature_set), partitions_of(taken))
    last: dict[Identity, tuple[int, int]] = {}
    for batch in taken:
        output = engine.process(batch)
        for found in (pairs(output.vectors), pairs(engine.provisional())):
            for identity, pair in found.items():
                assert pair >= last.get(identity, pair), identity
            last |= found


# -- bounded --------------------------------------------------------------------------------------


def regular(count: int) -> dict[str, list[Row]]:
    """Bars each minute and news every three, on time."""
    prices = {"open": 10.0, "high": 11.0, "low": 9.0, "close": 10.5, "volume": 3.0}
    bars: list[Row] = [
        {"entity": "A", "series": "1m", "ts": START_NS + i * MINUTE_NS, **prices}
        for i in range(count)
    ]
    news: list[Row] = [
        {"entity": "A", "ts": row["ts"], "event_id": i, "sentiment": 0.1, "confidence": 0.5}
        for i, row in enumerate(bars[::3])
    ]
    for row in (*bars, *news):
        row["arrival"] = row["ts"] + 1
    return {"bars": bars, "news": news}


spans = FeatureSet(
    "spans", "v1", BARS, {"a": close.rolling_std("20m"), "b": volume.rolling_max("1h")}
)


@pytest.mark.parametrize("feature_set", [market, spans], ids=["market", "spans"])
def test_state_does_not_grow_with_the_input(feature_set):
    sizes, rooms = [], []
    for count in (400, 4000):
        rows = {s.name: regular(count)[s.name] for s in feature_set.streams}
        taken = batches(feature_set, interleaved(in_turns(rows, 1), 50, 1))
        engine = fed(feature_set, taken)
        sizes.append(len(snapshot(engine)))
        rooms.append([len(table.ts) for table in engine.tables])
    assert sizes[1] - sizes[0] <= 64, "integers may be spelt longer, rows may not be more"
    assert rooms[0] == rooms[1]


# -- another start, another end -------------------------------------------------------------------


def warm_up_of(feature_set: FeatureSet) -> WarmUp:
    """What must have been seen before any column of a vector is settled."""
    warm = feature_set.coverage_expr.warm_up
    for expr in (*feature_set.feature_exprs.values(), *feature_set.quality.values()):
        warm = warm.both(expr.warm_up)
    return warm


@pytest.mark.parametrize("name", golden.SETS)
def test_an_engine_that_starts_in_mid_history_gives_the_same_bits_after_its_warm_up(name):
    feature_set, warm = SETS[name], warm_up_of(SETS[name])
    rows = rows_for(feature_set, {**golden.COUNTS, "trades": 2400})
    taken = batches(feature_set, interleaved(in_turns(rows, 1), 300, 1))
    straight = in_bits(emitted(feature_set, taken))
    runs: dict[tuple[str, str], list[int]] = {}
    for entity, series, ts in sorted(straight):
        runs.setdefault((entity, series), []).append(ts)
    from_ns = min(of[-min(len(of), 30)] for of in runs.values())
    before = [[ts for ts in of if ts <= from_ns] for of in runs.values()]
    start_ns = min(of[-min(warm.rows, len(of))] for of in before if of) - warm.span_ns
    start_ns -= 10**9  # the hop window of the first of them
    later = {s: [row for row in of if row["ts"] > start_ns] for s, of in rows.items()}
    assert sum(map(len, later.values())) < 0.98 * sum(map(len, rows.values()))
    found = in_bits(
        emitted(feature_set, batches(feature_set, interleaved(in_turns(later, 1), 300, 1)))
    )
    expected = {identity: v for identity, v in straight.items() if identity[2] > from_ns}
    assert expected
    assert {identity: v for identity, v in found.items() if identity[2] > from_ns} == expected


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("share", [0.31, 0.77])
def test_a_backfill_up_to_an_instant_and_then_from_it_is_one_run(name, share):
    feature_set = SETS[name]
    rows = {  # a late row tells how far the arrivals have been read, which is beyond the instant
        s.name: [row for row in rows_of(s, COUNTS[s.name]) if not is_late(s, row)]
        for s in feature_set.streams
    }
    times = sorted(row["ts"] for of in rows.values() for row in of)
    until_ns = times[int(share * len(times))]
    first = {s: [row for row in of if row["ts"] <= until_ns] for s, of in rows.items()}
    then = {s: [row for row in of if row["ts"] > until_ns] for s, of in rows.items()}
    parts = in_turns(then, 2)
    whole = batches(feature_set, interleaved(in_turns(rows, 1), 50, 1))
    one = in_bits(emitted(feature_set, whole))
    taken = batches(feature_set, interleaved(in_turns(first, 2), 20, 1))
    engine = fed(feature_set, [], of=taken)
    found = going_on(engine, taken)
    files = {s: {f"next-{name}": rows for name, rows in of.items()} for s, of in parts.items()}
    further = batches(feature_set, interleaved(files, 20, 1))
    engine = restore(engine.plan, partitions_of(further), snapshot(engine))
    rest = going_on(engine, further)
    assert not found.keys() & rest.keys()
    assert found | rest == one
    assert found
    assert rest


def test_rows_of_a_settled_past_are_named_and_leave_the_vectors_alone():
    taken = read_for(market)
    engine = fed(market, taken)
    row = rows_for(market, COUNTS)["bars"][0]
    late = batch_of(BARS_OF_MARKET, [{**row, "arrival": row["ts"]}], taken[0].partition)
    output = engine.process(late)
    assert [(r.fate, len(r.batch)) for r in output.refused] == [(Fate.REPAIR, 1)]
    assert output.vectors is None
    assert not any(imbalance(engine))


def test_batches_of_a_partition_that_was_not_declared_are_refused():
    engine = fed(market, [], of=read_for(market))
    with pytest.raises(KeyError, match="must be one of those declared at start"):
        engine.process(batch_of(BARS, [], "unknown"))


def test_final_vectors_come_in_the_order_of_time_for_each_key():
    engine = fed(market, [], of=read_for(market))
    last: dict[tuple[str, str], int] = {}
    for batch in read_for(market):
        found = sorted(shown(market, engine.process(batch).vectors))
        for entity, series, ts in found:
            assert ts > last.get((entity, series), 0)
            last[entity, series] = ts
    assert all(a < b for a, b in pairwise(sorted(last)))
