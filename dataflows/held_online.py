"""What an online store serves, beside vectors that are computed again.

It holds the newest vector of each entity and nothing else: perhaps a later one than the range has,
perhaps a provisional one. So an entity is compared where the store serves the very vector that is
the newest computed; what is served of a later time, or known later, was not computed and is only
counted; what is older, or missing, or other than computed is a finding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import polars as pl
import pyarrow as pa

from dataflows.verify import KEPT, Finding
from feature_repo.names import join_keys, view_name
from operators.feature_set import FeatureSet

if TYPE_CHECKING:
    from feast import FeatureStore

ENTITIES_AT_ONCE = 1_000
"""Asked for in one call; SQLite takes at most so many."""
ORDER = ["ts", "known_at", "n_rows"]
Mark: TypeAlias = tuple[int, ...]


@dataclass
class Served:
    """What a comparison with an online store has found, by entity.

    Attributes:
        held: the name of the store.
        same, different: entities of which the newest computed vector is served.
        later: entities of which a later one is served, which was not computed.
        behind: entities of which an older one is served.
        missing: entities of which nothing is served.
        findings: the first ones of what is wrong, by entity.
    """

    held: str
    same: int = 0
    different: int = 0
    later: int = 0
    behind: int = 0
    missing: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Whether nothing is served that is older than, or other than, what was computed."""
        return not (self.different or self.behind or self.missing)

    @property
    def compared(self) -> int:
        """Entities of which the newest computed vector is served."""
        return self.same + self.different

    def judge(
        self,
        feature_set: FeatureSet,
        wanted: dict[str, Any],
        found: dict[str, Any],
        marks: tuple[Mark | None, Mark | None],
    ) -> None:
        """Compares one entity.

        Args:
            feature_set: whose vectors.
            wanted: the newest computed vector; its times are numbers.
            found: the values that are served.
            marks: of what was served before and after these were read.
        """
        vector = tuple(str(wanted[name]) for name in join_keys(feature_set))
        order = tuple(int(wanted[name]) for name in ORDER)
        place = (*vector, *feature_set.labels.values(), _spelled(order[0]))
        before, after = marks
        if before is None or after is None:
            self.missing += 1
            self._find(Finding("missing", place))
        elif before[:3] > order or before != after:
            self.later += 1
        elif before[:3] < order:
            self.behind += 1
            times = _spelled(order[0]), _spelled(before[0])
            self._find(Finding("behind", place, "ts", *times))
        else:
            wrong = [name for name in found if not _same(wanted[name], found[name])]
            self.different += bool(wrong)
            self.same += not wrong
            for name in wrong:
                values = repr(wanted[name]), repr(found[name])
                self._find(Finding("different", place, name, *values))

    def _find(self, finding: Finding) -> None:
        if len(self.findings) < KEPT:
            self.findings.append(finding)


class OnlineHeld:
    """The newest vectors that a store serves, read by Feast.

    Args:
        store: the Feast store.

    Attributes:
        name: what messages call it.
    """

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self.name = f"online store of {store.project}"

    def compare(
        self,
        feature_set: FeatureSet,
        computed: Iterable[pa.Table],
        watch: Callable[[int, int], None] = lambda done, total: None,
    ) -> Served:
        """Compares what is served of each entity with the newest vector that was computed of it.

        Args:
            feature_set: whose vectors.
            computed: final vectors, as :func:`operators.frames.schema` says; of memory only the
                newest of each entity is taken.
            watch: is told how many entities were asked for of how many.

        Raises:
            LookupError: when the view is not registered.
        """
        from sinks.feast import ServedMarks

        result = Served(self.name)
        newest = _newest(feature_set, computed)
        keys = join_keys(feature_set)
        with ServedMarks(self._store, feature_set) as marks:
            for start in range(0, len(newest), ENTITIES_AT_ONCE):
                some = newest.slice(start, ENTITIES_AT_ONCE)
                entities = list(some.select(keys).iter_rows())
                before = marks.of(entities)
                served = self._read(feature_set, entities)
                # A flow that writes meanwhile changes the marks; of an entity that has not, the
                # values are those of its mark.
                after = marks.of(entities)
                rows = zip(some.iter_rows(named=True), served, before, after, strict=True)
                for wanted, found, first, last in rows:
                    result.judge(feature_set, wanted, found, (first, last))
                watch(start + len(some), len(newest))
        return result

    def _read(
        self, feature_set: FeatureSet, entities: Sequence[tuple[str, ...]]
    ) -> Iterator[dict[str, Any]]:
        names = _served_names(feature_set)
        keys = join_keys(feature_set)
        answer = self._store.get_online_features(
            [f"{view_name(feature_set)}:{name}" for name in names],
            [dict(zip(keys, entity, strict=True)) for entity in entities],
        ).to_dict()
        for place in range(len(entities)):
            yield {name: answer[name][place] for name in names}


def _served_names(feature_set: FeatureSet) -> list[str]:
    return [*feature_set.feature_exprs, "quality", "coverage"]


def _newest(feature_set: FeatureSet, computed: Iterable[pa.Table]) -> pl.DataFrame:
    """The newest vector of each entity, in order."""
    keys = join_keys(feature_set)
    columns = [*keys, *ORDER, *_served_names(feature_set)]
    kept: pl.DataFrame | None = None
    for table in computed:
        rows = pl.DataFrame(table.select(columns)).with_columns(
            pl.col(keys).cast(pl.String),
            pl.col("ts", "known_at").cast(pl.Datetime("ns", "UTC")).to_physical(),
        )
        both = rows if kept is None else pl.concat([kept, rows])
        kept = both.sort(ORDER).unique(keys, keep="last", maintain_order=True)
    return pl.DataFrame() if kept is None else kept.sort(keys)


def _same(wanted: Any, found: Any) -> bool:
    """Whether two values are alike to the bit; a list of no flags is no list in Feast's push."""
    if isinstance(wanted, float) and isinstance(found, float):
        return np.float64(wanted).tobytes() == np.float64(found).tobytes()
    if isinstance(wanted, list):
        return wanted == (found or [])
    return bool(wanted == found and type(wanted) is type(found))


def _spelled(ts_ns: int) -> str:
    return f"{np.datetime64(ts_ns, 'ns')}Z"
