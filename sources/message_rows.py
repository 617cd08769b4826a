"""What every form of message gives: raw rows, and the messages that hold none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import pyarrow as pa

from operators.batch import Int64s
from operators.dead_letters import Reason


class Unread(NamedTuple):
    """A message that gave no row, or not all of its rows.

    Attributes:
        message: which, by index.
        reason: why.
        words: the same for people.
        rows: how many rows were refused.
        part: the refused rows as a message, if it holds others.
    """

    message: int
    reason: Reason
    words: str
    rows: int = 1
    part: bytes | None = None


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Rows of messages that are alike: of the same columns.

    Attributes:
        table: the columns, as they came.
        message: of each row, by index, in ascending order.
    """

    table: pa.Table
    message: Int64s


class MessageForm(Protocol):
    """A form that messages come in."""

    def rows(self, values: Sequence[bytes], numbers: Int64s) -> tuple[list[RowGroup], list[Unread]]:
        """The rows of some messages, and the messages that give none.

        What a message gives does not depend on the others.

        Args:
            values: of the messages.
            numbers: which ones they are, for groups and letters.
        """

    def part(self, value: bytes, rows: Sequence[int]) -> bytes:
        """A message with only some of its rows."""
