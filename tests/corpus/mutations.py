"""Sound messages with some bytes changed, by seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

TELLING = b'{}[]",:\\\n\0 0123456789.eE+-tfnu\xff\xc3\x80\xef'
"""Bytes that mean something to a parser."""


def _flip(raw: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(raw))
    return raw[:at] + bytes([raw[at] ^ 1 << rng.randrange(8)]) + raw[at + 1 :]


def _replace(raw: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(raw))
    return raw[:at] + bytes([rng.choice(TELLING)]) + raw[at + 1 :]


def _insert(raw: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(raw) + 1)
    return raw[:at] + bytes([rng.choice(TELLING)]) + raw[at:]


def _drop(raw: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(raw))
    return raw[:at] + raw[at + rng.randint(1, 4) :]


def _cut(raw: bytes, rng: random.Random) -> bytes:
    return raw[: rng.randrange(len(raw))]


def _repeat(raw: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(raw))
    stop = min(len(raw), start + rng.randint(1, 40))
    return raw[:stop] + raw[start:stop] * rng.randint(1, 3) + raw[stop:]


def _swap(raw: bytes, rng: random.Random) -> bytes:
    a, b = sorted(rng.sample(range(len(raw)), 2))
    return raw[:a] + raw[b : b + 1] + raw[a + 1 : b] + raw[a : a + 1] + raw[b + 1 :]


WAYS: Sequence[Callable[[bytes, random.Random], bytes]] = (
    _flip, _replace, _insert, _drop, _cut, _repeat, _swap,
)  # fmt: skip


def mutated(messages: Sequence[bytes], count: int, seed: int) -> Iterator[bytes]:
    """So many messages, each with one to three changes, some of them cut from two."""
    rng = random.Random(seed)
    for _ in range(count):
        raw = rng.choice(messages)
        if rng.random() < 0.1:
            other = rng.choice(messages)
            raw = raw[: rng.randrange(len(raw))] + other[rng.randrange(len(other)) :]
        for _ in range(rng.randint(1, 3)):
            if len(raw) > 1:
                raw = rng.choice(WAYS)(raw, rng)
        yield raw


def is_json_object(raw: bytes) -> bool:
    """Whether bytes are one JSON object, by the parser of the standard library at its strictest."""
    try:
        found = json.loads(raw.decode("utf-8"), parse_constant=_none, object_pairs_hook=_distinct)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict)


def _none(constant: str) -> NoReturn:
    raise ValueError(constant)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")  # noqa: EM101
    return found
