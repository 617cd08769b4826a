"""What a file holds, from one cheap pass over the columns that tell it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from operators.batch import NO_CLOCK_NS
from operators.decode import Decoder
from operators.streams import Stream
from sources.files import Input
from sources.rows import RawFile, RawRows

SCAN_ROWS = 2**18


@dataclass(frozen=True, slots=True)
class FileSummary:
    """What a file holds.

    Attributes:
        file: the file.
        first_clock_ns, last_clock_ns: its least and greatest clock; ``NO_CLOCK_NS`` in a file that
            tells none.
        in_order: whether its rows stand in the order of their clock.
        row_count: its rows, without lines that could not be taken apart.
        entities: whom its rows are about, where asked for.
    """

    file: Input
    first_clock_ns: int
    last_clock_ns: int
    in_order: bool
    row_count: int
    entities: tuple[str, ...] = ()


def scan_summary(stream: Stream, files: Iterable[Input]) -> list[FileSummary]:
    """Summaries of files: when they begin and end, and whom they are about.

    Raises:
        RefusedInputError: for a file that cannot be read as the stream.
    """
    summaries = []
    for file in files:
        raw = file.open(stream)
        try:
            decoder = decoder_of(stream, file, raw)
            summaries.append(scan(file, raw, decoder, with_entities=True))
        finally:
            raw.close()
    return summaries


def decoder_of(stream: Stream, file: Input, raw: RawFile) -> Decoder:
    """The decoder of a file's rows."""
    columns = list(raw.columns)
    if not columns:  # an empty file of a format without fixed columns
        columns = ["start_ts" if stream.start_stamped else "ts"]
    names = dict.fromkeys([*columns, *file.constants])
    return Decoder(stream, names, file.where, text=raw.text)


def scan(
    file: Input, raw: RawFile, decoder: Decoder, *, with_entities: bool = False
) -> FileSummary:
    """Reads the columns that tell the clock, and whom the rows are about."""
    wanted: Sequence[str] = decoder.clock_columns
    if with_entities:
        wanted = tuple(dict.fromkeys([*wanted, decoder.stream.entity]))
    first, last, in_order, row_count = 2**63 - 1, NO_CLOCK_NS, True, 0
    entities: set[str] = set()
    place = raw.start()
    while not raw.ends_at(place):
        rows, place = raw.read(place, SCAN_ROWS, wanted)
        rows = with_constants(rows, file, raw.columns)
        clock_ns, told = decoder.clock(rows.table)
        seen = clock_ns if told.all() else clock_ns[told]
        row_count += rows.table.num_rows
        if len(seen):
            in_order = in_order and int(seen[0]) >= last and not (seen[1:] < seen[:-1]).any()
            first, last = min(first, int(seen.min())), max(last, int(seen.max()))
        if with_entities:
            entities.update(decoder.entities(rows.table))
    first = first if last != NO_CLOCK_NS else NO_CLOCK_NS
    return FileSummary(file, first, last, in_order, row_count, tuple(sorted(entities)))


def with_constants(rows: RawRows, file: Input, columns: Sequence[str]) -> RawRows:
    """Adds the columns that the file's folders give, where it has none of their names itself."""
    table = rows.table
    for name, value in file.constants.items():
        if name not in columns:
            if name in table.column_names:
                table = table.drop_columns(name)
            codes = pa.array(np.zeros(table.num_rows, np.int32))
            column = pa.DictionaryArray.from_arrays(codes, pa.array([value]))
            table = table.append_column(name, column)
    return replace(rows, table=table)
