"""Vectors reach Kafka once, whatever happens to the run, its twin, or the broker."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Any

import bytewax.operators as op
import numpy as np
import pytest
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSource, run_main
from confluent_kafka import KafkaError, KafkaException, Producer

from operators.batch import Vectors
from sinks import kafka_lane
from sinks.errors import (
    DeliveryError,
    FencedError,
    MissingTopicError,
    OutOfOrderError,
    OwnedError,
    ProgressLostError,
)
from sinks.kafka import KafkaOutput, KafkaPart, KafkaSink
from sinks.kafka_lane import Tenancy
from sinks.kafka_progress import ProgressLog
from sinks.settled import Written, cut_between_instants
from sinks.vector_json import NotFiniteError
from sinks.vector_messages import VectorMessages
from sources.kafka_client import Connection
from tests.kafka_topics import START_NS, TINY, read_topic, tiny_vectors
from tests.services.kafka import Broker, Topics, admin
from tests.services.process import becomes

LANE = "flow.tiny.v1.00"


@dataclass
class World:
    """A topic for vectors, one for progress, and runs of a flow that write to them."""

    bootstrap: str
    topic: str
    progress: str

    def sink(
        self,
        *,
        job: str = "job",
        take_over: bool = False,
        transaction_ms: float = 20,
        **output: str,
    ) -> KafkaSink:
        log = ProgressLog(Connection(self.bootstrap), self.progress)
        tenancy = Tenancy("flow", job, log, take_over, transaction_ms)
        where = KafkaOutput(**{"topic": self.topic, **output})  # type: ignore[arg-type]
        return KafkaSink(TINY, where, tenancy, [0, 1, 2])

    def run(self, resumed: Written | None = None, **said: object) -> KafkaPart:
        return self.sink(**said).build_part("step", "00", resumed)  # type: ignore[arg-type]

    def seconds(self, topic: str | None = None) -> list[int]:
        """The seconds of the vectors that readers of committed messages see."""
        found = TINY_MESSAGES.read(
            message.value for message in read_topic(self.bootstrap, topic or self.topic)
        )
        return sorted((found["ts"].cast("int64").to_numpy() - START_NS).tolist())  # in ns


TINY_MESSAGES = VectorMessages(TINY)


def ns(seconds: range | list[int]) -> list[int]:
    return [second * 10**9 for second in seconds]


def write(part: KafkaPart, seconds: range | list[int]) -> None:
    """A batch a second, as an engine gives them that is replayed."""
    for second in seconds:
        part.write_batch([tiny_vectors([second])])


def commit(part: KafkaPart, seconds: range | list[int]) -> None:
    """Writes, and waits for Kafka after each."""
    for second in seconds:
        write(part, [second])
        part.snapshot()


@pytest.fixture
def world(topic: Topics) -> World:
    return World(topic.bootstrap, topic(3), topic(2, config={"cleanup.policy": "compact"}))


# -- exactly once -----------------------------------------------------------------------------


def test_a_snapshot_waits_until_readers_see_all(world):
    part = world.run()
    write(part, range(5))
    assert part.snapshot() == {"settled_ns": START_NS + 4 * 10**9}
    assert world.seconds() == ns(range(5))
    part.close()


def test_a_snapshot_without_vectors_knows_what_kafka_holds(world):
    first = world.run()
    assert first.snapshot() == {"settled_ns": None}
    write(first, [7])
    first.close()
    assert world.run().snapshot() == {"settled_ns": START_NS + 7 * 10**9}


def test_no_two_threads_share_what_renders_vectors(world):
    """It keeps spellings in mind, and lanes meet new ones at the same time."""
    sink = world.sink()
    parts = [sink.build_part("step", name, None) for name in ("00", "01")]
    assert len({id(each) for part in parts for each in part._messages.values()}) == 4
    for part in parts:
        part.close()


def test_what_is_replayed_is_left_out(world):
    first = world.run()
    write(first, range(10))
    first.close()
    second = world.run({"settled_ns": START_NS + 3 * 10**9})
    second.write_batch([tiny_vectors(range(4, 20))])  # cut otherwise, across what is known
    second.close()
    assert second.suppressed == 6
    assert world.seconds() == ns(range(20))


def crashed(world: World, records: range, *, progress: int | None) -> Producer:
    """A run that died inside a transaction, after writing records and perhaps its progress."""
    producer = Producer({"bootstrap.servers": world.bootstrap, "transactional.id": LANE})
    producer.init_transactions(30)
    producer.begin_transaction()
    for second in records:
        vectors = tiny_vectors([second])
        producer.produce(world.topic, TINY_MESSAGES.values(vectors)[0], b"A0")
    if progress is not None:
        value = {"job": "job", "instance": "gone", "settled_ns": START_NS + progress * 10**9}
        producer.produce(world.progress, json.dumps(value), LANE, 0)
    producer.flush()
    return producer


@pytest.mark.parametrize("progress", [None, 14])
def test_a_transaction_that_its_run_did_not_live_to_commit_is_as_if_it_never_was(world, progress):
    first = world.run()
    write(first, range(10))
    first.close()
    gone = crashed(world, range(10, 15), progress=progress)
    second = world.run({"settled_ns": None})
    write(second, range(20))
    second.close()
    assert second.suppressed == 10
    assert world.seconds() == ns(range(20))
    del gone


def test_a_transaction_of_an_earlier_lane_hides_nothing_from_another(world):
    """Lanes 0 and 2 share a partition of the progress; both were killed, both come back."""
    first = world.run()
    write(first, range(3))
    first.close()
    gone = crashed(world, range(3, 5), progress=4)
    sink = world.sink()
    parts = [sink.build_part("step", name, None) for name in ("02", "00")]
    write(parts[1], range(6))
    for part in parts:
        part.close()
    assert world.seconds() == ns(range(6))
    del gone


KILLED = """
import sys
from tests.test_kafka_sink import World, write
world = World(*sys.argv[1:4])
part = world.run()
for second in range(400):
    write(part, [second])
    if second % 50 == 49:
        part.snapshot()
    print(second, flush=True)
part.close()
print("done", flush=True)
"""


def test_kills_at_any_moment_lose_nothing_and_double_nothing(world):
    random = Random(7)
    command = [sys.executable, "-c", KILLED, world.bootstrap, world.topic, world.progress]
    for attempt in range(6):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        until = str(random.randrange(400)) if attempt < 5 else "done"
        for line in process.stdout:
            if line.strip() == until:
                break
        process.kill()
        process.communicate()
    assert world.seconds() == ns(range(400))


def test_an_instant_is_never_cut(world, monkeypatch):
    """A transaction that ended inside an instant would pass for all of it."""
    monkeypatch.setattr("sinks.kafka.MOST_RECORDS", 100)
    part = world.run()
    shuffled = tiny_vectors(range(10), rows=60)
    shuffled = shuffled.take(np.random.default_rng(0).permutation(len(shuffled)))
    part.write_batch([shuffled])
    part.close()
    pieces = list(cut_between_instants(shuffled, 100))
    assert [len(piece) for piece in pieces] == [60] * 10
    assert len(list(cut_between_instants(shuffled, 130))) == 5
    assert world.seconds() == sorted(ns(range(10)) * 60)
    assert part.lane is not None
    assert part.lane.counts.records == 600


def test_an_instant_that_is_larger_than_the_clients_queue_is_one_transaction(world, monkeypatch):
    monkeypatch.setattr(kafka_lane, "MOST_RECORDS", 10)
    part = world.run()
    part.write_batch([tiny_vectors([1], rows=2_000)])
    part.close()
    assert part.lane is not None
    assert part.lane.counts.transactions == 1
    assert len(world.seconds()) == 2_000


def test_who_has_too_much_to_give_waits(world, monkeypatch):
    monkeypatch.setattr("sinks.lane.MOST_WAITING_BYTES", 1)
    beats = Counter[str]()
    sink = world.sink()
    sink.beat = lambda: beats.update(["beat"])
    part = sink.build_part("step", "00", None)
    write(part, range(5))
    part.close()
    assert world.seconds() == ns(range(5))
    assert part.lane is not None
    assert part.lane.counts.waited_s > 0
    assert beats["beat"] > 0


def test_vectors_of_a_key_keep_their_order(world):
    part = world.run()
    for start in range(0, 300, 100):
        part.write_batch([tiny_vectors(range(start, start + 100), rows=5)])
    part.close()
    by_key: dict[bytes | None, list[str]] = {}
    for message in read_topic(world.bootstrap, world.topic):
        by_key.setdefault(message.key, []).append(json.loads(message.value or b"")["ts"])
    assert set(by_key) == {b"A0", b"A1", b"A2", b"A3", b"A4"}
    assert all(times == sorted(times) and len(times) == 300 for times in by_key.values())


def test_vectors_out_of_order_stop_the_flow(world):
    part = world.run()
    write(part, [5])
    with pytest.raises(
        OutOfOrderError, match=r"lane `flow\.tiny\.v1\.00`: final vectors must come"
    ):
        write(part, [5])
    part.close()


# -- whose lane it is -------------------------------------------------------------------------


def test_a_second_run_takes_over_and_the_first_stops_in_words(world):
    first = world.run()
    write(first, range(5))
    first.snapshot()
    second = world.run()
    write(second, range(8))
    second.snapshot()
    with pytest.raises(FencedError, match="another run of flow `flow` has taken it over"):
        commit(first, range(5, 50))
    write(second, range(8, 10))
    second.close()
    assert world.seconds() == ns(range(10))


def test_an_owner_that_was_fenced_by_a_run_that_said_nothing_goes_on(world):
    """As when a second run dies, or is refused, before it has claimed the lane."""
    part = world.run()
    write(part, range(5))
    part.snapshot()
    stranger = Producer({"bootstrap.servers": world.bootstrap, "transactional.id": LANE})
    stranger.init_transactions(30)
    write(part, range(5, 9))
    part.close()
    assert part.lane is not None
    assert part.lane.counts.retries >= 1
    assert world.seconds() == ns(range(9))


def test_another_job_is_refused_and_stops_nobody(world):
    owner = world.run()
    write(owner, range(3))
    owner.snapshot()
    other = world.run(job="other")
    with pytest.raises(OwnedError, match="is owned by another recovery directory, of job 'job'"):
        other.snapshot()
    write(owner, range(3, 6))
    owner.close()
    assert owner.lane is not None
    assert owner.lane.counts.retries == 0
    assert world.seconds() == ns(range(6))


def test_another_job_may_take_over(world):
    owner = world.run()
    write(owner, range(3))
    owner.close()
    other = world.run(job="other", take_over=True)
    write(other, range(6))
    other.close()
    assert other.suppressed == 3
    assert world.seconds() == ns(range(6))
    with pytest.raises(OwnedError, match="of job 'other'"):
        world.run().snapshot()


def test_a_progress_that_was_lost_stops_the_flow(world, topic):
    part = world.run()
    write(part, range(3))
    state = part.snapshot()
    part.close()
    world.progress = topic(1, config={"cleanup.policy": "compact"})
    with pytest.raises(ProgressLostError, match="must say that vectors are written up to"):
        world.run(state).snapshot()


def test_the_state_of_a_flow_that_was_cut_otherwise_is_carried_over(world):
    sink = world.sink()
    sink._carried = {"00": {"settled_ns": START_NS}}
    with pytest.raises(ProgressLostError, match=f"up to {START_NS}, as the snapshot does"):
        sink.build_part("step", "00", None).snapshot()


# -- what goes wrong --------------------------------------------------------------------------


class Forgetful(Producer):
    """A producer whose commits are done, or not, without its being told."""

    done = True
    failures = 3

    def commit_transaction(self, *args: float) -> None:
        fails = Forgetful.failures > 0
        Forgetful.failures -= fails
        if Forgetful.done or not fails:
            super().commit_transaction(*args)
        if fails:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "no answer"))


@pytest.mark.parametrize("done", [True, False])
def test_a_commit_whose_end_is_unknown_is_found_out(world, monkeypatch, done):
    monkeypatch.setattr(Forgetful, "done", done)
    monkeypatch.setattr(Forgetful, "failures", 3)
    monkeypatch.setattr(kafka_lane, "Producer", Forgetful)
    part = world.run()
    write(part, range(5))
    part.snapshot()
    Forgetful.failures = 2
    write(part, range(5, 10))
    part.close()
    assert world.seconds() == ns(range(10))


def test_a_message_that_is_too_large_stops_the_flow(world, topic):
    world.topic = topic(1, config={"max.message.bytes": "200"})
    part = world.run()
    with pytest.raises(DeliveryError, match="MSG_SIZE_TOO_LARGE"):
        commit(part, [1])
    with pytest.raises(DeliveryError, match="Kafka must take what is written"):
        part.close()


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
def test_a_topic_that_is_missing_stops_the_flow(world, delivery):
    world.topic += "-missing"
    with pytest.raises(MissingTopicError, match=f"`{world.topic}` must exist, found none"):
        commit(world.run(delivery=delivery), [1])


def test_a_topic_that_is_deleted_in_the_middle_of_a_run_stops_the_flow(world, monkeypatch):
    monkeypatch.setattr(kafka_lane, "TRANSACTION_TIMEOUT_MS", 3_000)
    part = world.run()
    commit(part, [1])
    client = admin(world.bootstrap)
    client.delete_topics([world.topic])[world.topic].result()
    with pytest.raises(MissingTopicError, match=f"`{world.topic}` must exist, found none"):
        commit(part, range(2, 50))


def test_a_progress_topic_that_is_missing_stops_the_flow(world):
    world.progress += "-missing"
    with pytest.raises(MissingTopicError, match="must exist"):
        world.run().snapshot()


def test_commits_are_not_so_rare_that_the_broker_ends_transactions():
    with pytest.raises(ValueError, match="flow `flow`: the time between two commits must be"):
        Tenancy("flow", "job", ProgressLog(Connection("")), transaction_ms=60_000)


def test_a_transaction_ends_with_the_last_vectors_that_are_expected_within_its_time(world):
    """Those that come right after it has begun would wait for nearly all of the next one.

    ```
    vectors     0                   1     2
    due         |                           |               |
    committed   |                   |                       |
    ```
    """
    part = world.run(transaction_ms=5_000)
    part.snapshot()  # the lane is open
    assert part.lane is not None
    counts = part.lane.counts
    opened, began_s = counts.transactions, time.monotonic()
    write(part, [0])
    assert becomes(lambda: counts.transactions == opened + 1)
    time.sleep(max(0.0, began_s + 3.2 - time.monotonic()))
    write(part, [1])
    assert becomes(lambda: counts.transactions == opened + 2, 1.2)
    time.sleep(0.3)
    write(part, [2])
    assert not becomes(lambda: counts.transactions == opened + 3, 0.5)
    part.close()
    assert world.seconds() == ns(range(3))


def test_an_infinite_feature_stops_the_flow(world):
    part = world.run()
    vectors = tiny_vectors([1])
    vectors.features["close"][0] = np.inf
    part.write_batch([vectors])
    with pytest.raises(NotFiniteError, match="feature `close`: must be finite or null, found inf"):
        part.snapshot()


def outlived(broker: Broker, away_s: float, **output: Any) -> KafkaPart:
    """Writes while the broker is killed and comes back, and checks what readers see."""
    world = World(
        broker.bootstrap, broker.topic(3), broker.topic(2, config={"cleanup.policy": "compact"})
    )
    part = world.sink(**output).build_part("step", "00", None)
    write(part, [0])
    part.snapshot()  # a lane that is still being opened would not feel the outage
    stop = threading.Event()
    written = 1

    def restart() -> None:
        time.sleep(0.5)
        broker.kill()
        time.sleep(away_s)
        broker.start()
        stop.set()

    thread = threading.Thread(target=restart)
    thread.start()
    while not stop.is_set():
        write(part, [written])
        written += 1
        if written % 20 == 0:
            part.snapshot()
        time.sleep(0.002)
    thread.join()
    write(part, [written])
    part.close()
    assert world.seconds() == ns(range(written + 1))
    return part


def test_a_broker_that_restarts_is_outlived(private_kafka):
    outlived(private_kafka, 0)


def test_a_broker_that_restarts_is_outlived_without_transactions_too(private_kafka):
    outlived(private_kafka, 0, delivery="at_least_once")


def test_an_outage_longer_than_the_timeouts_is_outlived(private_kafka, monkeypatch):
    monkeypatch.setattr(kafka_lane, "TRANSACTION_TIMEOUT_MS", 2_000)
    part = outlived(private_kafka, 8)
    assert part.lane is not None
    counts = part.lane.counts
    # The broker looks for transactions that took too long every 10 s only: most are ended and
    # written again, some it still commits when it is back.
    assert counts.retries > 0 or counts.commit_s > kafka_lane.TRANSACTION_TIMEOUT_MS / 1000


FAILING = """
import sys
from tests.test_kafka_sink import World, write
world = World(*sys.argv[1:4])
part = world.run()
write(part, range(100))
part.snapshot()
write(part, range(100, 200))
raise SystemExit(3)
"""


def test_a_process_that_fails_ends_at_once_though_its_lanes_are_at_work(world):
    command = [sys.executable, "-c", FAILING, world.bootstrap, world.topic, world.progress]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (3, "")
    again = world.run()
    write(again, range(200))
    again.close()
    assert world.seconds() == ns(range(200))


# -- in a flow --------------------------------------------------------------------------------


def test_a_flow_that_fails_and_resumes_writes_each_vector_once(world, tmp_path):
    """Bytewax takes the snapshots, replays, and closes the sink at the end."""
    init_db_dir(tmp_path, 1)
    items: list[Any] = []
    for second in range(60):
        items += [("00", tiny_vectors([second])), ("02", tiny_vectors([second], entity="C"))]
        if second in {20, 40}:
            items.append(TestingSource.ABORT())

    def run() -> None:
        flow = Dataflow("flow")
        read = op.input("read", flow, TestingSource(items))
        op.output("write", read, world.sink())
        run_main(flow, epoch_interval=timedelta(0), recovery_config=RecoveryConfig(str(tmp_path)))

    for _ in range(3):
        run()
    assert world.seconds() == sorted(ns(range(60)) * 2)


# -- other ways -------------------------------------------------------------------------------


def test_at_least_once_writes_without_transactions(world):
    part = world.run(delivery="at_least_once")
    write(part, range(5))
    assert part.snapshot() == {"settled_ns": None}
    assert world.seconds() == ns(range(5))
    again = world.run(part.snapshot(), delivery="at_least_once")
    write(again, range(3, 6))
    again.close()
    part.close()
    assert Counter(world.seconds()) == Counter(ns([0, 1, 2, 3, 3, 4, 4, 5]))
    assert read_topic(world.bootstrap, world.progress) == []


def test_provisional_vectors_go_to_their_topic_or_nowhere(world, topic):
    early = topic(1)
    part = world.run(provisional_topic=early)
    plain = world.sink().build_part("step", "01", None)
    guess: Vectors = tiny_vectors([3], final=False)
    part.write_batch([guess, tiny_vectors([2]), guess])
    plain.write_batch([guess])
    part.close()
    plain.close()
    assert world.seconds() == ns([2])
    assert world.seconds(early) == ns([3, 3])
    assert (part.provisional, plain.provisional) == (2, 0)


def test_a_provisional_vector_that_is_refused_stops_the_flow(world, topic):
    part = world.run(provisional_topic=topic(1, config={"max.message.bytes": "200"}))
    guesses = [tiny_vectors([3], final=False)]
    part.write_batch(guesses)
    assert part._early is not None
    part._early._producer.flush()
    with pytest.raises(DeliveryError, match=r"lane `flow\.tiny\.v1\.00 \(provisional\)`"):
        part.write_batch(guesses)


def test_arrow_messages_hold_the_same_vectors(world):
    part = world.run(form="arrow")
    part.write_batch([tiny_vectors(range(3), rows=1_000)])
    part.write_batch([tiny_vectors([5])])
    part.close()
    messages = read_topic(world.bootstrap, world.topic)
    assert len(messages) == 2
    assert {message.key for message in messages} == {b"00"}
    assert world.seconds() == sorted(ns([0, 1, 2]) * 1_000 + ns([5]))


def test_items_find_the_part_of_their_lane(world):
    sink = world.sink()
    assert sink.list_parts() == ["00", "01", "02"]
    assert [sink.part_fn(key) for key in ("00", "01", "02")] == [0, 1, 2]
