"""The online store as the proofs see it: read with Feast's own reader and by hand, and watched."""

from __future__ import annotations

import math
import re
import struct
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import mmh3
import numpy as np
import polars as pl
import redis
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from tests.chaos import oracle
from tests.chaos.messages import TIMEFRAMES_MS, partition_of
from tests.chaos.oracle import FLAGS, FLOATS, KEY
from tests.chaos.sets import market
from tests.chaos.watch import now_ms

if TYPE_CHECKING:
    from feast import FeatureStore

VIEW = f"{market.name}_{market.version}"
COUNT = "event_count_10s"
SERVED = (*FLOATS, COUNT, "quality", "coverage")
TIME = f"_ts:{VIEW}".encode()
POLL_S = 0.15
WATCHED = 25
"""Instruments of each partition that are watched."""
MOST_KEPT = 20

Raw: TypeAlias = tuple[bytes, ...]
Entity: TypeAlias = tuple[str, str]


def hash_of(name: str) -> bytes:
    """Where a value stands in an entity's hash."""
    return struct.pack("<I", mmh3.hash(f"{VIEW}:{name}", signed=False))


FIELDS = [TIME, *(hash_of(name) for name in SERVED)]
_TYPES: dict[str, type[pl.DataType]] = {
    "instrument_id": pl.String,
    "timeframe": pl.String,
    **dict.fromkeys((*FLOATS, "coverage"), pl.Float64),
    **dict.fromkeys((COUNT, "ts_ns", "flags"), pl.Int64),
}


def entities(instruments: int) -> list[Entity]:
    """All that may be looked up."""
    return [(f"I{number:04d}", frame) for number in range(instruments) for frame in TIMEFRAMES_MS]


def number(value: Any) -> float:
    """A number, null as NaN."""
    return math.nan if value is None else float(value)


def frame_of(rows: Iterable[dict[str, Any]]) -> pl.DataFrame:
    """Values by name as the oracle has them."""
    columns: dict[str, list[Any]] = {name: [] for name in (*KEY, *SERVED)}
    for row in rows:
        for name, column in columns.items():
            column.append(row[name])
    quality = columns.pop("quality")
    columns["flags"] = [sum(FLAGS[name] for name in names or ()) for names in quality]
    for name in (*FLOATS, "coverage"):
        columns[name] = [number(value) for value in columns[name]]
    return pl.DataFrame(columns, schema_overrides=_TYPES)


def decoded(raw: Sequence[bytes | None]) -> dict[str, Any]:
    """The values of an entity as Redis holds them, in the order of `FIELDS`."""
    row: dict[str, Any] = {"ts_ns": ns_of(raw[0] or b"")}
    for name, value in zip(SERVED, raw[1:], strict=True):
        held = Value.FromString(value or b"")
        kind = held.WhichOneof("val")
        row[name] = None if kind is None else getattr(held, kind)
        if kind == "string_list_val":
            row[name] = list(held.string_list_val.val)
    return row


def ns_of(stamp: bytes) -> int:
    """A time as Feast keeps it."""
    return int(Timestamp.FromString(stamp).ToNanoseconds())


class Online:
    """The online store of the set on Redis.

    Args:
        at: host and port of Redis.
        project: in Feast, so that others may use the same Redis.
    """

    def __init__(self, at: str, project: str) -> None:
        self.at = at
        self.project = project
        self.folder = Path()

    def make(self, folder: Path) -> None:
        """Makes a Feast repository and registers the set, as ``feast apply`` does."""
        from feature_repo.feast_objects import all_objects

        folder.mkdir()
        (folder / "feature_store.yaml").write_text(
            f"project: {self.project}\n"
            "provider: local\n"
            "registry: registry.db\n"
            f"online_store:\n  type: redis\n  connection_string: {self.at}\n"
            "offline_store:\n  type: feature_repo.store.GoldOfflineStore\n"
            "entity_key_serialization_version: 3\n"
        )
        self.folder = folder
        self.store.apply(list(all_objects([market], folder / "gold").values()))

    @cached_property
    def store(self) -> FeatureStore:
        """Feast, which only reads."""
        from feast import FeatureStore

        return FeatureStore(repo_path=str(self.folder))

    def client(self) -> redis.Redis:
        """A plain client."""
        host, _, port = self.at.partition(":")
        return redis.Redis(host, int(port), socket_timeout=5, socket_connect_timeout=5)

    def served(self, instruments: int) -> pl.DataFrame:
        """What Feast serves of all entities that have a vector."""
        asked = [dict(zip(KEY, entity, strict=False)) for entity in entities(instruments)]
        answer = self.store.get_online_features([f"{VIEW}:{name}" for name in SERVED], asked)
        found = answer.proto
        names = list(found.metadata.feature_names.val)
        results = dict(zip(names, found.results, strict=True))
        stamps = results[SERVED[0]].event_timestamps
        values = answer.to_dict()

        def rows() -> Iterator[dict[str, Any]]:
            for index, entity in enumerate(asked):
                ts_ns = stamps[index].ToNanoseconds()
                if ts_ns > 0:
                    own = {name: values[name][index] for name in SERVED}
                    yield {**entity, "ts_ns": ts_ns, **own}

        return frame_of(rows())

    def held(self) -> pl.DataFrame:
        """What Redis holds, read without Feast, but for its messages."""
        client = self.client()
        pattern = re.compile(rb"(I\d{4}).*?(500ms|1s)", re.DOTALL)
        keys = list(client.scan_iter(f"*{self.project}", 1_000))
        pipe = client.pipeline(transaction=False)
        owned = [(found, key) for key in keys if (found := pattern.search(key))]
        for _, key in owned:
            pipe.hmget(key, FIELDS)
        rows = []
        for (found, _), raw in zip(owned, pipe.execute(), strict=True):
            name, frame = (part.decode() for part in found.groups())
            rows.append({"instrument_id": name, "timeframe": frame, **decoded(raw)})
        return frame_of(rows)

    def forget(self) -> None:
        """Removes what is in Redis of this project."""
        client = self.client()
        for key in client.scan_iter(f"*{self.project}*", 1_000):
            client.delete(key)

    def wait_complete(self, newest: pl.DataFrame, quiet_s: float) -> None:
        """Waits until the newest vectors are served, or nothing changes any more."""
        before, changed_s = pl.DataFrame(), time.monotonic()
        while True:
            try:
                found = self.held()
            except redis.RedisError:
                continue
            if oracle.compare_keys(found, newest) == []:
                return
            if not found.equals(before):
                before, changed_s = found, time.monotonic()
            elif time.monotonic() - changed_s > quiet_s:
                return
            time.sleep(POLL_S)

    def problems(
        self, by_formula: pl.DataFrame, in_one_go: pl.DataFrame, instruments: int, relative: float
    ) -> list[str]:
        """Everything that is wrong with what is served, in words."""
        said = []
        for reader, found in (("Feast", self.served(instruments)), ("Redis", self.held())):
            wrong = oracle.compare_keys(found, by_formula)
            wrong += oracle.compare_values(found, by_formula, oracle.FORMULAS, relative)
            in_bits = oracle.compare_values(found, in_one_go, oracle.FORMULAS, 0)
            wrong += [f"against an engine in one go, in bits: {each}" for each in in_bits]
            said += [f"online, read by {reader}: {each}" for each in wrong]
        return said


class OnlineWatch(threading.Thread):
    """Looks at some entities all the time: what is served may never be older than before.

    Attributes:
        back: what went back in time, in words.
        looks: how often all of them were looked at.
    """

    def __init__(self, online: Online, instruments: int, partitions: int) -> None:
        super().__init__(name="watch of the online store", daemon=True)
        self.back: list[str] = []
        self.looks = 0
        self._online = online
        self._entities = watched(instruments, partitions)
        self._parts = [partition_of(name.encode(), partitions) for name, _ in self._entities]
        self._keys = [self._key(entity) for entity in self._entities]
        self._newest_ns = [0] * len(self._keys)
        self._last: list[Raw | None] = [None] * len(self._keys)
        self._seen: set[tuple[int, Raw]] = set()
        self._looked_ms = 0
        self._latest_ms: dict[int, int] = {}
        self._ended = threading.Event()

    def _key(self, entity: Entity) -> bytes:
        from feast.infra.online_stores.helpers import _redis_key
        from feast.protos.feast.types.EntityKey_pb2 import EntityKey

        values = [Value(string_val=part) for part in entity]
        key = EntityKey(join_keys=KEY[:2], entity_values=values)
        return _redis_key(self._online.project, key, 3)

    def run(self) -> None:
        client = self._online.client()
        while not self._ended.wait(POLL_S):
            pipe = client.pipeline(transaction=False)
            for key in self._keys:
                pipe.hmget(key, FIELDS)  # type: ignore[arg-type]
            began_ms = now_ms()
            try:
                found = pipe.execute()
            except (redis.RedisError, OSError):  # Redis is away; the proofs see to that
                continue
            self.looks += 1
            for index, values in enumerate(found):
                raw = tuple(value or b"" for value in values)
                if raw != self._last[index] and raw[0]:
                    self._note(index, raw)
            self._looked_ms = began_ms

    def _note(self, index: int, raw: Raw) -> None:
        self._last[index] = raw
        self._seen.add((index, raw))
        # It was not there when the look before this one began, which is all that is known of when
        # it came: what a look finds may be older than the look.
        self._latest_ms[self._parts[index]] = self._looked_ms
        ts_ns, before_ns = ns_of(raw[0]), self._newest_ns[index]
        if ts_ns < before_ns:
            self.back.append(f"{self._entities[index]} from {before_ns} to {ts_ns}")
        self._newest_ns[index] = max(ts_ns, before_ns)

    def end(self) -> None:
        """Ends the watch."""
        self._ended.set()
        self.join(30)

    def heard_since(self, since_ms: int, parts: Iterable[int]) -> bool:
        """Whether something of each lane has surely changed after a time."""
        return all(self._latest_ms.get(part, 0) > since_ms for part in parts)

    def problems(self, in_one_go: pl.DataFrame | None) -> list[str]:
        """What was served and should never have been, in words.

        Args:
            in_one_go: all that may ever be served; None where there were provisional vectors.
        """
        said = []
        if self.back:
            said.append(
                f"online: {len(self.back)} times went back in time, such as {self.back[:3]}"
            )
        if in_one_go is not None and self._seen:
            seen = sorted(self._seen)
            rows = [
                {**dict(zip(KEY, self._entities[index], strict=False)), **decoded(raw)}
                for index, raw in seen
            ]
            foreign = strangers(frame_of(rows), in_one_go)
            if len(foreign):
                words = foreign.select(*KEY, "coverage").rows()[:3]
                said.append(f"online: served {len(foreign)} vectors that are none, such as {words}")
        return said


def watched(instruments: int, partitions: int) -> list[Entity]:
    """Some entities of each partition."""
    found: list[Entity] = []
    room = dict.fromkeys(range(partitions), WATCHED * len(TIMEFRAMES_MS))
    for entity in entities(instruments):
        part = partition_of(entity[0].encode(), partitions)
        if room[part]:
            room[part] -= 1
            found.append(entity)
    return found


def strangers(found: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """Those vectors that are not among the known ones, bit for bit."""
    columns = [*KEY, *(f"{name}_bits" for name in (*FLOATS, "coverage")), COUNT, "flags"]

    def in_bits(frame: pl.DataFrame) -> pl.DataFrame:
        bits = {}
        for name in (*FLOATS, "coverage"):
            values = frame[name].to_numpy()
            bits[f"{name}_bits"] = np.where(np.isnan(values), 0, values.view(np.int64))
        return frame.with_columns(**{name: pl.Series(each) for name, each in bits.items()})

    return in_bits(found).join(in_bits(known), on=columns, how="anti")
