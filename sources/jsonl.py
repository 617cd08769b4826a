"""JSON Lines files: an object a line, strictly JSON.

Lines are taken apart all at once into typed records. Only when that fails, or keys may be doubled,
are lines looked at one by one; both ways give the same row for a line.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from operators.batch import Int64s
from operators.dead_letters import Reason
from operators.streams import Stream
from sources.json_records import NOT_JSON, JsonRecords, doubled_key, twice_in_an_object
from sources.lines import LineFile, LineRows, is_utf8
from sources.rows import BLOCK_BYTES, Lines, RawRows, Refused

PEEKED_LINES = 1000
"""The first lines, which say which columns there are."""
SPACE, QUOTE, COLON, BRACE, BRACE_END = 32, 34, 58, 123, 125


class JsonlFile(LineRows):
    """A JSON Lines file, read as the rows of a stream."""

    text = False

    def __init__(self, path: Path, stream: Stream, block_bytes: int = BLOCK_BYTES) -> None:
        super().__init__(LineFile(path, block_bytes))
        self._records = JsonRecords(stream, "line")
        self.columns = self._peek()

    def parse(self, lines: Lines, columns: Sequence[str]) -> RawRows:
        """Lines to rows."""
        decoder = self._records.decoder(columns)
        encoded = is_utf8(lines)
        said = "a line must be UTF-8, got other bytes"
        refused = [
            Refused(int(lines.numbers[row]), Reason.NOT_UTF8, said, lines[row])
            for row in np.flatnonzero(~encoded).tolist()
        ]
        lines = lines if encoded.all() else lines.some(encoded)
        records: list[Any] = []
        suspects = _suspects(lines)
        if not suspects.any():
            try:
                records = decoder.decode_lines(lines.joined())
            except (*NOT_JSON, RecursionError):
                records = []
        if len(records) != len(lines):
            records, problems, lines = self._one_by_one(decoder, lines, columns, suspects)
            refused += problems
        arrays = [
            self._records.array(name, list(map(attrgetter(f"f{index}"), records)))
            for index, name in enumerate(columns)
        ]
        table = pa.table(dict(zip(columns, arrays, strict=True)))
        return RawRows(table, lines.numbers, lines.originals, tuple(refused))

    def _one_by_one(
        self,
        decoder: msgspec.json.Decoder[Any],
        lines: Lines,
        columns: Sequence[str],
        suspects: npt.NDArray[np.bool_],
    ) -> tuple[list[Any], list[Refused], Lines]:
        records, refused = [], []
        kept = np.ones(len(lines), np.bool_)
        for row in range(len(lines)):
            line = lines[row]
            try:
                record = decoder.decode(line)
                twice = doubled_key(line) if suspects[row] else None
                if twice is None:
                    records.append(record)
                    continue
                problem = twice_in_an_object(twice)
            except (*NOT_JSON, RecursionError) as error:
                problem = self._records.problem(line, columns, error)
            kept[row] = False
            refused.append(Refused(int(lines.numbers[row]), *problem, line))
        return records, refused, lines.some(kept)

    def _peek(self) -> tuple[str, ...]:
        """The keys of the first objects."""
        lines, _ = self._lines.read(self._lines.start(), PEEKED_LINES)
        found: dict[str, None] = {}
        for row in range(len(lines)):
            try:
                record = msgspec.json.decode(lines[row])
            except (*NOT_JSON, RecursionError):
                continue
            if isinstance(record, dict):
                found |= dict.fromkeys(record)
        return tuple(found)


def _suspects(lines: Lines) -> npt.NDArray[np.bool_]:
    """Lines that may hold a key twice, or not exactly one object.

    A line is clear of it when its keys are those of a line that is: rows that one program wrote.
    Comparing the last 8 bytes of each key takes 100 ns a row; counting the keys by name takes 500,
    and asking a parser 2000.
    """
    clear = np.zeros(len(lines), np.bool_)
    if not len(lines):
        return clear
    data = lines.data
    raw = np.frombuffer(data, np.uint8)
    colons = np.flatnonzero(raw[1:] == COLON) + 1
    before = raw[colons - 1]
    if (before <= SPACE).any():  # a key may end before the blank
        return ~clear
    key_ends = colons[before == QUOTE] - 1
    first = np.searchsorted(key_ends, lines.starts)
    counts = np.searchsorted(key_ends, lines.ends) - first
    width = int(np.bincount(counts).argmax())
    alike = np.flatnonzero(counts == width)
    model = int(alike[0])
    if width == 0 or b"\\" in lines[model]:
        return ~clear
    masks = _key_masks(data, key_ends[first[model] : first[model] + width])
    words = np.ndarray(len(raw) + 1, "<u8", bytes(8) + data, 0, (1,))
    tails = words[key_ends[first[alike, None] + np.arange(width)]] & masks
    if len(np.unique(tails[0])) == width:
        clear[alike] = (tails == tails[0]).all(axis=1)
    clear &= (raw[lines.starts] == BRACE) & (raw[lines.ends - 1] == BRACE_END)
    return ~clear


def _key_masks(data: bytes, key_ends: Int64s) -> npt.NDArray[np.uint64]:
    """Per key, the bytes to compare of the 8 before its end: its own, and the quote before them."""
    lengths = [end - data.rfind(b'"', 0, end) for end in key_ends.tolist()]
    return np.array([2**64 - 2 ** (8 * max(0, 8 - length)) for length in lengths], np.uint64)
