"""The Feast objects that follow from a feature set, so that no feature is listed a second time.

Per set and version: the entities of its keys, a view over its past that can be pushed to, and a
service. The past is in the set's table where there is a database, and else in the gold dataset. All
carry the version in their name, so that versions are served side by side.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import TypeAlias

from feast import Entity, FeatureService, FeatureView, Field, FileSource, PushSource, ValueType
from feast.data_format import ParquetFormat
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.types import Array, Bool, Float64, Int64, String
from psycopg import sql

from feature_repo.names import join_keys, view_name
from operators.feature_set import FeatureSet

TYPES = {"number": Float64, "count": Int64, "flag": Bool}
"""Feast's type per kind of expression."""

FeastObject: TypeAlias = Entity | PushSource | FeatureView | FeatureService


def dataset_folder(feature_set: FeatureSet, gold_dir: Path) -> Path:
    """Where the vectors of this set and version lie in the gold dataset."""
    return gold_dir / f"feature_set={feature_set.name}" / f"version={feature_set.version}"


def fields(feature_set: FeatureSet) -> list[Field]:
    """What the view serves: the features, the quality flags that are raised, and the coverage."""
    return [
        *(
            Field(
                name=name,
                dtype=TYPES[expr.kind],
                description=expr.formula,
                tags={
                    "unit": str(expr.unit),
                    "warm_up": str(expr.warm_up),
                    "version": feature_set.version,
                },
            )
            for name, expr in feature_set.feature_exprs.items()
        ),
        Field(
            name="quality",
            dtype=Array(String),
            description="names of the quality flags that are raised",
            tags={"flags": ", ".join(feature_set.quality)},
        ),
        Field(
            name="coverage",
            dtype=Float64,
            description="share of the expected rows that are there",
            tags={"unit": "1"},
        ),
    ]


def feature_refs(feature_set: FeatureSet) -> list[str]:
    """All that a set's view serves, spelled as Feast's queries want it."""
    view = view_name(feature_set)
    return [f"{view}:{field.name}" for field in fields(feature_set)]


def entities(feature_set: FeatureSet) -> list[Entity]:
    """One entity per join key; sets with the same key share it."""
    return [
        Entity(
            name=key,
            join_keys=[key],
            value_type=ValueType.STRING,
            description=f"what the column {key} names",
        )
        for key in join_keys(feature_set)
    ]


def history(
    feature_set: FeatureSet, gold_dir: Path, namespace: str | None = None
) -> FileSource | PostgreSQLSource:
    """Where the past of a set is: its table, or its folder of the gold dataset.

    Args:
        feature_set: whose past.
        gold_dir: root of the gold dataset.
        namespace: schema of the tables, where there is a database.
    """
    name = view_name(feature_set)
    times = {"timestamp_field": "ts", "created_timestamp_column": "known_at"}
    what = f"{feature_set.name} {feature_set.version}"
    if namespace is not None:
        return PostgreSQLSource(
            name=f"{name}_table",
            table=sql.Identifier(namespace, name).as_string(None),
            description=f"table of {what}",
            **times,
        )
    return FileSource(
        name=f"{name}_gold",
        path=str(dataset_folder(feature_set, gold_dir)),
        file_format=ParquetFormat(),
        description=f"gold dataset of {what}",
        **times,
    )


def objects(
    feature_set: FeatureSet, gold_dir: Path, namespace: str | None = None
) -> list[FeastObject]:
    """Entities, push source, view and service of one set, over its past; see :func:`history`."""
    name = view_name(feature_set)
    tags = {"feature_set": feature_set.name, "version": feature_set.version, **feature_set.labels}
    past = history(feature_set, gold_dir, namespace)
    push = PushSource(name=f"{name}_push", batch_source=past)
    keys = entities(feature_set)
    view = FeatureView(
        name=name,
        entities=keys,
        # A vector is the newest until there is a newer one; forgetting is the set's own matter.
        ttl=timedelta(0),
        schema=[
            *(Field(name=key, dtype=String) for key in join_keys(feature_set)),
            *fields(feature_set),
        ],
        source=push,
        online=True,
        description=feature_set.description,
        tags={**tags, "fingerprint": feature_set.fingerprint},
    )
    service = FeatureService(
        name=name, features=[view], description=feature_set.description, tags=tags
    )
    return [*keys, push, view, service]


def all_objects(
    feature_sets: Iterable[FeatureSet], gold_dir: Path, namespace: str | None = None
) -> dict[str, FeastObject]:
    """The objects of several sets, each once, by kind and name; see :func:`history`."""
    found: dict[str, FeastObject] = {}
    for feature_set in feature_sets:
        for item in objects(feature_set, gold_dir, namespace):
            found.setdefault(f"{type(item).__name__}_{item.name}", item)
    return found
