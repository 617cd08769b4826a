"""What is observed of a process as Prometheus metrics, read when they are asked for.

The registry is our own and its collectors hold no values, so nothing here depends on the settings
for several processes that other libraries leave in the environment (`import feast` does).
"""

from __future__ import annotations

import math
import platform
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import TypeVar

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from dataflows.counters import BOUNDS_S, Durations
from dataflows.health import Limits, liveness, readiness
from dataflows.observed import Observed
from operators.account import Fate
from operators.batch import NO_CLOCK_NS
from operators.kernels import BITS_VERSION

Labelled = TypeVar("Labelled", GaugeMetricFamily, CounterMetricFamily)

NS_PER_S = 1e9
SINK_COUNTS = {
    "records": "Messages or rows that a sink was given and has not left out.",
    "transactions": "Transactions that a sink has committed.",
    "retries": "Attempts of a sink that failed and were made again.",
    "suppressed": "Vectors and letters that a sink left out, because they were committed before.",
    "commit_seconds": "Time that a sink has spent in commits.",
    "wait_seconds": "Time that the flow has waited for room in a sink.",
}
"""What is told of every sink that counts it."""


def exposition(observed: Observed, limits: Limits, accept: str = "*/*") -> tuple[str, bytes]:
    """Renders all metrics.

    Args:
        observed: what there is to see.
        limits: what counts as well.
        accept: content types that the reader takes, as in HTTP.

    Returns:
        The content type and the document.
    """
    encode, content_type = choose_encoder(accept)
    return content_type, encode(registry(observed, limits))


def registry(observed: Observed, limits: Limits) -> CollectorRegistry:
    """A registry of all that is told of the process."""
    made = CollectorRegistry(auto_describe=False)
    made.register(Metrics(observed, limits))
    ProcessCollector(registry=made)
    PlatformCollector(registry=made)
    GCCollector(registry=made)
    return made


def release() -> str:
    """The installed version."""
    try:
        return version("riffle")
    except PackageNotFoundError:
        return "unknown"


class Metrics(Collector):
    """Reads what is observed, whenever it is asked.

    Args:
        observed: what there is to see.
        limits: what counts as well.
    """

    def __init__(self, observed: Observed, limits: Limits) -> None:
        self._observed = observed
        self._limits = limits

    def collect(self) -> Iterator[Metric]:
        """Gives every metric."""
        yield from self._process()
        yield from self._sources()
        yield from self._engines()
        yield from self._vectors()
        yield from self._sinks()
        yield from self._durations()
        yield from self._snapshots()
        yield from self._dependencies()

    def _process(self) -> Iterator[Metric]:
        seen = self._observed
        told = {
            "version": release(),
            "bits_version": str(BITS_VERSION),
            "python_version": platform.python_version(),
        }
        yield InfoMetricFamily("riffle_build", "What is running.", told)
        told = {"flow": seen.flow, "shard": str(seen.shard), "shards": str(seen.shards)}
        yield InfoMetricFamily("riffle_flow", "Which part of which flow this is.", told)
        live = liveness(seen, self._limits).well
        ready = readiness(seen, self._limits).well
        yield gauge("riffle_live", "1 while /health says that all is well.", float(live))
        yield gauge("riffle_ready", "1 while /ready says that all is well.", float(ready))
        yield gauge("riffle_draining", "1 after a request to stop.", float(seen.draining))
        yield CounterMetricFamily(
            "riffle_epochs", "Epochs that ended, each with a durable snapshot.", seen.epochs
        )
        planned = self._limits.interval_s
        yield gauge("riffle_epoch_interval_seconds", "Planned time between two epochs.", planned)
        if seen.progress_s is not None:
            age_s = seen.now_s() - seen.progress_s
            yield gauge("riffle_epoch_age_seconds", "Time since an epoch ended.", age_s)
        if seen.recovery_s is not None:
            words = "Time from the start of the process until it had its state and went on."
            yield gauge("riffle_recovery_duration_seconds", words, seen.recovery_s)

    def _sources(self) -> Iterator[Metric]:
        seen = self._observed
        of = ["stream", "topic", "partition"]
        lag_records = GaugeMetricFamily(
            "riffle_source_lag_records", "Messages in the log that are not read yet.", labels=of
        )
        lag_s = GaugeMetricFamily(
            "riffle_source_lag_seconds",
            "How long ago the newest message that was read had arrived; 0 when all are read.",
            labels=of,
        )
        clock_s = GaugeMetricFamily(
            "riffle_source_clock_lag_seconds",
            "How far the partition's clock is behind the time of day.",
            labels=of,
        )
        messages = CounterMetricFamily(
            "riffle_source_messages", "Messages that were read.", labels=of
        )
        rows = CounterMetricFamily(
            "riffle_source_rows",
            "Rows that were read, by what became of them.",
            labels=[*of, "fate"],
        )
        dead = CounterMetricFamily(
            "riffle_source_dead_letters", "Messages that can't be used.", labels=[*of, "reason"]
        )
        now_ns = seen.wall_ns()
        for watched in tuple(seen.parts):
            part = watched.part
            named = [part.stream, part.topic, str(part.partition)]
            if watched.lag_records is not None:
                lag_records.add_metric(named, watched.lag_records)
                seconds = watched.lag_s(now_ns)
                lag_s.add_metric(named, seconds)
            if part.clock_ns > NO_CLOCK_NS:
                clock_s.add_metric(named, (now_ns - part.clock_ns) / NS_PER_S)
            for fate, count in watched.counts().items():
                if fate == "messages":
                    messages.add_metric(named, count)
                else:
                    rows.add_metric([*named, fate], count)
            reasons = watched.dead()
            rows.add_metric([*named, "dead"], sum(reasons.values()))
            for reason, count in reasons.items():
                dead.add_metric([*named, reason], count)
        yield from (lag_records, lag_s, clock_s, messages, rows, dead)

    def _engines(self) -> Iterator[Metric]:
        seen = self._observed
        received: dict[tuple[str, ...], float] = defaultdict(float)
        fates: dict[tuple[str, ...], float] = defaultdict(float)
        waiting: dict[tuple[str, ...], float] = defaultdict(float)
        entities: dict[tuple[str, ...], float] = defaultdict(float)
        clocks: dict[tuple[str, ...], float] = {}
        now_ns = seen.wall_ns()
        for watched in tuple(seen.engines):
            name = watched.engine.set.name
            for stream, fate, count in watched.rows():
                if fate == Fate.IN:
                    received[name, stream] += count
                else:
                    fates[name, stream, fate.name.lower()] += count
            for stream, count in watched.pending():
                waiting[name, stream] += count
            entities[name,] += watched.entities
            clock_ns = watched.engine.clock_ns
            if clock_ns > NO_CLOCK_NS:
                lag_s = (now_ns - clock_ns) / NS_PER_S
                clocks[name,] = max(clocks.get((name,), -math.inf), lag_s)
        words = "Rows that a set's engines were given."
        yield counters("riffle_engine_received_rows", words, ["set", "stream"], received)
        words = "Rows that a set's engines were given, by what became of them; others wait."
        yield counters("riffle_engine_rows", words, ["set", "stream", "fate"], fates)
        words = "Rows that wait until the clock has passed them."
        yield gauges("riffle_engine_pending_rows", words, ["set", "stream"], waiting)
        words = "Entities of which a set's engines hold state."
        yield gauges("riffle_engine_entities", words, ["set"], entities)
        words = "How far the clock of a set's slowest engine is behind the time of day."
        yield gauges("riffle_engine_clock_lag_seconds", words, ["set"], clocks)

    def _vectors(self) -> Iterator[Metric]:
        given: dict[tuple[str, ...], float] = {}
        flags: dict[tuple[str, ...], float] = {}
        for name, counts in tuple(self._observed.vector_counts.items()):
            given[name, "final"] = counts.final
            given[name, "provisional"] = counts.provisional
            flags.update({(name, flag): n for flag, n in counts.raised().items()})
        words = "Vectors that a set's engines gave, before a sink left out any."
        yield counters("riffle_vectors", words, ["set", "kind"], given)
        words = "Final vectors with a quality flag."
        yield counters("riffle_quality_flags", words, ["set", "flag"], flags)

    def _sinks(self) -> Iterator[Metric]:
        totals: dict[str, dict[tuple[str, ...], float]] = {name: {} for name in SINK_COUNTS}
        for sink, counts in tuple(self._observed.sinks):
            for name, count in counts().items():
                totals[name][sink,] = totals[name].get((sink,), 0.0) + count
        for name, words in SINK_COUNTS.items():
            yield counters(f"riffle_sink_{name}", words, ["sink"], totals[name])

    def _durations(self) -> Iterator[Metric]:
        stages = tuple(self._observed.stages.items())
        for stage, label, words in (
            ("decode", "stream", "Time to turn messages into columns, for each batch."),
            ("compute", "set", "Time to compute what batches have made final, for each call."),
            ("sink", "sink", "Time to hand over, write or commit, for each call of a sink."),
        ):
            family = HistogramMetricFamily(
                f"riffle_{stage}_duration_seconds", words, labels=[label]
            )
            for (of_stage, of), durations in stages:
                if of_stage == stage:
                    histogram(family, [of], durations)
            yield family
        family = HistogramMetricFamily("riffle_epoch_duration_seconds", "Time an epoch took.")
        histogram(family, [], self._observed.epoch_durations)
        yield family

    def _snapshots(self) -> Iterator[Metric]:
        now_s = self._observed.now_s()
        sizes: dict[tuple[str, ...], float] = {}
        ages: dict[tuple[str, ...], float] = {}
        family = HistogramMetricFamily(
            "riffle_snapshot_duration_seconds", "Time to write an engine down.", labels=["set"]
        )
        for watched in tuple(self._observed.engines):
            key = (watched.engine.set.name,)
            sizes[key] = sizes.get(key, 0.0) + watched.snapshot_size
        for name, facts in tuple(self._observed.snapshots.items()):
            if facts.taken_s is not None:
                ages[name,] = now_s - facts.taken_s
            histogram(family, [name], facts.durations)
        words = "Size of the newest snapshots of a set's engines together."
        yield gauges("riffle_snapshot_size_bytes", words, ["set"], sizes)
        words = "Time since an engine of a set was written down."
        yield gauges("riffle_snapshot_age_seconds", words, ["set"], ages)
        yield family

    def _dependencies(self) -> Iterator[Metric]:
        up: dict[tuple[str, ...], float] = {}
        failures: dict[tuple[str, ...], float] = {}
        for name, dependency in tuple(self._observed.dependencies.items()):
            up[name,] = float(dependency.trouble is None)
            failures[name,] = dependency.failures
        words = "1 while what the process needs can be used."
        yield gauges("riffle_dependency_up", words, ["dependency"], up)
        words = "Attempts to use it that failed."
        yield counters("riffle_dependency_failures", words, ["dependency"], failures)


def gauge(name: str, words: str, value: float) -> GaugeMetricFamily:
    """A gauge without labels."""
    return GaugeMetricFamily(name, words, value)


def gauges(
    name: str, words: str, labels: list[str], values: dict[tuple[str, ...], float]
) -> GaugeMetricFamily:
    """A gauge with labels."""
    return _filled(GaugeMetricFamily(name, words, labels=labels), values)


def counters(
    name: str, words: str, labels: list[str], values: dict[tuple[str, ...], float]
) -> CounterMetricFamily:
    """A counter with labels, whose samples end in ``_total``."""
    return _filled(CounterMetricFamily(name, words, labels=labels), values)


def _filled(family: Labelled, values: dict[tuple[str, ...], float]) -> Labelled:
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def histogram(family: HistogramMetricFamily, labels: list[str], durations: Durations) -> None:
    """Adds one histogram to a family."""
    total, buckets = 0, []
    for bound, count in zip([*map(str, BOUNDS_S), "+Inf"], tuple(durations.buckets), strict=True):
        total += count
        buckets.append((bound, float(total)))
    family.add_metric(labels, buckets, durations.total_s)
