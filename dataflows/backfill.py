"""The backfill as a Bytewax dataflow: ``python -m bytewax.run dataflows.backfill``.

```
read --> route --> extract --> vectors: Parquet, Feast
  |                   |------> late rows
  |-------------------|------> dead letters
```
What it does is said by the environment, see :class:`dataflows.settings.BackfillSettings`; the flow
is built when it is asked for, so importing this module does nothing.
"""

from __future__ import annotations

import atexit
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bytewax.operators as op
from bytewax.dataflow import Dataflow

from dataflows.inputs import (
    File,
    alignment_ns,
    end_of_input_ns,
    read_files,
    scan_inputs,
    source_facts,
)
from dataflows.named_sets import named_set
from dataflows.processes import die_with_parent
from dataflows.progress import Progress
from dataflows.settings import BackfillSettings, backfill_settings
from dataflows.warm_up import WarmUp
from operators.account import Fate
from operators.batch import Batch, Vectors
from operators.dead_letters import DeadLetters
from operators.engine import Engine, Refused
from operators.extract import Donors, Extracted, extract, key_of
from operators.feature_set import FeatureSet
from operators.kernels.hashing import KEY_GROUPS, key_groups
from operators.plan import compile_plan
from operators.route import of_groups, route
from sinks.letters import DEAD, LATE, LettersSink
from sinks.parquet import ParquetSink
from sinks.shelf import Owned
from sources.alignment import Alignment
from sources.bytewax_files import FilesSource
from sources.messages import Read
from sources.stop import STOP

if TYPE_CHECKING:
    from sinks.feast import FeastSink

NAME = "riffle_backfill"


def build(settings: BackfillSettings, progress: Progress | None = None) -> Dataflow:
    """Builds the flow.

    Args:
        settings: what to do.
        progress: is told of each batch.
    """
    feature_set = named_set(settings.feature_set)
    files = _files(settings, feature_set)
    own = [file for file in files if file.shard in {None, settings.shard}]
    end_ns = max(settings.end_ns, end_of_input_ns(feature_set, files))
    watch = progress.watch if progress else _ignore
    parts = [f"{settings.part}{index:02d}" for index in range(settings.processes)]

    flow = Dataflow(NAME)
    reads = op.input("read", flow, _source(settings, feature_set, own))
    routed = op.flat_map_batch("route", reads, _router(settings, progress))
    plan = compile_plan(feature_set)
    partitions = [file.partition for file in own]
    extracted = extract(
        "extract",
        routed,
        plan,
        lambda _: partitions,
        end_ns,
        Donors(WarmUp(plan, own, settings.batch_rows)) if settings.warm_up else Donors(),
        watch,
    )

    vectors = op.flat_map_batch("vectors", extracted, only_vectors)
    late = op.flat_map_batch("late", extracted, only_late)
    unread = op.flat_map_batch("unread", reads, _dead_letters(settings))
    dead = op.merge("dead", unread, op.flat_map_batch("refused", extracted, only_dead))
    owned = Owned(settings.job, tuple(parts), durable=settings.recovery)
    gold = ParquetSink(feature_set, settings.output, owned, source=source_facts(files))
    op.output("parquet", vectors, gold)
    op.output("late_rows", late, LettersSink(LATE, feature_set, settings.output, owned))
    op.output("dead_letters", dead, LettersSink(DEAD, feature_set, settings.output, owned))
    if settings.feast is not None:
        op.output("feast", vectors, _feast_sink(settings.feast, feature_set))
    return flow


def _ignore(_: Engine) -> None:
    """Watches nothing."""


def _files(settings: BackfillSettings, feature_set: FeatureSet) -> list[File]:
    if settings.files is not None:
        return read_files(settings.files)
    return scan_inputs(feature_set, settings.inputs)


def _source(settings: BackfillSettings, feature_set: FeatureSet, files: list[File]) -> FilesSource:
    streams = {stream.name: stream for stream in feature_set.streams}
    apart_ns = alignment_ns(files) if settings.alignment_ns is None else settings.alignment_ns
    return FilesSource(
        [(streams[file.stream], file.input) for file in files],
        settings.batch_rows,
        Alignment(apart_ns),
        {file.input.where: file.summary for file in files},
    )


def _router(
    settings: BackfillSettings, progress: Progress | None
) -> Callable[[list[Read]], Iterable[tuple[str, Batch]]]:
    """Sends each batch's rows to their key groups, and its clock to every one of this shard."""
    kept = settings.kept_groups
    everything = len(kept) == KEY_GROUPS

    def routed(reads: list[Read]) -> list[tuple[str, Batch]]:
        if progress is not None:
            progress.tick()
        return [
            (key_of(group), rows)
            for read in reads
            for group, rows in route(read.batch if everything else of_groups(read.batch, kept))
            if everything or group in kept
        ]

    return routed


def _dead_letters(
    settings: BackfillSettings,
) -> Callable[[list[Read]], Iterable[tuple[str, DeadLetters]]]:
    """Gives the dead letters of the reads, each to one shard, though several may read them."""
    kept = settings.kept_groups

    def letters(reads: list[Read]) -> list[tuple[str, DeadLetters]]:
        found = []
        for read in reads:
            if len(read.dead):
                group = int(key_groups([read.dead.partition])[0])
                if group in kept:
                    found.append((key_of(group), read.dead))
        return found

    return letters


def only_vectors(items: list[tuple[str, Extracted]]) -> list[tuple[str, Vectors]]:
    """Gives the vectors among what is extracted."""
    return [(key, item) for key, item in items if isinstance(item, Vectors)]


def only_late(items: list[tuple[str, Extracted]]) -> list[tuple[str, DeadLetters | Refused]]:
    """Gives the rows that came too late, by their arrival or behind an end of input."""
    fates = {Fate.LATE, Fate.REPAIR}
    return [(k, item) for k, item in items if isinstance(item, Refused) and item.fate in fates]


def only_dead(items: list[tuple[str, Extracted]]) -> list[tuple[str, DeadLetters | Refused]]:
    """Gives the rows that the engine could not take."""
    dead = Fate.DEAD
    return [(k, item) for k, item in items if isinstance(item, Refused) and item.fate is dead]


def _feast_sink(repo: Path, feature_set: FeatureSet) -> FeastSink:
    from feature_repo.store import open_store
    from sinks.feast import FeastSink

    return FeastSink(lambda: open_store(repo), feature_set)


def get_flow() -> Dataflow:
    """Builds the flow that the environment describes, to be run in this process.

    SIGTERM then makes the inputs end without saying that the data does, so that the state is kept.
    """
    settings = backfill_settings()
    if settings.parent is not None:
        die_with_parent(settings.parent)
    signal.signal(signal.SIGTERM, lambda *_: STOP.set())
    progress = None
    if settings.progress is not None:
        progress = Progress(settings.progress)
        atexit.register(lambda: progress.write(finished=True, drained=STOP.is_set()))
    return build(settings, progress)


def __getattr__(name: str) -> Any:
    if name == "flow":
        return get_flow()
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
