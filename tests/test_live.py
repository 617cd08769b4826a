"""A live flow before it runs: what it finds out, what it refuses, and in which words."""

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from confluent_kafka.admin import NewPartitions  # type: ignore[attr-defined]

from dataflows.live import bytewax_arguments
from dataflows.live_plan import new_flow, plan_flow
from dataflows.live_settings import LiveSettings, live_settings
from dataflows.live_state import settle
from dataflows.recovery_folder import RecoveryError
from dataflows.settings import SettingsError
from dataflows.topics import TopicsError, apply
from sources.kafka_client import Connection, KafkaInputError
from tests.services.names import unique

ROOT = Path(__file__).parents[1]
Topic = Callable[..., str]


def settings_of(tmp_path: Path, kafka: str, bars: str, news: str, more: str = "") -> LiveSettings:
    path = tmp_path / "flow.toml"
    path.write_text(
        f"""
        name = "{unique("flow")}"
        recovery = "{tmp_path}/state"
        {more}
        [kafka]
        bootstrap = "{kafka}"
        clock_topic = "{bars}-clock"
        progress_topic = "{bars}-progress"
        [inputs.bars]
        topic = "{bars}"
        [inputs.news]
        topic = "{news}"
        [sets.market]
        topic = "{bars}-features"
        """
    )
    return live_settings(path)


@pytest.fixture
def two(topic: Topic) -> tuple[str, str]:
    return topic(3, append_time=True), topic(3, append_time=True)


def test_lanes_are_shared_out_by_their_number(
    tmp_path: Path, kafka: str, two: tuple[str, str]
) -> None:
    plan = plan_flow(settings_of(tmp_path, kafka, *two, more="shards = 2\nshard = 1"))
    assert plan.lanes == 3
    assert plan.own_lanes(cluster=False) == [1]
    assert plan.own_lanes(cluster=True) == [0, 1, 2]


def test_topics_of_different_numbers_of_partitions_are_refused(
    tmp_path: Path, kafka: str, topic: Topic
) -> None:
    bars, news = topic(3, append_time=True), topic(2, append_time=True)
    with pytest.raises(TopicsError, match=r'same number of partitions.*partitioner = "none"'):
        plan_flow(settings_of(tmp_path, kafka, bars, news))


def test_without_a_partitioner_they_may_differ_and_rows_are_spread_over_lanes(
    tmp_path: Path, kafka: str, topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIFFLE_KAFKA__PARTITIONER", "none")
    bars, news = topic(3, append_time=True), topic(2, append_time=True)
    plan = plan_flow(settings_of(tmp_path, kafka, bars, news))
    assert plan.own_lanes(cluster=True) == list(range(8))


def test_topics_that_the_producer_stamps_are_refused(
    tmp_path: Path, kafka: str, topic: Topic
) -> None:
    bars, news = topic(1), topic(1, append_time=True)
    with pytest.raises(TopicsError, match=f"`{bars}`: the broker must stamp.*set it to LogAppend"):
        plan_flow(settings_of(tmp_path, kafka, bars, news))


def test_a_topic_that_is_not_there_is_named(tmp_path: Path, kafka: str, topic: Topic) -> None:
    missing = unique("missing")
    with pytest.raises(KafkaInputError, match=f"`{missing}` must exist"):
        plan_flow(settings_of(tmp_path, kafka, topic(1, append_time=True), missing))


def test_an_input_that_no_set_reads_is_named(
    tmp_path: Path, kafka: str, two: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIFFLE_INPUTS__TRADES__TOPIC", "trades")
    with pytest.raises(SettingsError, match=r"\['bars', 'news'\], found \['trades'\]"):
        plan_flow(settings_of(tmp_path, kafka, *two))


def test_more_shards_than_partitions_are_refused(
    tmp_path: Path, kafka: str, two: tuple[str, str]
) -> None:
    with pytest.raises(SettingsError, match="at most the number of partitions, 3"):
        plan_flow(settings_of(tmp_path, kafka, *two, more="shards = 4"))


def test_more_partitions_than_the_state_was_made_with_are_refused(
    tmp_path: Path, kafka: str, topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars, news = topic(2, append_time=True), topic(2, append_time=True)
    settings = settings_of(tmp_path, kafka, bars, news)
    settle(settings.recovery, new_flow(plan_flow(settings), cluster=False))
    admin = Connection(kafka).admin()
    for made in admin.create_partitions([NewPartitions(t, 3) for t in (bars, news)]).values():
        made.result(15)
    with pytest.raises(RecoveryError, match=r"must have 2 partitions, found 3.*emit_from"):
        settle(settings.recovery, new_flow(plan_flow(settings), cluster=False))


def test_where_a_flow_began_is_decided_once(
    tmp_path: Path, kafka: str, two: tuple[str, str]
) -> None:
    settings = settings_of(tmp_path, kafka, *two, more='start = "latest"\nemit_from = "now"')
    first = settle(settings.recovery, new_flow(plan_flow(settings), cluster=False))
    assert first.inputs["bars"].starts == [0, 0, 0]
    assert settle(settings.recovery, new_flow(plan_flow(settings), cluster=False)) == first


def test_topics_are_made_once_and_looked_at_later(tmp_path: Path, kafka: str, topic: Topic) -> None:
    bars, news = topic(2), unique("news")
    settings = settings_of(tmp_path, kafka, bars, news)
    try:
        states = {each.topic.name: each for each in apply(settings, 2, 1)}
        assert states[news].state == "made"
        assert not states[bars].ok
        assert "must be LogAppendTime, found CreateTime" in states[bars].state
        again = {each.topic.name: each.state for each in apply(settings, 2, 1)}
        assert again[news] == again[f"{bars}-progress"] == again[f"{bars}.dlq"] == "there"
    finally:
        Connection(kafka).admin().delete_topics(sorted({*states} - {bars}))


def test_topics_that_two_make_at_once_are_looked_at_by_one_of_them(
    tmp_path: Path, kafka: str
) -> None:
    settings = settings_of(tmp_path, kafka, unique("bars"), unique("news"))
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda partitions: apply(settings, partitions, 1), (2, 2)))
    try:
        for states in zip(*both, strict=True):
            assert sorted(each.state for each in states) == ["made", "there"]
    finally:
        Connection(kafka).admin().delete_topics([each.topic.name for each in both[0]])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "must keep its state in a folder, found none; give Bytewax -r"),
        (["-r", "state", "-w", "2"], "must have one worker a process, found -w 2"),
    ],
)
def test_how_bytewax_must_be_started_is_told(arguments: list[str], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        bytewax_arguments(["dataflows.live", *arguments])


def started(tmp_path: Path, state: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *f"-m bytewax.run dataflows.live -r {state} -s 5 -b 0".split()],
        cwd=ROOT,
        env={**os.environ, "RIFFLE_CONFIG": str(tmp_path / "flow.toml"), "RIFFLE_LOG": "text"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def test_a_refused_process_ends_in_words_with_a_code_of_its_own(
    tmp_path: Path, kafka: str, two: tuple[str, str]
) -> None:
    settings_of(tmp_path, kafka, *two)
    done = started(tmp_path, f"{tmp_path}/x")
    assert done.returncode == 2
    assert f"must keep the state of this process in {tmp_path}/state/shard-0-of-1" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_process_that_finds_no_broker_ends_in_words_and_may_be_started_again(
    tmp_path: Path,
) -> None:
    settings_of(tmp_path, "127.0.0.1:9", "bars", "news")
    done = started(tmp_path, f"{tmp_path}/state/shard-0-of-1")
    assert done.returncode == 1
    assert "127.0.0.1:9 must answer" in done.stderr
    assert "Traceback" not in done.stderr
