"""CSV files with a header: comma, double quotes, UTF-8; a row is a line."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from operators.batch import Int64s
from operators.dead_letters import Reason
from operators.decode import RefusedInputError
from sources.lines import LineFile, LineRows, is_utf8
from sources.rows import BLOCK_BYTES, Lines, Place, RawRows, Refused

COMMA, QUOTE = 44, 34


class CsvFile(LineRows):
    """A CSV file.

    Raises:
        RefusedInputError: when it has no header, or one with a column twice.
    """

    text = True

    def __init__(self, path: Path, block_bytes: int = BLOCK_BYTES) -> None:
        super().__init__(LineFile(path, block_bytes))
        place = self._lines.start()
        header = Lines(b"", *(np.empty(0, np.int64),) * 3)
        while not len(header) and not self._lines.ends_at(place):
            header, place = self._lines.read(place, 1)
        self._first = place
        names = next(csv.reader([header[0].decode("utf-8", "replace")])) if len(header) else []
        self.columns = tuple(name.strip() for name in names)
        doubled = sorted({name for name in self.columns if self.columns.count(name) > 1})
        if not names or doubled:
            self.close()
            found = f"{doubled} twice" if doubled else "nothing"
            msg = f"{path}: must begin with a header of distinct column names, found {found}"
            raise RefusedInputError(msg)

    def start(self) -> Place:
        """Behind the header."""
        return dict(self._first)

    def parse(self, lines: Lines, columns: Sequence[str]) -> RawRows:
        """Lines to rows."""
        if not len(lines):
            return RawRows(self._table(lines, list(columns)), lines.numbers)
        good, problems = self._well_formed(lines)
        refused = tuple(
            Refused(int(lines.numbers[row]), Reason.MALFORMED, problems[row], lines[row])
            for row in np.flatnonzero(~good).tolist()
        )
        kept = lines if good.all() else lines.some(good)
        there = [name for name in self.columns if name in set(columns)]
        return RawRows(self._table(kept, there), kept.numbers, kept.originals, refused)

    def _table(self, lines: Lines, columns: list[str]) -> pa.Table:
        nothing = pl.DataFrame(schema=dict.fromkeys(columns, pl.String))
        if not len(lines) or not columns:
            return nothing.to_arrow() if columns else _no_columns(len(lines))
        frame = pl.read_csv(
            lines.joined(),
            has_header=False,
            schema=dict.fromkeys(self.columns, pl.String),
            columns=[self.columns.index(name) for name in columns],
        )
        if frame.height != len(lines):
            msg = f"{len(lines)} lines of CSV were read as {frame.height} rows"
            raise RuntimeError(msg)
        return frame.select(columns).to_arrow()

    def _well_formed(self, lines: Lines) -> tuple[npt.NDArray[np.bool_], dict[int, str]]:
        """Which lines have their quotes in order and a value for each column; why others do not."""
        data = np.frombuffer(lines.data, np.uint8)
        good = np.ones(len(lines), np.bool_)
        problems: dict[int, str] = {}

        def refuse(rows: npt.NDArray[np.bool_], said: Any) -> None:
            for row in np.flatnonzero(rows & good).tolist():
                good[row], problems[row] = False, said(row)

        refuse(~is_utf8(lines), lambda _: "a line must be UTF-8, got other bytes")
        if b"\0" in lines.data:
            zero = np.array([b"\0" in lines[row] for row in range(len(lines))], np.bool_)
            refuse(zero, lambda _: "a line must be text, got a zero byte")
        commas = np.flatnonzero(data == COMMA)
        if b'"' in lines.data:
            quotes = np.flatnonzero(data == QUOTE)
            refuse(_misquoted(lines, data, quotes), lambda _: "a quote must enclose a whole value")
            commas = commas[~_within(lines, commas, quotes)]
        fields = _count(commas, lines) + 1
        must = f"a line must have {len(self.columns)} values like the header"
        refuse(fields != len(self.columns), lambda row: f"{must}, got {fields[row]}")
        return good, problems


def _no_columns(count: int) -> pa.Table:
    return pa.table({"": pa.nulls(count)}).select([])


def _count(places: Int64s, lines: Lines) -> Int64s:
    """How many of some places lie in each line."""
    return np.searchsorted(places, lines.ends) - np.searchsorted(places, lines.starts)


def _line_of(places: Int64s, lines: Lines) -> Int64s:
    """The line that each place lies in or after; 0 for places before the first."""
    return np.maximum(np.searchsorted(lines.starts, places, side="right") - 1, 0)


def _within(lines: Lines, commas: Int64s, quotes: Int64s) -> npt.NDArray[np.bool_]:
    """Which commas have an odd number of quotes before them in their line."""
    before_line = np.searchsorted(quotes, lines.starts)
    before = np.searchsorted(quotes, commas) - before_line[_line_of(commas, lines)]
    return before % 2 == 1


def _misquoted(lines: Lines, data: npt.NDArray[np.uint8], quotes: Int64s) -> npt.NDArray[np.bool_]:
    """Which lines have a quote that is not closed, or stands amid a value.

    The first, third, ... quote of a line opens: before it stands a comma, the line's start, or the
    quote that it doubles. The others close: behind them stands a comma, the line's end, or the
    quote that doubles them.
    """
    bad = _count(quotes, lines) % 2 == 1
    line = _line_of(quotes, lines)
    inside = (quotes >= lines.starts[line]) & (quotes < lines.ends[line])
    quotes, line = quotes[inside], line[inside]
    opens = (np.arange(len(quotes)) - np.searchsorted(quotes, lines.starts)[line]) % 2 == 0
    at_edge = np.where(opens, quotes == lines.starts[line], quotes + 1 == lines.ends[line])
    beside = np.clip(np.where(opens, quotes - 1, quotes + 1), 0, len(data) - 1)
    neighbour = data[beside]
    # An opening quote that doubles the one before it must not be the line's first.
    first = np.searchsorted(quotes, lines.starts)[line] == np.arange(len(quotes))
    fits = at_edge | (neighbour == COMMA) | ((neighbour == QUOTE) & ~first)
    bad[line[~fits]] = True
    return bad
