"""A view in Redis: a hash per entity, with a field of each feature's value.

`store.push` takes 160 us an entity of 24 numbers, most of it in Python. Here the numbers of all
rows are packed into commands at once, and what is left is the server's work (benchmarks/online.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from operators.batch import Float64s
from operators.feature_set import FeatureSet
from sinks.errors import DeliveryError
from sinks.online_cells import (
    NUMBER_TAG,
    Cell,
    Marks,
    cells,
    mark_cells,
    raised,
    read_marks,
    sliced,
    timestamps,
)
from sinks.online_rows import Rows
from sinks.online_store import AwayError, Fence, Fencing, ServedView, decode_fence

if TYPE_CHECKING:
    from redis import Redis

TRANSIENT = (
    "ConnectionError", "TimeoutError", "BusyLoadingError", "ClusterDownError", "ExecAbortError",
    "MasterDownError", "OutOfMemoryError", "ReadOnlyError", "TryAgainError",
)  # fmt: skip
"""Errors of redis-py after which the next attempt may do; not every version has them all."""
TRANSIENT_WORDS = ("BUSY", "MISCONF", "NOREPLICAS", "OOM", "UNKILLABLE")
"""First words of answers for which it has no errors."""
FENCE = "riffle:fence:"
"""Begins the key of a lane's fence."""

Bytes: TypeAlias = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class RedisNames:
    """What a view is called in Redis.

    Attributes:
        project: of the Feast repository, which ends each key.
        view: its name.
        fields: the hash's field of each feature, of ``quality`` and ``coverage``.
        ttl_s: after which Redis forgets an entity that nobody writes; None for never.
    """

    project: str
    view: str
    fields: Mapping[str, bytes]
    ttl_s: int | None = None


class RedisView(ServedView):
    """A view in Redis, written by transactions that watch the fence.

    Args:
        client: a client of one server, or of Sentinel's master.
        names: what the view is called.
        feature_set: whose vectors are written.
        hide: takes secrets out of a text.
    """

    batch = 500  # the server does nothing else for 5 ms

    def __init__(
        self,
        client: Redis,
        names: RedisNames,
        feature_set: FeatureSet,
        hide: Callable[[object], str],
    ) -> None:
        self._client = client
        self._hide = hide
        self._names = names
        self._project = names.project.encode()
        self._time, self._mark = f"_ts:{names.view}".encode(), f"_mark:{names.view}".encode()
        self._pack = _Packer(names, feature_set, self._time, self._mark)
        self._connection: Any = None

    def marks(self, keys: Sequence[bytes]) -> Marks:
        """Asks for the marks of some entities."""
        asked = [_command(b"HMGET", key + self._project, self._mark, self._time) for key in keys]
        found = self._ask(asked)
        times = [None if time is None else _time_ns(time) for _, time in found]
        return read_marks([mark for mark, _ in found], times)

    def write(self, rows: Rows, fencing: Fencing | None) -> bool:
        """Writes rows, and the fence of their lane, in one transaction."""
        commands = self._pack(rows, [key + self._project for key in rows.keys])
        per_row = 1 if self._names.ttl_s is None else 2
        answers = per_row * len(rows) + 2
        if fencing is not None:
            key = self._fence_key(fencing.lane)
            _, found = self._ask([_command(b"WATCH", key), _command(b"GET", key)])
            if not self.holds(decode_fence(found), fencing.held):
                self._ask([_command(b"UNWATCH")])
                return False
            commands.append(_command(b"SET", key, fencing.then.encode()))
            answers += 1
        done = self._ask([_command(b"MULTI"), *commands, _command(b"EXEC")], answers)[-1]
        with self.errors():
            for answer in done or ():
                if isinstance(answer, Exception):  # the others were done nevertheless
                    raise answer
        return done is not None

    def fence(self, lane: str) -> Fence | None:
        """Asks for the fence of a lane."""
        return decode_fence(self._ask([_command(b"GET", self._fence_key(lane))])[0])

    def delete(self, keys: Sequence[bytes]) -> None:
        """Deletes entities, with all views of them."""
        self._ask([_command(b"DEL", key + self._project) for key in keys])

    def close(self) -> None:
        """Closes the connection."""
        if self._connection is not None:
            self._connection.disconnect()
            self._client.connection_pool.release(self._connection)
            self._connection = None
        self._client.close()

    def _fence_key(self, lane: str) -> bytes:
        return f"{FENCE}{self._names.project}:{lane}".encode()

    def _ask(self, commands: list[bytes], answers: int | None = None) -> list[Any]:
        """Sends commands at once, and gives their answers.

        Args:
            commands: packed ones; a piece may hold several.
            answers: how many come; as many as pieces, if it is not said.
        """
        from redis.exceptions import ResponseError

        with self.errors():
            if self._connection is None:
                self._connection = self._client.connection_pool.get_connection()
            self._connection.send_packed_command([b"".join(commands)])
            found, refused = [], None
            for _ in range(len(commands) if answers is None else answers):
                try:
                    found.append(self._connection.read_response(disable_decoding=True))
                except ResponseError as error:
                    refused = refused or error
            if refused is not None:
                raise refused
            return found

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Sorts errors into those that time may mend and others."""
        from redis import exceptions as redis

        known = [getattr(redis, name) for name in TRANSIENT if hasattr(redis, name)]
        refused = redis.AuthenticationError, redis.AuthorizationError
        try:
            yield
        except (redis.RedisError, OSError) as error:
            said = self._hide(f"{type(error).__name__} ({' '.join(str(error).split())})")
            away = isinstance(error, (*known, OSError))
            away = away or str(error).startswith(TRANSIENT_WORDS)
            if away and not isinstance(error, refused):
                raise AwayError(said) from None
            msg = (
                f"view `{self._names.view}`: Redis must do what it is asked, found {said}; mend "
                "the connection string, the user's rights or the server, and start again"
            )
            raise DeliveryError(msg) from None


class _Packer:
    """Rows as commands to set the fields of hashes."""

    def __init__(
        self, names: RedisNames, feature_set: FeatureSet, time: bytes, mark: bytes
    ) -> None:
        kinds = [expr.kind for expr in feature_set.feature_exprs.values()]
        features = list(feature_set.feature_exprs)
        self._numbers = [place for place, kind in enumerate(kinds) if kind == "number"]
        self._others = [
            (place, kind, _bulk(names.fields[features[place]]))
            for place, kind in enumerate(kinds)
            if kind != "number"
        ]
        self._flags = list(feature_set.quality)
        self._quality = _bulk(names.fields["quality"])
        wanted = [names.fields[features[place]] for place in self._numbers]
        self._template = _number_fields([*wanted, names.fields["coverage"]])
        self._time, self._mark = _bulk(time), _bulk(mark)
        self._head = b"*%d\r\n%b" % (2 + 2 * (len(names.fields) + 2), _bulk(b"HSET"))
        self._ttl = None if names.ttl_s is None else _bulk(b"%d" % names.ttl_s)

    def __call__(self, rows: Rows, keys: Sequence[bytes]) -> list[bytes]:
        if not len(rows):
            return []
        numbers = np.column_stack([rows.features[:, self._numbers], rows.coverage])
        columns = [_packed_numbers(self._template, numbers)]
        for place, kind, field in self._others:
            columns.append(_framed(field, cells(kind, rows.features[:, place])))
        columns.append(_framed(self._quality, raised(self._flags, rows.quality)))
        columns.append(_framed(self._time, timestamps(rows.marks[:, 0])))
        columns.append(_framed_alike(self._mark, mark_cells(rows.marks)))
        framed = [_bulk(key) for key in keys]
        head = self._head
        found = [b"".join((head, *parts)) for parts in zip(framed, *columns, strict=True)]
        if self._ttl is not None:
            expire = b"*3\r\n%b" % _bulk(b"EXPIRE")
            found = [
                b"".join((command, expire, key, self._ttl))
                for command, key in zip(found, framed, strict=True)
            ]
        return found


def _bulk(value: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(value), value)


def _command(*words: bytes) -> bytes:
    return b"*%d\r\n%b" % (len(words), b"".join(map(_bulk, words)))


def _framed(field: bytes, values: Sequence[Cell]) -> list[bytes]:
    known = {value: field + _bulk(value) for value in set(values)}
    return [known[value] for value in values]


def _framed_alike(field: bytes, values: Bytes) -> list[bytes]:
    """Frames values of one size, which are the rows of an array."""
    count, size = values.shape
    template = np.frombuffer(field + _bulk(bytes(size)), np.uint8)
    packed = np.empty((count, len(template)), np.uint8)
    packed[:] = template
    packed[:, -2 - size : -2] = values
    return sliced(packed.tobytes(), len(template))


def _number_fields(fields: Sequence[bytes]) -> Bytes:
    """The part of a command that sets numbers: a row of bytes for each field, all of one size."""
    cell = NUMBER_TAG + bytes(8)
    return np.array([list(_bulk(field) + _bulk(cell)) for field in fields], np.uint8)


def _packed_numbers(template: Bytes, numbers: Float64s) -> list[bytes]:
    """The parts of commands that set numbers; what is null is set to a value without bytes."""
    packed = np.empty((len(numbers), *template.shape), np.uint8)
    packed[:] = template
    packed[..., -10:-2] = (
        np.ascontiguousarray(numbers, "<f8").view(np.uint8).reshape(*numbers.shape, 8)
    )
    null = np.isnan(numbers)
    if not null.any():
        return sliced(packed.tobytes(), template.size)
    packed[null, -14] = ord("0")  # the length, before \r\n, the value and \r\n
    kept = np.ones(packed.shape, np.bool_)
    kept[null, -11:-2] = False
    left = packed[kept].tobytes()
    sizes = template.size - 9 * null.sum(axis=1)
    ends = np.cumsum(sizes).tolist()
    return [left[end - size : end] for end, size in zip(ends, sizes.tolist(), strict=True)]


def _time_ns(found: bytes) -> int:
    """Reads a time, which somebody else may have written."""
    from google.protobuf.timestamp_pb2 import Timestamp

    return int(Timestamp.FromString(found).ToNanoseconds())
