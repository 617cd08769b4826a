"""A live flow on a real broker among bad input: nothing ends it, and nothing is lost or changed."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import polars as pl
from prometheus_client.parser import text_string_to_metric_families

from feature_repo.market import market
from operators.dead_letters import Reason
from sinks.kafka_letters import PREFIX
from sinks.vector_messages import VectorMessages
from tests.corpus import json_cases, row_cases, text_cases, time_cases
from tests.corpus.cases import ARRIVAL_MS, Case, Fates, encoded, rfc3339
from tests.corpus.mutations import is_json_object, mutated
from tests.corpus.sets import MOST, capped
from tests.corpus.world import CASE, PARTITIONS, STREAMS, Sent, World, closing, home, world

INSTRUMENTS = 120
STEP_MS = 25
NEWS_EVERY = 5
ONE_IN = 10
"""One message in so many is bad."""
MUTATED = 300


def rows(instruments: int, steps: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Sound bars and news, within the delay of their streams."""
    rng = random.Random(1)
    events = count()
    for step in range(steps):
        ts = rfc3339(ARRIVAL_MS - 4_500 + STEP_MS * step)
        for number in range(instruments):
            own = {"instrument_id": f"inst-{number:04d}", "ts": ts}
            low, high = sorted(rng.uniform(90, 110) for _ in range(2))
            prices = {"open": low, "high": high, "low": low, "close": high}
            yield "bars", {**own, "timeframe": "1m", **prices, "volume": rng.randrange(9)}
            if number % NEWS_EVERY == step % NEWS_EVERY:
                told = {"sentiment": rng.uniform(-1, 1), "confidence": rng.random()}
                yield "news", {**own, "event_id": f"e-{next(events)}", **told}


def sent(stream: str, row: dict[str, Any]) -> Sent:
    return Sent(stream, row["instrument_id"].encode(), json.dumps(row).encode())


def bad_cases() -> dict[str, Case]:
    """All cases of bars and news that must be refused, and some more."""
    families = (json_cases, text_cases, row_cases, time_cases)
    every = (case for family in families for case in family.cases())
    found = [case for case in every if case.stream in STREAMS and None not in case.fates]
    broken = [
        value for value in mutated([encoded(s) for s in STREAMS], 3 * MUTATED, 23)
        if not is_json_object(value)
    ]  # fmt: skip
    any_reason: Fates = frozenset(Reason)
    found += [
        Case(f"n_mutated_{number}", value, any_reason, STREAMS[number % 2])
        for number, value in enumerate(broken[:MUTATED])
    ]
    large = frozenset({Reason.TOO_LARGE})
    found += [
        Case(f"n_{length}_random_bytes", random.Random(7).randbytes(length), large)
        for length in (1_000_001, 1_048_300)
    ]
    return {case.name: case for case in found}


def strays() -> Iterator[Sent]:
    """Sound rows in partitions that are not those of their entities."""
    for number in range(40):
        name = f"stray-{number}"
        for away in range(1, PARTITIONS):
            place = (home(name) + away) % PARTITIONS
            value = encoded("bars", instrument_id=name)
            yield Sent("bars", name.encode(), value, f"stray {number} {away}", place)


def test_bad_messages_among_sound_ones_are_letters_and_change_no_vector(
    kafka: str, tmp_path: Path
) -> None:
    rng = random.Random(2)
    cases = bad_cases()
    bad = [
        Sent(
            case.stream,
            rng.choice([None, b"", b"AAPL", rng.randbytes(20), b"\r\nforged: yes"]),
            case.value,
            case.name,
            # What is judged after its entity must be at home.
            home("AAPL") if Reason.LATE in case.fates else rng.randrange(PARTITIONS),
        )
        for case in cases.values()
    ]
    bad += strays()
    steps = (ONE_IN - 1) * len(bad) // INSTRUMENTS
    assert STEP_MS * steps < 9_000
    sound = list(rows(INSTRUMENTS, steps))
    mixed = [sent(*each) for each in sound]
    for message in bad:
        mixed.insert(rng.randrange(len(mixed)), message)
    with world(kafka, tmp_path, "market") as there:
        there.send([*mixed, *closing()])
        there.run(sum(stream == "bars" for stream, _ in sound), len(bad))
        found = there.vectors()
        letters = {
            (stream, end): there.letters(stream, end)
            for stream in STREAMS
            for end in (".dlq", ".late")
        }
        _check_words(there)
    _check_letters(letters, {str(message.case): message for message in bad}, cases)
    table = pl.DataFrame(pl.from_arrow(VectorMessages(market).read(m.value for m in found)))
    frames = {
        name: pl.DataFrame([row for stream, row in sound if stream == name]).with_columns(
            arrival_ts_ms=pl.lit(ARRIVAL_MS)
        )
        for name in STREAMS
    }
    wanted = market.compute(**frames)
    keys = ["instrument_id", "timeframe", "ts"]
    assert table.sort(keys).equals(wanted.select(table.columns).sort(keys))
    assert {message.key for message in found} == {row["instrument_id"].encode() for _, row in sound}


def _check_letters(
    letters: dict[tuple[str, str], list[Any]], bad: dict[str, Sent], cases: dict[str, Case]
) -> None:
    """Each bad message is one letter, with its bytes, its key, its headers and its reason."""
    told: Counter[str] = Counter()
    places: Counter[tuple[str, int, int]] = Counter()
    for (stream, end), found in letters.items():
        for letter in found:
            own, ours = letter.headers[:3], dict(letter.headers[3:])
            case = (own[2][1] or b"").decode()
            message = bad[case]
            told[case] += 1
            assert own == [("own", b"\0\xff"), ("own", None), (CASE, case.encode())]
            assert (letter.value, letter.key) == (message.value, message.key), case
            assert message.stream == stream
            reason = Reason(ours[PREFIX + "reason"].decode())
            fates = cases[case].fates if case in cases else {Reason.WRONG_PARTITION}
            assert reason in fates, f"{case}: {reason}"
            assert (reason == Reason.LATE) == (end == ".late")
            assert ours[PREFIX + "message"].decode().isprintable()
            assert int(ours[PREFIX + "timestamp_ms"]) == message.stamp_ms
            place = int(ours[PREFIX + "partition"]), int(ours[PREFIX + "offset"])
            places[(stream, *place)] += 1
            if message.partition is not None:
                assert place[0] == message.partition
    assert told.keys() == bad.keys()
    assert set(told.values()) == set(places.values()) == {1}


def _check_words(there: World) -> None:
    """No name that was sent shows in logs or metrics, let alone as a line of its own."""
    for line in there.log():
        told = json.loads(line)
        assert line.isprintable()
        assert told["level"] == "info", line
    families = list(text_string_to_metric_families(there.metrics))
    labels = {value for each in families for s in each.samples for value in s.labels.values()}
    assert all(label.isprintable() for label in labels)
    assert not labels & set(text_cases.NAUGHTY.values())
    dead = [s for each in families for s in each.samples if "reason" in s.labels]
    assert {s.labels["reason"] for s in dead} <= set(Reason)


def test_a_flood_of_keys_is_refused_and_those_that_were_there_are_right(
    kafka: str, tmp_path: Path
) -> None:
    known = list(rows(INSTRUMENTS, 10))
    ts = rfc3339(ARRIVAL_MS)
    flood = [
        Sent("bars", name.encode(), encoded("bars", instrument_id=name, ts=ts))
        for name in map("flood-{:05d}".format, range(4_000))
    ]
    again = [
        (stream, {**row, "ts": rfc3339(ARRIVAL_MS + 1), "event_id": f"again-{number}"})
        for number, (stream, row) in enumerate(known[: 2 * INSTRUMENTS])
        if stream == "bars" or "event_id" in row
    ]
    again = [
        (stream, {k: v for k, v in row.items() if stream == "news" or k != "event_id"})
        for stream, row in {(s, r["instrument_id"]): (s, r) for s, r in again}.values()
    ]
    lanes = Counter(home(f"inst-{number:04d}") for number in range(INSTRUMENTS))
    assert max(lanes.values()) < MOST
    admitted = sum(MOST - lanes[lane] for lane in range(PARTITIONS))
    refused = len(flood) - admitted + PARTITIONS  # those that close the lanes come too late
    vectors = sum(stream == "bars" for stream, _ in [*known, *again]) + admitted
    with world(kafka, tmp_path, "tests.corpus.sets:capped") as there:
        there.send([sent(*each) for each in known])
        there.send([*flood, *(sent(*each) for each in again), *closing()])
        there.run(vectors, refused)
        found = there.vectors()
        letters = there.letters("bars", ".dlq")
        others = [there.letters(s, e) for s in STREAMS for e in (".dlq", ".late")]
    assert sum(map(len, others)) == len(letters) == refused
    names = {letter.key for letter in letters}
    assert len(names) == refused
    for letter in letters:
        ours = dict(letter.headers)
        assert ours[PREFIX + "message"] == f"more than {MOST} keys".encode()
        assert ours[PREFIX + "rendered"] == b"true"
        assert json.loads(letter.value or b"")["key"].encode() == letter.key
    assert not any((name or b"").startswith(b"inst-") for name in names)
    rendered = pl.DataFrame(pl.from_arrow(VectorMessages(capped).read(m.value for m in found)))
    table = rendered.filter(pl.col("instrument_id").str.starts_with("inst-"))
    frames = {
        name: pl.DataFrame(
            [row for stream, row in [*known, *again] if stream == name]
        ).with_columns(arrival_ts_ms=pl.lit(ARRIVAL_MS))
        for name in STREAMS
    }
    wanted = market.compute(**frames).with_columns(feature_set=pl.lit("capped"))
    keys = ["instrument_id", "timeframe", "ts"]
    assert table.sort(keys).equals(wanted.select(table.columns).sort(keys))
    assert len(found) == vectors
