"""Computes a range of a set's vectors again, from the topics of a flow, in this process.

The partition that is furthest behind is read next, so that what waits in memory is small; the
engines are those of the flow's lanes, so that the same rows meet the same limits.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dataflows.live_plan import FlowPlan
from dataflows.log_inputs import LogInput, LogInputs, Range, needed_history_ns
from dataflows.progress import by_stream
from operators.batch import NO_CLOCK_NS, Batch, Vectors
from operators.engine import Engine
from operators.feature_set import FeatureSet
from operators.frames import vectors_table
from operators.plan import compile_plan
from operators.route import LANES
from sources.kafka_client import Offsets
from sources.message_decoder import MessageDecoder

MESSAGES_AT_ONCE = 20_000
WAIT_S = 0.002
"""How long to wait for the messages that are on their way."""


@dataclass(slots=True)
class _Open:
    """A partition that is being read."""

    input: LogInput
    decoder: MessageDecoder
    clock_ns: int = NO_CLOCK_NS


class Recomputation:
    """The vectors of a range, computed again.

    Args:
        plan: of a flow with the set.
        feature_set: the set.
        inputs: the partitions to read.
        span: the range.
        watch: is told the offsets done and the offsets there are.

    Attributes:
        dead: rows that could not be used, by reason.
        given: how many vectors the range has.
    """

    def __init__(
        self,
        plan: FlowPlan,
        feature_set: FeatureSet,
        inputs: Sequence[LogInput],
        span: Range,
        watch: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self._set = feature_set
        self._span = span
        self._watch = watch
        decoders = {
            stream.name: plan.kafka_input(stream.name).decoder() for stream in feature_set.streams
        }
        self._open = [_Open(each, decoders[each.partition[0]]) for each in inputs]
        compiled = compile_plan(feature_set)
        every = [each.partition for each in inputs]
        self._route = plan.route
        lanes = sorted(
            {int(number) for _, number in every} if plan.co_partitioned else range(LANES)
        )
        self._engines = {
            lane: Engine(
                compiled, [p for p in every if not plan.co_partitioned or int(p[1]) == lane]
            )
            for lane in lanes
        }
        self._total = sum(each.end - each.start for each in inputs)
        self._refused: Counter[tuple[str, str]] = Counter()
        self.dead: Counter[str] = Counter()
        self.given = 0
        self._given_until_ns = NO_CLOCK_NS
        # Lanes that are ahead wait for the others, so that what is given has one end in time.
        self._waiting: list[Vectors] = []

    @property
    def final_until_ns(self) -> int:
        """The time before which all vectors are given, at most the end of the range."""
        settled_ns = min(engine.settled_ns for engine in self._engines.values())
        return min(self._span.to_ns, settled_ns + 1)

    def account(self) -> dict[str, dict[str, int]]:
        """Counts of rows by fate, for each stream."""
        account = by_stream(self._engines.values())
        for (stream, fate), rows in self._refused.items():
            account[stream]["in"] += rows
            account[stream][fate] += rows
        return account

    def tables(self) -> Iterator[pa.Table]:
        """Gives the vectors of the range that are final, as tables."""
        for vectors in self.vectors():
            yield vectors_table(self._set, vectors)

    def vectors(self) -> Iterator[Vectors]:
        """Gives the vectors of the range that are final in every lane, and reads no further."""
        reading = list(self._open)
        while reading and self.final_until_ns < self._span.to_ns:
            slowest = min(reading, key=lambda each: each.clock_ns)
            self._compute(self._read(slowest))
            if slowest.input.reader.position >= slowest.input.end:
                reading.remove(slowest)
                slowest.clock_ns = max(slowest.clock_ns, slowest.input.known_ns)
                self._compute(_silence(slowest))
            yield from self._final()
            self._watch(self._done(), self._total)
        self._watch(self._total, self._total)

    def _final(self) -> Iterator[Vectors]:
        """Those of the vectors waiting that all lanes have got to."""
        until_ns = self.final_until_ns
        if until_ns <= self._given_until_ns:
            return
        self._given_until_ns = until_ns
        waiting, self._waiting = self._waiting, []
        for vectors in waiting:
            reached = vectors.ts_ns < until_ns
            found = vectors if reached.all() else vectors.take(np.flatnonzero(reached))
            if len(found) < len(vectors):
                self._waiting.append(vectors.take(np.flatnonzero(~reached)))
            if len(found):
                self.given += len(found)
                yield found

    def _done(self) -> int:
        inputs = [each.input for each in self._open]
        return sum(min(each.reader.position, each.end) - each.start for each in inputs)

    def _read(self, slowest: _Open) -> Batch | None:
        """What the next messages of a partition give, if there are any at the moment."""
        if slowest.input.reader.position >= slowest.input.end:
            return None
        messages = slowest.input.reader.take(MESSAGES_AT_ONCE)
        if messages is None:
            if slowest.input.reader.position < slowest.input.end:
                time.sleep(WAIT_S)
            return None
        kept = messages.first(int(np.searchsorted(messages.offsets, slowest.input.end)))
        if kept is None:
            return None
        stream, partition = slowest.input.partition
        read = slowest.decoder.decode(kept, partition, slowest.clock_ns)
        slowest.clock_ns = read.batch.clock_ns
        self.dead.update({str(reason): n for reason, n in read.dead.rows_by_reason().items()})
        self._refused[stream, "dead"] += sum(read.dead.rows_by_reason().values())
        self._refused[stream, "late"] += sum(read.late.rows_by_reason().values())
        return read.batch

    def _compute(self, batch: Batch | None) -> None:
        for lane, rows in self._route(batch) if batch is not None else ():
            vectors = self._engines[lane].process(rows).vectors
            if vectors is not None:
                times_ns = vectors.ts_ns
                inside = (times_ns >= self._span.from_ns) & (times_ns < self._span.to_ns)
                if inside.any():
                    self._waiting.append(vectors.take(np.flatnonzero(inside)))


def _silence(partition: _Open) -> Batch:
    """A batch without rows that says where the clock of a partition stands."""
    return partition.decoder.nothing(partition.input.partition[1], partition.clock_ns)


@contextmanager
def recomputing(
    plan: FlowPlan,
    feature_set: FeatureSet,
    span: Range,
    history_ns: int | None = None,
    watch: Callable[[int, int], None] = lambda done, total: None,
    not_before: Offsets | None = None,
) -> Iterator[tuple[Recomputation, list[LogInput]]]:
    """Opens the topics of a set, to compute a range of its vectors, and what is read of them.

    Args:
        plan: of a flow with this set alone.
        feature_set: the set.
        span: the range.
        history_ns: how long before the range to begin; by default as long as the set looks back,
            and where that is without bound, at the begin of the archive or the log.
        watch: is told the offsets done and the offsets there are.
        not_before: offsets before which nothing is read, for those partitions that have one.
    """
    if history_ns is None:
        history_ns = needed_history_ns(feature_set)
    opened = LogInputs(plan, feature_set, span, history_ns, not_before)
    try:
        inputs = list(opened.inputs)
        yield Recomputation(plan, feature_set, inputs, span, watch), inputs
    finally:
        opened.close()
