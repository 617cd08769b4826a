"""Messages of a log: what every reader of one gives, be it Kafka or an archive in front of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from operators.batch import Batch, Int64s
from operators.dead_letters import DeadLetters, Record


@dataclass(frozen=True, slots=True)
class Read:
    """What one read of a partition gives.

    Attributes:
        batch: the rows.
        dead: those that could not be used.
        late: those that arrived too late, where the source takes them out; an engine that is given
            late rows refuses them itself.
        came_in: how many rows were read, in sources that count them: those of the batch, the dead
            and the late.
    """

    batch: Batch
    dead: DeadLetters
    late: DeadLetters = field(default_factory=lambda: DeadLetters("", ""))
    came_in: int = 0


@dataclass(frozen=True, slots=True)
class Messages:
    """Messages of one partition, in the order of their offsets, as the log holds them.

    Attributes:
        values: their bytes; None for a tombstone.
        offsets: where each stands.
        timestamps_ms: the stamp of each, the broker's or the producer's.
        record_of: gives what stood around the bytes of one, by index.
    """

    values: Sequence[bytes | None]
    offsets: Int64s
    timestamps_ms: Int64s
    record_of: Callable[[int], Record]

    def __len__(self) -> int:
        return len(self.values)

    def first(self, count: int) -> Messages | None:
        """The first of them; None for none."""
        if count <= 0:
            return None
        offsets, stamps = self.offsets[:count], self.timestamps_ms[:count]
        return Messages(self.values[:count], offsets, stamps, self.record_of)

    def record(self, index: int) -> Record:
        """Key, headers and stamp of one message."""
        return self.record_of(index)


class MessageReader(Protocol):
    """A partition of a topic, read from a position on."""

    @property
    def position(self) -> int:
        """The offset of the next message that was not yet taken.

        Offsets that hold none (control records, compacted ones) are passed over once the reader
        knows of it.
        """

    def take(self, most: int) -> Messages | None:
        """At most so many messages from the position on; None when there are none at the moment."""

    def close(self) -> None:
        """Lets go of the partition."""
