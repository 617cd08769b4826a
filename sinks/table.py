"""Vectors to a table of PostgreSQL or TimescaleDB: final ones once, provisional ones until then."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from bytewax.outputs import StatefulSinkPartition

from operators.batch import Vectors
from operators.feature_set import FeatureSet
from sinks.lane import Parcel
from sinks.lanes import LanesSink
from sinks.settled import Settled, Written, cut_between_instants
from sinks.table_lane import MOST_ROWS, TableLane, TableTenancy
from sinks.table_layout import TableLayout


class TablePart(StatefulSinkPartition[Vectors, Written]):
    """One lane of one set.

    Attributes:
        name: the lane's, in the table of progress.
        lane: the way of vectors; its counts are for metrics.
        settled: how far final vectors are written.
        provisional: vectors handed over that will be replaced.
    """

    def __init__(self, name: str, sink: TableSink, resumed: Written | None) -> None:
        self.name = name
        self.provisional = 0
        place = f"table `{sink.layout.namespace}.progress`"
        self.settled = Settled(name, place, resumed)
        self._takes_provisional = sink.provisional
        self.lane = TableLane(name, sink.layout, sink.tenancy, self.settled.accept, sink.beat)

    @property
    def final(self) -> int:
        """Final vectors handed over."""
        return self.settled.given

    @property
    def suppressed(self) -> int:
        """Final vectors that the table held already."""
        return self.settled.suppressed

    def write_batch(self, values: list[Vectors]) -> None:
        """Hands vectors over."""
        for vectors in values:
            if not len(vectors):
                continue
            if vectors.final:
                self.settled.write(self.lane, vectors, lambda some: some, MOST_ROWS)
            elif self._takes_provisional:
                self._write_provisional(vectors)

    def snapshot(self) -> Written:
        """Waits until the table holds all vectors, and gives how far the final ones reach."""
        self.settled.open(self.lane.state())
        self.lane.flush()
        return {"settled_ns": self.settled.until_ns}

    def close(self) -> None:
        """Waits until the table holds everything."""
        self.lane.close()

    def abandon(self) -> None:
        """Lets go of the lane as it is, and waits for nothing."""
        self.lane.abandon()

    def _write_provisional(self, vectors: Vectors) -> None:
        """Hands those over whose final ones are still to come; these say nothing of progress."""
        self.settled.open(self.lane.state())
        until_ns = self.settled.until_ns
        if until_ns is not None:
            vectors = vectors.take(np.flatnonzero(vectors.ts_ns > until_ns))
        for piece in cut_between_instants(vectors, MOST_ROWS) if len(vectors) else ():
            self.provisional += len(piece)
            state = {"settled_ns": until_ns, "provisional": self.provisional}
            size = len(piece) * 8 * (len(piece.features) + 5)
            self.lane.put(Parcel(piece, state, len(piece), size))


class TableSink(LanesSink[Vectors, Written, TablePart]):
    """One set's vectors as the end of a flow of (lane, vectors).

    A snapshot waits until the table holds what was written before it. What a resumed flow writes
    again is left out where the table holds it.

    Args:
        feature_set: whose vectors come; its table must exist.
        tenancy: who writes.
        lanes: numbers of those that come: all of a cluster's flow, or a shard's own.
        carried: what earlier snapshots, of a flow that was cut otherwise, keep of lanes.
        watch: is shown each part, for metrics.
        beat: is called while the sink waits for the database.
        provisional: whether provisional vectors are written, too.

    Attributes:
        layout: of the table.
    """

    def __init__(
        self,
        feature_set: FeatureSet,
        tenancy: TableTenancy,
        lanes: Sequence[int],
        carried: Mapping[str, Written] | None = None,
        watch: Callable[[TablePart], None] = lambda part: None,
        beat: Callable[[], None] = lambda: None,
        *,
        provisional: bool = False,
    ) -> None:
        name = f"{feature_set.name}.{feature_set.version}"
        super().__init__(name, tenancy.flow, lanes, carried, beat)
        self.layout = TableLayout(feature_set, tenancy.connections.database.schema)
        self.tenancy = tenancy
        self.provisional = provisional
        self._watch = watch

    def _part(self, name: str, number: int, resumed: Written | None) -> TablePart:
        part = TablePart(name, self, resumed)
        self._watch(part)
        return part
