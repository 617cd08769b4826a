"""The embedded Feast store: registry and online values in files, history in the gold dataset.

Feast 0.67's own file stores can't read that history. Dask refuses a folder whose files also hold
their partition columns. DuckDB joins each event with all of its past before it chooses: 3,000
events on 30,000 vectors took 45 s and 11 GiB. It also rounds nanoseconds, so that an event saw a
vector 400 ns after it, and can't materialize from them at all. Hence :class:`GoldOfflineStore`,
which reads with polars.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureStore, FileSource
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import FeastConfigBaseModel

from feature_repo.feast_objects import all_objects
from feature_repo.training import EVENT_TIME, INSTANT, Join, point_in_time
from operators.feature_set import FeatureSet

if TYPE_CHECKING:
    import pandas as pd
    from feast import FeatureView
    from feast.infra.registry.base_registry import BaseRegistry
    from feast.repo_config import RepoConfig
    from feast.saved_dataset import SavedDatasetStorage

SETTINGS = Path(__file__).with_name("feature_store.yaml")


def apply(
    gold_dir: Path | str, repo_dir: Path | str, feature_sets: Iterable[FeatureSet] | None = None
) -> FeatureStore:
    """Registers the served sets and makes their online tables, as ``feast apply`` does.

    Nothing has to be in the gold dataset yet.

    Args:
        gold_dir: root of the gold dataset.
        repo_dir: where registry and online values are kept, in the folder ``data``.
        feature_sets: those to register; by default all served ones.
    """
    if feature_sets is None:
        from feature_repo.sets import SERVED

        feature_sets = SERVED
    store = open_store(repo_dir)
    store.apply(list(all_objects(feature_sets, Path(gold_dir).resolve()).values()))
    return store


def open_store(repo_dir: Path | str) -> FeatureStore:
    """Opens the store under ``repo_dir``.

    Its settings are those of the ``feature_store.yaml`` there, or else those of this package.
    """
    root = Path(repo_dir).resolve()
    if (root / SETTINGS.name).exists():
        return FeatureStore(repo_path=str(root))
    (root / "data").mkdir(parents=True, exist_ok=True)
    return FeatureStore(repo_path=str(root), fs_yaml_file=SETTINGS)


class GoldOfflineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """Settings of :class:`GoldOfflineStore`: none of its own."""

    type: Literal["feature_repo.store.GoldOfflineStore"] = "feature_repo.store.GoldOfflineStore"


class GoldOfflineStore(OfflineStore):  # type: ignore[misc]
    """Feast's offline half over Parquet files: exact to the nanosecond, joins in O(n log n).

    Only reads: the gold dataset is written by the dataflow.
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
                order = [join.ts, *([join.known_at] if join.known_at else [])]
                rows = (
                    _scan(config, view.batch_source, join.renamed, join.keys, order, join.columns)
                    .filter(pl.col(join.ts).cast(INSTANT) <= events[EVENT_TIME].cast(INSTANT).max())
                    .join(events.lazy().select(join.keys).unique(), on=join.keys, how="semi")
                )
                found = point_in_time(found, rows.collect(), join)
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
        order = [timestamp_field, *([created_timestamp_column] if created_timestamp_column else [])]

        def run() -> pa.Table:
            rows = _scan(config, data_source, {}, join_key_columns, order, feature_name_columns)
            within = pl.col(timestamp_field).is_between(start_date, end_date)
            found = rows.filter(within).sort([*order, *_n_rows(rows)])
            return (
                found.unique(join_key_columns, keep="last", maintain_order=True)
                .collect()
                .to_arrow()
            )

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
        order = [timestamp_field, *([created_timestamp_column] if created_timestamp_column else [])]

        def run() -> pa.Table:
            rows = _scan(config, data_source, {}, join_key_columns, order, feature_name_columns)
            if start_date is not None:
                rows = rows.filter(pl.col(timestamp_field) >= start_date)
            if end_date is not None:
                rows = rows.filter(pl.col(timestamp_field) <= end_date)
            return rows.collect().to_arrow()

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
