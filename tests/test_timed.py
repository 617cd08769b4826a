"""A flow that is watched does the same, and is told of."""

from __future__ import annotations

from typing import Any

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSource, run_main

from dataflows.observed import Observed
from dataflows.timed import TimedSink
from operators.batch import Batch
from operators.extract import extract, key_of
from operators.plan import compile_plan
from operators.route import lane_of_partition
from tests.test_extract import market, partitions, read_by_lane


class Sink(FixedPartitionedSink[Any, int]):
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written: list[Any] = []
        self.closed = False

    def list_parts(self) -> list[str]:
        return ["00", "01", "02"]

    def part_fn(self, item_key: str) -> int:
        return int(item_key)

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> Any:
        sink = self

        class Part(StatefulSinkPartition[Any, int]):
            def write_batch(self, values: list[Any]) -> None:
                sink.written += [(for_part, value) for value in values]

            def snapshot(self) -> int:
                return len(sink.written)

            def close(self) -> None:
                sink.closed = True

        return Part()


def named_lane(batch: Batch) -> list[tuple[str, Batch]]:
    return [(key_of(lane), part) for lane, part in lane_of_partition(batch)]


@pytest.mark.parametrize("stop", [0, 5], ids=["at once", "resumed"])
def test_a_watched_flow_is_told_of_and_does_the_same(tmp_path, stop):
    items = read_by_lane()
    observed, sink = Observed("riffle"), Sink()

    def flow(given: list[Batch]) -> Dataflow:
        made = Dataflow("watched")
        read = op.input("read", made, TestingSource(given))
        routed = op.flat_map("route", read, named_lane)
        keyed: Any = extract(
            "extract", routed, compile_plan(market), partitions, watch=observed.watch_engine
        )
        op.output("write", keyed, TimedSink(sink, "market", observed))
        return made

    init_db_dir(tmp_path, 1)
    for given in (items[:stop], items) if stop else (items,):
        run_main(flow(given), recovery_config=RecoveryConfig(str(tmp_path)))
    assert sink.closed
    assert {lane for lane, _ in sink.written} == {"00", "01", "02"}
    assert observed.durations("compute", "market").count >= len(items)
    assert observed.durations("sink", "market").count > 0
    assert observed.snapshots["market"].durations.count >= 3
    assert all(watched.snapshot_size > 1000 for watched in observed.engines)
    engines = [watched.engine for watched in observed.engines[-3:]]
    rows = sum(int(row["in"]) for engine in engines for row in engine.account.table())
    assert rows == sum(map(len, items))


def test_a_failure_is_told_though_closing_fails_as_well(caplog):
    class Failing(Sink):
        def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> Any:
            class Part(StatefulSinkPartition[Any, int]):
                def write_batch(self, values: list[Any]) -> None:
                    msg = "the disk is full"
                    raise OSError(msg)

                def snapshot(self) -> int:
                    return 0

                def close(self) -> None:
                    msg = "and it still is"
                    raise OSError(msg)

            return Part()

    made = Dataflow("failing")
    read = op.input("read", made, TestingSource([("00", 1)]))
    op.output("write", read, TimedSink(Failing(), "market", Observed("riffle")))
    with pytest.raises(OSError, match="the disk is full"):
        run_main(made)
    assert "could not be closed: and it still is" in caplog.text


def test_a_flow_that_fails_waits_for_no_sink(caplog):
    ended = []

    class Away(Sink):
        """A place that cannot be reached: who waits for it waits for ever."""

        def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> Any:
            class Part(StatefulSinkPartition[Any, int]):
                def write_batch(self, values: list[Any]) -> None:
                    pass

                def snapshot(self) -> int:
                    return 0

                def close(self) -> None:
                    ended.append("closed")

                def abandon(self) -> None:
                    ended.append("abandoned")

            return Part()

    class Failing(Sink):
        def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> Any:
            class Part(StatefulSinkPartition[Any, int]):
                def write_batch(self, values: list[Any]) -> None:
                    msg = "another run has taken over"
                    raise OSError(msg)

                def snapshot(self) -> int:
                    return 0

            return Part()

    def run(*sinks: Sink) -> None:
        made, observed = Dataflow("places"), Observed("riffle")
        read = op.input("read", made, TestingSource([("00", 1)]))
        for number, sink in enumerate(sinks):
            op.output(f"write{number}", read, TimedSink(sink, f"place{number}", observed))
        run_main(made)

    run(Away())
    assert ended == ["closed"]
    ended.clear()
    with pytest.raises(OSError, match="another run has taken over"):
        run(Away(), Failing())
    assert ended == ["abandoned"]
