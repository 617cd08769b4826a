"""One set's view in an online store: what is written past Feast, in the form that Feast reads.

Each kind of store has its own. With the rows of a batch it writes the fence of the lane that they
come from, in one transaction: whoever has opened the lane since then has changed the fence, and
the batch of a process that was stopped meanwhile is refused as a whole. A store that was emptied,
or has come back older than it was, shows it by its fence as well.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import msgspec

from operators.feature_set import FeatureSet
from sinks.online_cells import Cell, Marks, cells, mark_cells, raised, sliced
from sinks.online_rows import Rows


class AwayError(Exception):
    """The store can't be reached at present; the message holds no secrets."""


class Fence(msgspec.Struct, frozen=True):
    """Whose a lane is, as the store has it.

    Attributes:
        job: of the recovery directory.
        instance: tells one run of the lane from others.
        count: of the transactions since it was opened.
        empty: whether nothing was written since the store was found without a fence.
    """

    job: str
    instance: str
    count: int
    empty: bool = False

    def encode(self) -> bytes:
        """The bytes that the store keeps."""
        return msgspec.json.encode(self)

    def next(self, *, empty: bool = False) -> Fence:
        """The fence that goes with the next transaction."""
        return Fence(self.job, self.instance, self.count + 1, empty)


class Fencing(msgspec.Struct, frozen=True):
    """What a transaction does with the fence of its lane.

    Attributes:
        lane: its name.
        held: what must be found; None that there is none.
        then: what is put in its place.
    """

    lane: str
    held: Fence | None
    then: Fence


def decode_fence(found: bytes | str | None) -> Fence | None:
    """Reads a fence; what is none counts as one of nobody."""
    if found is None:
        return None
    try:
        return msgspec.json.decode(found, type=Fence)
    except msgspec.DecodeError:
        return Fence("", "", 0)


class ServedView(ABC):
    """A view in a store; used by one thread, which opens it anew after an :class:`AwayError`.

    All methods raise :class:`AwayError` for what time may mend, and
    :class:`sinks.errors.DeliveryError` for what it does not.
    """

    fences: ClassVar[bool] = True
    """Whether rows and fence are written in one transaction."""
    batch: ClassVar[int]
    """Entities of one transaction."""

    @abstractmethod
    def marks(self, keys: Sequence[bytes]) -> Marks:
        """The marks of what is served of some entities."""

    @abstractmethod
    def write(self, rows: Rows, fencing: Fencing | None) -> bool:
        """Writes rows in one transaction, over whatever is there.

        Args:
            rows: at most :attr:`batch`.
            fencing: of the lane; None for writers without one.

        Returns:
            Whether it was done; not where another fence was found.
        """

    @abstractmethod
    def fence(self, lane: str) -> Fence | None:
        """The fence of a lane, if the store has it."""

    @abstractmethod
    def delete(self, keys: Sequence[bytes]) -> None:
        """Takes entities out of the view."""

    @abstractmethod
    def close(self) -> None:
        """Lets go of the store."""

    def errors(self) -> AbstractContextManager[Any]:
        """Raises what a library of the store raises in it as :class:`AwayError` or the other."""
        return nullcontext()

    def holds(self, found: Fence | None, held: Fence | None) -> bool:
        """Whether a transaction may be done where this fence was found."""
        return found == held


def value_columns(feature_set: FeatureSet, rows: Rows) -> list[list[Cell]]:
    """The values of a view by column: features, quality, coverage, and the mark."""
    columns = [
        cells(expr.kind, rows.features[:, place])
        for place, expr in enumerate(feature_set.feature_exprs.values())
    ]
    marks = mark_cells(rows.marks)
    return [
        *columns,
        raised(list(feature_set.quality), rows.quality),
        cells("number", rows.coverage),
        sliced(marks.tobytes(), marks.shape[1]),
    ]
