"""Messages to batches: every check of a message and its rows, in one order.

A message that fails several is refused for the first: it is there at all, its size, its text
(``sources.json_messages``, ``sources.arrow_messages``), its values (``operators.checks``), then
whether its partition is that of its entity. Rows that pass but arrived too late are put aside.
Nothing here depends on the clock of the wall, nor on which messages are read together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from operators.batch import Batch, Int64s, Integers, Labels, OfNames, joined
from operators.dead_letters import DeadLetters, Reason
from operators.decode import TIME_UNITS, Decoder, without_unused
from operators.durations import show_duration
from operators.streams import Stream
from sources.arrow_messages import ArrowMessages
from sources.json_messages import JsonMessages
from sources.kafka_client import PARTITIONERS
from sources.message_rows import MessageForm, RowGroup, Unread
from sources.messages import Messages, Read
from sources.sound_rows import SoundReader

MOST_BYTES = 256 * 1024
"""The largest message, by default."""
MOST_LABELS = 2**18
"""The most entities whose partition is kept in mind."""
ARRIVAL = "arrival_ts"


class MessageDecoder:
    """Turns messages of one stream into batches.

    Args:
        stream: what their rows are.
        form: ``json``, an object a message; or ``arrow``, an Arrow IPC stream a message.
        arrival: what tells when a row arrived: the ``broker``'s or ``producer``'s stamp of its
            message, or a ``column`` of it.
        partitions: how many partitions the topic has.
        partitioner: how entities are assigned to them: ``murmur2``, ``crc32``, or ``none`` where
            any row may be in any.
        most_bytes: the largest message that is read.

    Attributes:
        stream: as given.
        told_by_broker: whether the broker's stamps tell the arrival of rows.

    Raises:
        ValueError: when form, arrival or partitioner are none of these.
    """

    def __init__(
        self,
        stream: Stream,
        form: str = "json",
        *,
        arrival: str = "broker",
        partitions: int = 1,
        partitioner: str = "murmur2",
        most_bytes: int = MOST_BYTES,
    ) -> None:
        _one_of("form", form, ("json", "arrow"))
        _one_of("arrival", arrival, ("broker", "producer", "column"))
        _one_of("partitioner", partitioner, (*PARTITIONERS, "none"))
        self.stream = stream
        self._stamped = arrival != "column"
        self.told_by_broker = arrival == "broker"
        self._most_bytes = most_bytes
        self._homes = _Homes(partitioner, partitions) if partitioner != "none" else None
        stems = ["start_ts" if stream.start_stamped else "ts"]
        if not self._stamped:
            stems.append(ARRIVAL)
        spellings = [[stem + unit for unit in TIME_UNITS] for stem in stems]
        labels = [stream.entity, *([stream.series] if stream.series else [])]
        times = [name for columns in spellings for name in columns]
        self._times = frozenset([*times, ARRIVAL])
        fields = [field.name for field in stream.fields]
        columns = tuple(dict.fromkeys([*labels, *times, *fields]))
        self._form: MessageForm
        self._short: SoundReader | None = None
        if form == "json":
            self._form = plain = JsonMessages(stream, columns, spellings)
            if self._stamped and SoundReader.can_read(stream, plain.kinds):
                self._short = SoundReader(stream, plain.kinds, spellings[0])
        else:
            self._form = ArrowMessages(columns, spellings)
        self._nothing: Batch | None = None
        self._decoders: dict[tuple[str, ...], Decoder] = {}

    def decode(self, messages: Messages, partition: str, clock_ns: int) -> Read:
        """Gives the rows of some messages, and what could not be used.

        Args:
            messages: in the order of their offsets.
            partition: where they come from, by number.
            clock_ns: the partition's clock before them.
        """
        texts, index, unread = self._sized(messages.values)
        if self.told_by_broker and len(messages):
            clock_ns = max(clock_ns, int(messages.timestamps_ms.max()) * 10**6)
        parts: list[_Rows] = []
        held = np.zeros(len(messages), np.int64)
        if self._short is not None and texts:
            stamps_ms = messages.timestamps_ms[index]
            batch, sound = self._short.read(texts, stamps_ms, partition, clock_ns)
            parts.append(_Rows(batch, index[sound], np.zeros(len(batch), np.int64)))
            held[index[sound]] = 1
            left = np.flatnonzero(~sound)
            texts, index = [texts[number] for number in left.tolist()], index[left]
        groups, others = self._form.rows(texts, index) if texts else ([], [])
        unread += others
        dead: list[Refusal] = []
        for group in groups:
            parts.append(self._decoded(group, messages, partition, clock_ns, dead))
            held += np.bincount(group.message, minlength=len(messages))
        clock_ns = max([clock_ns, *(part.batch.clock_ns for part in parts)])
        rows = self._merged(parts, partition, clock_ns)
        rows = self._at_home(rows, partition, dead)
        late: list[Refusal] = []
        rows = self._in_time(rows, late)
        positions = messages.offsets[rows.message]
        return Read(
            replace(rows.batch, clock_ns=clock_ns, positions=positions),
            self._letters([*unread, *self._by_message(dead, held, messages)], messages, partition),
            self._letters(self._by_message(late, held, messages), messages, partition),
            len(unread) + int(held.sum()),
        )

    def nothing(self, partition: str, clock_ns: int) -> Batch:
        """An empty batch, which says where the clock of a partition stands."""
        if self._nothing is None:
            decoder = self._decoder(["start_ts" if self.stream.start_stamped else "ts", ARRIVAL])
            table = pa.table({name: pa.nulls(0) for name in decoder.columns})
            batch, _ = decoder.decode(table, partition)
            self._nothing = replace(batch, positions=_NONE)
        return replace(self._nothing, partition=partition, clock_ns=clock_ns)

    def _sized(
        self, values: Sequence[bytes | None]
    ) -> tuple[Sequence[bytes], Int64s, list[Unread]]:
        """The messages that are there and not too large, which ones they are, and the others."""
        every = np.arange(len(values))
        if None not in values:
            there: Any = values
            if max(map(len, there), default=0) <= self._most_bytes:
                return there, every, []
        texts: list[bytes] = []
        unread: list[Unread] = []
        for index, value in enumerate(values):
            if value is None:
                words = "a message must have a value, got a tombstone"
                unread.append(Unread(index, Reason.TOMBSTONE, words))
            elif len(value) > self._most_bytes:
                words = f"a message must have at most {self._most_bytes} bytes, got {len(value)}"
                unread.append(Unread(index, Reason.TOO_LARGE, words))
            else:
                texts.append(value)
        return texts, np.delete(every, [letter.message for letter in unread]), unread

    def _decoder(self, columns: Iterable[str]) -> Decoder:
        """The decoder of rows whose times stand in some of the columns."""
        times = tuple(name for name in columns if name in self._times)
        if times not in self._decoders:
            self._decoders[times] = Decoder(self.stream, times, "a message")
        return self._decoders[times]

    def _decoded(
        self,
        group: RowGroup,
        messages: Messages,
        partition: str,
        clock_ns: int,
        dead: list[Refusal],
    ) -> _Rows:
        """The rows of a group that can be used."""
        table, message = group.table, group.message
        if self._stamped:
            stamps = pa.array(messages.timestamps_ms[message], pa.timestamp("ms"))
            table = table.append_column(ARRIVAL, stamps)
        # A message's rows follow each other.
        row = np.arange(len(message)) - np.searchsorted(message, message)
        batch, letters = self._decoder(table.column_names).decode(
            table, partition, clock_ns=clock_ns, originals=lambda rows: [b""] * len(rows)
        )
        if not len(letters):
            return _Rows(batch, message, row)
        refused = np.array(letters.positions)
        of = zip(message[refused].tolist(), row[refused].tolist(), strict=True)
        found = zip(of, letters.reasons, letters.messages, strict=True)
        dead.extend(Refusal(*place, reason, words) for place, reason, words in found)
        kept = np.ones(len(message), np.bool_)
        kept[refused] = False
        return _Rows(batch, message[kept], row[kept])

    def _merged(self, parts: list[_Rows], partition: str, clock_ns: int) -> _Rows:
        """The rows of all groups."""
        filled = [part for part in parts if len(part.message)]
        if len(filled) > 1:
            return _joined(filled)
        return filled[0] if filled else _Rows(self.nothing(partition, clock_ns), _NONE, _NONE)

    def _at_home(self, rows: _Rows, partition: str, dead: list[Refusal]) -> _Rows:
        """The rows that are in the partition of their entity."""
        keys = rows.batch.keys
        if self._homes is None or not len(keys.codes):
            return rows
        homes, codes = self._homes.of(keys)
        strays = (homes != int(partition))[codes]
        if not strays.any():
            return rows
        for index in np.flatnonzero(strays).tolist():
            name, home = keys.names[keys.codes[index]], homes[codes[index]]
            words = (
                f"`{self.stream.entity}` {name!r} belongs to partition {home} of "
                f"{self._homes.partitions}, got it in {partition}; the key of a message must be "
                "its entity"
            )
            dead.append(rows.refusal(index, Reason.WRONG_PARTITION, words))
        return rows.some(~strays)

    def _in_time(self, rows: _Rows, late: list[Refusal]) -> _Rows:
        """The rows that did not arrive too late."""
        arrival_ns = rows.batch.arrival_ns
        if arrival_ns is None or not len(arrival_ns):
            return rows
        delay_ns = arrival_ns - rows.batch.ts_ns
        behind = delay_ns > self.stream.max_delay_ns
        if not behind.any():
            return rows
        must = f"a row must arrive within {show_duration(self.stream.max_delay_ns)} of its time"
        for index in np.flatnonzero(behind).tolist():
            words = f"{must}, got {delay_ns[index] / 1e9:g}s"
            late.append(rows.refusal(index, Reason.LATE, words))
        return rows.some(~behind)

    def _by_message(
        self, refusals: list[Refusal], held: Int64s, messages: Messages
    ) -> Iterable[Unread]:
        """One letter for each message with refused rows: of these alone, if it holds others."""
        refusals.sort()  # no two have one place
        if held.max(initial=0) <= 1:
            for index, _, reason, words in refusals:
                yield Unread(index, reason, words)
            return
        for index, group in groupby(refusals, key=lambda refusal: refusal.message):
            found = list(group)
            total, first = int(held[index]), found[0]
            if total == 1:
                yield Unread(index, first.reason, first.words)
                continue
            words = f"row {first.row} of {total}: {first.words}"
            if len(found) > 1:
                words += f"; {len(found) - 1} more were refused"
            part = None
            if len(found) < total:
                part = self._form.part(messages.values[index] or b"", [one.row for one in found])
            yield Unread(index, first.reason, words, len(found), part)

    def _letters(
        self, letters: Iterable[Unread], messages: Messages, partition: str
    ) -> DeadLetters:
        """Letters in the order of their messages."""
        found = sorted(letters, key=itemgetter(0))
        if not found:
            return DeadLetters(self.stream.name, partition)
        # Unpacked all at once: one by one it would be a third of what a letter costs here.
        places, reasons, words, rows, parts = zip(*found, strict=True)
        values = messages.values
        return DeadLetters(
            self.stream.name,
            partition,
            tuple(messages.offsets[list(places)].tolist()),
            reasons,
            words,
            tuple(
                (values[place] or b"") if part is None else part
                for place, part in zip(places, parts, strict=True)
            ),
            tuple(map(messages.record_of, places)),
            rows,
        )


class Refusal(NamedTuple):
    """A row that could not be used: its message, where it stands in it, why, and in words."""

    message: int
    row: int
    reason: Reason
    words: str


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows, and where each stood: in which message, and where in it."""

    batch: Batch
    message: Int64s
    row: Int64s

    def some(self, rows: npt.NDArray[np.bool_] | Int64s) -> _Rows:
        return _Rows(without_unused(self.batch.take(rows)), self.message[rows], self.row[rows])

    def refusal(self, index: int, reason: Reason, words: str) -> Refusal:
        return Refusal(int(self.message[index]), int(self.row[index]), reason, words)


_NONE = np.empty(0, np.int64)


class _Homes:
    """The partitions of entities.

    Args:
        partitioner: the hash they are assigned by.
        partitions: how many there are.
    """

    def __init__(self, partitioner: str, partitions: int) -> None:
        self.partitions = partitions
        self._hash = PARTITIONERS[partitioner]
        self._known: dict[str, int] = {}
        self._homes = OfNames(self._found)

    def of(self, keys: Labels) -> tuple[Int64s, Integers]:
        """The partitions of entities, and which one each row's has."""
        return self._homes.of(keys)

    def _found(self, names: Sequence[str]) -> Int64s:
        known = self._known
        if len(known) > MOST_LABELS:
            known.clear()
        for name in names:
            if name not in known:
                known[name] = self._hash(name.encode()) % self.partitions
        return np.fromiter(map(known.__getitem__, names), np.int64, len(names))


def _joined(parts: list[_Rows]) -> _Rows:
    """Rows of several groups, in the order of their messages."""
    message = np.concatenate([part.message for part in parts])
    row = np.concatenate([part.row for part in parts])
    order = np.argsort(message, kind="stable")
    batches = [part.batch for part in parts]
    first = batches[0]
    series = [batch.series for batch in batches if batch.series is not None]
    arrivals = [batch.arrival_ns for batch in batches if batch.arrival_ns is not None]
    batch = replace(
        first,
        keys=_joined_labels([batch.keys for batch in batches]),
        series=_joined_labels(series) if series else None,
        ts_ns=np.concatenate([batch.ts_ns for batch in batches]),
        arrival_ns=np.concatenate(arrivals) if arrivals else None,
        columns={
            name: joined([batch.columns[name] for batch in batches]) for name in first.columns
        },
    )
    return _Rows(batch.take(order), message[order], row[order])


def _joined_labels(labels: list[Labels]) -> Labels:
    numbers: dict[str, int] = {}
    codes = []
    for held in (each.used() for each in labels):
        of_names = [numbers.setdefault(name, len(numbers)) for name in held.names]
        codes.append(np.array(of_names, np.int32)[held.codes])
    return Labels(np.concatenate(codes), tuple(numbers))


def _one_of(what: str, given: str, known: Sequence[str]) -> None:
    if given not in known:
        msg = f"{what} of messages must be one of {', '.join(known)}, got {given!r}"
        raise ValueError(msg)
