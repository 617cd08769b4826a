"""Archives of topics: complete, in pieces, killed in the middle, and read as the log they were."""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from operators.dead_letters import Record
from sources import archiving
from sources.archive import LOCK, Archive, ArchiveError
from sources.archiving import archive_topics
from sources.history import ArchiveReader, archived
from sources.kafka_client import Connection, KafkaInputError
from tests.services.kafka import Topics

SMALL: dict[str, Any] = {"group_bytes": 2_000, "file_bytes": 6_000}


@pytest.fixture
def topic_of(topic: Topics) -> Topics:
    return topic


def send(
    bootstrap: str,
    topic: str,
    count: int,
    *,
    first: int = 0,
    partitions: int = 1,
    transaction: str = "",
) -> None:
    """Messages of all shapes: tombstones, empty values, no key, headers of any bytes."""
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            **({"transactional.id": transaction} if transaction else {}),
        }
    )
    if transaction:
        producer.init_transactions()
        producer.begin_transaction()
    rng = np.random.default_rng(first)
    for i in range(first, first + count):
        value = [None, b"", rng.bytes(50)][min(i % 10, 2)]
        key = None if i % 7 == 0 else f"k{i % 5}".encode()
        headers: Any = [("n", b"\xff\x00"), ("none", None), ("n", b"")] if i % 3 == 0 else None
        producer.produce(topic, value, key, i % partitions, headers=headers)
    producer.flush(20)
    if transaction:
        producer.commit_transaction()


def abort(bootstrap: str, topic: str, count: int) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": f"{topic}-aborted"})
    producer.init_transactions()
    producer.begin_transaction()
    for _ in range(count):
        producer.produce(topic, b"never")
    producer.flush(20)
    producer.abort_transaction()


def forget(bootstrap: str, topic: str, before: int) -> None:
    client = AdminClient({"bootstrap.servers": bootstrap})
    for done in client.delete_records([TopicPartition(topic, 0, before)]).values():
        done.result(20)


def log_of(bootstrap: str, topic: str, partition: int = 0) -> list[Message]:
    """What a plain consumer reads of a partition."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap, "group.id": "plain", "enable.partition.eof": True,
            "isolation.level": "read_committed",
        }
    )  # fmt: skip
    consumer.assign([TopicPartition(topic, partition, 0)])
    found = []
    while (message := consumer.poll(10)) is not None and message.error() is None:
        found.append(message)
    consumer.close()
    return found


def taken(reader: ArchiveReader, most: int) -> list[tuple[int, int, bytes | None, Record]]:
    found = []
    while (messages := reader.take(most)) is not None:
        assert 0 < len(messages) <= most
        assert reader.position > messages.offsets[-1]
        found += [
            (int(messages.offsets[i]), int(messages.timestamps_ms[i]), messages.values[i],
             messages.record(i))
            for i in range(len(messages))
        ]  # fmt: skip
    return found


def expected(messages: list[Any]) -> list[tuple[int, int, bytes | None, Record]]:
    return [
        (
            m.offset(), m.timestamp()[1], m.value(),
            Record(m.key(), tuple(m.headers() or ()), m.timestamp()[1]),
        )
        for m in messages
    ]  # fmt: skip


def files(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("*.parquet"))


def test_an_archive_gives_back_the_log_bit_for_bit_from_any_offset(kafka, topic_of, tmp_path):
    topic = topic_of(2, append_time=True)
    send(kafka, topic, 300, partitions=2)
    abort(kafka, topic, 5)
    send(kafka, topic, 100, first=300, partitions=2, transaction=topic)

    told: list[tuple[int, int]] = []
    copied = archive_topics(
        Connection(kafka), [topic], tmp_path, lambda *done: told.append(done), **SMALL
    )

    assert sum(each.messages for each in copied) == 400
    assert told[0][0] == 0
    assert told[-1][0] == told[-1][1] == sum(each.end for each in copied)
    archive = Archive(tmp_path, topic)
    assert archive.partitions() == [0, 1]
    for partition in (0, 1):
        log = expected(log_of(kafka, topic, partition))
        assert len(log) == 200
        for offset, most in ((0, 1000), (0, 7), (1, 64), (57, 10), (199, 1)):
            reader = ArchiveReader(archive, partition, offset)
            assert taken(reader, most) == [each for each in log if each[0] >= offset]
            assert reader.position == reader.end == copied[partition].end
            assert reader.take(10) is None
    rows = pq.ParquetFile(archive.segments(0)[0].path)
    assert set(rows.read(["timestamp_type"])["timestamp_type"].to_pylist()) == {"LogAppendTime"}
    assert rows.num_row_groups > 1
    assert rows.metadata.row_group(0).column(5).compression == "ZSTD"


def test_an_archive_made_in_pieces_equals_one_made_at_once(kafka, topic_of, tmp_path):
    topic = topic_of()
    connection = Connection(kafka)
    ends = []
    for piece in range(3):
        send(kafka, topic, 40, first=piece * 40, transaction=f"{topic}-{piece}")
        abort(kafka, topic, 2)
        ends.append(archive_topics(connection, [topic], tmp_path / "pieces")[0].end)
    archive_topics(connection, [topic], tmp_path / "once")

    pieces, once = Archive(tmp_path / "pieces", topic), Archive(tmp_path / "once", topic)
    assert [segment.end for segment in pieces.segments(0)] == ends
    assert len(once.segments(0)) == 1
    log = expected(log_of(kafka, topic))
    assert taken(ArchiveReader(pieces, 0, 0), 33) == taken(ArchiveReader(once, 0, 0), 50) == log
    for offset in range(ends[-1] + 1):
        reader = ArchiveReader(pieces, 0, offset)
        assert taken(reader, 1000) == [each for each in log if each[0] >= offset]


def test_a_run_with_nothing_new_adds_nothing(kafka, topic_of, tmp_path):
    topic = topic_of(2)
    send(kafka, topic, 10, partitions=2)
    archive_topics(Connection(kafka), [topic], tmp_path)
    before = files(tmp_path)
    copied = archive_topics(Connection(kafka), [topic], tmp_path)
    assert [each.messages for each in copied] == [0, 0]
    assert files(tmp_path) == before


def test_a_copy_ends_before_an_open_transaction_and_goes_on_behind_it(kafka, topic_of, tmp_path):
    topic = topic_of()
    send(kafka, topic, 10)
    producer = Producer({"bootstrap.servers": kafka, "transactional.id": topic})
    producer.init_transactions()
    producer.begin_transaction()
    producer.produce(topic, b"open")
    producer.flush(20)
    send(kafka, topic, 10, first=20)
    assert archive_topics(Connection(kafka), [topic], tmp_path)[0].end == 10
    producer.commit_transaction()
    assert archive_topics(Connection(kafka), [topic], tmp_path)[0].messages == 11
    assert taken(ArchiveReader(Archive(tmp_path, topic), 0, 0), 9) == expected(log_of(kafka, topic))


def test_a_run_that_dies_leaves_whole_files_and_the_next_one_goes_on(
    kafka, topic_of, tmp_path, monkeypatch
):
    topic = topic_of()
    send(kafka, topic, 400)
    row, seen = archiving._row, []

    def dies(message: Message, partition: int):
        seen.append(message.offset())
        if len(seen) == 250:
            raise KeyboardInterrupt
        return row(message, partition)

    monkeypatch.setattr(archiving, "_row", dies)
    with pytest.raises(KeyboardInterrupt):
        archive_topics(Connection(kafka), [topic], tmp_path, **SMALL)
    monkeypatch.undo()
    archive = Archive(tmp_path, topic)
    assert 0 < archive.segments(0)[-1].end < 250
    left = archive.folder / f".{topic}-0.aside"
    left.write_bytes(b"half a file of a run that was killed")

    copied = archive_topics(Connection(kafka), [topic], tmp_path, **SMALL)
    assert copied[0].first == archive.segments(0)[-1].end - copied[0].messages
    assert taken(ArchiveReader(archive, 0, 0), 70) == expected(log_of(kafka, topic))
    assert not left.exists()


def test_messages_that_were_deleted_before_they_were_archived_are_a_gap(kafka, topic_of, tmp_path):
    topic = topic_of()
    send(kafka, topic, 10)
    archive_topics(Connection(kafka), [topic], tmp_path)
    send(kafka, topic, 10, first=10)
    forget(kafka, topic, 15)
    with pytest.raises(ArchiveError, match="offsets 10 to 14 were deleted before they were"):
        archive_topics(Connection(kafka), [topic], tmp_path)
    copied = archive_topics(Connection(kafka), [topic], tmp_path / "new")
    assert (copied[0].first, copied[0].messages) == (15, 5)


def test_an_archive_of_another_topic_of_that_name_is_refused(kafka, topic_of, tmp_path):
    topic = topic_of()
    archive_topics(Connection(kafka), [topic], tmp_path)
    path = tmp_path / topic / "_archive.json"
    told = json.loads(path.read_text())
    assert told["topic"] == topic
    path.write_text(json.dumps({**told, "topic_id": "another"}))
    with pytest.raises(ArchiveError, match=r"found that of .* with id another"):
        archive_topics(Connection(kafka), [topic], tmp_path)
    path.write_text(json.dumps({**told, "format": 9}))
    with pytest.raises(ArchiveError, match="of format 1, found 9"):
        Archive(tmp_path, topic).identity()


def test_a_log_that_ends_before_its_archive_has_lost_messages(kafka, topic_of, tmp_path):
    topic = topic_of()
    send(kafka, topic, 10)
    archive_topics(Connection(kafka), [topic], tmp_path)
    segment = Archive(tmp_path, topic).segments(0)[0]
    name = segment.path.name.replace(f"{9:020}.", f"{19:020}.")
    segment.path.rename(segment.path.with_name(name))
    with pytest.raises(ArchiveError, match=r"must reach offset 20.* found that it ends at 10"):
        archive_topics(Connection(kafka), [topic], tmp_path)


def test_one_run_at_a_time_writes_a_folder(kafka, tmp_path):
    with (tmp_path / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ArchiveError, match="found another one at work there"):
            archive_topics(Connection(kafka), ["any"], tmp_path)


def test_a_topic_that_is_not_there_is_named(kafka, tmp_path):
    with pytest.raises(KafkaInputError, match="`no-such-topic` must exist"):
        archive_topics(Connection(kafka), ["no-such-topic"], tmp_path)


def test_a_missing_or_doubled_file_is_noticed(kafka, topic_of, tmp_path):
    topic = topic_of()
    for piece in range(3):
        send(kafka, topic, 10, first=10 * piece)
        archive_topics(Connection(kafka), [topic], tmp_path)
    archive = Archive(tmp_path, topic)
    middle = archive.segments(0)[1].path
    content = middle.read_bytes()
    middle.unlink()
    with pytest.raises(ArchiveError, match="nothing holds offsets 10 to 19, between"):
        archive.segments(0)
    middle.write_bytes(content)
    middle.with_name(middle.name.replace(f"{10:020}-", f"{8:020}-")).write_bytes(content)
    with pytest.raises(ArchiveError, match="two files hold offsets 8 to 9, between"):
        ArchiveReader(archive, 0, 0)


def test_a_damaged_file_is_named(kafka, topic_of, tmp_path):
    topic = topic_of()
    send(kafka, topic, 10)
    archive_topics(Connection(kafka), [topic], tmp_path)
    archive = Archive(tmp_path, topic)
    path = archive.segments(0)[0].path
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ArchiveError, match=f"{path.name}: must be a whole file"):
        ArchiveReader(archive, 0, 0).take(1)


def test_the_first_message_of_a_time_is_found(kafka, topic_of, tmp_path):
    topic = topic_of()
    producer = Producer({"bootstrap.servers": kafka})
    for i in range(100):
        producer.produce(topic, b"x" * 200, timestamp=1_700_000_000_000 + 10 * i)
    producer.flush(20)
    archive_topics(Connection(kafka), [topic], tmp_path, **SMALL)
    archive = Archive(tmp_path, topic)
    for i in (0, 1, 55, 99):
        assert archive.offset_at(0, 1_700_000_000_000 + 10 * i) == i
        assert archive.offset_at(0, 1_700_000_000_000 + 10 * i - 9) == i
    assert archive.offset_at(0, 1_700_000_000_000 + 991) is None
    assert archive.offset_at(1, 0) is None


def test_the_past_of_a_topic_is_given_where_it_is_archived(kafka, topic_of, tmp_path):
    topic = topic_of()
    send(kafka, topic, 20)
    forget(kafka, topic, 5)
    archive_topics(Connection(kafka), [topic], tmp_path)
    archive = Archive(tmp_path, topic)
    held = archive.identity()
    assert held is not None
    archive.check(held.topic_id)
    with pytest.raises(ArchiveError, match="with id another, found that of id"):
        archive.check("another")
    with pytest.raises(ArchiveError, match="with id x, found none"):
        Archive(tmp_path / "nowhere", topic).check("x")
    history = archived({topic: archive, "other": None})
    assert history("other", 0, 5) is None
    assert history(topic, 1, 5) is None
    assert history(topic, 0, 4) is None
    assert history(topic, 0, 20) is None
    reader = history(topic, 0, 12)
    assert isinstance(reader, ArchiveReader)
    assert len(taken(reader, 100)) == 8
    with pytest.raises(ArchiveError, match="must hold offset 4 of partition 0, found 5 to 19"):
        ArchiveReader(Archive(tmp_path, topic), 0, 4)
    reader.close()
    assert reader.take(1) is None
    stamped = archived({topic: archive}, {topic})(topic, 0, 7)
    assert stamped is not None
    with pytest.raises(ArchiveError, match="found one at offset 7 that its producer did"):
        stamped.take(10)


COPY = """
import sys
from pathlib import Path
from sources.archiving import archive_topics
from sources.kafka_client import Connection
archive_topics(Connection(sys.argv[1]), [sys.argv[2]], Path(sys.argv[3]),
               group_bytes=20_000, file_bytes=40_000)
"""


def test_a_process_that_is_killed_again_and_again_leaves_a_whole_archive(kafka, topic_of, tmp_path):
    topic = topic_of()
    send(kafka, topic, 40_000)
    archive = Archive(tmp_path, topic)
    command = [sys.executable, "-c", COPY, kafka, topic, str(tmp_path)]
    kills = 0
    for held in (1, 8, 20):
        process = subprocess.Popen(command, cwd=Path(__file__).parents[1])
        while len(list(archive.folder.glob("*.parquet"))) < held and process.poll() is None:
            time.sleep(0.001)
        process.kill()
        kills += process.wait() == -signal.SIGKILL
        archive.segments(0)  # raises where one does not follow the other
    assert kills > 0
    subprocess.run(command, cwd=Path(__file__).parents[1], check=True, timeout=60)
    assert not list(archive.folder.glob(".*.aside"))
    assert len(archive.segments(0)) > 20
    assert taken(ArchiveReader(archive, 0, 0), 5_000) == expected(log_of(kafka, topic))
