"""The engine in a flow: one for each key, begun by its first batch, its state carried on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import bytewax.operators as op
import numpy as np
import pytest
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSink, TestingSource, run_main

from operators.account import Fate
from operators.batch import Batch, Vectors
from operators.engine import Engine, PartitionId, Refused
from operators.extract import Donors, Extracted, extract, key_of
from operators.feature_set import FeatureSet
from operators.plan import compile_plan
from operators.route import lane_of_partition
from operators.snapshot import SnapshotMismatchError, snapshot
from tests import golden
from tests.driver import Identity, batches, emitted, in_bits, shown
from tests.golden import interleaved, rows_of

market = golden.SETS["market"]
LANES = 3
COUNTS = {"bars": 40, "news": 20}
Found = dict[Identity, dict[str, Any]]


def read_by_lane() -> list[Batch]:
    """Batches of topics whose partitions hold each entity's rows of both streams."""
    parts: dict[str, dict[str, list[Any]]] = {}
    for stream in market.streams:
        parts[stream.name] = {}
        for lane in range(LANES):
            series = "1m" if stream.series else ""
            names = [(f"lane-{lane}-{i}", series) for i in range(2)]
            rows = rows_of(stream, COUNTS[stream.name], seed=lane + 1, keys=names)
            parts[stream.name][str(lane)] = rows
    return batches(market, interleaved(parts, 17, 1))


def partitions(batch: Batch) -> list[PartitionId]:
    """Those that the lane of a batch hears."""
    return [(stream.name, batch.partition) for stream in market.streams]


def ran(
    taken: Sequence[Any], feature_set: FeatureSet = market, at: Path | None = None, **options: Any
) -> list[Extracted]:
    """What the flow gives for batches, resumed from a recovery folder if there is one."""
    found: list[tuple[str, Extracted]] = []
    flow = Dataflow("lanes")
    read = op.input("read", flow, TestingSource(taken))
    routed = op.flat_map(
        "route", read, lambda b: [(key_of(lane), part) for lane, part in lane_of_partition(b)]
    )
    plan = compile_plan(feature_set)
    vectors = extract("extract", routed, plan, options.pop("hears", partitions), **options)
    op.output("vectors", vectors, TestingSink(found))
    run_main(flow, recovery_config=RecoveryConfig(at) if at else None)
    return [item for _, item in found]


def vectors_of(items: Sequence[Extracted]) -> Found:
    """The vectors among what is extracted, in bits; none is there twice."""
    found: Found = {}
    for item in items:
        if isinstance(item, Vectors):
            fresh = shown(market, item)
            assert not fresh.keys() & found.keys()
            found |= fresh
    return in_bits(found)


def by_lanes(taken: Sequence[Batch]) -> Found:
    """What an engine of each lane gives."""
    lanes = [[batch for batch in taken if batch.partition == str(lane)] for lane in range(LANES)]
    return in_bits({i: v for lane in lanes for i, v in emitted(market, lane).items()})


def test_the_engine_of_a_lane_hears_only_its_own_partitions():
    taken = read_by_lane()
    watched: list[Engine] = []
    found = vectors_of(ran(taken, watch=watched.append))
    assert found == by_lanes(taken)
    assert found
    heard = sorted(sorted(engine.clocks) for engine in watched)
    assert heard == [[("bars", str(lane)), ("news", str(lane))] for lane in range(LANES)]


def recovery(folder: Path) -> Path:
    """An empty recovery folder."""
    init_db_dir(folder, 1)
    return folder


def test_a_resumed_flow_goes_on_and_takes_in_a_partition_that_is_new(tmp_path):
    taken, at = read_by_lane(), recovery(tmp_path)
    watched: list[Engine] = []

    def and_late(batch: Batch) -> list[PartitionId]:
        return partitions(batch) + ([("news", "late")] if batch.partition == "1" else [])

    steps = [*taken[:9], TestingSource.EOF(), *taken[9:]]
    before = ran(steps, at=at)
    after = ran(steps, at=at, hears=and_late, watch=watched.append)
    found = vectors_of([*before, *after])
    held_back = {identity for identity in by_lanes(taken) if identity[0].startswith("lane-1")}
    expected = by_lanes(taken)
    assert found.items() <= expected.items()
    assert expected.keys() - held_back <= found.keys()
    assert not held_back <= found.keys()
    held = [engine for engine in watched if ("news", "late") in engine.clocks]
    assert len(held) == 1
    assert held[0].account.table()[-1]["partition"] == "late"


def test_a_lane_goes_on_from_a_state_that_is_carried_over():
    taken = read_by_lane()
    half = len(taken) // 2
    states: dict[str, bytes] = {}
    before: Found = {}
    for lane in range(LANES):
        own = [batch for batch in taken if batch.partition == str(lane)]
        engine = Engine(compile_plan(market), partitions(own[0]))
        for batch in taken[:half]:
            if batch.partition == str(lane):
                before |= in_bits(shown(market, engine.process(batch).vectors))
        states[key_of(lane)] = snapshot(engine)
    after = vectors_of(
        ran(taken[half:], donors=Donors(carried=lambda b: states.get(key_of(int(b.partition)))))
    )
    assert not before.keys() & after.keys()
    assert before | after == by_lanes(taken)
    assert before
    assert after


def test_a_state_without_what_the_plan_needs_stops_the_flow_at_its_start(tmp_path):
    taken, at = read_by_lane(), recovery(tmp_path)
    ran([*taken[:9], TestingSource.EOF(), *taken[9:]], at=at)
    bars = next(s for s in market.streams if s.name == "bars")
    features = {**market.features, "volume_mean": bars.col("volume").rolling_mean(20)}
    wider = replace(market, features=features)
    with pytest.raises(SnapshotMismatchError, match=r"needs .*'bars.volume'.* it does not hold"):
        ran([], wider, at=at)


def test_a_refused_row_keeps_the_position_it_came_from():
    taken = []
    for number, batch in enumerate(read_by_lane()):
        taken.append(replace(batch, positions=1000 * number + np.arange(len(batch))))
    late = [item for item in ran(taken) if isinstance(item, Refused) and item.fate is Fate.LATE]
    assert late
    for item in late:
        assert item.batch.positions is not None
        source, rows = taken[item.batch.positions[0] // 1000], item.batch.positions % 1000
        assert (source.stream, source.partition) == (item.batch.stream, item.batch.partition)
        assert source.ts_ns[rows].tolist() == item.batch.ts_ns.tolist()


def test_provisional_vectors_come_after_the_final_ones_and_end_up_as_them():
    taken = read_by_lane()
    final: Found = {}
    last: Found = {}
    before = 0
    for item in ran(taken, provisional=True):
        if isinstance(item, Vectors):
            found = in_bits(shown(market, item))
            assert not found.keys() & final.keys()
            if item.final:
                before += sum(last.get(identity) == vector for identity, vector in found.items())
                final |= found
            last |= found
    assert final == by_lanes(taken)
    assert before


def test_without_rows_nothing_provisional_is_given():
    taken = read_by_lane()[:6]
    nothing = [replace(batch.slice(0, 0), clock_ns=batch.clock_ns) for batch in taken]
    once = [item for item in ran(taken, provisional=True) if isinstance(item, Vectors)]
    again = ran([*taken, *nothing, *nothing], provisional=True)
    assert sum(isinstance(item, Vectors) for item in again) == len(once) > 0
