"""Training data: for each event, the features as they stood at its time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl

from operators.feature_set import FeatureSet

if TYPE_CHECKING:
    import pandas as pd
    from feast import FeatureStore

EVENT_TIME = "event_timestamp"
"""The column that holds an event's time, in Feast's spelling."""

INSTANT = pl.Datetime("ns", "UTC")
"""How times are compared."""

_EVENT, _ROW, _RANK, _SEEN = "__event", "__row", "__rank", "__seen"


def training_frame(
    store: FeatureStore,
    feature_sets: FeatureSet | Sequence[FeatureSet],
    entity_frame: pl.DataFrame | pd.DataFrame,
    *,
    as_known: bool = False,
) -> pl.DataFrame:
    """Puts next to each event the newest vector of its entity that is not after it.

    Rows, their order and their other columns stay as they are. A vector at the very time of the
    event counts. Of vectors with the same time, the one known last counts.

    Args:
        store: from :func:`feature_repo.store.apply`, or any Feast store with these views.
        feature_sets: one set, whose features keep their names, or several, whose features are
            called ``view__feature``, since sets share names.
        entity_frame: the sets' join keys and the time ``event_timestamp`` (UTC).
        as_known: take only what had been known at the time of the event: a vector that came or was
            corrected later is not seen. Without it, events see today's best knowledge of the past.

    Raises:
        ValueError: when the frame lacks a key or the time.
    """
    from feature_repo.feast_objects import feature_refs
    from feature_repo.names import join_keys

    sets = [feature_sets] if isinstance(feature_sets, FeatureSet) else list(feature_sets)
    events = (
        entity_frame if isinstance(entity_frame, pl.DataFrame) else pl.from_pandas(entity_frame)
    )
    keys = list(dict.fromkeys(key for each in sets for key in join_keys(each)))
    lacking = [name for name in (*keys, EVENT_TIME) if name not in events.columns]
    if lacking:
        msg = f"entity frame: must have the columns {[*keys, EVENT_TIME]}, lacks {lacking}"
        raise ValueError(msg)
    found = store.get_historical_features(
        entity_df=events.select(*keys, EVENT_TIME).with_row_index(_EVENT).to_pandas(),
        features=[ref for each in sets for ref in feature_refs(each)],
        full_feature_names=len(sets) > 1,
        filter_by_created_timestamp=as_known,
    )
    features = pl.DataFrame(found.to_arrow()).sort(_EVENT).drop(_EVENT, *keys, EVENT_TIME)
    return events.hstack(features)


@dataclass(frozen=True)
class Join:
    """What a point-in-time join of a view's rows to events needs to know.

    Attributes:
        keys: columns that tell entities apart, in both frames.
        event_time: column with the time of an event.
        ts: column with the instant as of which a row is true.
        known_at: column that tells when it was known, if the rows have one.
        columns: what to add to the events, and under which name.
        renamed: the rows' own names of the keys, where the events call them otherwise.
        as_known: whether only rows that were known at the event's time are seen.
        ttl: how old a row may be; zero for any age.
    """

    keys: Sequence[str]
    event_time: str
    ts: str
    known_at: str | None
    columns: dict[str, str]
    renamed: dict[str, str] = field(default_factory=dict)
    as_known: bool = False
    ttl: timedelta = timedelta(0)


def point_in_time(events: pl.DataFrame, rows: pl.DataFrame, join: Join) -> pl.DataFrame:
    """Adds to each event the greatest row of its entity, by time and then by knowledge, it can see.

    Ranks the rows, notes from when on each can be seen, and carries the greatest rank so far along
    that time; then one as-of join finds the rank of each event. O(n log n) and exact to the ns.
    """
    order = [name for name in (join.ts, join.known_at, "n_rows") if name in rows.columns]
    visible = [join.ts, join.known_at] if join.as_known and join.known_at else [join.ts]
    ranked = (
        rows.select(*join.keys, *order)
        .with_row_index(_ROW)
        .sort(order)
        .with_row_index(_RANK)
        .with_columns(pl.max_horizontal(visible).cast(INSTANT).alias(_SEEN))
    )
    seen = (
        ranked.group_by(*join.keys, _SEEN)
        .agg(pl.col(_RANK).max())
        .sort(_SEEN)
        .with_columns(pl.col(_RANK).cum_max().over(join.keys))
    )
    ordered = (
        events.select(*join.keys, pl.col(join.event_time).cast(INSTANT).alias(_SEEN))
        .with_row_index(_EVENT)
        .sort(_SEEN)
    )
    matched = ordered.join_asof(
        seen, on=_SEEN, by=list(join.keys), strategy="backward", check_sortedness=False
    ).sort(_EVENT)
    found = ranked[_ROW].gather(matched[_RANK])
    if join.ttl:
        age = matched[_SEEN] - rows[join.ts].cast(INSTANT).gather(found)
        found = found.set(age > join.ttl, None)
    return events.hstack(
        [rows[source].gather(found).alias(name) for source, name in join.columns.items()]
    )
