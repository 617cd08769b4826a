"""Where the vectors and the letters of a live flow go."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from bytewax.outputs import FixedPartitionedSink

from dataflows.live_context import DATABASE, KAFKA, ONLINE, Context
from dataflows.live_settings import Place
from dataflows.seen import Part, done_by
from dataflows.timed import TimedSink
from sinks.kafka import KafkaOutput, KafkaSink
from sinks.kafka_lane import Tenancy
from sinks.kafka_letters import KafkaLettersSink
from sinks.kafka_progress import ProgressLog

Sink = FixedPartitionedSink[Any, Any]


def sinks_of(context: Context, name: str, progress: ProgressLog) -> dict[Place, TimedSink]:
    """The sinks of a set, by place."""
    made: dict[Place, Callable[[], Sink]] = {
        "kafka": lambda: _kafka(context, name, progress),
        "table": lambda: _table(context, name),
        "online": lambda: _online(context, name),
    }
    label = context.plan.sets[name].name
    return {
        place: _timed(context, f"{label}/{place}", made[place]())
        for place in context.settings.sets[name].sinks
    }


def letters_sink(context: Context, progress: ProgressLog) -> TimedSink:
    """The sink of dead and late rows."""
    sink = KafkaLettersSink(
        context.plan.topics,
        _tenancy(context, progress, 0),
        context.lanes,
        context.states("letters"),
        _watch(context, "letters"),
        context.observed.dependency(KAFKA).beat,
    )
    return _timed(context, "letters", sink)


def _kafka(context: Context, name: str, progress: ProgressLog) -> Sink:
    table, feature_set = context.settings.sets[name], context.plan.sets[name]
    return KafkaSink(
        feature_set,
        KafkaOutput(table.topic, table.delivery, table.form, table.provisional_topic),
        _tenancy(context, progress, table.transaction),
        context.lanes,
        context.states(f"kafka_{feature_set.name}"),
        _watch(context, f"{feature_set.name}/kafka"),
        context.observed.dependency(KAFKA).beat,
    )


def _table(context: Context, name: str) -> Sink:
    from sinks.table import TableSink
    from sinks.table_lane import TableTenancy

    settings, feature_set = context.settings, context.plan.sets[name]
    return TableSink(
        feature_set,
        TableTenancy(settings.name, context.state.job, context.connections, settings.take_over),
        context.lanes,
        context.states(f"table_{feature_set.name}"),
        _watch(context, f"{feature_set.name}/table"),
        context.observed.dependency(DATABASE).beat,
        provisional="table" in settings.sets[name].early,
    )


def _online(context: Context, name: str) -> Sink:
    from feature_repo.loading import load_feast

    load_feast()
    from feature_repo.store import open_store
    from sinks.online import OnlineOutput, OnlineSink
    from sinks.online_lane import OnlineTenancy

    settings, feature_set = context.settings, context.plan.sets[name]
    online = settings.online
    assert online is not None  # noqa: S101 - the settings have been checked
    return OnlineSink(
        feature_set,
        OnlineOutput(
            partial(open_store, online.store),
            online.wait / 1e9,
            "online" in settings.sets[name].early,
        ),
        OnlineTenancy(settings.name, context.state.job, settings.take_over),
        context.lanes,
        context.states(f"online_{feature_set.name}"),
        _watch(context, f"{feature_set.name}/online"),
        context.observed.dependency(ONLINE).beat,
    )


def _tenancy(context: Context, progress: ProgressLog, transaction_ns: int) -> Tenancy:
    settings = context.settings
    return Tenancy(
        settings.name,
        context.state.job,
        progress,
        take_over=settings.take_over,
        transaction_ms=transaction_ns / 1e6,
    )


def _watch(context: Context, label: str) -> Callable[[Part], None]:
    return lambda part: context.observed.watch_sink(label, partial(done_by, part))


def _timed(context: Context, label: str, sink: Sink) -> TimedSink:
    return TimedSink(sink, label, context.observed)
