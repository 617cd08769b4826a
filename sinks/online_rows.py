"""The newest vector of each entity of a lane, and which of them the store has yet to be told.

A vector is newer than another one of its entity if its mark is greater: (time, known at, number of
rows, final), so that a correction at the same time is newer, and the final vector of an instant
newer than its provisional ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.names import join_keys
from operators.batch import Float64s, Int64s, Vectors
from operators.feature_set import FeatureSet
from sinks.online_cells import NO_MARK, Key, KeyEncoder, Marks

MARK_COLUMNS = ("ts_ns", "known_at_ns", "n_rows", "final")
FIRST_ROWS = 256
SERVED, DOUBTED, GIVEN = 0, 1, 2
"""How a vector stands: the store has it; it may not have it any more; it is to be written."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Vectors to be written, of different entities.

    Attributes:
        keys: the entities, in Feast's bytes.
        marks: of each.
        features: a row each, in the order of the set; NaN is null.
        quality: bits of the flags that are raised.
        coverage: share of the expected rows that are there.
    """

    keys: Sequence[bytes]
    marks: Marks
    features: Float64s
    quality: Int64s
    coverage: Float64s

    def __len__(self) -> int:
        return len(self.keys)


class Newest:
    """One row for each entity that a lane has ever given; they are kept for good.

    Args:
        feature_set: whose vectors.

    Attributes:
        passed_over: vectors of which a newer one was there.
    """

    def __init__(self, feature_set: FeatureSet) -> None:
        self.passed_over = 0
        self._names = join_keys(feature_set)
        self._features = list(feature_set.feature_exprs)
        self._encode = KeyEncoder(self._names)
        self._places: dict[Key, int] = {}
        self._keys: list[bytes] = []
        count = FIRST_ROWS
        self._marks: Marks = np.full((count, 4), NO_MARK)
        self._served: Marks = self._marks.copy()
        self._values: Float64s = np.empty((count, len(self._features)))
        self._quality: Int64s = np.zeros(count, np.int64)
        self._coverage: Float64s = np.zeros(count)
        self._state = np.zeros(count, np.int8)
        self._recalled = np.zeros(count, np.bool_)

    def __len__(self) -> int:
        return len(self._keys)

    # -- what the flow gives ----------------------------------------------------------------

    def add(self, vectors: Vectors) -> None:
        """Keeps of each entity the newest vector, if it is not older than the one it has."""
        count = len(vectors)
        at = self._places_of(vectors)
        final = np.full(count, vectors.final, np.int64)
        marks = np.column_stack([vectors.ts_ns, vectors.known_at_ns, vectors.n_rows, final])
        order = np.lexsort((marks[:, 2], marks[:, 1], marks[:, 0], at))
        rows = order[np.append(np.diff(at[order]) != 0, True)] if count else order
        rows = rows[self.may_replace(marks[rows], self._marks[at[rows]])]
        at = at[rows]
        again = self._state[at] == GIVEN  # what it replaces was never written
        self.passed_over += count - len(rows) + int(again.sum())
        self._marks[at] = marks[rows]
        for place, name in enumerate(self._features):
            self._values[at, place] = vectors.features[name][rows]
        self._quality[at] = vectors.quality[rows]
        self._coverage[at] = vectors.coverage[rows]
        self._state[at] = GIVEN

    def may_replace(self, marks: Marks, served: Marks) -> npt.NDArray[np.bool_]:
        """Whether vectors may be put in the place of others of the same entities."""
        return not_older(marks, served)

    def _places_of(self, vectors: Vectors) -> Int64s:
        """The row of each vector's entity; new ones get one."""
        columns = [vectors.keys, *([vectors.series] if vectors.series is not None else [])]
        codes = columns[0].codes.astype(np.int64)
        for column in columns[1:]:
            codes = codes * len(column.names) + column.codes
        distinct, inverse = np.unique(codes, return_inverse=True)
        found = np.empty(len(distinct), np.int64)
        for number, code in enumerate(distinct.tolist()):
            parts = []
            for column in reversed(columns[1:]):
                code, place = divmod(code, len(column.names))  # noqa: PLW2901
                parts.append(column.names[place])
            found[number] = self._place((columns[0].names[code], *reversed(parts)))
        return found[inverse]

    def _place(self, key: Key) -> int:
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = len(self._keys)
            self._keys.append(self._encode(key))
            if place == len(self._marks):
                self._grow()
        return place

    def _grow(self) -> None:
        """Makes room for as many entities again."""
        none = np.full_like(self._marks, NO_MARK)
        self._marks = np.concatenate([self._marks, none])
        self._served = np.concatenate([self._served, none])
        self._values = np.concatenate([self._values, np.empty_like(self._values)])
        self._quality = np.concatenate([self._quality, np.zeros_like(self._quality)])
        self._coverage = np.concatenate([self._coverage, np.zeros_like(self._coverage)])
        self._state = np.concatenate([self._state, np.zeros_like(self._state)])
        self._recalled = np.concatenate([self._recalled, np.zeros_like(self._recalled)])

    # -- what the store has -------------------------------------------------------------------

    def due(self, most: int) -> Int64s:
        """Places of vectors of which the store may have to be told."""
        return np.flatnonzero(self._state[: len(self)])[:most]

    @property
    def waiting(self) -> int:
        """How many :meth:`due` has in all."""
        return int(np.count_nonzero(self._state[: len(self)]))

    def unrecalled(self, at: Int64s) -> Int64s:
        """Those places of which it is not known what the store has."""
        return at[~self._recalled[at]]

    def recall(self, at: Int64s, served: Marks) -> None:
        """Notes the marks of what the store has."""
        self._served[at] = served
        self._recalled[at] = True

    def worth_writing(self, at: Int64s) -> Int64s:
        """Leaves out those of which the store has a newer one, or surely the same."""
        marks, served = self._marks[at], self._served[at]
        given = self._state[at] == GIVEN
        worth = self.may_replace(marks, served) & (given | (marks != served).any(axis=1))
        self.passed_over += int((given & ~worth).sum())
        self._state[at[~worth]] = SERVED
        return at[worth]

    def wrote(self, at: Int64s) -> None:
        """Notes that the store has the vectors of these places."""
        self._served[at] = self._marks[at]
        self._state[at] = SERVED

    def doubt(self) -> None:
        """Has the store asked again what it has of every entity."""
        self._recalled[:] = False
        self._served[:] = NO_MARK
        self._state[: len(self)] = np.maximum(self._state[: len(self)], DOUBTED)

    def keys(self, at: Int64s) -> list[bytes]:
        """The entities of some places."""
        return [self._keys[place] for place in at.tolist()]

    def rows(self, at: Int64s) -> Rows:
        """The vectors of some places."""
        return Rows(
            self.keys(at),
            self._marks[at],
            self._values[at],
            self._quality[at],
            self._coverage[at],
        )

    # -- what a snapshot keeps ----------------------------------------------------------------

    def dump(self) -> bytes:
        """All rows as an Arrow stream."""
        count = len(self)
        parts = list(zip(*self._places, strict=True)) or [()] * len(self._names)
        arrays = [pa.array(names, pa.string()) for names in parts]
        arrays += [pa.array(column) for column in self._marks[:count].T]
        arrays += [pa.array(column) for column in self._values[:count].T]
        arrays += [pa.array(self._quality[:count]), pa.array(self._coverage[:count])]
        table = pa.table(arrays, names=self._layout())
        sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.ipc.new_stream(sink, table.schema, options=options) as stream:
            stream.write_table(table)
        return bytes(sink.getvalue())

    def _layout(self) -> list[str]:
        keys, features = (
            [f"{kind} {name}" for name in names]
            for kind, names in (("key", self._names), ("feature", self._features))
        )
        return [*keys, *MARK_COLUMNS, *features, "quality", "coverage"]

    def load(self, dumped: bytes) -> None:
        """Takes rows that were dumped; the store is to be asked what it has of them."""
        with pa.ipc.open_stream(dumped) as stream:
            table = stream.read_all()
        if table.schema.names != self._layout():
            return  # of another declaration, whose vectors these are not
        names = [table[f"key {name}"].to_pylist() for name in self._names]
        at = np.array([self._place(key) for key in zip(*names, strict=True)], np.int64)
        for place, name in enumerate(MARK_COLUMNS):
            self._marks[at, place] = table[name].to_numpy()
        for place, name in enumerate(self._features):
            self._values[at, place] = table[f"feature {name}"].to_numpy()
        self._quality[at] = table["quality"].to_numpy()
        self._coverage[at] = table["coverage"].to_numpy()
        self._state[at] = DOUBTED


def not_older(marks: Marks, than: Marks) -> npt.NDArray[np.bool_]:
    """Whether each mark is equal to or greater than another one."""
    greater = np.zeros(len(marks), np.bool_)
    equal = np.ones(len(marks), np.bool_)
    for left, right in zip(marks.T, than.T, strict=True):
        greater |= equal & (left > right)
        equal &= left == right
    return greater | equal
