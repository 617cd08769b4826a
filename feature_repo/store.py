"""The embedded Feast store: registry and online values in files, history in tables or gold dataset.

Feast 0.67's own file stores can't read that history. Dask refuses a folder whose files also hold
their partition columns. DuckDB joins each event with all of its past before it chooses: 3,000
events on 30,000 vectors took 45 s and 11 GiB. It also rounds nanoseconds, so that an event saw a
vector 400 ns after it, and can't materialize from them at all. Its PostgreSQL store reads ``ts`` in
microseconds, so that an event sees a vector after it as well, and joins quadratically. Hence
:class:`GoldOfflineStore`, which reads with polars, and tables by :mod:`feature_repo.table_history`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import polars as pl
import polars.selectors as cs
import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureStore, FileSource
from feast.data_source import DataSource
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import FeastConfigBaseModel
from pydantic import SecretStr

from feature_repo import table_history
from feature_repo.feast_objects import all_objects
from feature_repo.training import EVENT_TIME, INSTANT, Join, point_in_time
from operators.feature_set import FeatureSet
from sources.database import Database, DatabaseError

if TYPE_CHECKING:
    import pandas as pd
    from feast import FeatureView
    from feast.infra.registry.base_registry import BaseRegistry
    from feast.repo_config import RepoConfig
    from feast.saved_dataset import SavedDatasetStorage

SETTINGS = Path(__file__).with_name("feature_store.yaml")


URL, URL_FILE, NAMESPACE = (f"RIFFLE_DATABASE__{name}" for name in ("URL", "URL_FILE", "NAMESPACE"))
"""The variables that name the database, as for live flows."""


def told_database() -> Database | None:
    """The database that the environment names, if it does.

    Raises:
        DatabaseError: when the file with its URL can't be read.
    """
    url, path = os.environ.get(URL), os.environ.get(URL_FILE)
    if path and not url:
        try:
            url = Path(path).read_text(encoding="utf-8").rstrip("\n")
        except OSError as error:
            msg = f"{URL_FILE}: must be a readable file, found {path}: {error.strerror}"
            raise DatabaseError(msg) from None
    return Database(url, os.environ.get(NAMESPACE, "riffle")) if url else None


def apply(
    gold_dir: Path | str,
    repo_dir: Path | str,
    feature_sets: Iterable[FeatureSet] | None = None,
    database: Database | None = None,
) -> FeatureStore:
    """Registers the served sets and makes their online tables, as ``feast apply`` does.

    Nothing has to be in the gold dataset or in tables yet.

    Args:
        gold_dir: root of the gold dataset.
        repo_dir: where registry and online values are kept, in the folder ``data``.
        feature_sets: those to register; by default all served ones.
        database: has their past in its tables; without one it is in the gold dataset.
    """
    if feature_sets is None:
        from feature_repo.sets import SERVED

        feature_sets = SERVED
    store = open_store(repo_dir, database)
    namespace = database.schema if database else None
    found = all_objects(feature_sets, Path(gold_dir).resolve(), namespace)
    store.apply(list(found.values()))
    return store


def open_store(repo_dir: Path | str, database: Database | None = None) -> FeatureStore:
    """Opens the store under ``repo_dir``.

    Its settings are those of the ``feature_store.yaml`` there, or else those of this package.

    Args:
        repo_dir: the folder.
        database: has the tables, if there are any; by default the one that the environment names.
    """
    root = Path(repo_dir).resolve()
    if (root / SETTINGS.name).exists():
        store = FeatureStore(repo_path=str(root))
    else:
        (root / "data").mkdir(parents=True, exist_ok=True)
        store = FeatureStore(repo_path=str(root), fs_yaml_file=SETTINGS)
    if database is not None:
        store.config.offline_store.url = SecretStr(database.url)
    return store


class GoldOfflineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """Settings of :class:`GoldOfflineStore`.

    Attributes:
        url: of the database with the tables; by default the one that the environment names.
    """

    type: Literal["feature_repo.store.GoldOfflineStore"] = "feature_repo.store.GoldOfflineStore"
    url: SecretStr | None = None


class GoldOfflineStore(OfflineStore):  # type: ignore[misc]
    """Feast's offline half over tables and Parquet files: exact to the nanosecond, in O(n log n).

    Only reads: tables and gold dataset are written by the dataflow.
    """

    supports_filter_by_created_timestamp = True

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
    ) -> RetrievalJob:
        """Plans the join of views to events; nothing is read before the answer is asked for."""
        if entity_df is None or isinstance(entity_df, str):
            kind = "SQL" if isinstance(entity_df, str) else "None"
            msg = f"entity_df: must be a data frame with keys and `{EVENT_TIME}`, got {kind}"
            raise TypeError(msg)
        events = pl.from_pandas(entity_df)

        def run() -> pa.Table:
            found = events
            for view in feature_views:
                join = _join(view, feature_refs, full_feature_names, filter_by_created_timestamp)
                rows = _seen_by(config, view.batch_source, join, events)
                found = point_in_time(found, rows, join)
            return found.to_arrow()

        times = entity_df[EVENT_TIME]
        return GoldRetrieval(
            run,
            RetrievalMetadata(
                features=feature_refs,
                keys=[name for name in entity_df.columns if name != EVENT_TIME],
                min_event_timestamp=times.min(),
                max_event_timestamp=times.max(),
            ),
            full_feature_names,
            OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry),
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: FileSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """Plans to read the newest row of each entity in a range of time, to materialize it."""
        columns = [*join_key_columns, *feature_name_columns]
        order = (timestamp_field, created_timestamp_column or None)
        span = (start_date, end_date)

        def run() -> pa.Table:
            rows = _within(config, data_source, columns, order, span, join_key_columns)
            # Online stores keep no nanoseconds; Feast would drop them with a warning a cell.
            return rows.with_columns(cs.datetime().dt.cast_time_unit("us")).to_arrow()

        return GoldRetrieval(run)

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: FileSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Plans to read all rows in a range of time."""
        columns = [*join_key_columns, *feature_name_columns]
        order = (timestamp_field, created_timestamp_column or None)
        span = (start_date, end_date)

        def run() -> pa.Table:
            return _within(config, data_source, columns, order, span).to_arrow()

        return GoldRetrieval(run)


class GoldRetrieval(RetrievalJob):  # type: ignore[misc]
    """A planned answer, which is computed when a frame is asked for."""

    def __init__(
        self,
        run: Callable[[], pa.Table],
        metadata: RetrievalMetadata | None = None,
        full_feature_names: bool = False,
        on_demand: Sequence[OnDemandFeatureView] = (),
    ) -> None:
        self._run = run
        self._metadata = metadata
        self._full_feature_names = full_feature_names
        self._on_demand = list(on_demand)

    @property
    def full_feature_names(self) -> bool:
        """Whether features are called ``view__feature``."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """Views that Feast computes from the answer."""
        return self._on_demand

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """What was asked."""
        return self._metadata

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._run()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._run().to_pandas()

    def persist(
        self,
        storage: SavedDatasetStorage,
        allow_overwrite: bool = False,
        timeout: int | None = None,
    ) -> None:
        """Keeps the answer as a Parquet file, for Feast's saved datasets."""
        path = Path(storage.to_data_source().path)
        if path.exists() and not allow_overwrite:
            raise SavedDatasetLocationAlreadyExists(location=str(path))
        pq.write_table(self.to_arrow(), path)


def _join(view: FeatureView, refs: list[str], full_names: bool, as_known: bool) -> Join:
    """Reads from a view, as projected by the query, how to join it."""
    asked_as = view.projection.name_to_use()
    prefix = view.projection.name_alias or view.name
    source, renamed = view.batch_source, view.projection.join_key_map
    wanted = [ref.partition(":")[2] for ref in refs if ref.startswith(f"{asked_as}:")]
    return Join(
        keys=[renamed.get(column.name, column.name) for column in view.entity_columns],
        event_time=EVENT_TIME,
        ts=source.timestamp_field,
        known_at=source.created_timestamp_column or None,
        columns={name: f"{prefix}__{name}" if full_names else name for name in wanted},
        renamed=dict(renamed),
        as_known=as_known,
        ttl=view.ttl or timedelta(0),
    )


def _seen_by(
    config: RepoConfig, source: DataSource, join: Join, events: pl.DataFrame
) -> pl.DataFrame:
    """Reads the rows of a source that events can see, and maybe others."""
    if isinstance(source, PostgreSQLSource):
        database, table = _database(config, source), source.get_table_query_string()
        return table_history.seen_by(database, table, join, events)
    order = [join.ts, *([join.known_at] if join.known_at else [])]
    return (
        _scan(config, source, join.renamed, join.keys, order, join.columns)
        .filter(pl.col(join.ts).cast(INSTANT) <= events[EVENT_TIME].cast(INSTANT).max())
        .join(events.lazy().select(join.keys).unique(), on=join.keys, how="semi")
        .collect()
    )


def _within(
    config: RepoConfig,
    source: DataSource,
    columns: list[str],
    order: tuple[str, str | None],
    span: tuple[datetime | None, datetime | None],
    newest_of: Sequence[str] = (),
) -> pl.DataFrame:
    """Reads the rows of a range of time, or of some keys the newest one of each."""
    if isinstance(source, PostgreSQLSource):
        database, table = _database(config, source), source.get_table_query_string()
        return table_history.within(database, table, columns, order, span, newest_of)
    ts, known_at = order
    rows = _scan(config, source, {}, columns, [ts, *([known_at] if known_at else [])])
    start, end = span
    if start is not None:
        rows = rows.filter(pl.col(ts) >= start)
    if end is not None:
        rows = rows.filter(pl.col(ts) <= end)
    if newest_of:
        by_knowledge = rows.sort([ts, *([known_at] if known_at else []), *_n_rows(rows)])
        rows = by_knowledge.unique(newest_of, keep="last", maintain_order=True)
    return rows.collect()


def _database(config: RepoConfig, source: DataSource) -> Database:
    url = config.offline_store.url
    found = Database(url.get_secret_value()) if url else told_database()
    if found is None:
        msg = (
            f"source `{source.name}`: must have a database to read its table from, found none; set "
            f"{URL} or {URL_FILE}, or `url` of the offline store"
        )
        raise DatabaseError(msg)
    return found


def _scan(
    config: RepoConfig, source: FileSource, renamed: dict[str, str], *columns: Iterable[str]
) -> pl.LazyFrame:
    """Opens the files of a source, for the columns that are asked for and ``n_rows``, if there."""
    files = _files(FileSource.get_uri_for_file_path(config.repo_path, source.path), source.name)
    names = {**source.field_mapping, **renamed}
    rows = pl.scan_parquet(files, hive_partitioning=False).rename(names, strict=False)
    wanted = [name for several in columns for name in several]
    return rows.select(list(dict.fromkeys([*wanted, *_n_rows(rows)])))


def _n_rows(rows: pl.LazyFrame) -> list[str]:
    """The last tie-break among vectors, which other sources need not have."""
    return [name for name in rows.collect_schema().names() if name == "n_rows"]


def _files(path: str, name: str) -> list[str]:
    """Lists the Parquet files of a source, but for hidden ones, which are being written."""
    if "://" in path:
        return [path]
    root = Path(path)
    found = [root] if root.is_file() else sorted(root.rglob("*.parquet"))
    shown = [
        str(file)
        for file in found
        if not any(part.startswith((".", "_")) for part in file.relative_to(root).parts)
    ]
    if not shown:
        msg = f"source `{name}`: must have Parquet files under {path}, found none; backfill first"
        raise FileNotFoundError(msg)
    return shown
