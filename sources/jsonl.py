"""JSON Lines files: an object a line, strictly JSON.

Lines are taken apart all at once into typed records. Only when that fails, or keys may be doubled,
are lines looked at one by one; both ways give the same row for a line.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from operators.batch import Int64s
from operators.checks import KINDS, show
from operators.dead_letters import Reason
from operators.streams import Stream
from sources.lines import LineFile, LineRows, is_utf8
from sources.rows import BLOCK_BYTES, Lines, RawRows, Refused

NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError)
PEEKED_LINES = 1000
"""The first lines, which say which columns there are."""
TYPES: dict[str, Any] = {
    "number": float | None,
    "id": int | str | None,
    "samples": list[float] | None,
}
SPACE, QUOTE, COLON, BRACE, BRACE_END = 32, 34, 58, 123, 125


class JsonlFile(LineRows):
    """A JSON Lines file, read as the rows of a stream."""

    text = False

    def __init__(self, path: Path, stream: Stream, block_bytes: int = BLOCK_BYTES) -> None:
        super().__init__(LineFile(path, block_bytes))
        self._kinds = {field.name: field.kind for field in stream.fields}
        self._decoders: dict[tuple[str, ...], msgspec.json.Decoder[Any]] = {}
        self.columns = self._peek()

    def parse(self, lines: Lines, columns: Sequence[str]) -> RawRows:
        """Lines to rows."""
        decoder = self._decoder(tuple(columns))
        encoded = is_utf8(lines)
        said = "a line must be UTF-8, got other bytes"
        refused = [
            Refused(int(lines.numbers[row]), Reason.MALFORMED, said, lines[row])
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
            self._array(name, list(map(attrgetter(f"f{index}"), records)))
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
            problem = _doubled_key(line) if suspects[row] else None
            if problem is None:
                try:
                    records.append(decoder.decode(line))
                    continue
                except (*NOT_JSON, RecursionError) as error:
                    malformed = (Reason.MALFORMED, f"a line must be a JSON object, got: {error}")
                    problem = self._problem(line, columns) or malformed
            kept[row] = False
            refused.append(Refused(int(lines.numbers[row]), *problem, line))
        return records, refused, lines.some(kept)

    def _problem(self, line: bytes, columns: Sequence[str]) -> tuple[Reason, str] | None:
        """What is wrong with a line that could not be decoded."""
        try:
            record = json.loads(line, parse_constant=_no_json)
        except _NotFiniteError as error:
            return Reason.NOT_FINITE, f"a number must be finite, got {error}"
        except (ValueError, RecursionError) as error:
            return Reason.MALFORMED, f"a line must be a JSON object, got: {error}"
        if not isinstance(record, dict):
            return Reason.MALFORMED, f"a line must be a JSON object, got {show(record)}"
        for name in columns:
            value, kind = record.get(name), self._kinds.get(name, "id")
            if not _fits(value, kind):
                must = KINDS[kind] if name in self._kinds else "a text or whole number"
                return Reason.WRONG_TYPE, f"`{name}` must be {must}, got {show(value)}"
            if kind != "id" and not _finite(value):
                return Reason.NOT_FINITE, f"`{name}` must be finite, got {show(value)}"
        return None

    def _decoder(self, columns: tuple[str, ...]) -> msgspec.json.Decoder[Any]:
        if columns not in self._decoders:
            record = msgspec.defstruct(
                "Record",
                [
                    (f"f{index}", TYPES[self._kinds.get(name, "id")], None)
                    for index, name in enumerate(columns)
                ],
                rename={f"f{index}": name for index, name in enumerate(columns)},
                gc=False,
            )
            self._decoders[columns] = msgspec.json.Decoder(record)
        return self._decoders[columns]

    def _array(self, name: str, values: list[Any]) -> pa.Array:
        kind = self._kinds.get(name, "id")
        if kind == "number":
            return pa.array(values, pa.float64())
        if kind == "samples":
            return pa.array(values, pa.large_list(pa.float64()))
        for type_ in (pa.large_string(), pa.int64()):
            try:
                return pa.array(values, type_)
            except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
                continue
        # Numbers among texts: a text that spells a whole number is that number to the decoder.
        texts = [None if value is None else str(value) for value in values]
        return pa.array(texts, pa.large_string())

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


class _NotFiniteError(ValueError):
    """A number that JSON does not have."""


class _DoubledKeyError(ValueError):
    """A key that an object has twice."""


def _no_json(constant: str) -> NoReturn:
    raise _NotFiniteError(constant)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        names = [name for name, _ in pairs]
        raise _DoubledKeyError(next(name for name in names if names.count(name) > 1))
    return record


def _doubled_key(line: bytes) -> tuple[Reason, str] | None:
    try:
        json.loads(line, object_pairs_hook=_distinct)
    except _DoubledKeyError as error:
        return Reason.MALFORMED, f"a key must stand once in an object, got {show(str(error))} twice"
    except (ValueError, RecursionError):
        return None  # the decoder says so better
    return None


def _finite(value: Any) -> bool:
    try:
        return bool(np.isfinite(np.array(0.0 if value is None else value, np.float64)).all())
    except OverflowError:
        return False


def _fits(value: Any, kind: str) -> bool:
    """Whether a value is of a kind."""
    if value is None:
        return True
    if kind == "samples":
        return isinstance(value, list) and all(
            item is not None and _fits(item, "number") for item in value
        )
    types = (int, float) if kind == "number" else (int, str)
    return isinstance(value, types) and not isinstance(value, bool)


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
