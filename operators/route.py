"""Sends rows to the engines of their entities: to key groups, or to the lanes of a live flow.

Whoever may get rows of a partition hears its clock with each batch, rows or none.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from operators.batch import Batch, Int64s
from operators.kernels import ordering
from operators.kernels.hashing import KEY_GROUPS, key_groups

LANES = 8
"""Lanes of a flow whose topics are not partitioned by entity; fixed, as states are kept by lane."""


@lru_cache(maxsize=256)
def _groups_of(names: tuple[str, ...]) -> Int64s:
    return key_groups(list(names))


def group_of_rows(batch: Batch) -> Int64s:
    """The key group of each row."""
    if not len(batch):
        return np.zeros(0, np.int64)
    return _groups_of(batch.keys.names)[batch.keys.codes]


def route(batch: Batch) -> list[tuple[int, Batch]]:
    """The batch's rows by key group, in reading order; groups without rows get the clock alone."""
    return _spread(batch, group_of_rows(batch), KEY_GROUPS)


def lane_of_partition(batch: Batch) -> list[tuple[int, Batch]]:
    """The batch, for the lane of its partition's number.

    For topics that are partitioned alike: all rows of an entity are in one partition.
    """
    return [(int(batch.partition), batch)]


def lanes_by_hash(batch: Batch) -> list[tuple[int, Batch]]:
    """The batch's rows by lane, where partitions do not tell entities apart.

    Lanes without rows get the clock alone.
    """
    if not len(batch):
        return [(lane, batch) for lane in range(LANES)]
    return _spread(batch, group_of_rows(batch) % LANES, LANES)


def _spread(batch: Batch, place: Int64s, places: int) -> list[tuple[int, Batch]]:
    order, present, start = ordering.group_by_run(place, places)
    sorted_rows = batch.take(order)
    nothing = batch.take(order[:0])
    routed = dict.fromkeys(range(places), nothing)
    for g, number in enumerate(present.tolist()):
        routed[number] = sorted_rows.slice(int(start[g]), int(start[g + 1]))
    return list(routed.items())


def of_groups(batch: Batch, wanted: frozenset[int]) -> Batch:
    """Only the rows of some key groups; the clock stays."""
    rows = np.isin(group_of_rows(batch), list(wanted))
    return batch if rows.all() else batch.take(rows)
