"""Text files, line by line: where lines lie is found for a whole block at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from operators.batch import Int64s
from sources.rows import BLOCK_BYTES, Lines, Place, RawRows

LINE_BYTES = 160
"""First guess at the length of a line."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
BLANK = b" \t\r\x0b\x0c"


class LineFile:
    """The lines of a file, from any offset.

    A line ends with a line feed, or a carriage return and one; the last may lack it. A quoted line
    feed is the end of a line like any other: so a quote that is never closed spoils one line, not
    all that follow.
    """

    def __init__(self, path: Path, block_bytes: int = BLOCK_BYTES) -> None:
        self.size = path.stat().st_size
        self._file = path.open("rb")
        self._block_bytes = block_bytes
        self._line_bytes = LINE_BYTES

    def start(self) -> Place:
        """Behind the byte order mark, if there is one."""
        self._file.seek(0)
        marked = self._file.read(len(BYTE_ORDER_MARK)) == BYTE_ORDER_MARK
        return {"offset": len(BYTE_ORDER_MARK) if marked else 0, "line": 1}

    def ends_at(self, place: Place) -> bool:
        """Whether no byte is left."""
        return place["offset"] >= self.size

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()

    def read(self, place: Place, count: int) -> tuple[Lines, Place]:
        """At most so many lines, the blank ones counted, and where they end."""
        data, feeds = self._block(place["offset"], count)
        ends = feeds[:count]
        consumed = int(ends[-1]) + 1 if len(ends) else 0
        at_end = place["offset"] + len(data) >= self.size
        if len(ends) < count and consumed < len(data) and at_end:
            ends = np.append(ends, len(data))  # the last line lacks its line feed
            consumed = len(data)
        starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
        if len(ends):
            self._line_bytes = max(16, consumed // len(ends) + 1)
        numbers = np.arange(place["line"], place["line"] + len(ends), dtype=np.int64)
        lines = _without_ends(Lines(data, starts[: len(ends)], ends.astype(np.int64), numbers))
        return lines, {"offset": place["offset"] + consumed, "line": place["line"] + len(ends)}

    def _block(self, offset: int, count: int) -> tuple[bytes, Int64s]:
        """Bytes from an offset that hold so many lines, or as many as a block may, at least one."""
        self._file.seek(offset)
        limit = self.size - offset
        data = b""
        want = min(self._block_bytes, count * self._line_bytes * 9 // 8 + 64)
        while True:
            data += self._file.read(min(want, limit - len(data)))
            feeds = np.flatnonzero(np.frombuffer(data, np.uint8) == 10)
            full = len(data) >= self._block_bytes and len(feeds) > 0
            if len(feeds) >= count or full or len(data) >= limit:
                return data, feeds
            want = max(want, len(data))


class LineRows:
    """Rows of a text file, a line each; what a line holds is for the format to say."""

    def __init__(self, lines: LineFile) -> None:
        self._lines = lines

    def start(self) -> Place:
        """The first line."""
        return self._lines.start()

    def ends_at(self, place: Place) -> bool:
        """Whether no line is left."""
        return self._lines.ends_at(place)

    def close(self) -> None:
        """Lets go of the file."""
        self._lines.close()

    def lines(self, place: Place, count: int) -> tuple[Lines, Place]:
        """At most so many lines, and where they end."""
        return self._lines.read(place, count)

    def read(self, place: Place, count: int, columns: Sequence[str]) -> tuple[RawRows, Place]:
        """At most so many rows, with those of the columns that there are."""
        lines, after = self.lines(place, count)
        return self.parse(lines, columns), after

    def parse(self, lines: Lines, columns: Sequence[str]) -> RawRows:
        """Lines to rows."""
        raise NotImplementedError


def is_utf8(lines: Lines) -> npt.NDArray[np.bool_]:
    """Which lines are UTF-8."""
    try:
        lines.data.decode()
    except UnicodeDecodeError:
        return np.array([_decodes(lines[row]) for row in range(len(lines))], np.bool_)
    return np.ones(len(lines), np.bool_)


def _decodes(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _without_ends(lines: Lines) -> Lines:
    """Takes off carriage returns, and leaves out blank lines."""
    data = np.frombuffer(lines.data, np.uint8)
    if not len(lines):
        return lines
    some = lines.ends > lines.starts
    last = data[np.where(some, lines.ends - 1, 0)]
    lines = Lines(lines.data, lines.starts, lines.ends - (some & (last == 13)), lines.numbers)
    first = data[np.minimum(lines.starts, len(data) - 1)]
    kept = lines.ends > lines.starts
    # Few lines begin with a blank: only those are looked at one by one.
    for row in np.flatnonzero(kept & np.isin(first, np.frombuffer(BLANK, np.uint8))).tolist():
        kept[row] = bool(lines[row].strip(BLANK))
    return lines if kept.all() else lines.some(kept)
