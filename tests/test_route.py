"""Where rows go: to key groups and lanes, whole, in order, each with the clock."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from operators.batch import Batch
from operators.kernels.hashing import KEY_GROUPS
from operators.route import LANES, lane_of_partition, lanes_by_hash, of_groups, route
from tests.strategies import START_NS, TRADES, batch_of

NAMES = [f"asset-{i % 29}" for i in range(200)]


def batch(partition: str = "3") -> Batch:
    """Rows of many entities, at the positions 1000, 1002, ..."""
    rows = [
        {"entity": name, "ts": START_NS + i, "trade_id": i, "price": 1.0, "size": float(i)}
        for i, name in enumerate(NAMES)
    ]
    made = batch_of(TRADES, rows, partition, START_NS)
    return replace(made, positions=1000 + 2 * np.arange(len(NAMES)))


def rows_of(part: Batch) -> list[tuple[str, int, float, int]]:
    """Entity, time, size and position of each row."""
    assert part.positions is not None
    size = part.columns["size"]
    assert isinstance(size, np.ndarray)
    columns = (part.keys.strings(), part.ts_ns.tolist(), size.tolist(), part.positions.tolist())
    return list(zip(*columns, strict=True))


@pytest.mark.parametrize(("spread", "places"), [(route, KEY_GROUPS), (lanes_by_hash, LANES)])
def test_each_row_goes_to_one_place_in_its_order_and_the_clock_to_all(spread, places):
    whole = batch()
    routed = spread(whole)
    assert [place for place, _ in routed] == list(range(places))
    assert all(part.clock_ns == START_NS and part.partition == "3" for _, part in routed)
    assert sorted(row for _, part in routed for row in rows_of(part)) == sorted(rows_of(whole))
    homes: dict[str, int] = {}
    for place, part in routed:
        assert np.all(np.diff(part.ts_ns) > 0)
        assert all(homes.setdefault(name, place) == place for name in part.keys.strings())


def test_an_empty_batch_tells_every_lane_the_clock():
    routed = lanes_by_hash(batch().slice(0, 0))
    assert [lane for lane, _ in routed] == list(range(LANES))
    assert all(len(part) == 0 and part.clock_ns == START_NS for _, part in routed)


def test_a_lane_of_partitioned_topics_is_its_partition_and_copies_nothing():
    whole = batch("12")
    assert lane_of_partition(whole) == [(12, whole)]


def test_positions_stay_with_their_rows():
    whole = batch()
    rows = rows_of(whole)
    assert rows_of(whole.slice(5, 9)) == rows[5:9]
    assert rows_of(whole.take(np.array([7, 2]))) == [rows[7], rows[2]]
    kept = of_groups(whole, frozenset(range(0, KEY_GROUPS, 3)))
    assert set(rows_of(kept)) < set(rows)
    assert replace(whole, positions=None).take(np.array([1])).positions is None
