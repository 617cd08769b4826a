"""Rows that have arrived and are not settled yet, and the order in which they will be applied.

Rows of a run are applied by (time, sequence, content). Of rows with the same identity one is
applied: the same content again is a duplicate; other content is a correction, and the greatest
(arrival, content) wins, or, where the stream allows no corrections, the first stays and the others
are dead.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from operators.batch import Int64s, Integers, Samples, Values, joined
from operators.kernels import ordering
from operators.streams import Stream

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one stream as columns, with the run and the partition of each."""

    run: Integers
    partition: Integers
    ts_ns: Int64s
    arrival_ns: Int64s
    columns: dict[str, Values]

    def __len__(self) -> int:
        return len(self.ts_ns)

    def take(self, rows: Int64s) -> Rows:
        """Some rows, by index."""
        ts_ns = ordering.gather(self.ts_ns, rows)
        return Rows(
            ordering.gather(self.run, rows),
            ordering.gather(self.partition, rows),
            ts_ns,
            *self.take_content(rows, ts_ns),
        )

    def take_content(self, rows: Int64s, ts_ns: Int64s) -> tuple[Int64s, dict[str, Values]]:
        """Arrivals and columns of some rows, whose times are known."""
        arrives_with_time = self.arrival_ns is self.ts_ns
        columns: dict[str, Values] = {
            name: values.take(rows)
            if isinstance(values, Samples)
            else ordering.gather(values, rows)
            for name, values in self.columns.items()
        }
        return ts_ns if arrives_with_time else ordering.gather(self.arrival_ns, rows), columns


_NOTHING = np.zeros(0, np.int64)
NO_ROWS = Rows(_NOTHING, _NOTHING, _NOTHING, _NOTHING, {})


def concatenated(parts: list[Rows]) -> Rows:
    """The rows of several parts, one behind the other."""
    if len(parts) == 1:
        return parts[0]
    same = all(part.arrival_ns is part.ts_ns for part in parts)
    ts_ns = np.concatenate([part.ts_ns for part in parts])
    columns = {name: joined([part.columns[name] for part in parts]) for name in parts[0].columns}
    return Rows(
        np.concatenate([part.run for part in parts]),
        np.concatenate([part.partition for part in parts]),
        ts_ns,
        ts_ns if same else np.concatenate([part.arrival_ns for part in parts]),
        columns,
    )


class Pending:
    """The pending rows of one stream, in chunks by their first time.

    Files that follow each other in time are read side by side, so their rows come interleaved;
    chunk behind chunk they are nearly in order, and quickly sorted.
    """

    def __init__(self) -> None:
        self.chunks: list[Rows] = []
        self.earliest_ns: list[int] = []

    def __len__(self) -> int:
        return sum(map(len, self.chunks))

    def add(self, rows: Rows) -> None:
        """Takes rows in."""
        if len(rows):
            earliest_ns = int(rows.ts_ns.min())
            place = bisect_right(self.earliest_ns, earliest_ns)
            self.chunks.insert(place, rows)
            self.earliest_ns.insert(place, earliest_ns)

    def joined(self) -> Rows | None:
        """All pending rows; None without any."""
        return concatenated(self.chunks) if self.chunks else None

    def take(self, until_ns: int) -> tuple[Rows, Bools] | None:
        """Takes out the rows up to and including an instant; None without any.

        Returns:
            Rows, and which of them are taken out: they are not copied twice.
        """
        count = bisect_right(self.earliest_ns, until_ns)
        if count == 0:
            return None
        rows = concatenated(self.chunks[:count])
        del self.chunks[:count], self.earliest_ns[:count]
        ready = rows.ts_ns <= until_ns
        left = np.flatnonzero(~ready)
        if len(left):
            self.add(compact(rows.take(left)))
        return rows, ready


def compact(rows: Rows) -> Rows:
    """Drops samples that no row refers to any more."""
    columns = dict(rows.columns)
    for name, values in columns.items():
        if isinstance(values, Samples):
            pieces = [
                values.flat[start : start + length]
                for start, length in zip(values.start, values.length, strict=True)
            ]
            start = np.concatenate([[0], np.cumsum(values.length)[:-1]]).astype(np.int64)
            columns[name] = Samples(np.concatenate(pieces), start, values.length)
    return replace(rows, columns=columns)


def canonical(rows: Rows) -> Rows:
    """The same rows in the one order that they alone decide, however they came."""
    every = np.arange(len(rows), dtype=np.int64)
    content = [bits for name in rows.columns for bits in _bits(rows.columns[name], every)]
    keys = (*content, rows.partition, rows.arrival_ns, rows.run, rows.ts_ns)
    return compact(rows.take(np.lexsort(keys)))


@dataclass(frozen=True, slots=True)
class Ordered:
    """Rows in the order in which they are applied, and what became of the others."""

    ts_ns: Int64s
    arrival_ns: Int64s
    columns: dict[str, Values]
    segment_run: Int64s
    segment_start: Int64s
    tied: bool
    """Whether any two share an instant."""
    duplicate: Integers
    """Partition of each duplicate."""
    superseded: Integers
    """Partition of each row that a correction replaced."""
    conflicting: Rows
    """Rows that contradict an earlier one where the stream allows no corrections."""


def ordered(stream: Stream, rows: Rows, ready: Bools, run_count: int) -> Ordered:
    """Puts the rows that are ready into their order, leaving out all but one of each identity."""
    order, segment_run, segment_start = ordering.group_ready_by_run(rows.run, ready, run_count)
    ts_ns = ordering.gather(rows.ts_ns, order)
    if not ordering.sort_times(order, ts_ns, segment_start):
        order = order[np.lexsort((order, rows.ts_ns[order], rows.run[order]))]
        ts_ns = ordering.gather(rows.ts_ns, order)
    nothing = _NOTHING
    if ordering.count_ties(ts_ns, segment_start) == 0:
        content = rows.take_content(order, ts_ns)
        return Ordered(
            ts_ns, *content, segment_run, segment_start, False, nothing, nothing, NO_ROWS
        )
    tied = np.flatnonzero(ordering.mark_ties(ts_ns, segment_start))
    ranked, fate, seen_ns = _settle_ties(stream, rows, order[tied])
    order[tied] = ranked
    keep = np.ones(len(order), np.bool_)
    applied = fate == APPLIED
    keep[tied] = applied
    place = np.cumsum(keep)[tied[applied]] - 1
    dropped = order[tied]
    start = ordering.rows_per_segment(keep, segment_start)
    order, ts_ns = order[keep], ts_ns[keep]
    arrival_ns, columns = rows.take_content(order, ts_ns)
    arrival_ns[place] = seen_ns[applied]
    return Ordered(
        ts_ns,
        arrival_ns,
        columns,
        segment_run,
        start,
        True,
        rows.partition[dropped[fate == DUPLICATE]],
        rows.partition[dropped[fate == SUPERSEDED]],
        rows.take(dropped[fate == CONFLICTING]),
    )


APPLIED, DUPLICATE, SUPERSEDED, CONFLICTING = range(4)


def _bits(values: Values, rows: Int64s) -> list[Int64s]:
    """Integers that are equal exactly where the values' bytes are, for comparing and ordering."""
    if isinstance(values, Samples):
        hashes = [
            int.from_bytes(
                blake2b(values.flat[start : start + length].tobytes(), digest_size=8).digest(),
                signed=True,
            )
            for start, length in zip(values.start[rows], values.length[rows], strict=True)
        ]
        return [np.array(hashes, np.int64), values.length[rows]]
    return [values[rows].view(np.int64)]


def _settle_ties(stream: Stream, rows: Rows, tied: Int64s) -> tuple[Int64s, Int64s, Int64s]:
    """Orders rows that share their instant with another one.

    Args:
        stream: their declaration.
        rows: all rows.
        tied: those to order, grouped by run and time.

    Returns:
        The rows in their final order, what becomes of each, and the greatest arrival of its
        identity: what has been seen must not grow less when an earlier copy is read later.
    """
    run, ts_ns = rows.run[tied].astype(np.int64), rows.ts_ns[tied]
    content = [
        bits for field in stream.fields if field.name in rows.columns
        for bits in _bits(rows.columns[field.name], tied)
    ]  # fmt: skip
    fate = np.full(len(tied), APPLIED)
    seen_ns = rows.arrival_ns[tied]
    if stream.identity is not None:
        identity = [_bits(rows.columns[name], tied)[0] for name in stream.identity]
        by_identity = np.lexsort((*content[::-1], rows.arrival_ns[tied], *identity, ts_ns, run))
        same = _equal_to_next([run, ts_ns, *identity], by_identity)
        bounds = np.flatnonzero(np.concatenate([[True], ~same, [True]]))
        for begin, stop in pairwise(bounds):
            if stop - begin > 1:
                group = by_identity[begin:stop]
                fate[group] = _fates(stream, group, content)
                seen_ns[group] = seen_ns[group].max()
    sequence = [_bits(rows.columns[stream.sequence], tied)[0]] if stream.sequence else []
    final = np.lexsort((rows.arrival_ns[tied], *content[::-1], *sequence, ts_ns, run))
    return tied[final], fate[final], seen_ns[final]


def _equal_to_next(keys: list[Int64s], order: Int64s) -> Bools:
    equal = np.ones(len(order) - 1, np.bool_)
    for key in keys:
        equal &= key[order[1:]] == key[order[:-1]]
    return equal


def _fates(stream: Stream, group: Int64s, content: list[Int64s]) -> Int64s:
    """What becomes of rows of one identity, given by (arrival, content), earliest first."""
    same_as_first = np.ones(len(group), np.bool_)
    same_as_last = np.ones(len(group), np.bool_)
    for bits in content:
        same_as_first &= bits[group] == bits[group[0]]
        same_as_last &= bits[group] == bits[group[-1]]
    if stream.corrections and not same_as_first.all():
        fates = np.where(same_as_last, DUPLICATE, SUPERSEDED)
        fates[-1] = APPLIED
        return fates
    fates = np.where(same_as_first, DUPLICATE, CONFLICTING)
    fates[0] = APPLIED
    return fates
