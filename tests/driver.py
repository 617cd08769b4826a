"""Drives the engine over batches as sources read them, and shows vectors as plain values."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from typing import Any

from operators.batch import Batch, Vectors
from operators.engine import Engine
from operators.feature_set import FeatureSet
from operators.kernels.hashing import KEY_GROUPS
from operators.plan import Plan, compile_plan
from operators.route import of_groups
from operators.snapshot import restore, snapshot
from tests.strategies import Read, batch_of

Identity = tuple[str, str, int]
"""Entity, series and time of a vector."""


def batches(feature_set: FeatureSet, reads: Iterable[Read]) -> list[Batch]:
    """The batches that sources would read."""
    streams = {stream.name: stream for stream in feature_set.streams}
    return [batch_of(streams[r.stream], r.rows, r.partition, r.clock_ns, end=r.end) for r in reads]


def bits(value: float) -> int:
    """The bits of a value; all nulls are one."""
    return -1 if math.isnan(value) else int(struct.unpack("<q", struct.pack("<d", value))[0])


def shown(feature_set: FeatureSet, vectors: Vectors | None) -> dict[Identity, dict[str, Any]]:
    """Vectors by identity: features and coverage as floats, quality as names."""
    found: dict[Identity, dict[str, Any]] = {}
    if vectors is None:
        return found
    flags = list(feature_set.quality)
    entities = vectors.keys.strings()
    series = vectors.series.strings() if vectors.series else [""] * len(vectors)
    for i, identity in enumerate(zip(entities, series, vectors.ts_ns.tolist(), strict=True)):
        assert identity not in found, f"{identity} was emitted twice"
        found[identity] = {
            **{name: float(values[i]) for name, values in vectors.features.items()},
            "quality": [flag for bit, flag in enumerate(flags) if vectors.quality[i] >> bit & 1],
            "coverage": float(vectors.coverage[i]),
        }
    return found


def in_bits(vectors: dict[Identity, dict[str, Any]]) -> dict[Identity, dict[str, Any]]:
    """The same with floats as their bits, to compare exactly."""
    return {
        identity: {k: bits(v) if isinstance(v, float) else v for k, v in vector.items()}
        for identity, vector in vectors.items()
    }


def partitions_of(read: Iterable[Batch]) -> list[tuple[str, str]]:
    """The partitions that batches come from."""
    return list(dict.fromkeys((batch.stream, batch.partition) for batch in read))


def emitted(
    feature_set: FeatureSet,
    read: Sequence[Batch],
    *,
    restarts: Iterable[int] = (),
    plan: Plan | None = None,
) -> dict[Identity, dict[str, Any]]:
    """All vectors of one engine, with a snapshot and a restart after some of the batches."""
    plan = plan or compile_plan(feature_set)
    engine = Engine(plan, partitions_of(read))
    found: dict[Identity, dict[str, Any]] = {}
    stops = set(restarts)
    for number, batch in enumerate(read):
        fresh = shown(feature_set, engine.process(batch).vectors)
        assert not fresh.keys() & found.keys(), "a final vector was emitted twice"
        found.update(fresh)
        if number in stops:
            engine = restore(plan, partitions_of(read), snapshot(engine))
    return found


def emitted_by_shards(
    feature_set: FeatureSet, read: Sequence[Batch], shards: int
) -> dict[Identity, dict[str, Any]]:
    """All vectors of several engines, each with its key groups and every partition's clock."""
    found: dict[Identity, dict[str, Any]] = {}
    for shard in range(shards):
        groups = frozenset(group for group in range(KEY_GROUPS) if group % shards == shard)
        part = emitted(feature_set, [of_groups(batch, groups) for batch in read])
        assert not part.keys() & found.keys(), "two shards emitted one vector"
        found.update(part)
    return found
