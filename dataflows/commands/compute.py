"""`riffle compute`: files through one engine, in one process and without Bytewax."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from dataflows.commands.backfill import row_bar, show_account
from dataflows.inputs import File, scan_inputs, source_facts
from dataflows.named_sets import named_set
from dataflows.progress import by_stream
from dataflows.table_inputs import TableInputs
from operators.batch import Vectors
from operators.engine import Engine
from operators.feature_set import FeatureSet
from operators.frames import vectors_table
from operators.plan import compile_plan
from sinks.join import joined
from sinks.parquet import ROW_GROUP, VectorFile, file_metadata
from sources.reader import PartitionReader

BATCH_ROWS = 65_536


@dataclass(frozen=True)
class Computed:
    """What a computation has brought.

    Attributes:
        account: counts of rows by fate, for each stream.
        unread: rows that could not be used, by reason.
        vectors: how many were written.
    """

    account: dict[str, dict[str, int]]
    unread: dict[str, int]
    vectors: int


def compute(
    feature_set: FeatureSet,
    files: Sequence[File],
    output: Path,
    watch: Callable[[int, int], None],
    batch_rows: int = BATCH_ROWS,
) -> Computed:
    """Computes the vectors of files into one file, which appears when it is complete.

    The file that is furthest behind is read next, so what waits in memory is small.

    Args:
        feature_set: what to compute.
        files: all files of all inputs.
        output: the Parquet file.
        watch: is told the rows done and the rows there are.
        batch_rows: the most rows of a batch.
    """
    streams = {stream.name: stream for stream in feature_set.streams}
    engine = Engine(compile_plan(feature_set), [file.partition for file in files])
    readers = [
        PartitionReader(streams[f.stream], f.input, batch_rows, summary=f.summary) for f in files
    ]
    unread: dict[str, int] = {}
    waiting: list[Vectors] = []
    rows, written, total = 0, 0, sum(file.rows for file in files)
    output.parent.mkdir(parents=True, exist_ok=True)
    aside = output.with_name(f".{output.name}.aside")
    target = VectorFile(aside, feature_set, file_metadata(feature_set, source_facts(files)))
    try:
        while open_readers := [reader for reader in readers if not reader.ended]:
            batch, dead = min(open_readers, key=lambda reader: reader.clock_ns).read()
            for reason in dead.reasons:
                unread[str(reason)] = unread.get(str(reason), 0) + 1
            produced = engine.process(batch)
            rows += len(batch) + len(dead)
            watch(rows, total)
            if produced.vectors is not None:
                waiting.append(produced.vectors)
            if sum(map(len, waiting)) >= ROW_GROUP or all(reader.ended for reader in readers):
                for vectors in joined(waiting):
                    target.write(vectors_table(feature_set, vectors))
                    written += len(vectors)
                waiting.clear()
        target.close()
        aside.rename(output)
    finally:
        aside.unlink(missing_ok=True)
        for reader in readers:
            reader.close()
    return Computed(by_stream([engine]), unread, written)


def run(console: Console, name: str, inputs: Sequence[str], output: Path) -> None:
    """Computes a set and prints the account of rows."""
    feature_set = named_set(name)
    with TableInputs() as tables, row_bar(console, "compute") as bar:
        files = scan_inputs(feature_set, inputs, tables)
        found = compute(feature_set, files, output, bar.show)
    show_account(console, found.account, found.unread)
    console.print(f"[green]done[/green]: {found.vectors:,} vectors in {output}")
