"""Arrow messages of every shape meet their fate, and cost no more than they may."""

from __future__ import annotations

import json
from collections.abc import Sequence

import psutil
import pyarrow as pa
import pyarrow.ipc
import pytest

from operators.batch import NO_CLOCK_NS
from operators.dead_letters import Reason
from sources.message_decoder import MessageDecoder
from sources.messages import Read
from tests.corpus.arrow_cases import cases, packed, table
from tests.corpus.cases import ROWS, STREAMS, TS_MS, encoded, rfc3339
from tests.corpus.mutations import mutated
from tests.corpus.reading import bits, decoder, index_of, messages

CASES = list(cases())
MUTATED = 400
MOST_GROWTH_BYTES = 100 * 2**20


def decoded(stream: str, values: Sequence[bytes | None]) -> Read:
    arrow = MessageDecoder(STREAMS[stream], "arrow")
    return arrow.decode(messages(values), "0", NO_CLOCK_NS)


def rows_told(read: Read) -> int:
    return len(read.batch) + sum(read.dead.rows) + sum(read.late.rows)


def reason(read: Read) -> Reason | None:
    """The fate of a message of one row."""
    (found,) = (*read.dead.reasons, *read.late.reasons) or (None,)
    assert (found is None) == (len(read.batch) > 0)
    return found


def test_every_case_meets_its_fate() -> None:
    wrong = {}
    for case in CASES:
        read = decoded(case.stream, [case.value])
        assert rows_told(read) == read.came_in, case.name
        assert all(words.isprintable() for words in read.dead.messages), case.name
        if reason(read) not in case.fates:
            wrong[case.name] = (reason(read), read.dead.messages, sorted(map(str, case.fates)))
    assert wrong == {}


def test_a_small_message_that_unfolds_to_a_lot_takes_no_memory() -> None:
    process = psutil.Process()
    for case in CASES:
        before = process.memory_info().rss
        decoded(case.stream, [case.value])
        grown = process.memory_info().rss - before
        assert grown < MOST_GROWTH_BYTES, f"{case.name} took {grown / 1e6:.0f} MB"


@pytest.mark.parametrize("stream", STREAMS)
def test_a_message_cut_short_anywhere_gives_no_row_that_was_not_sent(stream: str) -> None:
    whole = packed(table(stream, 4), chunk=2)
    sent = decoded(stream, [whole])
    wanted = [bits(sent.batch, row) for row in range(4)]
    for length in range(len(whole)):
        read = decoded(stream, [whole[:length]])
        # A stream may end after any of its batches, so a cut there cannot be told.
        found = [bits(read.batch, row) for row in range(len(read.batch))]
        assert found in ([], wanted[:2], wanted), length
        assert rows_told(read) == read.came_in >= 1


@pytest.mark.parametrize("stream", STREAMS)
def test_changed_messages_are_told_of_and_leave_their_neighbours_alone(stream: str) -> None:
    sound = packed(table(stream, 2))
    plain = [sound, packed(table(stream, 6), chunk=2)]
    rows = decoded(stream, [sound]).batch
    wanted = [bits(rows, row) for row in range(2)]
    for value in mutated(plain, MUTATED, seed=11):
        read = decoded(stream, [sound, value, sound])
        assert read.batch.positions is not None
        at = [index_of(offset) for offset in read.batch.positions.tolist()]
        told = [bits(read.batch, row) for row in range(len(read.batch))]
        for place in (0, 2):
            assert [row for row, index in zip(told, at, strict=True) if index == place] == wanted
        letters = [*read.dead.positions, *read.late.positions]
        assert {index_of(offset) for offset in letters} <= {1}
        assert 1 in at or letters, value
        assert rows_told(read) == read.came_in


@pytest.mark.parametrize("stream", STREAMS)
def test_the_same_rows_have_the_same_bits_in_both_forms(stream: str) -> None:
    rows = table(stream, 20)
    arrow = decoded(stream, [packed(rows)]).batch
    sent = []
    for row in rows.to_pylist():
        times = {
            name: rfc3339(int(value.timestamp() * 1000))
            for name, value in row.items()
            if name in {"ts", "start_ts"}
        }
        sent.append(encoded(stream, **{**row, **times}))
    batch = decoder(stream).decode(messages(sent), "0", NO_CLOCK_NS).batch
    assert [bits(arrow, row) for row in range(20)] == [bits(batch, row) for row in range(20)]


def test_bad_rows_of_a_message_are_one_letter_that_holds_just_them() -> None:
    rows = pa.Table.from_pylist(
        [
            {**ROWS["bars"], "open": price, "ts": rfc3339(ts_ms)}
            for price, ts_ms in (
                (100.5, TS_MS), (-1.0, TS_MS + 1), (100.25, TS_MS + 2), (0.0, TS_MS + 3),
                (100.0, TS_MS - 60_000), (100.75, TS_MS + 4),
            )
        ]
    )  # fmt: skip
    read = decoded("bars", [packed(rows)])
    assert len(read.batch) == 3
    for letters, reasons, places in (
        (read.dead, (Reason.OUT_OF_BOUNDS,), [1, 3]),
        (read.late, (Reason.LATE,), [4]),
    ):
        assert letters.reasons == reasons
        assert letters.rows == (len(places),)
        (original,) = letters.originals
        found = pyarrow.ipc.open_stream(original).read_all()
        assert found.to_pylist() == rows.take(places).to_pylist()
        again = decoded("bars", [original])
        assert len(again.batch) == 0


def test_json_on_an_arrow_topic_and_arrow_on_a_json_topic_are_dead_letters() -> None:
    read = decoded("bars", [encoded()])
    assert read.dead.reasons == (Reason.MALFORMED,)
    assert json.loads(read.dead.originals[0]) == ROWS["bars"]
    sent = packed(table())
    read = decoder("bars").decode(messages([sent]), "0", NO_CLOCK_NS)
    assert read.dead.reasons == (Reason.NOT_UTF8,)
    assert read.dead.originals == (sent,)
