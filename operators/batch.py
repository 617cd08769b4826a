"""What flows: batches of rows as columns, never single rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]
Integers = npt.NDArray[np.signedinteger[Any]]
"""Of 32 or 64 bits: numbers of runs and partitions take half the memory."""
Float64s = npt.NDArray[np.float64]
MANY = 16
"""Of so many names a row, it is quicker to sort the rows than to walk through the names."""
MOST_AT_HAND = 2**12
"""Names for all of which something is made, used or not: to find out costs more."""

T = TypeVar("T")
"""What is made of names."""


@dataclass(frozen=True, slots=True)
class Labels:
    """A column of strings: a code per row into a list of distinct names."""

    codes: npt.NDArray[np.int32]
    names: tuple[str, ...]

    def take(self, rows: npt.NDArray[np.bool_] | Int64s) -> Labels:
        """The labels of some rows, by mask or index."""
        return Labels(self.codes[rows], self.names)

    def used(self) -> Labels:
        """The same labels without the names that no row has.

        >>> Labels(np.array([2, 0, 2], np.int32), ("a", "b", "c")).used()
        Labels(codes=array([1, 0, 1], dtype=int32), names=('a', 'c'))
        >>> Labels(np.array([25, 9], np.int32), tuple("abcdefghijklmnopqrstuvwxyz" * 2)).used()
        Labels(codes=array([1, 0], dtype=int32), names=('j', 'z'))
        """
        if len(self.names) > MANY * len(self.codes):
            held, rows = np.unique(self.codes, return_inverse=True)
            return Labels(rows.astype(np.int32), self._names(held))
        used = np.zeros(len(self.names), np.bool_)
        used[self.codes] = True
        if used.all():
            return self
        codes = np.cumsum(used, dtype=np.int32) - np.int32(1)
        return Labels(codes[self.codes], self._names(np.flatnonzero(used)))

    def _names(self, codes: Integers) -> tuple[str, ...]:
        return tuple(map(self.names.__getitem__, codes.tolist()))

    def strings(self) -> list[str]:
        """The string of each row."""
        return list(self._names(self.codes))


class OfNames(Generic[T]):
    """What is made of the names of labels; who brings the same names again finds it ready.

    Args:
        make: makes it of some names, in their order.

    >>> sizes = OfNames(lambda names: [len(name) for name in names])
    >>> sizes.of(Labels(np.array([1, 0, 1], np.int32), ("a", "bcd")))
    ([1, 3], array([1, 0, 1], dtype=int32))
    """

    def __init__(self, make: Callable[[tuple[str, ...]], T]) -> None:
        self._make = make
        self._last: tuple[tuple[str, ...], T] | None = None

    def of(self, labels: Labels) -> tuple[T, npt.NDArray[np.int32]]:
        """What is made, and which of its places each row has."""
        if len(labels.names) > MOST_AT_HAND:
            used = labels.used()
            return self._make(used.names), used.codes
        if self._last is None or self._last[0] is not labels.names:
            self._last = labels.names, self._make(labels.names)
        return self._last[1], labels.codes


@dataclass(frozen=True, slots=True)
class Samples:
    """A column of lists: the samples of row ``i`` are ``flat[start[i]:start[i] + length[i]]``."""

    flat: Float64s
    start: Int64s
    length: Int64s

    def take(self, rows: npt.NDArray[np.bool_] | Int64s) -> Samples:
        """The lists of some rows; the samples themselves are shared."""
        return Samples(self.flat, self.start[rows], self.length[rows])


Values = Float64s | Int64s | Samples


def joined(parts: Sequence[Values]) -> Values:
    """The values of several columns of one kind, one behind the other."""
    lists = [part for part in parts if isinstance(part, Samples)]
    if not lists:
        return np.concatenate([part for part in parts if not isinstance(part, Samples)])
    offsets = np.cumsum([0, *(len(part.flat) for part in lists[:-1])])
    return Samples(
        np.concatenate([part.flat for part in lists]),
        np.concatenate([part.start + offset for part, offset in zip(lists, offsets, strict=True)]),
        np.concatenate([part.length for part in lists]),
    )


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one stream from one partition, in reading order.

    Attributes:
        stream: the stream's name.
        partition: where they come from: a file, a topic's partition.
        clock_ns: the partition's clock: the arrival of its read position. Rows still to be read
            have arrived no earlier.
        keys: the entity of each row.
        series: the series of each row, for a stream that has them.
        ts_ns: event times, ns since the epoch, UTC.
        arrival_ns: arrival times; None for a stream without, whose rows are never late.
        columns: numbers as float64 (NaN for null), ids as int64, samples as lists.
        end: whether the partition ends here.
        positions: where each row stood in its partition, for those that must be told of it.
    """

    stream: str
    partition: str
    clock_ns: int
    keys: Labels
    ts_ns: Int64s
    columns: Mapping[str, Values] = field(default_factory=dict)
    series: Labels | None = None
    arrival_ns: Int64s | None = None
    end: bool = False
    positions: Int64s | None = None

    def __len__(self) -> int:
        return len(self.ts_ns)

    def take(self, rows: npt.NDArray[np.bool_] | Int64s) -> Batch:
        """The batch with only some rows, by mask or index."""
        columns = {
            name: values.take(rows) if isinstance(values, Samples) else values[rows]
            for name, values in self.columns.items()
        }
        return replace(
            self,
            keys=self.keys.take(rows),
            series=self.series.take(rows) if self.series else None,
            ts_ns=self.ts_ns[rows],
            arrival_ns=self.arrival_ns[rows] if self.arrival_ns is not None else None,
            columns=columns,
            positions=self.positions[rows] if self.positions is not None else None,
        )

    def slice(self, start: int, stop: int) -> Batch:
        """The rows ``start .. stop``, without copying them."""
        rows = slice(start, stop)
        columns: dict[str, Values] = {
            name: Samples(values.flat, values.start[rows], values.length[rows])
            if isinstance(values, Samples)
            else values[rows]
            for name, values in self.columns.items()
        }
        return replace(
            self,
            keys=Labels(self.keys.codes[rows], self.keys.names),
            series=Labels(self.series.codes[rows], self.series.names) if self.series else None,
            ts_ns=self.ts_ns[rows],
            arrival_ns=self.arrival_ns[rows] if self.arrival_ns is not None else None,
            columns=columns,
            positions=self.positions[rows] if self.positions is not None else None,
        )


@dataclass(frozen=True, slots=True)
class Vectors:
    """Vectors of one feature set.

    Attributes:
        keys, series: the entity, and its series if the set has them.
        ts_ns: the instant as of which each is true.
        features: float64 per feature; NaN is null; flags are 0 and 1.
        quality: bit ``i`` is the set's ``i``-th quality flag.
        coverage: share of the expected rows that are there.
        known_at_ns: greatest arrival of the rows seen.
        n_rows: number of rows seen.
        final: whether they will never change.
    """

    keys: Labels
    series: Labels | None
    ts_ns: Int64s
    features: Mapping[str, Float64s]
    quality: Int64s
    coverage: Float64s
    known_at_ns: Int64s
    n_rows: Int64s
    final: bool = True

    def __len__(self) -> int:
        return len(self.ts_ns)

    def take(self, rows: Int64s) -> Vectors:
        """Some of the vectors, by index."""
        return replace(
            self,
            keys=self.keys.take(rows),
            series=self.series.take(rows) if self.series else None,
            ts_ns=self.ts_ns[rows],
            features={name: values[rows] for name, values in self.features.items()},
            quality=self.quality[rows],
            coverage=self.coverage[rows],
            known_at_ns=self.known_at_ns[rows],
            n_rows=self.n_rows[rows],
        )


def no_vectors() -> Vectors:
    """None at all, of whatever set.

    >>> len(no_vectors())
    0
    """
    none, nothing = np.empty(0, np.int64), np.empty(0, np.float64)
    keys = Labels(np.empty(0, np.int32), ())
    return Vectors(keys, None, none, {}, none, nothing, none, none)


NO_CLOCK_NS = -(2**62)
"""Clock of a partition that has not been heard of."""
END_CLOCK_NS = 2**62
"""Beyond every instant."""
