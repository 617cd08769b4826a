"""Which shard reads what: files that share an entity stay together; else all read everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

UNEVEN = 1.5
"""Files are not split where the greatest shard would hold this many times its even share."""


class UnsplittableError(ValueError):
    """Files that join what an earlier run has put into different shards."""


@dataclass(frozen=True)
class Weighed:
    """A file, for dividing.

    Attributes:
        partition: its name.
        size: in bytes.
        entities: those that it has rows of.
    """

    partition: str
    size: int
    entities: frozenset[str]


def components(files: Sequence[Weighed]) -> list[list[Weighed]]:
    """Groups files that share an entity, directly or through others."""
    parent = list(range(len(files)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first: dict[str, int] = {}
    for index, file in enumerate(files):
        for entity in file.entities:
            parent[root(index)] = root(first.setdefault(entity, index))
    groups: dict[int, list[Weighed]] = {}
    for index, file in enumerate(files):
        groups.setdefault(root(index), []).append(file)
    return list(groups.values())


def divide(
    files: Sequence[Weighed], shards: int, before: Mapping[str, int] | None = None
) -> dict[str, int] | None:
    """Gives each file to a shard, balanced by bytes.

    Args:
        files: all of the input.
        shards: how many there are.
        before: shards of the files of an earlier run, which stay where they are.

    Returns:
        The shard of each partition; None if they do not split evenly.

    Raises:
        UnsplittableError: when new files join files of different shards.

    >>> a, b, c = (Weighed(name, 10, frozenset({name[0]})) for name in ("x1", "x2", "y1"))
    >>> divide([a, b, c], 2), divide([a, b], 2)
    ({'x1': 0, 'x2': 0, 'y1': 1}, None)
    """
    groups = sorted(components(files), key=lambda group: -sum(file.size for file in group))
    loads = [0] * shards
    given: dict[str, int] = {}
    fresh = []
    for group in groups:
        homes = sorted({before[f.partition] for f in group if before and f.partition in before})
        if len(homes) > 1:
            new = [f.partition for f in group if before and f.partition not in before]
            msg = (
                f"new files must have entities of one shard, found {new} with those of shards "
                f"{homes}; start over with an empty recovery directory and output"
            )
            raise UnsplittableError(msg)
        if homes:
            loads[homes[0]] += sum(file.size for file in group)
            given.update((file.partition, homes[0]) for file in group)
        else:
            fresh.append(group)
    for group in fresh:
        shard = loads.index(min(loads))
        loads[shard] += sum(file.size for file in group)
        given.update((file.partition, shard) for file in group)
    even = sum(loads) / shards
    if before is None and (len(groups) < shards or max(loads) > UNEVEN * max(even, 1)):
        return None
    return {file.partition: given[file.partition] for file in files}
