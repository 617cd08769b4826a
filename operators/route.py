"""Sends rows to their key groups. Every key group hears every partition's clock, rows or none."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from operators.batch import Batch, Int64s
from operators.kernels import ordering
from operators.kernels.hashing import KEY_GROUPS, key_groups


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
    order, present, start = ordering.group_by_run(group_of_rows(batch), KEY_GROUPS)
    sorted_rows = batch.take(order)
    nothing = batch.take(order[:0])
    routed = dict.fromkeys(range(KEY_GROUPS), nothing)
    for g, group in enumerate(present.tolist()):
        routed[group] = sorted_rows.slice(int(start[g]), int(start[g + 1]))
    return list(routed.items())


def of_groups(batch: Batch, wanted: frozenset[int]) -> Batch:
    """Only the rows of some key groups; the clock stays."""
    rows = np.isin(group_of_rows(batch), list(wanted))
    return batch if rows.all() else batch.take(rows)
