"""The part of a flow's topics that a range of a set's vectors is made from.

It begins where the archive does, or the log; with less history only where the set looks back over
spans of time alone. It ends where the clocks have passed the range by the delay that late rows are
allowed, or where the log of committed messages ends now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from dataflows.live_plan import FlowPlan, archive_of, clock_margin_ns
from dataflows.settings import SettingsError
from operators.batch import NO_CLOCK_NS
from operators.durations import NS_PER_UNIT
from operators.engine import PartitionId
from operators.feature_set import FeatureSet
from operators.instants import Hop
from operators.plan import compile_plan
from operators.steps import LookBack, SecondsSince
from operators.streams import Stream
from sources.broker_clock import broker_time_ns
from sources.history import ArchiveReader
from sources.kafka_client import (
    Offsets,
    TopicPartitionId,
    list_offsets,
)
from sources.kafka_log import KafkaLog
from sources.kafka_source import ArchiveThenLog
from sources.log_bounds import committed_bounds
from sources.messages import MessageReader

MS = NS_PER_UNIT["ms"]


@dataclass(frozen=True, slots=True)
class Range:
    """The vectors with times from ``from_ns`` up to, but not of, ``to_ns``."""

    from_ns: int
    to_ns: int


@dataclass(frozen=True, slots=True)
class LogInput:
    """A partition of a stream's topic, up to an end.

    Attributes:
        partition: what the engine calls it.
        reader: reads it.
        start: the first offset of the range.
        end: the offset behind the range.
        known_ns: what its clock is at least when all of it is read.
        clipped: whether rows before its start are not there any more.
    """

    partition: PartitionId
    reader: MessageReader
    start: int
    end: int
    known_ns: int
    clipped: bool


def needed_history_ns(feature_set: FeatureSet) -> int | None:
    """How long before a vector's time the oldest row is that it depends on; None if unbounded.

    It is bounded where all windows are spans of time: a number of rows, or the last row of another
    stream, may be any time ago.
    """
    plan = compile_plan(feature_set)
    for domain in plan.domains:
        back = [step for step in domain.steps if isinstance(step, LookBack | SecondsSince)]
        if domain.keep_rows > 1 or back:
            return None
    exprs = [*feature_set.feature_exprs.values(), *feature_set.quality.values()]
    spans_ns = [expr.warm_up.span_ns for expr in [*exprs, feature_set.coverage_expr]]
    hops = [each.instants for each in plan.domains if isinstance(each.instants, Hop)]
    return max(spans_ns) + sum(hop.length_ns for hop in hops)


@dataclass(frozen=True, slots=True)
class _Logs:
    """What is asked of the cluster once, for all partitions.

    Attributes:
        now_ns: a time no later than any stamp behind ``ends``.
        ends: behind all messages, undecided ones among them.
        committed: where the log begins, and how far all is decided.
        begins: the first message of the history that is needed, if it is bounded.
        passed: the first message that shows that the range is complete.
    """

    now_ns: int
    ends: Mapping[TopicPartitionId, int]
    committed: Mapping[TopicPartitionId, tuple[int, int]]
    begins: Mapping[TopicPartitionId, int]
    passed: Mapping[TopicPartitionId, int]


class LogInputs:
    """All partitions that a range of a set's vectors is made from, opened for reading.

    Args:
        plan: of a flow with this set alone.
        feature_set: the set.
        span: the range.
        history_ns: how long before the range to begin; None for all there is.
        not_before: offsets before which nothing is read, for those partitions that have one.
    """

    def __init__(
        self,
        plan: FlowPlan,
        feature_set: FeatureSet,
        span: Range,
        history_ns: int | None,
        not_before: Offsets | None = None,
    ) -> None:
        tables = sorted(stream.name for stream in feature_set.streams if stream.name in plan.tables)
        if tables:
            msg = (
                f"feature set `{feature_set.name}`: must be made from topics to be computed again "
                f"from their log, found tables for {tables}; use `riffle backfill`"
            )
            raise SettingsError(msg)
        self._plan = plan
        self._set = feature_set
        self._not_before = not_before or {}
        self._margin_ns = clock_margin_ns(plan)
        self._passed_ns = span.to_ns + feature_set.max_delay_ns
        self._begin_ns = None if history_ns is None else span.from_ns - history_ns
        self._log = KafkaLog(plan.connection, f"{plan.settings.name}-replay")
        logs = self._ask()
        try:
            self.inputs: Sequence[LogInput] = [
                self._input(stream, number, logs)
                for stream in feature_set.streams
                for number in range(plan.partitions[stream.name])
            ]
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Lets go of all partitions."""
        for each in getattr(self, "inputs", ()):
            each.reader.close()

    def _timed(self, stream: Stream) -> bool:
        """Whether stamps are arrivals, so that they tell where a time is in the log."""
        return self._plan.settings.input_of(stream.name).arrival == "broker"

    def _ask(self) -> _Logs:
        plan, connection = self._plan, self._plan.connection
        places = {
            stream: [(plan.topics[stream.name], n) for n in range(plan.partitions[stream.name])]
            for stream in self._set.streams
        }
        every = [place for found in places.values() for place in found]
        timed = [place for s, found in places.items() if self._timed(s) for place in found]
        # In this order: what is appended behind the ends is stamped with the time or a later one.
        now_ns = broker_time_ns(connection, plan.settings.kafka.clock_topic)
        ends = list_offsets(connection, every, "latest")
        committed = committed_bounds(connection, every)
        begins: Mapping[TopicPartitionId, int] = {}
        if self._begin_ns is not None:
            begins = {}
            for stream, found in places.items():
                if self._timed(stream):
                    begins |= list_offsets(connection, found, self._begin_ms(stream))
        passed = list_offsets(connection, timed, self._passed_ms) if timed else {}
        known_ns = NO_CLOCK_NS if now_ns is None else now_ns - self._margin_ns
        return _Logs(known_ns, ends, committed, begins, passed)

    @property
    def _passed_ms(self) -> int:
        return max(0, -(-(self._passed_ns + self._margin_ns) // MS))

    def _begin_ms(self, stream: Stream) -> int:
        """A stamp that no row of the history is before: rows may be ahead of their arrival."""
        begin_ns = self._begin_ns or 0
        return max(0, (begin_ns - stream.future_skew_ns - self._margin_ns) // MS)

    def _input(self, stream: Stream, number: int, logs: _Logs) -> LogInput:
        place = (self._plan.topics[stream.name], number)
        archive = archive_of(self._plan, stream.name)
        held = archive.bounds(number) if archive else None
        first, end = logs.committed[place]
        if held is not None:
            first = min(first, held[0])
        start, known_ns, timed = first, NO_CLOCK_NS, self._timed(stream)
        if timed:
            known_ns = logs.now_ns if end >= logs.ends[place] else NO_CLOCK_NS
            if self._begin_ns is not None:
                at = archive.offset_at(number, self._begin_ms(stream)) if archive else None
                start = _or_end(logs.begins[place] if at is None else at, end)
            at = archive.offset_at(number, self._passed_ms) if archive else None
            passed = logs.passed[place] if at is None else at
            if 0 <= passed < end:
                end, known_ns = passed, self._passed_ns
        start = min(max(start, self._not_before.get(place, 0)), end)
        open_log = partial(self._log.open, *place, appended=timed)
        reader: MessageReader
        if archive is not None and held is not None and held[0] <= start < held[1]:
            past = ArchiveReader(archive, number, start, appended=timed)
            reader = ArchiveThenLog(past, open_log)
        else:
            reader = open_log(start)
        clipped = first > 0 and start == first
        return LogInput((stream.name, str(number)), reader, start, end, known_ns, clipped)


def _or_end(offset: int, end: int) -> int:
    """An offset that was found, or the end where none was."""
    return offset if offset >= 0 else end
