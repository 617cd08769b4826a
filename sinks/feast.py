"""Feast's online store as a sink: the newest vector of each entity, and never an older one.

Feast's SQLite and PostgreSQL stores overwrite whatever they hold, so a replay would serve the past;
they keep the time of a value in seconds, so it can't be judged by that. Each entity therefore
carries a mark beside its values, written with them: (``ts``, ``known_at``, ``n_rows``), exact. A
vector is written if its mark is not below that of the one served. Feast's own writers, `push` and
`materialize`, know nothing of marks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, TypeAlias

import polars as pl
import pyarrow as pa
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from feast import FeatureStore
from feast.errors import FeatureViewNotFoundException
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Int64List, StringList, Value

from feature_repo.names import join_keys, view_name
from operators.batch import Vectors
from operators.feature_set import FeatureSet

MARK = "__mark"
"""Under this name the mark is stored; no feature can have it, for it begins with `__`."""

BATCH_ENTITIES = 2_000
"""Entities per call of the store, each call one transaction."""

Key: TypeAlias = tuple[str, ...]
Mark: TypeAlias = tuple[int, int, int]
Counts: TypeAlias = dict[str, int]
Encoder: TypeAlias = Callable[[list[Any]], list[Value]]

_ORDER = ["ts", "known_at", "n_rows"]
_NULL, _TRUE, _FALSE = Value(), Value(bool_val=True), Value(bool_val=False)
_INSTANT = pl.Datetime("ns", "UTC")


class FeastOnline:
    """Writes vectors of one set to a store's online half, past Feast's slow path for frames.

    Args:
        store: a store in which the set's view is registered.
        feature_set: whose vectors are written.
        batch: entities per call of the store.

    Attributes:
        written: vectors written.
        passed_over: vectors not written, since there was a newer one of their entity.

    Raises:
        LookupError: when the view is not registered.
    """

    def __init__(
        self, store: FeatureStore, feature_set: FeatureSet, batch: int = BATCH_ENTITIES
    ) -> None:
        name = view_name(feature_set)
        try:
            self._view = store.get_feature_view(name)
        except FeatureViewNotFoundException:
            msg = (
                f"Feast sink: view `{name}` must be registered in project `{store.project}`, found "
                "none; run `feast -c feature_repo apply` or feature_repo.store.apply"
            )
            raise LookupError(msg) from None
        # The one door to the store below `push`; test_feast.py holds that it is still there.
        self._provider = store._get_provider()
        self._config = store.config
        self._set = feature_set
        self._keys = join_keys(feature_set)
        self._encoders: dict[str, Encoder] = {
            **{name: _ENCODERS[expr.kind] for name, expr in feature_set.feature_exprs.items()},
            "quality": _strings,
            "coverage": _numbers,
        }
        self._batch = batch
        self._served: dict[Key, Mark] = {}
        self.written = 0
        self.passed_over = 0

    def write(self, *vectors: pa.Table | Vectors | pl.DataFrame) -> int:
        """Writes of each entity the newest vector, if none newer is served yet.

        Returns:
            The number of vectors written; all are committed.
        """
        rows = self.newest(vectors)
        written = sum(
            self._write_some(rows.slice(start, self._batch))
            for start in range(0, len(rows), self._batch)
        )
        self.written += written
        self.passed_over += len(rows) - written
        return written

    def newest(self, vectors: Iterable[pa.Table | Vectors | pl.DataFrame]) -> pl.DataFrame:
        """Of each entity the newest vector among these, in the columns that are served."""
        frames = [self._frame(each) for each in vectors]
        if not frames:
            return pl.DataFrame(schema=[*self._keys, *_ORDER, *self._encoders])
        rows = pl.concat(frames)
        kept = rows.sort(_ORDER).unique(self._keys, keep="last", maintain_order=True)
        self.passed_over += len(rows) - len(kept)
        return kept

    def _frame(self, vectors: pa.Table | Vectors | pl.DataFrame) -> pl.DataFrame:
        if isinstance(vectors, pl.DataFrame):
            return vectors
        if isinstance(vectors, Vectors):
            from operators.frames import vectors_table

            vectors = vectors_table(self._set, vectors)
        columns = [*self._keys, *_ORDER, *self._encoders]
        lacking = [name for name in columns if name not in vectors.column_names]
        if lacking:
            msg = f"Feast sink of `{self._view.name}`: vectors must have {columns}, lack {lacking}"
            raise ValueError(msg)
        return pl.DataFrame(vectors.select(columns)).with_columns(
            pl.col(self._keys).cast(pl.String), pl.col("ts", "known_at").cast(_INSTANT)
        )

    def _write_some(self, rows: pl.DataFrame) -> int:
        keys = list(zip(*(rows[name].to_list() for name in self._keys), strict=True))
        marks = list(zip(*(rows[name].to_physical().to_list() for name in _ORDER), strict=True))
        self._recall([key for key in keys if key not in self._served])
        newer = [
            row
            for row, key in enumerate(keys)
            if key not in self._served or marks[row] >= self._served[key]
        ]
        if not newer:
            return 0
        if len(newer) < len(rows):
            rows = rows[newer]
            keys, marks = [keys[row] for row in newer], [marks[row] for row in newer]
        cells = [encode(rows[name].to_list()) for name, encode in self._encoders.items()]
        cells.append([Value(int64_list_val=Int64List(val=mark)) for mark in marks])
        names = [*self._encoders, MARK]
        times = [rows[name].dt.cast_time_unit("us").to_list() for name in ("ts", "known_at")]
        self._provider.online_write_batch(
            self._config,
            self._view,
            [
                (self._entity(key), dict(zip(names, values, strict=True)), ts, known_at)
                for key, ts, known_at, *values in zip(keys, *times, *cells, strict=True)
            ],
            None,
        )
        self._served.update(zip(keys, marks, strict=True))
        return len(keys)

    def _recall(self, keys: Sequence[Key]) -> None:
        """Reads the marks of what is served for keys not met yet."""
        if not keys:
            return
        found = self._provider.online_read(
            self._config, self._view, [self._entity(key) for key in keys], [MARK]
        )
        for key, (ts, values) in zip(keys, found, strict=True):
            if values and MARK in values:
                ts_ns, known_at_ns, n_rows = values[MARK].int64_list_val.val
                self._served[key] = (ts_ns, known_at_ns, n_rows)
            elif ts is not None:
                self._served[key] = (_whole_seconds_ns(ts), 0, 0)

    def _entity(self, key: Key) -> EntityKey:
        return EntityKey(join_keys=self._keys, entity_values=[Value(string_val=k) for k in key])


class FeastSink(FixedPartitionedSink[pa.Table | Vectors, Counts]):
    """Feeds Feast's online store from a dataflow of (key group, vectors).

    Takes together what comes within ``wait_s`` or until ``batch`` entities are waiting, since only
    the newest vector of each is served. All is written when a snapshot is taken. State is two
    counts, for what is served is remembered by the store: a resumed flow reads it back.

    Args:
        open_store: opens the store; each partition has its own.
        feature_set: whose vectors come.
        partitions: how many write at once; more than one only for a store with many writers.
        batch: entities per call of the store.
        wait_s: how long a vector waits for company, on the clock of the wall: no value depends on
            it. Zero writes at once.
    """

    def __init__(
        self,
        open_store: Callable[[], FeatureStore],
        feature_set: FeatureSet,
        *,
        partitions: int = 1,
        batch: int = BATCH_ENTITIES,
        wait_s: float = 0.5,
    ) -> None:
        self._open_store = open_store
        self._set = feature_set
        self._partitions = partitions
        self._batch = batch
        self._wait_s = wait_s

    def list_parts(self) -> list[str]:
        """The partitions' names; every worker can build each."""
        return [f"{number:02d}" for number in range(self._partitions)]

    def build_part(
        self, step_id: str, for_part: str, resume_state: Counts | None
    ) -> StatefulSinkPartition[pa.Table | Vectors, Counts]:
        """Opens the store for one partition."""
        online = FeastOnline(self._open_store(), self._set, self._batch)
        if resume_state:
            online.written = resume_state["written"]
            online.passed_over = resume_state["passed_over"]
        return _Part(online, self._batch, self._wait_s)


class _Part(StatefulSinkPartition[pa.Table | Vectors, Counts]):
    """What waits to be written, by entity."""

    def __init__(self, online: FeastOnline, batch: int, wait_s: float) -> None:
        self._online = online
        self._batch = batch
        self._wait_s = wait_s
        self._waiting: pl.DataFrame | None = None
        self._since = 0.0

    def write_batch(self, values: list[pa.Table | Vectors]) -> None:
        if self._waiting is None:
            self._since = time.monotonic()
            self._waiting = self._online.newest(values)
        else:
            self._waiting = self._online.newest([self._waiting, *values])
        waited_s = time.monotonic() - self._since
        if len(self._waiting) >= self._batch or waited_s >= self._wait_s:
            self._flush()

    def snapshot(self) -> Counts:
        self._flush()
        return {"written": self._online.written, "passed_over": self._online.passed_over}

    def close(self) -> None:
        self._flush()

    def _flush(self) -> None:
        if self._waiting is not None:
            self._online.write(self._waiting)
            self._waiting = None


def _numbers(column: list[float | None]) -> list[Value]:
    return [_NULL if value is None else Value(double_val=value) for value in column]


def _counts(column: list[int | None]) -> list[Value]:
    return [_NULL if value is None else Value(int64_val=value) for value in column]


def _flags(column: list[bool | None]) -> list[Value]:
    return [_NULL if value is None else _TRUE if value else _FALSE for value in column]


def _strings(column: list[list[str] | None]) -> list[Value]:
    """Encodes lists of names, of which there are few distinct ones."""
    known: dict[tuple[str, ...], Value] = {}
    cells = []
    for value in column:
        names = tuple(value or ())
        if names not in known:
            known[names] = Value(string_list_val=StringList(val=names))
        cells.append(known[names])
    return cells


_ENCODERS: dict[str, Encoder] = {
    "number": _numbers,
    "count": _counts,
    "flag": _flags,
}


def _whole_seconds_ns(ts: datetime) -> int:
    """The time of a value that somebody else wrote."""
    return int(ts.timestamp()) * 1_000_000_000
