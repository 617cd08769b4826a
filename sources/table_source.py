"""Tables that grow as an input of a Bytewax dataflow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from operators.batch import NO_CLOCK_NS, Batch, Int64s
from operators.dead_letters import DeadLetters, Reason
from operators.decode import Decoder, RefusedInputError, render_rows, without_unused
from operators.durations import show_duration
from operators.streams import Stream
from sources.alignment import Alignment
from sources.database import Database
from sources.kafka_source import Account
from sources.messages import Read
from sources.stop import STOP
from sources.table_columns import TableName
from sources.table_feed import ARRIVAL, Arrived, TableFeed
from sources.table_horizon import NEVER_US

State = dict[str, Any]
"""Where a table stands, as plain values."""

SHORTEST_WAIT = timedelta(milliseconds=1)
LONGEST_WAIT = timedelta(milliseconds=20)
POLL_S = 1.0
BATCH_ROWS = 10_000
"""The most rows of a batch, but for those that arrived at once."""
PARTITION = "0"
"""A table is one partition."""


@dataclass(frozen=True, slots=True)
class TableInput:
    """A table that is read as a stream.

    Attributes:
        stream: what its rows are.
        table: its name, or that of a view.
        start_us: arrival of the first row to read, in microseconds since the epoch; by default
            that of the first there is.
        poll_s: how long to wait between two looks for new rows.
    """

    stream: Stream
    table: str
    start_us: int = NEVER_US
    poll_s: float = POLL_S


class TableDecoder:
    """Turns the rows of a growing table into batches.

    Args:
        stream: what they are.
        table: the table, for messages.
    """

    def __init__(self, stream: Stream, table: str) -> None:
        self.stream = stream
        time = "start_ts" if stream.start_stamped else "ts"
        self._where = f"table `{table}`"
        self._decoders: dict[tuple[str, ...], Decoder] = {}
        self._nothing = self._decoder((time, ARRIVAL)).decode(pa.table({}), PARTITION)[0]

    def _decoder(self, columns: tuple[str, ...]) -> Decoder:
        if columns not in self._decoders:
            self._decoders[columns] = Decoder(self.stream, columns, self._where)
        return self._decoders[columns]

    def decode(self, rows: pa.Table, arrival_us: Int64s, clock_ns: int) -> Read:
        """The rows in time, the late ones and those that can't be used.

        Where a row stood is told by its arrival, in microseconds since the epoch.
        """
        decoder = self._decoder(tuple(rows.column_names))
        batch, dead = decoder.decode(rows, PARTITION, clock_ns=clock_ns)
        kept = np.arange(rows.num_rows)
        if len(dead):
            kept = np.delete(kept, dead.positions)
            dead = replace(dead, positions=tuple(arrival_us[list(dead.positions)].tolist()))
        batch, late = self._in_time(replace(batch, positions=arrival_us[kept]), rows, kept)
        return Read(batch, dead, late, rows.num_rows)

    def nothing(self, clock_ns: int) -> Read:
        """No rows, but where the clock stands."""
        nothing = DeadLetters(self.stream.name, PARTITION)
        batch = replace(self._nothing, clock_ns=clock_ns, positions=np.empty(0, np.int64))
        return Read(batch, nothing, nothing)

    def _in_time(self, batch: Batch, rows: pa.Table, kept: Int64s) -> tuple[Batch, DeadLetters]:
        """Takes out the rows that arrived too late."""
        nothing = DeadLetters(self.stream.name, PARTITION)
        assert batch.arrival_ns is not None  # noqa: S101 - there is always such a column
        delay_ns = batch.arrival_ns - batch.ts_ns
        late = np.flatnonzero(delay_ns > self.stream.max_delay_ns)
        if not len(late):
            return batch, nothing
        must = f"a row must arrive within {show_duration(self.stream.max_delay_ns)} of its time"
        assert batch.positions is not None  # noqa: S101 - as above
        letters = replace(
            nothing,
            positions=tuple(batch.positions[late].tolist()),
            reasons=(Reason.LATE,) * len(late),
            messages=tuple(f"{must}, got {delay_ns[row] / 1e9:g}s" for row in late.tolist()),
            originals=tuple(render_rows(rows, kept[late])),
        )
        return without_unused(batch.take(np.delete(np.arange(len(batch)), late))), letters


class TablePartition(StatefulSourcePartition[Read, State]):
    """A table; it waits while it is too far ahead of the others.

    Args:
        name: the partition's name among all streams.
        given: the table.
        source: what it shares with the others.
        state: where an earlier one stopped.

    Attributes:
        name, topic, number: which it is; its topic is the table.
        clock_ns: its clock.
        account: what became of its rows.
        position: the arrival up to which all rows were read, in microseconds since the epoch.
        end: nobody knows where a table ends.
    """

    end = None

    def __init__(
        self, name: str, given: TableInput, source: TableSource, state: State | None
    ) -> None:
        self.name = name
        self.topic, self.number = given.table, 0
        self._source = source
        self._decoder = TableDecoder(given.stream, given.table)
        state = state or {}
        # One before the first row to read, if that is told.
        start_us = max(NEVER_US, given.start_us - 1)
        self.position: int = state.get("read_us", start_us)
        self.clock_ns: int = state.get("clock_ns", NO_CLOCK_NS)
        self.account = Account(**state.get("account", {}))
        # Who keeps clocks in memory must hear where a resumed partition stands.
        self._greets = self.clock_ns != NO_CLOCK_NS
        self._wait: timedelta | None = None
        source.alignment.join(name, self.clock_ns)
        self._feed = TableFeed(
            source.database,
            given.stream,
            TableName.of(given.table),
            self.position,
            state.get("horizon_us", NEVER_US),
            given.poll_s,
            source.batch_rows,
            source.report,
        )
        self._horizon_us: int = state.get("horizon_us", NEVER_US)

    def next_batch(self) -> list[Read]:
        """One read, or nothing while none has come or the others catch up."""
        if STOP.is_set():
            raise StopIteration
        if self._greets:
            self._greets = False
            return [self._decoder.nothing(self.clock_ns)]
        found = self._feed.take() if self._source.alignment.may_read(self.name) else None
        if found is None:
            self._wait = min(2 * self._wait, LONGEST_WAIT) if self._wait else SHORTEST_WAIT
            return []
        self._wait = None
        return self._read(found)

    def next_awake(self) -> datetime | None:
        """When to look again."""
        return None if self._wait is None else datetime.now(UTC) + self._wait

    def snapshot(self) -> State:
        """Where the next read begins, and what became of the rows before it."""
        return {
            "read_us": self.position,
            "horizon_us": self._horizon_us,
            "clock_ns": self.clock_ns,
            "account": asdict(self.account),
        }

    def close(self) -> None:
        """Lets go of the table."""
        self._source.alignment.leave(self.name)
        self._feed.close()

    def _read(self, found: Arrived) -> list[Read]:
        self.position = found.read_us
        clock_ns = self.clock_ns
        if found.rows is not None:
            read = self._decoder.decode(found.rows, found.arrival_us, clock_ns)
            self.account.add(found.rows.num_rows, read)
            clock_ns = read.batch.clock_ns
        else:
            assert found.horizon_us is not None  # noqa: S101 - it comes without rows
            self._horizon_us = found.horizon_us
            clock_ns = max(clock_ns, found.horizon_us * 1_000)
            if clock_ns == self.clock_ns:
                return []
            read = self._decoder.nothing(clock_ns)
        self.clock_ns = clock_ns
        self._source.alignment.report(self.name, clock_ns)
        return [read]


class TableSource(FixedPartitionedSource[Read, State]):
    """Tables, each read from where an earlier run stopped, as they grow.

    Args:
        inputs: the tables; a stream stands once.
        database: where they are.
        alignment: how far partitions may be ahead of each other; shared with other sources of the
            process, if there are any.
        carried: states that were taken over from another flow's snapshots, by part.
        batch_rows: the most rows of a batch, but for those that arrived at once.
        watch: is shown each partition, for what people see of it.
        report: is told what is wrong with the database, or by None that nothing is.
    """

    def __init__(
        self,
        inputs: Sequence[TableInput],
        database: Database,
        alignment: Alignment,
        carried: Mapping[str, State] | None = None,
        *,
        batch_rows: int = BATCH_ROWS,
        watch: Callable[[TablePartition], None] = lambda partition: None,
        report: Callable[[str | None], None] = lambda trouble: None,
    ) -> None:
        self.database = database
        self.alignment = alignment
        self.batch_rows = batch_rows
        self.report = report
        self._carried = carried or {}
        self._watch = watch
        self._inputs: dict[str, TableInput] = {}
        for given in inputs:
            name = f"{given.stream.name}/{PARTITION}"
            if name in self._inputs:
                msg = f"a stream must be read from one table, found {name!r} twice"
                raise RefusedInputError(msg)
            self._inputs[name] = given

    def list_parts(self) -> list[str]:
        """The tables, each under its stream."""
        return list(self._inputs)

    def build_part(self, step_id: str, for_part: str, resume_state: State | None) -> TablePartition:
        """Opens a table, where an earlier run stopped, or at its start.

        Raises:
            RefusedInputError: when it is none of the inputs.
        """
        if for_part not in self._inputs:
            msg = (
                f"step {step_id!r}: the tables must be those of the run that is resumed, found "
                f"none for {for_part!r}; read the same tables, or start over without the snapshot"
            )
            raise RefusedInputError(msg)
        state = resume_state or self._carried.get(for_part)
        partition = TablePartition(for_part, self._inputs[for_part], self, state)
        self._watch(partition)
        return partition
