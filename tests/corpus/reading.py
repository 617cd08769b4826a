"""Puts messages through the decoder of the Kafka source, and says what became of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from operators.batch import NO_CLOCK_NS, Batch, Samples
from operators.dead_letters import DeadLetters, Reason, Record
from sources.message_decoder import MessageDecoder
from sources.messages import Messages, Read
from tests.corpus.cases import ARRIVAL_MS, STREAMS

FIRST_OFFSET = 1_000
STEP = 3
"""Offsets have gaps, as those of compacted and of transactional topics have."""

Bits = tuple[tuple[str, Any], ...]
"""A row as its columns' names and bits."""


def key_of(index: int) -> bytes:
    """A key that says nothing of the message, and that no text can hold."""
    return b"\xff\0%d" % index


def headers_of(index: int) -> tuple[tuple[str, bytes | None], ...]:
    """Headers, two of one name and one of none."""
    return (("trace", b"\0%d" % index), ("trace", None), ("", b""))


def messages(values: Sequence[bytes | None], stamps_ms: Sequence[int] | None = None) -> Messages:
    """Messages of one partition, in the order of their offsets."""
    stamps = np.array(stamps_ms or [ARRIVAL_MS] * len(values), np.int64)

    def record(index: int) -> Record:
        return Record(key_of(index), headers_of(index), int(stamps[index]))

    offsets = FIRST_OFFSET + STEP * np.arange(len(values), dtype=np.int64)
    return Messages(values, offsets, stamps, record)


def index_of(offset: int) -> int:
    """Which message stands at an offset."""
    index, rest = divmod(offset - FIRST_OFFSET, STEP)
    assert rest == 0, f"no message stands at offset {offset}"
    return index


def decoder(stream: str, **more: Any) -> MessageDecoder:
    """A decoder of JSON messages."""
    return MessageDecoder(STREAMS[stream], "json", **more)


@dataclass(frozen=True)
class Fate:
    """What became of one message: the bits of its row, or why it is none."""

    row: Bits | None
    reason: Reason | None


def fates(read: Read, sent: Messages) -> list[Fate]:
    """What became of each message; each must have become one thing, and lie as it came."""
    found: dict[int, Fate] = {}

    def put(offset: int, fate: Fate) -> None:
        index = index_of(offset)
        assert index not in found, f"message {index} was told of twice"
        found[index] = fate

    assert read.batch.positions is not None
    for row, offset in enumerate(read.batch.positions.tolist()):
        put(offset, Fate(bits(read.batch, row), None))
    for letters in (read.dead, read.late):
        _check_letters(letters, sent)
        for offset, reason in zip(letters.positions, letters.reasons, strict=True):
            put(offset, Fate(None, reason))
    assert set(read.late.reasons) <= {Reason.LATE}
    assert Reason.LATE not in read.dead.reasons
    assert read.came_in == len(sent), "each JSON message counts as a row"
    missing = sorted(set(range(len(sent))) - set(found))
    assert not missing, f"messages {missing} were not told of"
    return [found[index] for index in range(len(sent))]


def _check_letters(letters: DeadLetters, sent: Messages) -> None:
    """Bytes, key, headers and stamp are those that were sent, and there are words."""
    told = zip(letters.positions, letters.messages, letters.originals, letters.records, strict=True)
    for offset, words, original, record in told:
        index = index_of(offset)
        assert original == (sent.values[index] or b"")
        assert record == sent.record(index)
        assert words.strip(), f"message {index} was refused without a word"
        assert len(words) < 2_000, f"message {index} was refused with {len(words)} characters"
        assert words.isprintable(), f"message {index}: {words!r} could forge a line"


def bits(batch: Batch, row: int) -> Bits:
    """A row, comparable to the bit."""
    told: list[tuple[str, Any]] = [
        ("entity", batch.keys.names[batch.keys.codes[row]]),
        ("series", batch.series.names[batch.series.codes[row]] if batch.series else None),
        ("ts_ns", int(batch.ts_ns[row])),
        ("arrival_ns", int(batch.arrival_ns[row]) if batch.arrival_ns is not None else None),
    ]
    for name, values in batch.columns.items():
        if isinstance(values, Samples):
            start = values.start[row]
            told.append((name, values.flat[start : start + values.length[row]].tobytes()))
        else:
            told.append((name, values[row : row + 1].tobytes()))
    return tuple(told)


def clock_ns(read: Read) -> int:
    """The partition's clock after a read."""
    assert read.batch.clock_ns >= NO_CLOCK_NS
    return read.batch.clock_ns
