"""Which rows of a stream are applied, and in which order."""

from __future__ import annotations

import hashlib
import math
import struct
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from operators.streams import Stream

Row = dict[str, Any]
"""``entity``, ``series`` (if the stream has them), ``ts``, ``arrival`` (if it has one), fields."""
Key = tuple[str, str]
"""An entity, and the name of its series, empty where there is none."""


def arrival_ns(row: Row) -> int:
    """When the row arrived; a row of a stream without arrivals, at its own time."""
    arrival = row.get("arrival")
    return int(row["ts"] if arrival is None else arrival)


def key_of(row: Row) -> Key:
    """The run that the row belongs to."""
    return str(row["entity"]), str(row.get("series") or "")


def is_late(stream: Stream, row: Row) -> bool:
    """Lateness is a property of the row alone."""
    return arrival_ns(row) - int(row["ts"]) > stream.max_delay_ns


def stable_hash(text: str) -> int:
    """FNV-1a over UTF-8 with MurmurHash3's finish, as a signed integer of 64 bits."""
    mask = 2**64 - 1
    h = 14695981039346656037
    for byte in text.encode():
        h = (h ^ byte) * 1099511628211 & mask
    h = (h ^ h >> 33) * 0xFF51AFD7ED558CCD & mask
    h = (h ^ h >> 33) * 0xC4CEB9FE1A85EC53 & mask
    h ^= h >> 33
    return h - 2**64 if h >= 2**63 else h


def bits(value: Any) -> Any:
    """What is ordered of a value: its bits as a signed integer; of samples, a digest."""
    if isinstance(value, list | tuple):
        packed = struct.pack(f"<{len(value)}d", *map(as_float, value))
        digest = hashlib.blake2b(packed, digest_size=8).digest()
        return int.from_bytes(digest, "big", signed=True), len(value)
    if isinstance(value, str):
        return stable_hash(value)
    return struct.unpack("<q", struct.pack("<d", as_float(value)))[0]


def as_float(value: float | None) -> float:
    """Null is NaN."""
    return math.nan if value is None else float(value)


def identifier(value: Any) -> int:
    """An id as a number."""
    return stable_hash(value) if isinstance(value, str) else int(value)


def content(stream: Stream, row: Row) -> tuple[Any, ...]:
    """The row's fields in the order of their declaration, comparable."""
    return tuple(
        identifier(row[each.name]) if each.kind == "id" else bits(row.get(each.name))
        for each in stream.fields
    )


@dataclass
class Settled:
    """What became of a stream's rows."""

    applied: dict[Key, list[Row]] = field(default_factory=dict)
    late: list[Row] = field(default_factory=list)
    duplicate: list[Row] = field(default_factory=list)
    superseded: list[Row] = field(default_factory=list)
    conflicting: list[Row] = field(default_factory=list)


def settled(stream: Stream, rows: Sequence[Row]) -> Settled:
    """Leaves out late rows and all but one row of each identity; orders the rows of each run."""
    result = Settled()
    same: dict[Any, list[Row]] = defaultdict(list)
    for number, row in enumerate(rows):
        if is_late(stream, row):
            result.late.append(row)
            continue
        identity: Any = number
        if stream.identity is not None:
            identity = (
                key_of(row),
                row["ts"],
                *(identifier(row[name]) for name in stream.identity),
            )
        same[identity].append(row)
    for group in same.values():
        group.sort(key=lambda row: (arrival_ns(row), content(stream, row)))
        chosen = group.pop(-1 if stream.corrections else 0)
        result.applied.setdefault(key_of(chosen), []).append(chosen)
        for row in group:
            if content(stream, row) == content(stream, chosen):
                result.duplicate.append(row)
            elif stream.corrections:
                result.superseded.append(row)
            else:
                result.conflicting.append(row)
    for run in result.applied.values():
        run.sort(
            key=lambda row: (
                row["ts"],
                identifier(row[stream.sequence]) if stream.sequence else 0,
                content(stream, row),
            )
        )
    return result


def late_rows(stream: Stream, rows: Sequence[Row]) -> list[Row]:
    """The rows that came too late."""
    return [row for row in rows if is_late(stream, row)]
