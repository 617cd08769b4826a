"""Replay and verify on a real broker: the bits of a batch run, and every planted difference."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from rich.console import Console
from typer.testing import CliRunner

from dataflows import live_state
from dataflows import verify as verifying
from dataflows.cli import app
from dataflows.commands.diff import compare
from dataflows.commands.replay import Request, run, spelled
from dataflows.live_plan import plan_flow
from dataflows.live_settings import LiveSettings, live_settings
from dataflows.live_state import TopicFacts, new_state
from dataflows.log_inputs import Range, needed_history_ns
from dataflows.named_sets import named_set
from dataflows.recompute import recomputing
from dataflows.replay import Destination, TopicTarget, settings_of_set
from operators.batch import NO_CLOCK_NS
from operators.feature_set import FeatureSet
from operators.frames import schema
from operators.streams import Field, Stream
from sinks.dataset import read_vectors
from sources.archiving import archive_topics
from sources.kafka_client import Connection, murmur2
from sources.kafka_log import OffsetGoneError
from tests.kafka_topics import read_topic
from tests.services.kafka import Topics

MINUTE_NS = 60 * 10**9
START_NS = 1_767_225_600 * 10**9
NAMES = [f"i{number}" for number in range(6)]
BARS = 90
PARTITIONS = 2


def bars(seed: int = 1) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    rows = BARS * len(NAMES)
    close = 100 + rng.standard_normal(rows).cumsum() * 0.01
    ts = START_NS + np.repeat(np.arange(BARS), len(NAMES)) * MINUTE_NS
    return pl.DataFrame(
        {
            "instrument_id": NAMES * BARS,
            "timeframe": ["1m"] * rows,
            "ts_ns": ts,
            "arrival_ts_ns": ts + rng.integers(1, 4 * 10**9, rows),
            "open": close,
            "high": close + 0.5,
            "low": close - 0.5,
            "close": close + 0.1,
            "volume": rng.integers(1, 1000, rows).astype(float),
        }
    )


def news(count: int = 300, seed: int = 2) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    ts = START_NS + np.sort(rng.integers(0, BARS * MINUTE_NS, count))
    return pl.DataFrame(
        {
            "instrument_id": rng.choice(NAMES, count),
            "event_id": [f"e{i}" for i in range(count)],
            "ts_ns": ts,
            "arrival_ts_ns": ts + rng.integers(1, 50 * 10**9, count),
            "sentiment": rng.uniform(-1, 1, count),
            "confidence": rng.uniform(0, 1, count),
        }
    )


def trades(count: int = 3_000, seed: int = 3) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    ts = START_NS + np.sort(rng.integers(0, BARS * MINUTE_NS, count))
    return pl.DataFrame(
        {
            "instrument_id": rng.choice(NAMES, count),
            "trade_id": np.arange(count),
            "ts_ns": ts,
            "arrival_ts_ns": ts + rng.integers(1, 4 * 10**9, count),
            "price": 100 + rng.standard_normal(count).cumsum() * 0.01,
            "size": rng.integers(1, 1000, count).astype(float),
        }
    )


def publish(bootstrap: str, topic: str, frame: pl.DataFrame, partitions: int = PARTITIONS) -> None:
    """Rows as JSON, in the order of their arrival, each in the partition of its entity."""
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 20})
    ordered = frame.sort("arrival_ts_ns") if "arrival_ts_ns" in frame.columns else frame
    for row in ordered.iter_rows(named=True):
        key = row[frame.columns[0]].encode()
        producer.produce(topic, msgspec.json.encode(row), key, murmur2(key) % partitions)
        producer.poll(0)
    assert producer.flush(20) == 0


@dataclass
class Flow:
    """A flow's topics, and its settings as a file."""

    bootstrap: str
    topics: dict[str, str]
    output: str
    clock: str
    folder: Path
    inputs: dict[str, dict[str, str]] = field(default_factory=dict)
    kafka: dict[str, str] = field(default_factory=dict)
    sets: dict[str, dict[str, str]] = field(default_factory=dict)

    def settings(self) -> LiveSettings:
        return live_settings(self.file())

    def file(self) -> Path:
        told = [f'name = "replayed"\n[kafka]\nbootstrap = "{self.bootstrap}"']
        kafka = {"clock_topic": self.clock, **self.kafka}
        told += [f'{name} = "{value}"' for name, value in kafka.items()]
        for stream, topic in self.topics.items():
            table = {"topic": topic, "arrival": "column", **self.inputs.get(stream, {})}
            told += [f"[inputs.{stream}]", *(f'{k} = "{v}"' for k, v in table.items())]
        for name, table in self.sets.items():
            told += [f'[sets."{name}"]', *(f'{k} = "{v}"' for k, v in table.items())]
        path = self.folder / "flow.toml"
        path.write_text("\n".join(told) + "\n")
        return path


@pytest.fixture
def market(kafka: str, topic: Topics, tmp_path: Path) -> Flow:
    """A flow with `market` over bars and news of an hour and a half."""
    topics = {"bars": topic(PARTITIONS), "news": topic(PARTITIONS)}
    publish(kafka, topics["bars"], bars())
    publish(kafka, topics["news"], news())
    output = topic(3)
    clock = topic(append_time=True)
    sets = {"market": {"topic": output}}
    return Flow(kafka, topics, output, clock, tmp_path, sets=sets)


def expected(feature_set: FeatureSet, span: Range, **frames: pl.DataFrame) -> pl.DataFrame:
    """The vectors of a batch run over all rows."""
    found = feature_set.compute(**frames)
    ts_ns = found["ts"].cast(pl.Int64)
    return found.filter((ts_ns >= span.from_ns) & (ts_ns < span.to_ns))


def replayed(flow: Flow, name: str, span: Range, folder: str, history_ns: int | None = None) -> Any:
    request = Request(name, span, Destination(flow.folder / folder), history_ns)
    run(Console(quiet=True), flow.settings(), request)
    return read_vectors(flow.folder / folder)


def minutes(first: int, last: int) -> Range:
    return Range(START_NS + first * MINUTE_NS, START_NS + last * MINUTE_NS)


def same_bits(feature_set: FeatureSet, left: Any, right: pl.DataFrame) -> int:
    found = compare(left, right.to_arrow().cast(schema(feature_set)))
    assert found.equal, found
    assert found.same > 0
    return found.same


def cli(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def test_a_replay_has_the_bits_of_a_batch_run(market):
    feature_set = named_set("market")
    span = minutes(30, 70)
    vectors = replayed(market, "market", span, "gold")
    wanted = expected(feature_set, span, bars=bars(), news=news())
    assert same_bits(feature_set, vectors, wanted) == 40 * len(NAMES)
    assert vectors["n_rows"].to_pylist() == wanted["n_rows"].to_list()
    assert vectors["known_at"].to_pylist() == wanted.to_arrow()["known_at"].to_pylist()


SPAN = minutes(30, 70)


def written(flow: Flow, span: Range = SPAN) -> None:
    """Lets the output topic hold the vectors of a range, as a flow would have written them."""
    held = {**flow.sets, "market": {"topic": "another"}}
    apart = Flow(
        flow.bootstrap, flow.topics, flow.output, flow.clock, flow.folder, flow.inputs, sets=held
    )
    run(
        Console(quiet=True),
        apart.settings(),
        Request("market", span, Destination(topic=flow.output)),
    )


def held_messages(flow: Flow) -> list[dict[str, Any]]:
    return [msgspec.json.decode(m.value or b"") for m in read_topic(flow.bootstrap, flow.output)]


def write(flow: Flow, messages: list[dict[str, Any]]) -> None:
    producer = Producer({"bootstrap.servers": flow.bootstrap})
    for message in messages:
        key = message["instrument_id"].encode()
        producer.produce(flow.output, msgspec.json.encode(message), key)
    assert producer.flush(20) == 0


def abort(flow: Flow, messages: list[dict[str, Any]]) -> None:
    producer = Producer(
        {"bootstrap.servers": flow.bootstrap, "transactional.id": f"{flow.output}-aborted"}
    )
    producer.init_transactions()
    producer.begin_transaction()
    for message in messages:
        producer.produce(flow.output, msgspec.json.encode(message))
    producer.flush(20)
    producer.abort_transaction()


def verified(flow: Flow, *more: str, code: int) -> dict[str, Any]:
    span = minutes(30, 70)
    asked = ["--from", spelled(span.from_ns), "--to", spelled(span.to_ns)]
    told = cli("verify", "market", *asked, "--config", flow.file(), "--json", *more, code=code)
    found: dict[str, Any] = json.loads(told)
    return found


def test_what_a_replay_wrote_to_a_topic_verifies(market):
    written(market)
    vectors = held_messages(market)
    assert len(vectors) == 40 * len(NAMES)
    # Other sets, other versions, provisional vectors, and what was taken back are not compared.
    write(market, [{**vectors[0], "feature_set": "other"}, {**vectors[1], "version": "v9"}])
    write(market, [{**vectors[2], "final": False, "ret_1": 7.0}, {"instrument_id": "i1", "x": 1}])
    abort(market, [{**vectors[3], "ret_1": 8.0}])
    found = verified(market, code=0)
    assert found["equal"]
    assert found["final_until"] == "2026-01-01T01:10:00Z"
    held = found["held"][0]
    assert held["name"] == f"topic {market.output}"
    assert (held["compared"], held["same"], held["findings"]) == (240, 240, [])


def test_each_planted_difference_is_found(market, topic):
    written(market)
    vectors = held_messages(market)
    for kind in ("missing", "twice", "different", "extra"):
        market.output = topic(2)
        market.sets = {"market": {"topic": market.output}}
        one = vectors[17]
        value = float(np.nextafter(one["vol_20"], 1.0))
        others = [each for each in vectors if each is not one]
        extra = {**one, "instrument_id": "nobody"}
        write(
            market,
            {
                "missing": others,
                "twice": [*vectors, one],
                "different": [*others, {**one, "vol_20": value}],
                "extra": [*vectors, extra],
            }[kind],
        )
        found = verified(market, code=1)
        held = found["held"][0]
        assert not found["equal"]
        counts = {name: held[name] for name in ("missing", "twice", "different", "extra")}
        assert counts == {**dict.fromkeys(counts, 0), kind: 1}
        (finding,) = held["findings"]
        assert finding["kind"] == kind
        entity = "nobody" if kind == "extra" else one["instrument_id"]
        assert finding["vector"][:2] == [entity, "1m"]
        assert finding["vector"][2].startswith(one["ts"][:19])
        if kind == "different":
            assert finding["column"] == "vol_20"
            assert finding["computed"] == f"{one['vol_20']!r} ({one['vol_20'].hex()})"
            assert finding["held"] == f"{value!r} ({value.hex()})"


def test_the_table_shows_both_values_and_a_flow_that_may_only_be_behind(market):
    written(market, minutes(30, 65))
    span = minutes(30, 70)
    asked = ["--from", spelled(span.from_ns), "--to", spelled(span.to_ns), "-c", market.file()]
    told = cli("verify", "market", *asked, code=1)
    assert "of 210 vectors compared 0 differ; 30 are missing" in told
    assert "the flow may only be behind" in told
    late = next(each for each in held_messages(market) if each["ts"] > "2026-01-01T01:00")
    write(market, [late])
    told = cli("verify", "market", *asked, code=1)
    assert "1 are there more than once" in told
    assert "may only be behind" not in told
    assert "twice" in told


def test_a_set_that_the_flow_does_not_have_has_nothing_to_verify(market):
    asked = ["--from", "-1h", "--to", "now", "--config", market.file()]
    told = cli("verify", "machine", *asked, code=2)
    assert "machine: must be a set of the flow, there are ['market']" in told


def test_verifying_in_small_spans_finds_the_same(market, monkeypatch):
    written(market)
    monkeypatch.setattr(verifying, "ROWS_AT_ONCE", 50)
    monkeypatch.setattr("dataflows.spill.PIECE", 13)
    monkeypatch.setattr("dataflows.spill.GATHERED", 31)
    assert verified(market, code=0)["held"][0]["same"] == 240
    write(market, held_messages(market)[5:6])
    assert verified(market, code=1)["held"][0]["twice"] == 1


def test_topics_that_are_not_partitioned_by_entity_give_the_same(kafka, topic, tmp_path):
    topics = {"bars": topic(3), "news": topic(2)}
    rng = np.random.default_rng(5)
    for stream, frame in (("bars", bars()), ("news", news())):
        producer = Producer({"bootstrap.servers": kafka})
        count = 3 if stream == "bars" else 2
        for row in frame.sort("arrival_ts_ns").iter_rows(named=True):
            producer.produce(
                topics[stream], msgspec.json.encode(row), None, int(rng.integers(count))
            )
        assert producer.flush(20) == 0
    flow = Flow(
        kafka, topics, topic(1), topic(1, append_time=True), tmp_path,
        kafka={"partitioner": "none"}, sets={"market": {"topic": "out"}},
    )  # fmt: skip
    span = minutes(30, 70)
    wanted = expected(named_set("market"), span, bars=bars(), news=news())
    same_bits(named_set("market"), replayed(flow, "market", span, "gold"), wanted)


def test_what_is_not_final_yet_is_left_out_and_said(market):
    span = minutes(80, 200)
    asked = ["--from", spelled(span.from_ns), "--to", spelled(span.to_ns)]
    output = market.folder / "gold"
    told = cli("replay", "market", *asked, "-o", output, "-c", market.file())
    vectors = read_vectors(output)
    assert "final until" in told
    until = told.split("final until ")[1].split("Z")[0]
    limit = np.datetime64(until, "ns").astype(np.int64)
    # The last row of each partition tells how far it got; news are the ones that may be late.
    slack_ns = 2 * MINUTE_NS
    assert START_NS + (BARS - 1) * MINUTE_NS - slack_ns < limit < START_NS + BARS * MINUTE_NS
    feature_set = named_set("market")
    wanted = expected(feature_set, Range(span.from_ns, int(limit)), bars=bars(), news=news())
    same_bits(feature_set, vectors, wanted)


def test_rows_that_are_dead_or_late_are_counted(market):
    late = bars(9)[:3].with_columns(arrival_ts_ns=pl.col("ts_ns") + MINUTE_NS)
    publish(market.bootstrap, market.topics["bars"], late)
    producer = Producer({"bootstrap.servers": market.bootstrap})
    producer.produce(market.topics["news"], b"no JSON", b"i1", 0)
    producer.produce(market.topics["news"], None, b"i1", 1)
    assert producer.flush(20) == 0
    span = minutes(30, 70)
    asked = ["--from", spelled(span.from_ns), "--to", spelled(span.to_ns)]
    told = cli("replay", "market", *asked, "-o", market.folder / "gold", "-c", market.file())
    assert "dead letters: 1 malformed, 1 tombstone" in told
    row = next(line for line in told.splitlines() if "bars" in line and "543" in line)
    cells = [cell.strip() for cell in row.strip("│ ").split("│")]
    assert cells[1] == "543"
    assert cells[5] == "3"
    assert "240 vectors in" in told


def test_a_set_of_spans_reads_only_the_history_it_needs(kafka, topic, tmp_path):
    feature_set = named_set("bars_from_trades")
    assert needed_history_ns(feature_set) == MINUTE_NS
    assert needed_history_ns(named_set("market")) is None
    assert needed_history_ns(named_set("machine")) == 10**9
    topics = {"trades": topic(PARTITIONS)}
    publish(kafka, topics["trades"], trades())
    flow = Flow(kafka, topics, topic(1), topic(1, append_time=True), tmp_path,
                sets={"bars_from_trades": {"topic": "out"}})  # fmt: skip
    span = minutes(30, 70)
    wanted = expected(feature_set, span, trades=trades())
    same_bits(feature_set, replayed(flow, "bars_from_trades", span, "gold"), wanted)


def test_windows_over_windows_need_the_sum_of_their_spans():
    ticks = Stream("ticks", "id", (Field("x"),))
    x = ticks.col("x")
    span = x.rolling_mean("10m")

    def needs(feature: Any, **more: Any) -> int | None:
        return needed_history_ns(FeatureSet("s", "v1", more.pop("emit", ticks), {"y": feature}))

    assert needs(x) == 0
    assert needs(span) == 10 * MINUTE_NS
    assert needs(span.rolling_max("1h")) == 70 * MINUTE_NS
    assert needs(span - x.rolling_mean(2)) is None
    assert needs(x.shift(1)) is None
    assert needs(ticks.elapsed(1)) is None
    hop = ticks.hop("5m", every="1m")
    assert needs(x.mean(), emit=hop) == 5 * MINUTE_NS
    assert needs(span.mean(), emit=hop) == 15 * MINUTE_NS
    assert needs(x, emit=hop) is None


STAMPED = Stream("ticks", "sensor_id", (Field("x"),), max_delay_ns=2 * 10**9, future_skew_ns=10**8)
"""Rows that the broker's clock makes final within moments."""
x = STAMPED.col("x")
counted = FeatureSet(
    "counted",
    "v1",
    STAMPED,
    {"mean_1s": x.rolling_mean("1s"), "count_1s": x.rolling_count("1s")},
)
rowed = FeatureSet(
    "rowed", "v1", STAMPED, {"mean_20": x.rolling_mean(20), "count": x.rolling_count(50)}
)


def ticks(now_ns: int, count: int, entities: int = 8, seed: int = 0) -> pl.DataFrame:
    """Rows of the last second before a time."""
    rng = np.random.default_rng(seed)
    ts_ns = now_ns - 10**9 + np.sort(rng.integers(0, 10**9, count))
    return pl.DataFrame(
        {
            "sensor_id": rng.choice([f"s{i}" for i in range(entities)], count),
            "ts_ns": ts_ns,
            "x": rng.standard_normal(count),
        }
    )


@pytest.fixture
def ticking(kafka: str, topic: Topics, tmp_path: Path) -> Flow:
    """A flow over a topic whose messages the broker stamps."""
    return Flow(
        kafka, {"ticks": topic(4, append_time=True)}, topic(2), topic(append_time=True), tmp_path,
        inputs={"ticks": {"arrival": "broker"}},
        sets={f"{__name__}:counted": {"topic": "counted"}, f"{__name__}:rowed": {"topic": "rowed"}},
    )  # fmt: skip


def until_final(flow: Flow, name: str, span: Range, history_ns: int | None = None) -> Any:
    """Replays until the broker's clock has made all of the range final."""
    feature_set = named_set(name)
    plan = plan_flow(settings_of_set(flow.settings(), name, feature_set))
    for _ in range(100):
        with recomputing(plan, feature_set, span, history_ns) as (computation, inputs):
            tables = [table.cast(schema(feature_set)) for table in computation.tables()]
            assert computation.final_until_ns <= span.to_ns
            if computation.final_until_ns == span.to_ns:
                return pa.concat_tables(tables), inputs
    msg = "the clock of the broker stands"
    raise AssertionError(msg)


def test_silent_partitions_are_final_by_the_brokers_clock(ticking):
    now_ns = time.time_ns()
    rows = ticks(now_ns, 400, entities=1)
    publish(ticking.bootstrap, ticking.topics["ticks"], rows, 4)
    span = Range(now_ns - 10**9, now_ns + 1)
    table, inputs = until_final(ticking, f"{__name__}:counted", span)
    assert sum(each.end > 0 for each in inputs) == 1
    wanted = expected(counted, span, ticks=rows)
    assert same_bits(counted, table, wanted) == len(wanted) == 400


def test_what_comes_after_the_range_is_not_read(ticking):
    first_ns = time.time_ns()
    rows = ticks(first_ns, 300)
    publish(ticking.bootstrap, ticking.topics["ticks"], rows, 4)
    span = Range(first_ns - 10**9, first_ns - 5 * 10**8)
    wanted = expected(counted, span, ticks=rows)
    table, inputs = until_final(ticking, f"{__name__}:counted", span)
    same_bits(counted, table, wanted)
    ends = {each.partition: each.end for each in inputs}
    later = ticks(time.time_ns(), 300, seed=1)
    publish(ticking.bootstrap, ticking.topics["ticks"], later, 4)
    table, inputs = until_final(ticking, f"{__name__}:counted", span)
    same_bits(counted, table, wanted)
    assert {each.partition: each.end for each in inputs} == ends


def test_less_history_by_hand_begins_later_and_gives_what_it_saw(ticking):
    first_ns = time.time_ns()
    rows = ticks(first_ns, 300)
    publish(ticking.bootstrap, ticking.topics["ticks"], rows, 4)
    while time.time_ns() < first_ns + 25 * 10**8:
        time.sleep(0.1)
    now_ns = time.time_ns()
    later = ticks(now_ns, 300, seed=1)
    publish(ticking.bootstrap, ticking.topics["ticks"], later, 4)
    span = Range(now_ns - 10**9, now_ns + 1)
    both = pl.concat([rows, later])
    whole, _ = until_final(ticking, f"{__name__}:rowed", span)
    same_bits(rowed, whole, expected(rowed, span, ticks=both))
    part, inputs = until_final(ticking, f"{__name__}:rowed", span, 10**9)
    same_bits(rowed, part, expected(rowed, span, ticks=later))
    assert sum(each.start for each in inputs) == len(rows)
    wanted = expected(counted, span, ticks=both)
    spans, inputs = until_final(ticking, f"{__name__}:counted", span)
    same_bits(counted, spans, wanted)
    assert sum(each.start for each in inputs) == len(rows)

    # Times are found in an archive as in the log, and in it alone where the log has forgotten.
    source, past = ticking.topics["ticks"], ticking.folder / "past"
    copied = archive_topics(Connection(ticking.bootstrap), [source], past)
    ticking.inputs["ticks"]["archive"] = str(past)
    for kept in (10**6, 20):
        forget(ticking.bootstrap, source, {e.partition: max(0, e.end - kept) for e in copied})
        spans, again = until_final(ticking, f"{__name__}:counted", span)
        same_bits(counted, spans, wanted)
        assert [each.start for each in again] == [each.start for each in inputs]


def forget(bootstrap: str, topic: str, ends: Mapping[int, int]) -> None:
    client = AdminClient({"bootstrap.servers": bootstrap})
    places = [TopicPartition(topic, number, end) for number, end in ends.items()]
    for done in client.delete_records(places).values():
        done.result(20)


def test_an_archive_gives_what_the_log_has_forgotten(market):
    feature_set = named_set("market")
    span = minutes(30, 85)
    connection = Connection(market.bootstrap)
    copied = archive_topics(connection, list(market.topics.values()), market.folder / "past")
    later = bars().with_columns(
        pl.col("ts_ns") + BARS * MINUTE_NS, pl.col("arrival_ts_ns") + BARS * MINUTE_NS
    )
    fresh = news().with_columns(
        pl.col("ts_ns") + BARS * MINUTE_NS,
        pl.col("arrival_ts_ns") + BARS * MINUTE_NS,
        event_id="new" + pl.col("event_id"),
    )
    publish(market.bootstrap, market.topics["bars"], later)
    publish(market.bootstrap, market.topics["news"], fresh)
    whole = minutes(30, 170)
    frames = {"bars": pl.concat([bars(), later]), "news": pl.concat([news(), fresh])}
    wanted = expected(feature_set, whole, **frames)
    same_bits(feature_set, replayed(market, "market", whole, "log"), wanted)

    for each in copied:
        forget(market.bootstrap, each.topic, {each.partition: each.end - 20})
    table = replayed(market, "market", span, "less")
    assert not compare(table, wanted.to_arrow().cast(schema(feature_set))).equal
    market.inputs = {name: {"archive": str(market.folder / "past")} for name in market.topics}
    same_bits(feature_set, replayed(market, "market", whole, "hybrid"), wanted)

    for each in copied:
        forget(market.bootstrap, each.topic, {each.partition: each.end + 5})
    with pytest.raises(OffsetGoneError, match="must hold offset"):
        replayed(market, "market", whole, "gap")
    # What lies before the gap needs no log at all.
    same_bits(feature_set, replayed(market, "market", minutes(30, 60), "before"),
              expected(feature_set, minutes(30, 60), **frames))  # fmt: skip


def test_vectors_as_arrow_verify_too(market):
    market.sets = {"market": {"topic": market.output, "form": "arrow"}}
    apart = {"market": {"topic": "another", "form": "arrow"}}
    flow = Flow(market.bootstrap, market.topics, "another", market.clock, market.folder, sets=apart)
    # Two ranges, so that an Arrow message more is there of a vector that is there already.
    run(
        Console(quiet=True),
        flow.settings(),
        Request("market", SPAN, Destination(topic=market.output)),
    )
    assert verified(market, code=0)["held"][0]["same"] == 240
    run(
        Console(quiet=True),
        flow.settings(),
        Request("market", minutes(69, 70), Destination(topic=market.output)),
    )
    assert verified(market, code=1)["held"][0]["twice"] == len(NAMES)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ([], "must write to one of --output DIR, --topic T and --table, found none"),
        (["-o", "gold", "--topic", "t"], "found --output and --topic"),
        (["--topic", "{bars}"], "must be a topic that the flow neither reads nor writes"),
        (["--topic", "{output}"], "must be a topic that the flow neither reads nor writes"),
        (["--topic", "no-such-topic"], "topic `no-such-topic` must exist"),
        (["-o", "gold", "--history", "soon"], "--history: a duration must look like"),
    ],
)
def test_what_cannot_be_replayed_is_refused_in_words(market, more, words):
    given = [each.format(bars=market.topics["bars"], output=market.output) for each in more]
    asked = ["--from", "2026-01-01", "--to", "2026-01-02", "-c", market.file(), *given]
    assert words in " ".join(cli("replay", "market", *asked, code=2).split())


def test_a_range_must_hold_a_time(market):
    asked = ["--from", "now", "--to", "-1h", "-c", market.file()]
    assert "--from must be before --to" in cli("verify", "market", *asked, code=2)
    asked = ["--from", "yesterday", "--to", "now", "-c", market.file()]
    assert "--from: must be a time such as" in cli("verify", "market", *asked, code=2)


def test_a_dataset_is_not_written_over(market):
    replayed(market, "market", minutes(30, 40), "gold")
    asked = ["--from", "2026-01-01", "--to", "2026-01-02", "-c", market.file()]
    told = cli("replay", "market", *asked, "-o", market.folder / "gold", code=2)
    assert "must be empty, found vectors of another run" in told


def test_a_topic_that_takes_not_all_ends_the_replay(market, topic):
    small = topic(1, config={"max.message.bytes": "300"})
    asked = ["--from", "2026-01-01", "--to", "2026-01-02", "-c", market.file(), "--topic", small]
    told = cli("replay", "market", *asked, code=2)
    assert f"topic `{small}`: must take all vectors, found MSG_SIZE_TOO_LARGE" in told


def test_a_message_that_only_says_it_is_of_the_set_is_named(market):
    written(market)
    write(market, [{"instrument_id": "i1", "feature_set": "market", "version": "fs_v1"}])
    asked = ["--from", "2026-01-01", "--to", "2026-01-02", "-c", market.file()]
    assert "must be a vector of market.fs_v1" in cli("verify", "market", *asked, code=2)


def test_archiving_says_what_it_added(market):
    topics = list(market.topics.values())
    asked = [*topics, "--output", market.folder / "past", "-c", market.file()]
    assert "840 messages more in" in cli("archive", *asked)
    told = cli("archive", *asked)
    assert "0 messages more in" in told
    refused = cli("archive", "no-such-topic", *asked[2:], code=2)
    assert "topic `no-such-topic` must exist" in refused


def test_a_log_without_its_beginning_is_noted(market):
    forget(market.bootstrap, market.topics["bars"], {0: 50})
    asked = ["--from", "2026-01-01", "--to", "2026-01-01T01:00:00Z", "-c", market.file()]
    told = cli("replay", "market", *asked, "-o", market.folder / "gold")
    assert "1 of 4 partitions have lost their beginning (bars/0 begins at offset 50)" in told


def remembered(flow: Flow, starts: Mapping[str, list[int]], emit_from_ns: int) -> None:
    """Gives the flow a state, as if it had begun to read and to give somewhere."""
    plan = plan_flow(flow.settings())
    inputs = {
        stream: TopicFacts(topic, plan.topic_ids[stream], PARTITIONS, starts[stream])
        for stream, topic in flow.topics.items()
    }
    state = new_state("replayed", {}, inputs, "murmur2", 1, emit_from_ns)
    (flow.folder / "state").mkdir()
    live_state.write(flow.folder / "state", state)


def test_what_the_flow_never_gave_is_not_missing(market, monkeypatch):
    monkeypatch.chdir(market.folder)
    written(market, minutes(40, 70))
    asked = ["--from", spelled(SPAN.from_ns), "--to", spelled(SPAN.to_ns), "-c", market.file()]
    assert "60 are missing" in cli("verify", "market", *asked, code=1)
    remembered(market, {"bars": [0, 0], "news": [0, 0]}, minutes(40, 70).from_ns)
    told = cli("verify", "market", *asked)
    assert "the flow gives vectors from 2026-01-01T00:40:00Z on" in told
    assert "equal: 180 final vectors" in told
    asked[3] = spelled(minutes(30, 40).to_ns)
    told = cli("verify", "market", *asked, code=2)
    assert "--to must be after 2026-01-01T00:40:00Z" in told


def test_a_flow_that_began_late_is_held_to_what_it_read(market, monkeypatch):
    monkeypatch.chdir(market.folder)
    starts = {"bars": [60, 80], "news": [7, 9]}
    plan = plan_flow(market.settings())
    offsets = {(market.topics[s], n): at for s, each in starts.items() for n, at in enumerate(each)}
    target = TopicTarget(named_set("market"), plan.connection, market.output, "json")
    with recomputing(plan, named_set("market"), SPAN, not_before=offsets) as (computation, _):
        for vectors in computation.vectors():
            target.write(vectors)
    target.finish()
    assert verified(market, code=1)["held"][0]["different"] > 0
    remembered(market, starts, NO_CLOCK_NS)
    assert verified(market, code=0)["held"][0]["same"] == 240


def test_every_kind_of_column_is_compared(market, topic):
    written(market)
    vectors = held_messages(market)
    one, other = vectors[3], vectors[-1]
    assert one["event_count_1h"] is not None
    market.sets = {"market": {"topic": topic(1)}}
    market.output = market.sets["market"]["topic"]
    changed = {
        **one,
        "ret_1": None,
        "event_count_1h": one["event_count_1h"] + 1,
        "quality": [*one["quality"], "COMPUTATION_ERROR"],
        "coverage": float(np.nextafter(one["coverage"], 0.0)),
    }
    # Which rows were seen before is no part of the promise.
    seen = {**other, "n_rows": 1, "known_at": other["ts"]}
    write(market, [*(each for each in vectors if each not in (one, other)), changed, seen])
    held = verified(market, code=1)["held"][0]
    assert (held["different"], held["same"]) == (1, 239)
    shown = {each["column"]: (each["computed"], each["held"]) for each in held["findings"]}
    assert shown.keys() == {"ret_1", "event_count_1h", "quality", "coverage"}
    assert shown["ret_1"][1] == "null"
    assert shown["event_count_1h"] == (str(one["event_count_1h"]), str(one["event_count_1h"] + 1))
    assert shown["quality"][1].endswith("'COMPUTATION_ERROR']")
