"""The way into Feast's online stores: which of them are written past Feast, and how they are found.

Feast's own writers are slow and unguarded. `store.push` makes an object of each value, and its
SQLite and PostgreSQL stores overwrite whatever they hold, so that a replay would serve the past;
its Redis store drops a correction at the same time. So rows are written in Feast's form without
it, each with a mark by which the newer one is told. What differs in a next version of Feast is
found when a view is opened: rows are written and must come back from Feast's own reader.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
import polars as pl
import pyarrow as pa
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from feast import FeatureStore
from feast.errors import FeatureViewNotFoundException
from feast.infra.key_encoding_utils import deserialize_entity_key
from feast.infra.online_stores.helpers import (
    _mmh3,
    compute_table_id,
    compute_versioned_name,
    get_online_store_from_config,
)
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import StringList, Value

from feature_repo.names import join_keys, view_name
from operators.batch import Float64s, Int64s, Labels, Vectors
from operators.feature_set import FeatureSet
from sinks.errors import DeliveryError
from sinks.online_cells import KEY_VERSION, MARK, NO_MARK, KeyEncoder, Marks, read_marks
from sinks.online_rows import Newest, Rows
from sinks.online_store import Fence, Fencing, ServedView, value_columns

TIMEOUT_S = 5.0
"""How long Redis may take to answer, unless the connection string says otherwise."""
BATCH_ENTITIES = 2_000
"""Entities that wait together."""
PROBE = "__riffle_probe__"
"""Begins the names of entities that are written to be read back, and then deleted."""
SECRETS = ("password", "ssl_password", "sslpassword")
MASK = "[hidden]"

Given: TypeAlias = pa.Table | Vectors | pl.DataFrame
Counts: TypeAlias = dict[str, int]

_INSTANT = pl.Datetime("ns", "UTC")


# -- opening ----------------------------------------------------------------------------------


def open_view(store: FeatureStore, feature_set: FeatureSet, probe: str = "") -> ServedView:
    """Opens a set's view in the online store, and has Feast read what is written there.

    Stores whose kind or settings the ways past Feast do not know are written through it: slower,
    and without a fence.

    Args:
        store: a store in which the view is registered.
        feature_set: the set.
        probe: tells the entities that are written to be read back from those of others.

    Raises:
        LookupError: when the view is not registered.
        DeliveryError: when Feast does not read what is written, or the store refuses it.
        AwayError: when the store can't be reached.
    """
    feast, served = _opened(store, feature_set)
    try:
        _read_back(feast, served, feature_set, f"{PROBE}{probe}")
    except BaseException:
        served.close()
        raise
    finally:
        feast.release()
    return served


def _opened(store: FeatureStore, feature_set: FeatureSet) -> tuple[_Feast, ServedView]:
    view = _registered(store, feature_set)
    if store.config.entity_key_serialization_version != KEY_VERSION:
        msg = (
            f"view `{view.name}`: entity_key_serialization_version must be {KEY_VERSION}, found "
            f"{store.config.entity_key_serialization_version}; set it in feature_store.yaml"
        )
        raise DeliveryError(msg)
    feast = _Feast(store, view)
    return feast, _fast(feast, feature_set) or ProviderView(feast, feature_set)


def _registered(store: FeatureStore, feature_set: FeatureSet) -> Any:
    name = view_name(feature_set)
    try:
        return store.get_feature_view(name)
    except FeatureViewNotFoundException:
        msg = (
            f"Feast sink: view `{name}` must be registered in project `{store.project}`, found "
            "none; run `feast -c feature_repo apply` or feature_repo.store.apply"
        )
        raise LookupError(msg) from None


class _Feast:
    """Feast's own online store of one view, with connections of its own."""

    def __init__(self, store: FeatureStore, view: Any) -> None:
        self.config = store.config
        self.settings = store.config.online_store
        self.view = view
        self.versioned = store.config.registry.enable_online_feature_view_versioning
        self.online = get_online_store_from_config(self.settings)
        if self.kind == "redis":
            self.client()
        elif self.kind == "postgres" and self.settings.conn_type.value == "singleton":
            self.online._conn = _connect(self.settings)

    def client(self) -> Any:
        """Feast's client of Redis, which waits for answers only so long."""
        client = self.online._get_client(self.settings)
        pool = getattr(client, "connection_pool", None)  # a client of a cluster has several
        if pool is not None:
            from redis.backoff import NoBackoff
            from redis.retry import Retry

            pool.connection_kwargs["retry"] = Retry(NoBackoff(), 0)  # lanes try again themselves
            for option in ("socket_timeout", "socket_connect_timeout"):
                if pool.connection_kwargs.get(option) is None:
                    pool.connection_kwargs[option] = TIMEOUT_S
        return client

    @property
    def kind(self) -> str:
        return str(self.settings.type)

    @property
    def table(self) -> str:
        return str(compute_table_id(self.config.project, self.view, self.versioned))

    def read(
        self, entities: Sequence[EntityKey], names: Sequence[str]
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        found: list[tuple[datetime | None, dict[str, Value] | None]] = self.online.online_read(
            self.config, self.view, list(entities), list(names)
        )
        return found

    def make_tables(self) -> None:
        self.online.update(self.config, [], [self.view], [], [], partial=True)
        self.release()

    def hide(self, text: object) -> str:
        shown = str(text)
        for secret in sorted(set(self._secrets()), key=len, reverse=True):
            shown = shown.replace(secret, MASK)
        return shown

    def _secrets(self) -> Iterator[str]:
        given = dict(self.settings)
        if "connection_string" in given and self.kind == "redis":
            parts = str(given["connection_string"]).split(",")
            given |= dict(part.split("=", 1) for part in parts if "=" in part)
        for name, value in given.items():
            if name in SECRETS and value:
                yield str(value)

    def release(self) -> None:
        """Closes the connections that Feast has opened to read, and would open again."""
        for name in ("_conn", "_conn_pool"):
            connection = getattr(self.online, name, None)
            if connection is not None:
                connection.close()
                setattr(self.online, name, None)


def _fast(feast: _Feast, feature_set: FeatureSet) -> ServedView | None:
    """The way past Feast, where there is one."""
    settings = feast.settings
    if getattr(settings, "vector_enabled", False) or getattr(
        settings, "enable_openai_compatible_store", False
    ):
        return None  # there are columns that only Feast fills
    if feast.kind == "redis" and settings.redis_type.value != "redis_cluster":
        from sinks.online_redis import RedisNames, RedisView

        name = compute_versioned_name(feast.view, feast.versioned)
        features = [*feature_set.feature_exprs, "quality", "coverage"]
        fields = {feature: _mmh3(f"{name}:{feature}") for feature in features}
        names = RedisNames(feast.config.project, name, fields, settings.key_ttl_seconds or None)
        return RedisView(feast.client(), names, feature_set, feast.hide)
    if feast.kind == "sqlite":
        from sinks.online_sqlite import SqliteView

        path = Path(feast.online._get_db_path(feast.config))
        return SqliteView(path, feast.table, feature_set, feast.make_tables)
    if feast.kind == "postgres":
        from sinks.online_postgres import PostgresView

        return PostgresView(
            partial(_connect, settings), feast.table, feature_set, feast.make_tables, feast.hide
        )
    return None


def _connect(settings: Any) -> Any:
    from feast.infra.utils.postgres.connection_utils import _get_conn_kwargs, _get_conninfo
    from psycopg import connect

    from sources.database import CONNECTION

    return connect(_get_conninfo(settings), **{**CONNECTION, **_get_conn_kwargs(settings)})


def _read_back(feast: _Feast, served: ServedView, feature_set: FeatureSet, probe: str) -> None:
    """Writes a vector and has Feast read it, so that another form of its bytes is found out."""
    names = [*feature_set.feature_exprs, "quality", "coverage"]
    keys = join_keys(feature_set)
    parts = [f"{probe} {number}" for number in range(len(keys))]
    key = EntityKey(join_keys=keys, entity_values=[Value(string_val=part) for part in parts])
    values, wanted = _probe(feature_set)
    at_ns = 1_700_000_000 * 10**9
    rows = Rows(
        [KeyEncoder(keys)(tuple(parts))],
        np.array([[at_ns, at_ns + 10**9, 7, 1]]),
        values,
        np.array([(1 << len(feature_set.quality)) - 1]),
        np.array([0.5]),
    )
    served.write(rows, None)
    with served.errors():
        at, found = feast.read([key], names)[0]
    served.delete(rows.keys)
    values_read = {name: (found or {}).get(name) for name in names}
    read_ns = None if at is None else int(at.timestamp()) * 10**9
    if values_read != wanted or read_ns != at_ns:
        msg = (
            f"view `{feast.view.name}`: Feast must read from its {feast.kind} store what was "
            f"written there, found {found} of {at}; this version of Feast keeps values in another "
            "form: install the one that requirements.lock names"
        )
        raise DeliveryError(msg)


def _probe(feature_set: FeatureSet) -> tuple[Float64s, dict[str, Value]]:
    """A vector with values of each kind, and of a kind that has several a null; as Feast has it."""
    kinds = [expr.kind for expr in feature_set.feature_exprs.values()]
    given = {"number": -1.5e-7, "count": 300.0, "flag": 1.0}
    known = {
        "number": Value(double_val=-1.5e-7),
        "count": Value(int64_val=300),
        "flag": Value(bool_val=True),
    }
    nulls = {place for place, kind in enumerate(kinds) if kinds.index(kind) < place}
    values = [np.nan if place in nulls else given[kind] for place, kind in enumerate(kinds)]
    wanted = {
        name: Value() if place in nulls else known[kind]
        for place, (name, kind) in enumerate(zip(feature_set.feature_exprs, kinds, strict=True))
    }
    wanted["quality"] = Value(string_list_val=StringList(val=list(feature_set.quality)))
    wanted["coverage"] = Value(double_val=0.5)
    return np.array(values, np.float64).reshape(1, len(kinds)), wanted


class ServedMarks:
    """The marks of what is served of a set, to be compared; nothing is written.

    Args:
        store: a store in which the set's view is registered.
        feature_set: the set.

    Raises:
        LookupError: when the view is not registered.
    """

    def __init__(self, store: FeatureStore, feature_set: FeatureSet) -> None:
        self._feast, self._view = _opened(store, feature_set)
        self._encode = KeyEncoder(join_keys(feature_set))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._view.close()
        self._feast.release()

    def of(self, entities: Sequence[tuple[str, ...]]) -> list[tuple[int, ...] | None]:
        """The mark of each entity: time, known at, rows, final; None where nothing is served."""
        found = self._view.marks([self._encode(entity) for entity in entities]).tolist()
        return [None if mark[0] == NO_MARK else tuple(mark) for mark in found]


# -- the slow way ------------------------------------------------------------------------------


class ProviderView(ServedView):
    """A view in a store of any kind, written by Feast itself; it can keep no fence.

    Args:
        feast: the store.
        feature_set: whose vectors are written.
    """

    fences = False
    batch = 2_000

    def __init__(self, feast: _Feast, feature_set: FeatureSet) -> None:
        self._feast = feast
        self._set = feature_set
        self._names = [*feature_set.feature_exprs, "quality", "coverage", MARK]

    def marks(self, keys: Sequence[bytes]) -> Marks:
        """Has Feast read the marks of some entities."""
        entities = [deserialize_entity_key(key, KEY_VERSION) for key in keys]
        found = self._feast.read(entities, [MARK])
        cells = [(values or {}).get(MARK, Value()).SerializeToString() for _, values in found]
        times = [None if not ts or not values else _whole_seconds_ns(ts) for ts, values in found]
        return read_marks(cells, times)

    def write(self, rows: Rows, fencing: Fencing | None) -> bool:
        """Has Feast write rows; not every store does so in one transaction."""
        self._no_fence(fencing)
        cells = [list(map(Value.FromString, each)) for each in value_columns(self._set, rows)]
        times = [
            pl.Series(rows.marks[:, n]).cast(pl.Datetime("ns", "UTC")).dt.cast_time_unit("us")
            for n in (0, 1)
        ]
        self._feast.online.online_write_batch(
            self._feast.config,
            self._feast.view,
            [
                (
                    deserialize_entity_key(key, KEY_VERSION),
                    dict(zip(self._names, values, strict=True)),
                    ts,
                    known_at,
                )
                for key, ts, known_at, *values in zip(rows.keys, *times, *cells, strict=True)
            ],
            None,
        )
        return True

    def fence(self, lane: str) -> Fence | None:
        """Refuses to."""
        self._no_fence(lane)
        return None

    def _no_fence(self, wanted: object) -> None:
        if wanted is not None:
            msg = (
                f"view `{self._feast.view.name}`: the online store of a live flow must be Redis "
                "(one server or Sentinel), SQLite or PostgreSQL, without vector search, so that "
                "rows are written together with the lane's fence; found "
                f"`{self._feast.kind}` with other settings or of another kind"
            )
            raise DeliveryError(msg)

    def delete(self, keys: Sequence[bytes]) -> None:
        """Leaves them: Feast deletes no single entities."""

    def close(self) -> None:
        """Closes the store."""
        self._feast.release()


def _whole_seconds_ns(ts: datetime) -> int:
    """The time of a value that somebody else wrote."""
    return int(ts.timestamp()) * 1_000_000_000


# -- without lanes -----------------------------------------------------------------------------


class FeastOnline:
    """Serves vectors of one set outside a live flow: of each entity the newest, unless a newer is.

    What is served is looked up with each batch, just before it is written; another writer of the
    same entities should not be at work at that moment, for nothing keeps the two apart.

    Args:
        store: a store in which the set's view is registered.
        feature_set: whose vectors are written.

    Attributes:
        written: vectors written.

    Raises:
        LookupError: when the view is not registered.
    """

    def __init__(self, store: FeatureStore, feature_set: FeatureSet) -> None:
        self._view = open_view(store, feature_set)
        self._set = feature_set
        self._newest = Newest(feature_set)
        self.written = 0

    @property
    def passed_over(self) -> int:
        """Vectors not written, since there was a newer one of their entity."""
        return self._newest.passed_over

    @property
    def waiting(self) -> int:
        """Vectors that were taken and not written."""
        return self._newest.waiting

    def write(self, *vectors: Given) -> int:
        """Writes of each entity the newest vector, if none newer is served yet.

        Returns:
            The number of vectors written; all are committed.
        """
        self.take(vectors)
        return self.flush()

    def take(self, vectors: Iterable[Given]) -> None:
        """Keeps of each entity the newest vector, to be written by :meth:`flush`."""
        for some in vectors:
            parts = [some] if isinstance(some, Vectors) else vectors_of(self._set, some)
            for part in parts:
                self._newest.add(part)

    def flush(self) -> int:
        """Writes what was taken, and gives how many vectors that were."""
        written = 0
        while len(at := self._newest.due(self._view.batch)):
            self._newest.recall(at, self._view.marks(self._newest.keys(at)))
            at = self._newest.worth_writing(at)
            if len(at):
                self._view.write(self._newest.rows(at), None)
                self._newest.wrote(at)
                written += len(at)
        self.written += written
        return written

    def close(self) -> None:
        """Lets go of the store."""
        self._view.close()


def vectors_of(feature_set: FeatureSet, table: pa.Table | pl.DataFrame) -> Iterator[Vectors]:
    """A table of vectors as the engine has them, final ones apart from others.

    Args:
        feature_set: whose they are.
        table: with the columns of :func:`operators.frames.schema`; those that say the same of all
            vectors may be left out.

    Raises:
        ValueError: when it lacks a column.
    """
    keys = join_keys(feature_set)
    features = list(feature_set.feature_exprs)
    wanted = [*keys, "ts", *features, "quality", "coverage", "known_at", "n_rows"]
    names = table.columns if isinstance(table, pl.DataFrame) else table.column_names
    if lacking := [name for name in wanted if name not in names]:
        msg = (
            f"Feast sink of `{view_name(feature_set)}`: vectors must have {wanted}, lack {lacking}"
        )
        raise ValueError(msg)
    chosen = [*wanted, *(["final"] if "final" in names else [])]
    frame = pl.DataFrame(table.select(chosen))
    if "final" not in names:
        frame = frame.with_columns(final=True)
    for final in (False, True):
        rows = frame.filter(pl.col("final") == final)
        if len(rows):
            yield Vectors(
                keys=_labels(rows[keys[0]]),
                series=_labels(rows[keys[1]]) if len(keys) > 1 else None,
                ts_ns=_ns(rows["ts"]),
                features={name: rows[name].cast(pl.Float64).to_numpy() for name in features},
                quality=_bits(list(feature_set.quality), rows["quality"]),
                coverage=rows["coverage"].to_numpy(),
                known_at_ns=_ns(rows["known_at"]),
                n_rows=rows["n_rows"].to_numpy(),
                final=final,
            )


def _labels(column: pl.Series) -> Labels:
    names = column.cast(pl.String).unique(maintain_order=True)
    codes = column.cast(pl.Enum(names)).to_physical().to_numpy().astype(np.int32)
    return Labels(codes, tuple(names.to_list()))


def _ns(column: pl.Series) -> Int64s:
    return column.cast(_INSTANT).to_physical().to_numpy()


def _bits(names: Sequence[str], column: pl.Series) -> Int64s:
    bit = {name: 1 << place for place, name in enumerate(names)}
    if unknown := set(column.explode().drop_nulls().to_list()) - set(names):
        msg = f"Feast sink: quality must name flags of the set, {names}, found {sorted(unknown)}"
        raise ValueError(msg)
    return np.array([sum(bit[name] for name in raised) for raised in column.to_list()], np.int64)


class FeastSink(FixedPartitionedSink[pa.Table | Vectors, Counts]):
    """Feeds Feast's online store from a dataflow of (key group, vectors), such as a backfill.

    Takes together what comes within ``wait_s`` or until ``batch`` entities are waiting, since only
    the newest vector of each is served. All is written when a snapshot is taken. State is two
    counts, for what is served is remembered by the store.

    Args:
        open_store: opens the store; each partition has its own.
        feature_set: whose vectors come.
        partitions: how many write at once; more than one only for a store with many writers.
        batch: entities that wait together.
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
        online = FeastOnline(self._open_store(), self._set)
        return _Part(online, self._batch, self._wait_s, resume_state or {})


class _Part(StatefulSinkPartition[pa.Table | Vectors, Counts]):
    """What waits to be written, by entity."""

    def __init__(self, online: FeastOnline, batch: int, wait_s: float, before: Counts) -> None:
        self._online = online
        self._batch = batch
        self._wait_s = wait_s
        self._before = before
        self._since: float | None = None

    def write_batch(self, values: list[pa.Table | Vectors]) -> None:
        if self._since is None:
            self._since = time.monotonic()
        self._online.take(values)
        waited_s = time.monotonic() - self._since
        if self._online.waiting >= self._batch or waited_s >= self._wait_s:
            self._flush()

    def snapshot(self) -> Counts:
        self._flush()
        counts = {"written": self._online.written, "passed_over": self._online.passed_over}
        return {name: count + self._before.get(name, 0) for name, count in counts.items()}

    def close(self) -> None:
        self._flush()
        self._online.close()

    def _flush(self) -> None:
        self._online.flush()
        self._since = None
