"""What `/metrics` tells: read back as Prometheus reads it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from dataflows.counters import Durations, VectorCounts
from dataflows.health import Limits
from dataflows.metrics import exposition, registry
from dataflows.observed import Observed, process_age_s
from feature_repo.market import market
from operators.batch import NO_CLOCK_NS, Batch
from operators.decode import decode
from operators.engine import Engine, Output
from operators.plan import compile_plan
from operators.snapshot import restore, snapshot

ROOT = Path(__file__).parents[1]
LIMITS = Limits(interval_s=5.0, ready_lag_s=30.0)
MINUTE_NS = 60 * 10**9
START_NS = 1_700_000_040 * 10**9
NOW_NS = START_NS + 20 * MINUTE_NS
FLAGS = tuple(market.quality)
PARTITIONS = [("bars", "0"), ("news", "0")]


@dataclass
class Part:
    """A part of a source, as the flow has it."""

    stream: str = "bars"
    topic: str = "market-bars"
    partition: int = 3
    position: int = 90
    end_offset: int | None = 100
    clock_ns: int = NOW_NS - 2 * 10**9
    counts: dict[str, int] = field(default_factory=lambda: {"messages": 90, "rows": 80, "late": 3})
    dead: dict[str, int] = field(default_factory=lambda: {"malformed": 7})


def bars(minutes: range, *, late: int = 0) -> Batch:
    """A bar a minute of two instruments; the first ones of the second come late."""
    rows = len(minutes)
    ends_ns = [START_NS + minute * MINUTE_NS for minute in minutes]
    arrived_ns = [ts + (3600 * 10**9 if i < late else 0) for i, ts in enumerate(ends_ns)]
    columns = {
        "instrument_id": ["AAPL"] * rows,
        "timeframe": ["1m"] * rows,
        "ts_ns": ends_ns,
        "arrival_ts_ns": arrived_ns,
        **{name: [100.0 + i for i in range(rows)] for name in ("open", "high", "low", "close")},
        "volume": [1.0] * rows,
    }
    stream = {each.name: each for each in market.streams}["bars"]
    batch, dead = decode(stream, pl.DataFrame(columns))
    assert not len(dead)
    return Batch(
        "bars", "0", max(arrived_ns), batch.keys, batch.ts_ns, batch.columns, batch.series,
        batch.arrival_ns,
    )  # fmt: skip


def silence(clock_ns: int) -> Batch:
    """The clock of the news, of which there are none."""
    stream = {each.name: each for each in market.streams}["news"]
    frame = pl.DataFrame(
        schema={
            "instrument_id": pl.String, "event_id": pl.String, "ts_ns": pl.Int64,
            "arrival_ts_ns": pl.Int64, "sentiment": pl.Float64, "confidence": pl.Float64,
        }
    )  # fmt: skip
    batch, _ = decode(stream, frame)
    return Batch(
        "news", "0", clock_ns, batch.keys, batch.ts_ns, batch.columns, batch.series,
        batch.arrival_ns,
    )  # fmt: skip


def run(engine: Engine, minutes: range, late: int = 0) -> Output:
    engine.process(bars(minutes, late=late))
    return engine.process(silence(START_NS + 2 * 3600 * 10**9))


def seen(**given: float) -> Observed:
    now_s = given.get("now_s", 50.0)
    return Observed("riffle", 1, 4, now_s=lambda: now_s, wall_ns=lambda: NOW_NS)


def families(observed: Observed) -> dict[str, Metric]:
    content_type, body = exposition(observed, LIMITS)
    assert content_type.startswith("text/plain")
    return {family.name: family for family in text_string_to_metric_families(body.decode())}


def sample(observed: Observed, name: str, **labels: str) -> float:
    return values(observed, name)[tuple(sorted(labels.items()))]


def values(observed: Observed, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    found = [s for family in families(observed).values() for s in family.samples if s.name == name]
    return {tuple(sorted(s.labels.items())): s.value for s in found}


@pytest.fixture
def full() -> Observed:
    """Something of everything, counted after it came into view."""
    observed = seen()
    part, engine = Part(), Engine(compile_plan(market), PARTITIONS)
    blank = Part(counts={}, dead={})
    observed.watch_part(blank)
    blank.counts, blank.dead = part.counts, part.dead
    done = {"records": 5, "transactions": 2, "retries": 1, "suppressed": 4, "commit_seconds": 0.5}
    observed.watch_sink("market", lambda: done)
    observed.watch_sink("market", lambda: {"records": 6})
    meter = observed.watch_engine(engine)
    other = observed.watch_engine(Engine(compile_plan(market), PARTITIONS))
    output = run(engine, range(1, 13), late=2)
    assert output.vectors is not None
    observed.vectors("market", FLAGS).add(output.vectors)
    meter.computed(0.002)
    observed.durations("sink", "market").add(0.2)
    observed.durations("decode", "bars").add(40.0)
    meter.written_down(0.01, 700)
    meter.written_down(0.01, 1000)
    other.written_down(0.02, 500)
    observed.part_snapshot("bars/3")
    observed.part_snapshot("bars/3")
    observed.dependency("kafka").report("no broker answers")
    return observed


def test_what_is_told_can_be_read_by_prometheus_in_both_of_its_forms(full):
    content_type, body = exposition(full, LIMITS, "application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    read = {family.name for family in openmetrics.text_string_to_metric_families(body.decode())}
    ours = {name for name in families(full) if name.startswith("riffle_")}
    assert {name.removesuffix("_info") for name in ours} <= read


BASE_UNITS = ("_seconds", "_bytes", "_rows", "_records")


def test_names_follow_the_conventions_and_every_metric_says_what_it_is(full):
    for family in registry(full, LIMITS).collect():
        if not family.name.startswith("riffle_"):
            assert family.name.startswith(("process_", "python_"))
            continue
        assert re.fullmatch(r"riffle(_[a-z]+)+", family.name)
        assert re.fullmatch(r"[A-Z1].*\.", family.documentation)
        assert family.type in ("counter", "gauge", "histogram", "info")
        assert not re.search(r"_(total|count|sum|bucket|info|ms|ns|milliseconds)$", family.name)
        if family.type == "histogram":
            assert family.name.endswith("_duration_seconds")
        for one in family.samples:
            assert not set(one.labels) & {"job", "instance", "quantile"} - {"le"}


def test_lags_are_told_in_records_and_in_seconds(full):
    of = {"stream": "bars", "topic": "market-bars", "partition": "3"}
    assert sample(full, "riffle_source_lag_records", **of) == 10
    assert sample(full, "riffle_source_lag_seconds", **of) == 2
    assert sample(full, "riffle_source_clock_lag_seconds", **of) == 2


def test_a_partition_that_is_read_to_its_end_lags_no_time():
    observed = seen()
    observed.watch_part(Part(position=100))
    of = {"stream": "bars", "topic": "market-bars", "partition": "3"}
    assert sample(observed, "riffle_source_lag_seconds", **of) == 0
    assert sample(observed, "riffle_source_clock_lag_seconds", **of) == 2


def test_what_is_not_known_yet_is_left_out():
    observed = seen()
    observed.watch_part(Part(end_offset=None, clock_ns=NO_CLOCK_NS))
    for name in ("lag_records", "lag_seconds", "clock_lag_seconds"):
        assert values(observed, f"riffle_source_{name}") == {}
    assert values(observed, "riffle_epoch_age_seconds") == {}
    assert values(observed, "riffle_recovery_duration_seconds") == {}


def test_messages_rows_and_dead_letters_add_up(full):
    of = {"stream": "bars", "topic": "market-bars", "partition": "3"}
    assert sample(full, "riffle_source_messages_total", **of) == 90
    fates = {fate: sample(full, "riffle_source_rows_total", fate=fate, **of)
             for fate in ("rows", "late", "dead")}  # fmt: skip
    assert fates == {"rows": 80, "late": 3, "dead": 7}
    assert sample(full, "riffle_source_dead_letters_total", reason="malformed", **of) == 7


def test_rows_of_the_engines_are_told_by_fate(full):
    of = {"set": "market", "stream": "bars"}
    assert sample(full, "riffle_engine_received_rows_total", **of) == 12
    assert sample(full, "riffle_engine_rows_total", fate="late", **of) == 2
    applied = sample(full, "riffle_engine_rows_total", fate="applied", **of)
    assert applied + sample(full, "riffle_engine_pending_rows", **of) == 10
    assert applied > 0
    assert sample(full, "riffle_engine_entities", set="market") == 1


def test_vectors_and_their_flags_are_counted(full):
    given = sample(full, "riffle_vectors_total", set="market", kind="final")
    assert given == sample(
        full, "riffle_engine_rows_total", set="market", stream="bars", fate="applied"
    )
    assert sample(full, "riffle_vectors_total", set="market", kind="provisional") == 0
    flags = {dict(key)["flag"]: n for key, n in values(full, "riffle_quality_flags_total").items()}
    assert set(flags) == set(FLAGS)
    assert flags["NO_EVENTS"] == given


def test_parts_of_one_sink_are_added_up(full):
    assert sample(full, "riffle_sink_records_total", sink="market") == 11
    assert sample(full, "riffle_sink_transactions_total", sink="market") == 2
    assert sample(full, "riffle_sink_retries_total", sink="market") == 1
    assert sample(full, "riffle_sink_suppressed_total", sink="market") == 4
    assert sample(full, "riffle_sink_commit_seconds_total", sink="market") == 0.5


def test_snapshots_epochs_and_dependencies_are_told(full):
    assert sample(full, "riffle_snapshot_size_bytes", set="market") == 1500
    assert sample(full, "riffle_snapshot_age_seconds", set="market") == 0
    assert sample(full, "riffle_snapshot_duration_seconds_count", set="market") == 3
    assert sample(full, "riffle_epochs_total") == 1
    assert sample(full, "riffle_live") == 1
    assert sample(full, "riffle_ready") == 0
    assert sample(full, "riffle_dependency_up", dependency="kafka") == 0
    assert sample(full, "riffle_dependency_failures_total", dependency="kafka") == 1
    assert 0 < sample(full, "riffle_recovery_duration_seconds") <= process_age_s()


def test_durations_are_histograms(full):
    buckets = values(full, "riffle_compute_duration_seconds_bucket")
    counts = {dict(key)["le"]: n for key, n in buckets.items()}
    assert (counts["0.001"], counts["0.0025"], counts["+Inf"]) == (0, 1, 1)
    assert sample(full, "riffle_compute_duration_seconds_sum", set="market") == 0.002
    beyond = values(full, "riffle_decode_duration_seconds_bucket")
    assert sum(beyond.values()) == 1


def test_hostile_names_stay_inside_their_label():
    observed = seen()
    name = 'x"} 1\nriffle_forged 9\n# \\'
    observed.watch_part(Part(topic=name))
    assert "riffle_forged" not in families(observed)
    (key,) = values(observed, "riffle_source_lag_records")
    assert dict(key)["topic"] == name


def test_a_process_that_resumes_counts_from_nothing():
    """A counter that falls to the value of a snapshot would look like so many new rows."""
    plan = compile_plan(market)
    before = Engine(plan, PARTITIONS)
    run(before, range(1, 11))
    engine = restore(plan, PARTITIONS, snapshot(before))
    assert engine.account.table()[0]["in"] == 10
    observed = seen()
    observed.watch_engine(engine)
    part = Part()
    observed.watch_part(part)
    of = {"stream": "bars", "topic": "market-bars", "partition": "3"}
    assert sample(observed, "riffle_source_messages_total", **of) == 0
    assert sample(observed, "riffle_source_dead_letters_total", reason="malformed", **of) == 0
    assert sample(observed, "riffle_engine_received_rows_total", set="market", stream="bars") == 0
    part.counts["messages"] += 2
    engine.process(bars(range(125, 127)))
    assert sample(observed, "riffle_source_messages_total", **of) == 2
    assert sample(observed, "riffle_engine_received_rows_total", set="market", stream="bars") == 2
    assert sample(observed, "riffle_engine_pending_rows", set="market", stream="bars") == 2


def test_two_engines_of_a_set_are_added_up():
    observed = seen()
    for _ in range(2):
        engine = Engine(compile_plan(market), PARTITIONS)
        observed.watch_engine(engine)
        run(engine, range(1, 5))
    of = {"set": "market", "stream": "bars"}
    assert sample(observed, "riffle_engine_received_rows_total", **of) == 8


def test_flags_are_counted_alike_whether_they_are_few_or_many():
    vectors = run(Engine(compile_plan(market), PARTITIONS), range(1, 60)).vectors
    assert vectors is not None
    few, many = VectorCounts(FLAGS), VectorCounts((*FLAGS, *(f"X{i}" for i in range(20))))
    for counts in (few, many, few, many):
        counts.add(vectors)
    assert any(few.raised().values())
    assert {name: n for name, n in many.raised().items() if name in FLAGS} == few.raised()
    for bit, name in enumerate(FLAGS):
        assert few.raised()[name] == 2 * int((vectors.quality >> bit & 1).sum())


def test_a_timed_function_gives_and_raises_what_it_would():
    spent = Durations()
    assert spent.timed(divmod)(7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError, match="modulo"):
        spent.timed(divmod)(7, 0)
    assert spent.count == 2


def test_an_epoch_ends_when_a_part_is_asked_again():
    observed = seen()
    for part in ("bars/0", "bars/1", "news/0", "bars/0", "bars/1", "news/0", "bars/1"):
        observed.part_snapshot(part)
    assert observed.epochs == 2
    assert observed.epoch_durations.count == 2


MULTIPROCESS = """
import feast
import os
assert "PROMETHEUS_MULTIPROC_DIR" in os.environ or "prometheus_multiproc_dir" in os.environ, "none"
from dataflows.health import Limits
from dataflows.metrics import exposition
from dataflows.observed import Observed
observed = Observed("riffle")
observed.durations("compute", "market").add(0.002)
print(exposition(observed, Limits(5.0, 30.0))[1].decode())
print(os.listdir(os.environ["PROMETHEUS_MULTIPROC_DIR"]))
"""


def test_the_settings_that_feast_leaves_for_several_processes_change_nothing(tmp_path):
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "PROMETHEUS_MULTIPROC_DIR": str(tmp_path),
    }  # fmt: skip
    told = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MULTIPROCESS],
        env=environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert 'riffle_compute_duration_seconds_count{set="market"} 1.0' in told
    assert "process_resident_memory_bytes" in told
    assert not [
        name for name in tmp_path.iterdir() if "riffle" in name.read_bytes().decode("latin-1")
    ]
