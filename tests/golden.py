"""Golden bits: a fixed input, and what every shipped set makes of it, to the last bit.

The input is integers of a linear congruential generator, brought to decimals by one division, so
that no library decides what it is. ``python -m tests.golden --write`` writes the files again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
import struct
from pathlib import Path
from typing import Any

import numba
import numpy as np

from feature_repo.machine import asset_over, machine_at
from feature_repo.sets import ALL
from operators.batch import NO_CLOCK_NS, Batch
from operators.feature_set import FeatureSet
from operators.kernels import BITS_VERSION
from operators.streams import Field, Stream
from tests.driver import emitted
from tests.naive_rows import Key, Row, arrival_ns
from tests.strategies import MINUTE_NS, START_NS, Read, batch_of

FOLDER = Path(__file__).parent / "golden"
RATE_HZ = 20.0
"""Sampling rate of the sensor sets here, low so that the files are small."""
SAMPLED = 24
"""Vectors of each set that are written out; all others are in the digest."""

_machine = machine_at(RATE_HZ)
SETS: dict[str, FeatureSet] = {**ALL, "machine": _machine, "asset": asset_over(_machine)}
COUNTS = {"bars": 430, "news": 160, "trades": 900, "readings": 700, "windows": 60}
"""Rows of each run; exponential means need some four hundred."""
KEYS: dict[str, list[Key]] = {
    "bars": [("AAPL", "1m"), ("MSFT", "5m")],
    "news": [("AAPL", ""), ("MSFT", "")],
    "trades": [("AAPL", ""), ("MSFT", "")],
    "readings": [("pump", "x"), ("pump", "y"), ("fan", "x")],
    "windows": [("pump", "x"), ("fan", "x")],
}
STEPS_NS = {
    "bars": MINUTE_NS, "news": 3 * MINUTE_NS, "trades": 4_000_000_000, "readings": 50_000_000,
    "windows": 3_200_000_000,
}  # fmt: skip

Parts = dict[str, dict[str, list[Row]]]
"""The rows of each stream's partitions."""


class Dice:
    """The linear congruential generator of Knuth's MMIX."""

    def __init__(self, seed: int) -> None:
        self.state = seed

    def below(self, count: int) -> int:
        """A whole number in ``0 .. count - 1``."""
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.state >> 33) % count

    def one_in(self, count: int) -> bool:
        """Whether something that rare happens."""
        return self.below(count) == 0


def number(dice: Dice, field: Field, price: int) -> float:
    """A value that a field allows; prices are around one in cents."""
    if field.unit == "price":
        return (price + dice.below(41) - 20) / 100
    if field.most is not None:
        least = field.least or 0.0
        return least + dice.below(1001) * (field.most - least) / 1000
    if field.unit == "Hz":
        return RATE_HZ
    return dice.below(100_000) / 100 if field.least is not None else wave(dice, price)


def wave(dice: Dice, place: int) -> float:
    """A triangle of 16 samples with some noise."""
    return abs(place % 16 - 8) / 4 - 1 + dice.below(1001) / 2000


def content(dice: Dice, stream: Stream, price: int, place: int) -> Row:
    """The fields of a row but its ids, with the stream's rules kept."""
    row: Row = {}
    for field in stream.fields:
        if field.kind == "samples":
            row[field.name] = [wave(dice, i) for i in range(64)]
        elif field.kind == "number":
            row[field.name] = number(dice, field, place if field.unit == "1" else price)
    for rule in stream.rules:
        upper, lower = row[rule.upper], row[rule.lower]
        row[rule.upper], row[rule.lower] = max(upper, lower), min(upper, lower)
    return row


def arrival(dice: Dice, stream: Stream, ts: int) -> int:
    """Within the allowed delay, rarely later."""
    late = 1 if dice.one_in(40) else 0
    return ts + late * (stream.max_delay_ns + 1) + dice.below(stream.max_delay_ns + 1)


def rows_of(
    stream: Stream, count: int, *, seed: int = 1, keys: list[Key] | None = None, step_ns: int = 0
) -> list[Row]:
    """Rows of a stream in the order of arrival: gaps, equal times, late ones, doubles, corrections.

    Args:
        stream: whose fields they have; its name decides their keys and distance, if not given.
        count: instants of each run.
        seed: of the generator.
        keys: the runs.
        step_ns: the usual distance of two rows.
    """
    dice = Dice(seed)
    step_ns = step_ns or STEPS_NS[stream.name]
    found: list[Row] = []
    for entity, series in keys or KEYS[stream.name]:
        ts, price = START_NS, 10_000 + dice.below(5_000)
        for place in range(count):
            ts += step_ns * (1 + (3 if dice.one_in(60) else 0))
            price += dice.below(61) - 30
            jitter_ns = dice.below(step_ns // 20) if dice.one_in(4) else 0
            for _ in range(2 if stream.identity != () and dice.one_in(12) else 1):
                ids = {f.name: 1 + len(found) for f in stream.fields if f.kind == "id"}
                row: Row = {"entity": entity, "ts": ts + jitter_ns, **ids}
                if stream.series is not None:
                    row["series"] = series
                row |= content(dice, stream, price, place)
                copies = [row]
                if dice.one_in(15):
                    copies.append(dict(row))
                if dice.one_in(15):
                    copies.append({**row, **content(dice, stream, price, place)})
                for copy in copies:
                    copy["arrival"] = arrival(dice, stream, copy["ts"])
                found += copies
    return sorted(found, key=arrival_ns)


def queue_of(stream: str, name: str, rows: list[Row], size: int) -> list[Read]:
    """A partition in batches, with an empty one that tells the read position after each third."""
    queue: list[Read] = []
    clock_ns = NO_CLOCK_NS
    for number, start in enumerate(range(0, len(rows), size)):
        batch = rows[start : start + size]
        clock_ns = max([clock_ns, *map(arrival_ns, batch)])
        queue.append(Read(stream, name, batch, clock_ns, end=False))
        if number % 3 == 2 and start + size < len(rows):
            clock_ns = max(clock_ns, arrival_ns(rows[start + size]))
            queue.append(Read(stream, name, [], clock_ns, end=False))
    return [*queue, Read(stream, name, [], clock_ns, end=True)]


def interleaved(parts: Parts, size: int, seed: int) -> list[Read]:
    """The batches of all partitions, one after the other in some order."""
    dice = Dice(seed)
    queues = [queue_of(s, n, rows, size) for s, of in parts.items() for n, rows in of.items()]
    read = []
    while queues:
        queue = queues[dice.below(len(queues))]
        read.append(queue.pop(0))
        queues = [queue for queue in queues if queue]
    return read


def in_turns(rows: dict[str, list[Row]], count: int) -> Parts:
    """Each stream's rows dealt to so many partitions in turn."""
    return {s: {f"part-{i}": whole[i::count] for i in range(count)} for s, whole in rows.items()}


def by_time(rows: dict[str, list[Row]]) -> Parts:
    """Each stream's rows in two files, the later half in the first one."""
    return {
        s: {"late": whole[len(whole) // 2 :], "early": whole[: len(whole) // 2]}
        for s, whole in rows.items()
    }


def fixed_batches(feature_set: FeatureSet) -> list[Batch]:
    """The fixed input of a set: two batches of each stream."""
    batches = []
    for stream in feature_set.streams:
        whole = rows_of(stream, COUNTS[stream.name])
        half = len(whole) // 2
        for part, end in ((whole[:half], False), (whole[half:], True)):
            batches.append(batch_of(stream, part, "fixed", arrival_ns(part[-1]), end=end))
    first, second = batches[0::2], batches[1::2]
    return [*first, *second]


def as_hex(value: float) -> str | None:
    """The bits of a float64 in sixteen digits; null is null."""
    return None if math.isnan(value) else struct.pack(">d", value).hex()


def from_hex(text: str | None) -> float:
    """The float64 of such digits."""
    return math.nan if text is None else float(struct.unpack(">d", bytes.fromhex(text))[0])


def computed(name: str) -> dict[str, Any]:
    """What a set makes of its fixed input today."""
    vectors = [
        [*identity, {k: as_hex(v) if isinstance(v, float) else v for k, v in vector.items()}]
        for identity, vector in sorted(emitted(SETS[name], fixed_batches(SETS[name])).items())
    ]
    text = json.dumps(vectors, sort_keys=True)
    step = max(len(vectors) // SAMPLED, 1)
    return {
        "set": f"{name} {SETS[name].version}",
        "bits_version": BITS_VERSION,
        "numba": numba.__version__,
        "numpy": np.__version__,
        "architecture": platform.machine(),
        "count": len(vectors),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "vectors": vectors[step - 1 :: step],
    }


def stored(name: str) -> dict[str, Any]:
    """What is written down of a set."""
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return found


ADVICE = (
    "If this is meant: bump operators.kernels.BITS_VERSION, regenerate with "
    "`python -m tests.golden --write`, and say so in CHANGELOG.md"
)


def differences(name: str, found: dict[str, Any], golden: dict[str, Any]) -> str:
    """What differs from the file, in words; nothing where nothing does.

    Bits are compared on the CPU architecture that the file was written on, values elsewhere.
    """
    if found["bits_version"] != golden["bits_version"]:
        return (
            f"`{name}`: tests/golden is of BITS_VERSION {golden['bits_version']}, the kernels are "
            f"of {found['bits_version']}. Regenerate with `python -m tests.golden --write`"
        )
    exactly = found["architecture"] == golden["architecture"]
    wrong = _first_difference(found["vectors"], golden["vectors"], exactly=exactly)
    if not wrong and found["count"] != golden["count"]:
        wrong = f"{found['count']} vectors, not {golden['count']}"
    if not wrong and exactly and found["sha256"] != golden["sha256"]:
        wrong = "vectors other than those written out"
    if not wrong:
        return ""
    built = {k: (golden[k], found[k]) for k in ("numba", "numpy") if golden[k] != found[k]}
    return f"`{name}`: bits differ from tests/golden: {wrong}; other versions: {built}. {ADVICE}"


def _first_difference(found: list[Any], golden: list[Any], *, exactly: bool) -> str:
    for ours, theirs in zip(found, golden, strict=False):
        if ours[:3] != theirs[:3] or ours[3].keys() != theirs[3].keys():
            return f"{ours[:3]} with {list(ours[3])}, not {theirs[:3]} with {list(theirs[3])}"
        for key, value in theirs[3].items():
            if ours[3][key] != value and (exactly or not _close(ours[3][key], value)):
                return f"{key} of {ours[:3]}: {_shown(ours[3][key])}, not {_shown(value)}"
    return "" if len(found) == len(golden) else f"{len(found)} vectors, not {len(golden)}"


def _shown(value: Any) -> str:
    return f"{from_hex(value)!r} ({value})" if isinstance(value, str) else repr(value)


def _close(ours: Any, theirs: Any) -> bool:
    if not isinstance(ours, str) or not isinstance(theirs, str):
        return bool(ours == theirs)
    return math.isclose(from_hex(ours), from_hex(theirs), rel_tol=1e-12, abs_tol=1e-15)


def write() -> None:
    """Writes the files of all sets again."""
    FOLDER.mkdir(exist_ok=True)
    for name in SETS:
        found = computed(name)
        lines = ",\n".join(json.dumps(vector) for vector in found["vectors"])
        head = json.dumps({**found, "vectors": None}, indent=1)
        text = head.replace('"vectors": null', f'"vectors": [\n{lines}\n]')
        (FOLDER / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The golden bits of the shipped sets.")
    parser.add_argument("--write", action="store_true", required=True, help="write them again")
    parser.parse_args()
    write()
