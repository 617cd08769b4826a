"""Feature sets live on Kafka: ``python -m bytewax.run dataflows.live -r state/shard-0-of-1 ...``.

```
read --> route --> extract --> vectors: Kafka, a table, the online store    for each set
  |                   |------> letters
  |--------------------------> letters: dead and late messages
```
What it does is said by a TOML file and the environment, see :mod:`dataflows.live_settings`;
``riffle live`` runs all processes of a flow. The flow is built when it is asked for, so importing
this module does nothing.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import bytewax.operators as op
import numpy as np
from bytewax.dataflow import Dataflow, Stream
from bytewax.operators import KeyedStream

from dataflows import live_state
from dataflows.dependencies import StandsStill
from dataflows.failures import end_in_words
from dataflows.health import Limits
from dataflows.health_server import HealthServer, listen_address
from dataflows.live_context import DATABASE, KAFKA, NAME, Context, database_of
from dataflows.live_plan import (
    FlowPlan,
    archive_of,
    clock_margin_ns,
    new_flow,
    plan_flow,
    starts_of,
)
from dataflows.live_settings import LiveSettings, live_settings
from dataflows.live_sinks import letters_sink, sinks_of
from dataflows.live_state import part_name
from dataflows.logs import set_up_logs
from dataflows.observed import Observed
from dataflows.openings import Openings
from dataflows.processes import die_with_parent
from dataflows.rescale import carried_states
from dataflows.seen import SeenSource
from dataflows.settings import SettingsError
from dataflows.topics import connection_of
from operators.batch import Batch, Vectors, no_vectors
from operators.dead_letters import DeadLetters
from operators.durations import NS_PER_UNIT
from operators.engine import Refused
from operators.extract import Donors, Extracted, extract, key_of
from operators.feature_set import FeatureSet
from operators.plan import compile_plan
from sinks.kafka_letters import Letters, RefusedBy
from sinks.kafka_progress import ProgressLog
from sources.alignment import Alignment
from sources.broker_clock import BrokerClock
from sources.history import archived
from sources.kafka_log import KafkaLog
from sources.kafka_source import KafkaSource, Span
from sources.messages import Read
from sources.stop import STOP

log = logging.getLogger("riffle")


@dataclass(frozen=True)
class Process:
    """What Bytewax was told of this process.

    Attributes:
        folder: of the snapshots.
        number: in a cluster; None for a shard.
    """

    folder: Path
    number: int | None


def bytewax_arguments(arguments: Sequence[str]) -> Process:
    """Reads from the command line what Bytewax reads there.

    Raises:
        SettingsError: when there is no folder of snapshots, or several workers share a process.
    """
    parser = argparse.ArgumentParser(add_help=False)
    for flags, variable in (
        (("-r", "--recovery-directory"), "BYTEWAX_RECOVERY_DIRECTORY"),
        (("-w", "--workers-per-process"), "BYTEWAX_WORKERS_PER_PROCESS"),
        (("-i", "--process-id"), "BYTEWAX_PROCESS_ID"),
    ):
        parser.add_argument(*flags, default=os.environ.get(variable))
    told, _ = parser.parse_known_args(list(arguments))
    if told.recovery_directory is None:
        msg = (
            "dataflows.live: must keep its state in a folder, found none; give Bytewax -r "
            "state/shard-0-of-1 -s 5 -b 0, or start the flow by `riffle live`, which does"
        )
        raise SettingsError(msg)
    if told.workers_per_process not in {None, "1"}:
        msg = (
            f"dataflows.live: must have one worker a process, found -w {told.workers_per_process};"
            " workers of a process share one core: start shards or a cluster of processes"
        )
        raise SettingsError(msg)
    number = None if told.process_id is None else int(told.process_id)
    return Process(Path(told.recovery_directory), number)


def build(context: Context) -> Dataflow:
    """Builds the flow of one process."""
    plan, settings = context.plan, context.settings
    progress = ProgressLog(plan.connection, settings.kafka.progress_topic)
    flow = Dataflow(NAME)
    inputs = []
    alignment = Alignment(settings.alignment)
    if plan.facts:
        inputs.append(op.input("read", flow, _source(context, alignment)))
    if plan.tables:
        inputs.append(op.input("read_tables", flow, _tables(context, alignment)))
    reads = inputs[0] if len(inputs) == 1 else op.merge("reads", *inputs)
    letters = [op.flat_map_batch("unread", reads, _unread(plan))]
    if plan.facts or any(KAFKA in table.sinks for table in settings.sets.values()):
        letters.append(op.input("lanes", flow, Openings(context.lanes, DeadLetters("", ""))))
    for name, feature_set in plan.sets.items():
        extracted = _extract(context, feature_set, reads, name)
        vectors = op.flat_map_batch(
            f"vectors_{feature_set.name}", extracted, _vectors(context, feature_set)
        )
        for place, sink in sinks_of(context, name, progress).items():
            given = vectors
            if place == KAFKA:
                openings = Openings(context.lanes, no_vectors())
                lanes = op.input(f"lanes_{feature_set.name}", flow, openings)
                given = op.merge(f"written_{feature_set.name}", lanes, vectors)
            op.output(f"{place}_{feature_set.name}", given, sink)
        letters.append(
            op.flat_map_batch(f"refused_{feature_set.name}", extracted, _refused(feature_set))
        )
    op.output("letters", op.merge("all_letters", *letters), letters_sink(context, progress))
    return flow


def _tables(context: Context, alignment: Alignment) -> SeenSource:
    from sources.table_source import TableSource

    plan, settings = context.plan, context.settings
    starts = starts_of(context.state)
    source = TableSource(
        [plan.table_input(name, starts[plan.topics[name], 0]) for name in plan.tables],
        database_of(settings),
        alignment,
        context.states("read_tables"),
        batch_rows=settings.batch_messages,
        report=context.observed.dependency(DATABASE).report,
    )
    return SeenSource(source, context.observed)


def _source(context: Context, alignment: Alignment) -> SeenSource:
    plan, settings = context.plan, context.settings
    kafka = settings.kafka
    group = kafka.group or settings.name
    archives = {plan.topics[name]: archive_of(plan, name) for name in plan.facts}

    stamped = {
        plan.topics[name]: plan.facts[name]
        for name in plan.facts
        if settings.input_of(name).arrival == "broker"
    }
    clock = BrokerClock(
        plan.connection,
        kafka.clock_topic,
        stamped,
        margin_ns=clock_margin_ns(plan),
        tick_ms=max(1, kafka.tick // NS_PER_UNIT["ms"]),
    )
    if stamped:
        standing = StandsStill("the broker's clock", clock.now_ns, context.observed.now_s)
        context.observed.dependency(KAFKA, standing)
    source = KafkaSource(
        [plan.kafka_input(name) for name in plan.facts],
        cache(lambda: KafkaLog(plan.connection, group, on_gone=kafka.on_gone)),
        Span(
            starts_of(context.state),
            carried=context.states("read"),
            history=archived(archives, stamped),
        ),
        alignment,
        clock if stamped else None,
        context.lanes if plan.co_partitioned else None,
        settings.batch_messages,
    )
    return SeenSource(source, context.observed)


def _extract(
    context: Context, feature_set: FeatureSet, reads: Stream[Read], name: str
) -> KeyedStream[Extracted]:
    plan = context.plan
    names = {stream.name for stream in feature_set.streams}
    route = plan.route

    def routed(items: list[Read]) -> list[tuple[str, Batch]]:
        return [
            (key_of(lane), batch)
            for read in items
            if read.batch.stream in names
            for lane, batch in route(read.batch)
        ]

    rows = op.flat_map_batch(f"route_{feature_set.name}", reads, routed)
    step = f"extract_{feature_set.name}"
    states = context.states(f"{step}.engine")
    return extract(
        step,
        rows,
        compile_plan(feature_set),
        lambda batch: plan.heard(feature_set, batch),
        watch=context.observed.watch_engine,
        # Lanes move only where a partition is a lane.
        donors=Donors(carried=lambda batch: states.get(key_of(int(batch.partition)))),
        provisional=context.settings.sets[name].provisional,
    )


def _vectors(
    context: Context, feature_set: FeatureSet
) -> Callable[[list[tuple[str, Extracted]]], list[tuple[str, Vectors]]]:
    """Gives the vectors among what is extracted, from the time on when they are wanted."""
    counts = context.observed.vectors(feature_set.name, tuple(feature_set.quality))
    from_ns = context.state.emit_from_ns

    def wanted(items: list[tuple[str, Extracted]]) -> list[tuple[str, Vectors]]:
        found = []
        for key, item in items:
            if isinstance(item, Vectors):
                early = item.ts_ns < from_ns
                given = item.take(np.flatnonzero(~early)) if early.any() else item
                if len(given):
                    counts.add(given)
                    found.append((key, given))
        return found

    return wanted


def _refused(
    feature_set: FeatureSet,
) -> Callable[[list[tuple[str, Extracted]]], list[tuple[str, Letters]]]:
    """Gives the rows that the set's engines did not take."""

    def refused(items: list[tuple[str, Extracted]]) -> list[tuple[str, Letters]]:
        return [
            (key, RefusedBy(feature_set.name, item))
            for key, item in items
            if isinstance(item, Refused)
        ]

    return refused


def _unread(plan: FlowPlan) -> Callable[[list[Read]], list[tuple[str, Letters]]]:
    """Gives the messages that the source could not use, to one lane each."""

    def letters(reads: list[Read]) -> list[tuple[str, Letters]]:
        found: list[tuple[str, Letters]] = []
        for read in reads:
            for some in (read.dead, read.late):
                if len(some):
                    found.append((key_of(int(some.partition) % plan.lanes), some))
        return found

    return letters


def secrets_of(settings: LiveSettings) -> list[str]:
    """What must never be logged."""
    secrets = connection_of(settings).secrets
    return [*secrets, *(database_of(settings).secrets if settings.database else [])]


@cache
def get_flow() -> Dataflow:
    """Builds the flow that the settings describe, to be run in this process.

    SIGTERM then makes the inputs end without saying that the data does, so that the state is kept.

    Raises:
        SettingsError: for settings that can't be.
        RecoveryError: for a state that is another flow's, or in use.
    """
    settings = live_settings()
    if settings.parent is not None:
        die_with_parent(settings.parent)
    set_up_logs(secrets_of(settings))
    end_in_words()
    process = bytewax_arguments(sys.argv[1:])
    cluster = process.number is not None
    own = settings.recovery / part_name(settings.shard, 0 if cluster else settings.shards)
    if process.folder.resolve() != own.resolve():
        msg = (
            f"dataflows.live: must keep the state of this process in {own}, found "
            f"{process.folder}; give Bytewax -r {own}"
        )
        raise SettingsError(msg)
    plan = plan_flow(settings)
    found = live_state.read(settings.recovery)
    state = live_state.settle(settings.recovery, new_flow(plan, cluster=cluster, found=found))
    # Held for as long as the process lives.
    live_state.occupy(own, process.number or 0)
    number = settings.shard if not cluster else process.number or 0
    observed = Observed(settings.name, number, settings.shards)
    context = Context(plan, state, plan.own_lanes(cluster=cluster), carried_states(own), observed)
    log.info(
        "flow %s goes on", settings.name, extra={"lanes": list(context.lanes), "state": str(own)}
    )
    flow = build(context)
    if settings.listen:
        limits = Limits(settings.snapshot_every / 1e9, settings.ready_lag / 1e9)
        HealthServer(observed, limits, listen_address(settings.listen, number)).start()

    def drain(*_: object) -> None:
        observed.draining = True
        STOP.set()

    signal.signal(signal.SIGTERM, drain)
    return flow


def __getattr__(name: str) -> Any:
    if name == "flow":
        return get_flow()
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
