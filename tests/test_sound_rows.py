"""The short way of messages gives the rows that the long way gives, and takes nearly all."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from feature_repo.market_lab import market_lab
from feature_repo.streams import bars, news, readings, trades, windows
from operators import engine
from operators.batch import NO_CLOCK_NS
from operators.plan import compile_plan
from operators.streams import Field, NotBelow, Stream
from sources import sound_rows
from sources.json_messages import JsonMessages
from sources.message_decoder import MessageDecoder
from sources.messages import Read
from sources.sound_rows import SoundReader
from tests.golden import rows_of
from tests.test_message_decoder import NUMBERS, T0_MS, TAILS, messages_of, placed

TICKS = Stream(
    "ticks",
    "id",
    (
        Field("low"),
        Field("price", above=0, nullable=True),
        Field("share", least=-1, most=1, nullable=True),
        Field("name", kind="id"),
        Field("kind", kind="id", nullable=True),
    ),
    series="span",
    series_is_duration=True,
    rules=(NotBelow("price", "low"),),
    max_delay_ns=3 * 10**9,
)
LABELS = ['"A"', '"B/c"', "7", '"007"', '"7"', '"a b"', "null", '""', '"' + "x" * 65 + '"', "1.0"]
SPANS = ['"1m"', '"90s"', '"1h"', '"one"', '"400d"', '"0s"', "60", '""', "null"]
TIMES = [
    f"{T0_MS}", f'"{T0_MS}"', '"2024-01-02T12:00:00.5Z"', '"2024-01-02t13:00:00+01"', '"no"', "12",
    f"{T0_MS // 1000}", f"{T0_MS - 4_000}", f"{T0_MS + 5_010}", f"{T0_MS + 5_011}", "1.5", '""',
    "-99999999999999", "4102444800000", "4102444800001", "9223372036854775807", "null", "true",
]  # fmt: skip
UNITS = ["ts_ns", "ts", "ts_us", "ts_ms", "ts_s"]


def spelled(chance: random.Random) -> bytes:
    """A message of the stream, sound or not."""
    fields = {
        "id": '"A"', "span": '"1m"', "ts": f"{T0_MS}", "low": "1.5", "price": "2", "share": "-0.25",
        "name": '"n"', "kind": "7",
    }  # fmt: skip
    known: dict[str, Sequence[str]] = {"id": LABELS, "span": SPANS, "ts": TIMES}
    for name in chance.sample(list(fields), chance.choice([0, 1, 1, 2])):
        fields[name] = chance.choice(known.get(name, NUMBERS))
    if chance.random() < 0.3:
        ts = fields.pop("ts") if chance.random() < 0.5 else chance.choice([*TIMES, *NUMBERS])
        fields[chance.choice(UNITS)] = ts
    if chance.random() < 0.1:
        fields.pop(chance.choice(list(fields)))
    body = ",".join(f'"{name}":{value}' for name, value in fields.items())
    tail = chance.choice(TAILS) if chance.random() < 0.2 else ""
    return ("{" + body + tail + "}").encode()


def decoded(
    decoder: MessageDecoder, values: Sequence[bytes | None], cuts: Sequence[int]
) -> list[Read]:
    """What some reads of the messages give."""
    whole = messages_of(values)
    reads = []
    clock_ns = NO_CLOCK_NS
    for begin, end in zip([0, *cuts], [*cuts, len(values)], strict=True):
        part = messages_of(whole.values[begin:end], begin)
        reads.append(decoder.decode(part, "0", clock_ns))
        clock_ns = reads[-1].batch.clock_ns
    return reads


def fates(reads: Sequence[Read]) -> dict[int, Any]:
    """What became of each message, but for the words of letters; how many came in; the clocks.

    Words show a number in quotes where texts are among its neighbours.
    """
    found: dict[int, Any] = {}
    for read in reads:
        found |= {at: fate if len(fate) > 2 else fate[:1] for at, fate in placed(read).items()}
    clocks = [(read.batch.clock_ns, read.came_in) for read in reads]
    return {at: found[at] for at in sorted(found)} | dict(enumerate(clocks, 10**9))


def both_ways(
    monkeypatch: pytest.MonkeyPatch, values: Sequence[bytes | None], cuts: Sequence[int], **how: Any
) -> tuple[dict[int, Any], dict[int, Any]]:
    """What becomes of messages with the short way and without it."""
    short = fates(decoded(MessageDecoder(TICKS, **how), values, cuts))
    with monkeypatch.context() as patched:
        patched.setattr(SoundReader, "can_read", lambda *_: False)
        long = fates(decoded(MessageDecoder(TICKS, **how), values, cuts))
    return short, long


@pytest.mark.parametrize("arrival", ["broker", "producer"])
@pytest.mark.parametrize("seed", range(4))
def test_both_ways_give_the_same(monkeypatch, seed, arrival):
    chance = random.Random(seed)
    values: list[bytes | None] = [spelled(chance) for _ in range(4_000)]
    for _ in range(20):
        values[chance.randrange(len(values))] = None
    cuts = sorted(chance.sample(range(1, len(values)), 30))
    how = {"partitioner": "murmur2", "partitions": 2, "arrival": arrival, "most_bytes": 250}
    short, long = both_ways(monkeypatch, values, cuts, **how)
    assert short == long
    assert sum(len(fate) > 2 for fate in short.values()) > 800
    letters = {fate[0] for fate in short.values() if len(fate) == 1}
    assert letters > {"late", "missing", "malformed", "time_ahead", "out_of_bounds", "broken_rule"}


def test_labels_are_learned_anew_when_they_are_too_many(monkeypatch):
    monkeypatch.setattr(sound_rows, "MOST_LABELS", 40)
    chance = random.Random(0)
    values = []
    for _ in range(1_000):
        row = {"id": f"i{chance.randrange(90)}", "span": "1m", "ts": T0_MS, "low": 1, "name": "n"}
        values.append(json.dumps(row).encode())
    cuts = range(20, 1_000, 20)
    short, long = both_ways(monkeypatch, values, list(cuts), partitioner="none")
    assert short == long
    names = [
        read.batch.keys.names
        for read in decoded(MessageDecoder(TICKS, partitioner="none"), values, list(cuts))
    ]
    assert max(map(len, names)) <= 40
    assert min(map(len, names[2:])) < 30


def test_names_stay_the_same_when_no_new_ones_come():
    """Whoever has looked at them knows them again without looking at each."""
    row = {"span": "1m", "ts": T0_MS, "low": 1, "name": "n"}
    values = [json.dumps({"id": f"i{number}", **row}).encode() for number in range(300)]
    decoder = MessageDecoder(TICKS, partitioner="none")
    first, second, third = decoded(decoder, values + values[:10] + values[50:60], [300, 310])
    assert len(first.batch.keys.names) == 300
    assert second.batch.keys.names is third.batch.keys.names is first.batch.keys.names


@pytest.mark.parametrize("stream", [bars, news, trades, readings(10.0)], ids=lambda s: s.name)
def test_sound_messages_of_shipped_streams_go_the_short_way(stream):
    rows = rows_of(stream, 500)
    names = {"entity": stream.entity, "series": stream.series, "ts": "ts_ns"}
    values = [
        json.dumps({names.get(name, name): value for name, value in row.items()}).encode()
        for row in rows
    ]
    kinds = _form(stream).kinds
    assert SoundReader.can_read(stream, kinds)
    stamps_ms = np.array([row["arrival"] // 10**6 for row in rows])
    batch, sound = SoundReader(stream, kinds, UNITS).read(values, stamps_ms, "0", NO_CLOCK_NS)
    assert sound.all()
    assert len(batch) == len(values)


def test_messages_of_samples_go_the_long_way():
    assert not SoundReader.can_read(windows, _form(windows).kinds)


def _form(stream: Stream) -> JsonMessages:
    times = [f"start_{name}" if stream.start_stamped else name for name in UNITS]
    labels = [stream.entity, *([stream.series] if stream.series else [])]
    columns = [*labels, *times, *(field.name for field in stream.fields)]
    return JsonMessages(stream, columns, [times])


def test_an_engine_keeps_places_for_names_in_use_where_all_are_too_many(monkeypatch):
    prices = {"open": 1, "high": 3, "low": 1, "close": 2, "volume": 7}
    values = [
        json.dumps(
            {
                "instrument_id": f"I{number % 30}",
                "timeframe": f"{1 + number % 7}m",
                "ts": T0_MS + number,
                **prices,
            }
        ).encode()
        for number in range(600)
    ]
    given, places = [], []
    for most in (engine.MOST_PAIRS, 1):
        monkeypatch.setattr(engine, "MOST_PAIRS", most)
        made = engine.Engine(compile_plan(market_lab), [("bars", "0")])
        decoder = MessageDecoder(bars, partitioner="none")
        for read in decoded(decoder, values, range(10, 600, 10)):
            made.process(read.batch)
        vectors = made.process(decoder.nothing("0", (T0_MS + 10_000) * 10**6)).vectors
        assert vectors is not None
        keys = zip(vectors.keys.strings(), vectors.ts_ns.tolist(), strict=True)
        given.append((list(keys), [column.tobytes() for column in vectors.features.values()]))
        places.append(len(made.numbers["bars", "0"][2]))
    assert given[0] == given[1]
    assert len(given[0][0]) == 600
    assert places == [210, 70]
