"""Feast repositories with each kind of online store that is written past Feast."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from feast import FeatureStore

from feature_repo.feast_objects import all_objects
from feature_repo.names import join_keys, view_name
from operators.batch import Labels, Vectors
from operators.feature_set import FeatureSet
from operators.streams import Field, Stream

SECOND = 1_000_000_000
T0 = 1_700_000_000 * SECOND

BARS = Stream("bars", "instrument_id", (Field("close", unit="price"),), series="timeframe")
CLOSE = BARS.col("close")
PROBE = FeatureSet(
    "probe",
    "v1",
    BARS,
    {"ret": CLOSE.pct_change(1), "n": CLOSE.rolling_count(3), "up": CLOSE.diff() > 0},
    quality={"GAP": BARS.elapsed() > 60, "STALE": BARS.elapsed() > 3600},
)
LEVELS = Stream("levels", "asset_id", (Field("value", unit="volt"),))
ASSET = FeatureSet("asset", "v2", LEVELS, {"mean": LEVELS.col("value").rolling_mean(3)})


def repo(folder: Path, online: str, feature_sets: Any = (PROBE, ASSET), project: str = "riffle"):
    """Registers sets in a repository whose online store is given as lines of YAML."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = "\n".join(f"  {line}" for line in online.splitlines())
    (folder / "feature_store.yaml").write_text(
        f"project: {project}\nprovider: local\nregistry: registry.db\nonline_store:\n{lines}\n"
        "offline_store:\n  type: feature_repo.store.GoldOfflineStore\n"
        "entity_key_serialization_version: 3\n"
    )
    store = opened(folder)
    store.apply(list(all_objects(feature_sets, folder / "gold").values()))
    return store


def opened(folder: Path) -> FeatureStore:
    """Opens a repository, as another process would."""
    return FeatureStore(repo_path=str(folder))


def redis_lines(url: str, *options: str) -> str:
    place = urlsplit(url)
    text = ",".join([f"{place.hostname}:{place.port}", *options])
    return f"type: redis\nconnection_string: {text}"


def postgres_lines(url: str) -> str:
    place = urlsplit(url)
    return (
        f"type: postgres\nhost: {place.hostname}\nport: {place.port or 5432}\n"
        f"database: {place.path.strip('/')}\nuser: {place.username}\n"
        f"password: '{place.password or ''}'\nsslmode: disable"
    )


def row(key=("A", "1m"), ts=0, known=None, n_rows=1, quality=0, coverage=1.0, **features):
    """One vector: times are nanoseconds after T0."""
    return {
        "key": (key,) if isinstance(key, str) else tuple(key),
        "ts": T0 + ts,
        "known": T0 + (ts if known is None else known),
        "n_rows": n_rows,
        "quality": quality,
        "coverage": coverage,
        **features,
    }


def vectors(rows, feature_set: FeatureSet = PROBE, *, final: bool = True) -> Vectors:
    """Vectors as the engine gives them."""

    def column(name, kind=np.int64):
        return np.array([each.get(name, np.nan) for each in rows], kind)

    labels = [_labels([each["key"][n] for each in rows]) for n in range(len(rows[0]["key"]))]
    return Vectors(
        keys=labels[0],
        series=labels[1] if len(labels) > 1 else None,
        ts_ns=column("ts"),
        features={name: column(name, np.float64) for name in feature_set.feature_exprs},
        quality=column("quality"),
        coverage=column("coverage", np.float64),
        known_at_ns=column("known"),
        n_rows=column("n_rows"),
        final=final,
    )


def _labels(names) -> Labels:
    distinct = tuple(sorted(set(names)))
    return Labels(np.array([distinct.index(name) for name in names], np.int32), distinct)


def mark(each, final: bool = True):
    return (each["ts"], each["known"], each["n_rows"], int(final))


def served(store: FeatureStore, keys, feature_set: FeatureSet = PROBE) -> list[dict[str, Any]]:
    """What Feast's reader says of some entities."""
    names = join_keys(feature_set)
    answer = store.get_online_features(
        features=store.get_feature_service(view_name(feature_set)),
        entity_rows=[dict(zip(names, key, strict=True)) for key in keys],
    ).to_dict()
    return [
        {name: values[place] for name, values in answer.items() if name not in names}
        for place in range(len(keys))
    ]
