"""A small flow with lanes in its keys, that can be killed: what a live flow's state looks like."""

import os
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

LANES = [int(lane) for lane in os.environ.get("LANES", "0,1").split(",")]
DIE_AT = int(os.environ.get("DIE_AT", "0"))


class Part(StatefulSourcePartition[tuple[str, int], dict[str, int]]):
    def __init__(self, lane: int, state: dict[str, int] | None) -> None:
        self.lane = lane
        self.offset = state["offset"] if state else 0
        self.count = 0
        self.awake = datetime.now(UTC)

    def next_batch(self) -> list[tuple[str, int]]:
        self.offset += 1
        self.count += 1
        self.awake = datetime.now(UTC) + timedelta(milliseconds=20)
        if DIE_AT and self.count == DIE_AT:
            os._exit(9)
        return [(f"{self.lane:02d}", self.offset)]

    def next_awake(self) -> datetime | None:
        return self.awake

    def snapshot(self) -> dict[str, int]:
        return {"offset": self.offset}


class Source(FixedPartitionedSource[tuple[str, int], dict[str, int]]):
    def list_parts(self) -> list[str]:
        return [f"bars/{lane}" for lane in LANES]

    def build_part(self, step_id: str, for_part: str, resume_state: Any) -> Part:
        sys.stdout.write(f"{for_part} {resume_state}\n")
        sys.stdout.flush()
        return Part(int(for_part.rpartition("/")[2]), resume_state)


class Sum(StatefulBatchLogic[int, int, bytes]):
    def __init__(self, state: bytes | None) -> None:
        self.total = int(state or b"0")

    def on_batch(self, values: list[int]) -> tuple[list[int], bool]:
        self.total += sum(values)
        return [self.total], StatefulBatchLogic.RETAIN

    def snapshot(self) -> bytes:
        return str(self.total).encode()


class Ignored(StatefulSinkPartition[int, dict[str, int]]):
    def __init__(self) -> None:
        self.last = 0

    def write_batch(self, values: list[int]) -> None:
        self.last = values[-1]

    def snapshot(self) -> dict[str, int]:
        return {"settled_ns": self.last}


class Sink(FixedPartitionedSink[int, dict[str, int]]):
    def list_parts(self) -> list[str]:
        return [f"{lane:02d}" for lane in LANES]

    def part_fn(self, item_key: str) -> int:
        return LANES.index(int(item_key))

    def build_part(self, step_id: str, for_part: str, resume_state: Any) -> Ignored:
        return Ignored()


flow = Dataflow("lanes")
read = op.input("read", flow, Source())
op.output("out", op.stateful_batch("sum", read, Sum), Sink())
