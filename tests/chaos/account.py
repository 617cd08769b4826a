"""Whether the account that a drained flow keeps says of every message what became of it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from dataflows import live_state, rescale
from dataflows.live_context import NAME
from operators.plan import compile_plan
from operators.snapshot import restore
from tests.chaos import oracle
from tests.chaos.proof import Truth
from tests.chaos.sets import market
from tests.chaos.world import World

NEWS_IDENTITY = ["instrument_id", "event_id", "ts_ns"]


def states(world: World) -> dict[str, dict[str, Any]]:
    """All states of the flow, by step and key, as a restart would find them."""
    root = world.settings.recovery
    found = live_state.read(root)
    assert found is not None
    merged: dict[str, dict[str, Any]] = {}
    for shard in range(max(found.shards, 1)):
        folder = root / live_state.part_name(shard, found.shards)
        for step, by_key in rescale.durable_states(folder).items():
            assert not merged.get(step, {}).keys() & by_key.keys()
            merged.setdefault(step, {}).update(by_key)
    return merged


def engine_counts(by_lane: dict[str, bytes]) -> dict[str, Counter[str]]:
    """What became of the rows of each stream, by the engines of all lanes."""
    counts: dict[str, Counter[str]] = {"bars": Counter(), "news": Counter()}
    plan = compile_plan(market)
    for lane, state in by_lane.items():
        partitions = [(stream, str(int(lane))) for stream in counts]
        account = restore(plan, partitions, state).account
        for row in account.table():
            rest = {k: int(v) for k, v in row.items() if k not in {"stream", "partition"}}
            counts[str(row["stream"])].update(rest)
    return counts


def read_counts(parts: list[dict[str, Any]]) -> Counter[str]:
    """What became of the messages of a stream, by the source's parts."""
    counts: Counter[str] = Counter()
    for part in parts:
        account = dict(part["account"])
        counts.update(account | {"offset": part["offset"], "dead": sum(account["dead"].values())})
    return counts


def expected_counts(given: oracle.Input, identity: list[str], changing: str) -> dict[str, int]:
    """What must have become of a stream's rows."""
    rows = given.rows.select(*identity, changing, "arrival_ts_ns")
    applied = oracle.applied(rows, identity, changing)
    alike = rows.join(applied, on=[*identity, changing])
    duplicate = len(alike) - len(applied)
    return {
        "in": len(rows),
        "applied": len(applied),
        "duplicate": duplicate,
        "superseded": len(rows) - len(alike),
        "late": 0,
        "repair": 0,
        "dead": 0,
        "pending": 0,
    }


def account_problems(world: World, must: Truth) -> list[str]:
    """What is wrong with the account, in words."""
    found = states(world)
    said = []
    counts = engine_counts(found[f"{NAME}.extract_{market.name}.engine"])
    identities = {"bars": (oracle.KEY, "volume"), "news": (NEWS_IDENTITY, "sentiment")}
    for stream, given in must.inputs.items():
        expected = expected_counts(given, *identities[stream])
        if counts[stream] != expected:
            said.append(f"{stream}: engines must say {expected}, found {dict(counts[stream])}")
        parts = [v for k, v in found[f"{NAME}.read"].items() if k.startswith(f"{stream}/")]
        read = read_counts(parts)
        expected = {
            "offset": given.count,
            "messages": given.count,
            "came_in": given.count,
            "rows": len(given.rows),
            "late": len(given.late),
            "dead": len(given.bad),
        }
        if read != expected:
            said.append(f"{stream}: the source must say {expected}, found {dict(read)}")
    return said
