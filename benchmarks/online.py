"""What does it cost to serve the newest vectors of many entities through Feast?

Vectors of 24 numbers to Redis and SQLite: by `store.push`; by Feast's provider with values packed
before; to Redis by a pipeline of redis-py with such values; and by ours, the bytes of which are
packed by hand, with marks and fence. Ours is measured twice: what a lane writes, and the whole sink
from vectors to the end of a snapshot. All serve the same before anything is timed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from benchmarks.contest import Timing
from benchmarks.report import Line
from operators.batch import Labels, Vectors
from operators.feature_set import FeatureSet
from operators.frames import vectors_table
from operators.streams import Field, Stream
from sinks.online import OnlineOutput, OnlineSink
from sinks.online_lane import OnlineTenancy
from sinks.online_rows import Newest
from sinks.online_store import Fence, Fencing, value_columns

ADDRESS = "RIFFLE_TEST_REDIS"
"""The environment variable that names a Redis that runs."""
ROOT = Path(__file__).parents[1]
T0 = 1_700_000_000 * 10**9
SECOND_NS = 10**9
GOAL = 3.0
NULLS = 0.02
"""Share of values that are null."""

_LEVELS = Stream("levels", "asset_id", (Field("value"),))
_VALUE = _LEVELS.col("value")
SET = FeatureSet(
    "served", "v1", _LEVELS, {f"mean_{n}": _VALUE.rolling_mean(n) for n in range(1, 25)}
)

Round = Callable[[int], None]
"""Writes all entities, as of a step."""


class NoRedisError(RuntimeError):
    """No Redis to measure with."""


def address() -> str:
    """The Redis that the environment names, or the one of the tests, started if need be."""
    if named := os.environ.get(ADDRESS):
        return named
    told = subprocess.run(
        [sys.executable, "-m", "tests.services", "start", "redis"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = re.search(r"redis://\S+", told.stdout)
    if told.returncode or found is None:
        msg = f"{ADDRESS} must name a Redis, or one must start, found none: {told.stderr.strip()}"
        raise NoRedisError(msg)
    return found[0]


def measure(entities: int, rounds: int) -> tuple[list[Line], list[Timing]]:
    """Has each way write all entities in turn, after what they serve was compared.

    Args:
        entities: how many.
        rounds: how often each way is timed; 0 compares only.
    """
    lines, timings = [], []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        for kind in ("redis", "sqlite"):
            ways = _ways(kind, Path(folder), entities, stack)
            served = {name: _served(store, entities) for name, store in _stores(ways, rounds)}
            wanted = next(iter(served.values()))
            for name, found in served.items():
                assert found == wanted, f"{name} must serve what store.push does"
            timed = {name: Timing(f"{kind}: {name}", entities) for name in ways}
            for step in range(rounds):
                for name, (_, write) in ways.items():
                    began_ns = time.perf_counter_ns()
                    write(2 + step)
                    taken_ns = time.perf_counter_ns() - began_ns
                    timed[name].ns_per_row.append(taken_ns / entities)
            lines += _lines(kind, timed, rounds, entities)
            timings += list(timed.values()) if rounds else []
    return lines, timings


def _lines(kind: str, timed: dict[str, Timing], rounds: int, entities: int) -> list[Line]:
    if not rounds:
        return [Line.value(f"{kind}: entities that all ways serve alike", [entities], "")]
    push = timed["store.push"]
    found = [
        Line.ratio(f"{kind}: {name} / store.push", push, timing, GOAL if "ours" in name else None)
        for name, timing in timed.items()
        if timing is not push
    ]
    whole = timed["ours, the whole sink"]
    rate = Line.value(f"{kind}: entities/s of the whole sink", [1e9 / whole.median], "1/s")
    return [*found, replace(rate, low=rate.found, high=rate.found)]


def _stores(ways: dict[str, tuple[Any, Round]], rounds: int) -> list[tuple[str, Any]]:
    """Has each way write once, and gives the stores."""
    found = []
    for name, (store, write) in ways.items():
        write(1)
        found.append((name, store))
    return found


# -- the ways ----------------------------------------------------------------------------------


def _ways(kind: str, folder: Path, entities: int, stack: ExitStack) -> dict[str, tuple[Any, Round]]:
    names = tuple(f"asset-{number:06d}" for number in range(entities))
    made: list[Callable[[Any, Sequence[str]], Round]] = [_push, _provider]
    titles = ["store.push", "provider, values packed before"]
    if kind == "redis":
        made.append(_pipeline)
        titles.append("redis-py, values packed before")
    ways: dict[str, tuple[Any, Round]] = {}
    for title, make in zip(titles, made, strict=True):
        store = stack.enter_context(_repo(kind, folder))
        ways[title] = (store, make(store, names))
    store = stack.enter_context(_repo(kind, folder))
    ways["ours, what a lane writes"] = (store, _lane(store, names, stack))
    store = stack.enter_context(_repo(kind, folder))
    ways["ours, the whole sink"] = (store, _sink(store, names, stack))
    return ways


def _values(names: Sequence[str], step: int) -> Vectors:
    rng = np.random.default_rng(step)
    count = len(names)
    numbers = rng.standard_normal((24, count))
    numbers[rng.random((24, count)) < NULLS] = np.nan
    ts_ns = np.full(count, T0 + step * SECOND_NS)
    return Vectors(
        keys=Labels(np.arange(count, dtype=np.int32), tuple(names)),
        series=None,
        ts_ns=ts_ns,
        features=dict(zip(SET.feature_exprs, numbers, strict=True)),
        quality=np.zeros(count, np.int64),
        coverage=np.ones(count),
        known_at_ns=ts_ns,
        n_rows=np.full(count, 24),
    )


def _push(store: Any, names: Sequence[str]) -> Round:
    def write(step: int) -> None:
        frame = vectors_table(SET, _values(names, step)).to_pandas()
        frame["asset_id"] = frame["asset_id"].astype(object)
        frame = frame.drop(columns=["feature_set", "version", "n_rows", "final"])
        store.push("served_v1_push", frame)

    return write


def _protos(names: Sequence[str], step: int) -> list[tuple[Any, dict[str, Any], Any, Any]]:
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    newest = Newest(SET)
    newest.add(_values(names, step))
    rows = newest.rows(newest.due(len(names)))
    columns = [list(map(Value.FromString, each)) for each in value_columns(SET, rows)[:-1]]
    fields = [*SET.feature_exprs, "quality", "coverage"]
    at = datetime.fromtimestamp((T0 + step * SECOND_NS) // SECOND_NS, UTC)
    return [
        (
            EntityKey(join_keys=["asset_id"], entity_values=[Value(string_val=name)]),
            dict(zip(fields, values, strict=True)),
            at,
            at,
        )
        for name, *values in zip(names, *columns, strict=True)
    ]


def _provider(store: Any, names: Sequence[str]) -> Round:
    view = store.get_feature_view("served_v1")

    def write(step: int) -> None:
        rows = _protos(names, step)
        for start in range(0, len(rows), 2_000):
            some = rows[start : start + 2_000]
            store._get_provider().online_write_batch(store.config, view, some, None)

    return write


def _pipeline(store: Any, names: Sequence[str]) -> Round:
    from feast.infra.online_stores.helpers import _mmh3, _redis_key
    from google.protobuf.timestamp_pb2 import Timestamp

    client = store._get_provider().online_store._get_client(store.config.online_store)
    fields = {
        name: _mmh3(f"served_v1:{name}") for name in [*SET.feature_exprs, "quality", "coverage"]
    }

    def write(step: int) -> None:
        rows = _protos(names, step)
        for start in range(0, len(rows), 2_000):
            with client.pipeline(transaction=False) as pipe:
                for entity, values, at, _ in rows[start : start + 2_000]:
                    stamp = Timestamp()
                    stamp.FromDatetime(at)
                    cells = {fields[name]: v.SerializeToString() for name, v in values.items()}
                    cells[b"_ts:served_v1"] = stamp.SerializeToString()
                    pipe.hset(_redis_key(store.project, entity, 3), mapping=cells)
                pipe.execute()

    return write


def _lane(store: Any, names: Sequence[str], stack: ExitStack) -> Round:
    from sinks.feast import open_view

    view = open_view(store, SET)
    stack.callback(view.close)
    newest = Newest(SET)
    held: list[Fence | None] = [None]

    def write(step: int) -> None:
        newest.add(_values(names, step))
        while len(at := newest.due(view.batch)):
            then = Fence("bench", "run", (held[-1].count if held[-1] else 0) + 1)
            assert view.write(newest.rows(at), Fencing("lane", held[-1], then))
            held.append(then)
            newest.wrote(at)

    return write


def _sink(store: Any, names: Sequence[str], stack: ExitStack) -> Round:
    sink = OnlineSink(SET, OnlineOutput(lambda: store, 0.5), OnlineTenancy("bench", "job"), [0])
    part = sink.build_part("online", "00", None)
    stack.callback(part.close)

    def write(step: int) -> None:
        vectors = _values(names, step)
        for start in range(0, len(vectors), 1_000):
            part.write_batch([vectors.take(np.arange(start, min(start + 1_000, len(vectors))))])
        part.snapshot()

    return write


# -- the stores ---------------------------------------------------------------------------------


@contextmanager
def _repo(kind: str, folder: Path) -> Any:
    from feast import FeatureStore

    from feature_repo.feast_objects import all_objects

    project = f"bench_{uuid.uuid4().hex[:10]}"
    root = folder / project
    root.mkdir()
    online = "  type: sqlite\n  path: online.db"
    url = address() if kind == "redis" else ""
    if kind == "redis":
        place = urlsplit(url)
        online = f"  type: redis\n  connection_string: {place.hostname}:{place.port}"
    (root / "feature_store.yaml").write_text(
        f"project: {project}\nprovider: local\nregistry: registry.db\nonline_store:\n{online}\n"
        "offline_store:\n  type: feature_repo.store.GoldOfflineStore\n"
        "entity_key_serialization_version: 3\n"
    )
    store = FeatureStore(repo_path=str(root))
    store.apply(list(all_objects([SET], root / "gold").values()))
    try:
        yield store
    finally:
        if kind == "redis":
            _forget(url, project)


def _forget(url: str, project: str) -> None:
    from redis import Redis

    with Redis.from_url(url) as client:
        for some in (f"*{project}", f"riffle:fence:{project}:*"):
            if keys := list(client.scan_iter(some, 10_000)):
                client.delete(*keys)


def _served(store: Any, entities: int) -> dict[str, list[Any]]:
    """What Feast serves of all entities."""
    asked = [{"asset_id": f"asset-{number:06d}"} for number in range(entities)]
    found: dict[str, list[Any]] = store.get_online_features(
        [f"served_v1:{name}" for name in [*SET.feature_exprs, "coverage"]], asked
    ).to_dict()
    return found
