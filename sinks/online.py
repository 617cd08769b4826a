"""Vectors to Feast's online store: the newest of each entity, and never an older one.

A lane remembers one vector for each entity that it has ever had, and so does its snapshot: what
can be filled again after a loss must be somewhere. Nothing is forgotten here; an entity that is
heard of no more is served as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, TypedDict

from bytewax.outputs import StatefulSinkPartition

from operators.batch import Vectors
from operators.feature_set import FeatureSet
from sinks.lane import Parcel
from sinks.lanes import LanesSink
from sinks.online_lane import OnlineLane, OnlineTenancy
from sinks.online_rows import Newest
from sinks.online_store import ServedView

if TYPE_CHECKING:
    from feast import FeatureStore


@dataclass(frozen=True, slots=True)
class OnlineOutput:
    """Where vectors are served.

    Attributes:
        open_store: opens the store, in which the set's view is registered.
        wait_s: how long a vector waits for company, on the clock of the wall: no value depends on
            it.
        provisional: whether provisional vectors are served too.
    """

    open_store: Callable[[], FeatureStore]
    wait_s: float = 0.5
    provisional: bool = False


class Held(TypedDict):
    """What a snapshot keeps of a lane.

    Attributes:
        newest: the newest vector of each entity, as an Arrow stream.
    """

    newest: bytes


class OnlinePart(StatefulSinkPartition[Vectors, Held]):
    """One lane of one set.

    Attributes:
        name: the lane's.
        lane: writes them; its counts are for metrics.
        given: vectors handed over.
    """

    def __init__(self, name: str, sink: OnlineSink, resumed: Held | None) -> None:
        self.name = name
        self.given = 0
        self._provisional = sink.output.provisional
        newest = Newest(sink.feature_set)
        if resumed:
            newest.load(resumed["newest"])
        self.lane = OnlineLane(
            name, sink.tenancy, newest, lambda: sink.open(name), sink.output.wait_s, sink.beat
        )

    def write_batch(self, values: list[Vectors]) -> None:
        """Hands vectors over."""
        for vectors in values:
            if len(vectors) and (vectors.final or self._provisional):
                self.given += len(vectors)
                size = len(vectors) * 8 * (len(vectors.features) + 5)
                self.lane.put(Parcel(vectors, {"given": self.given}, len(vectors), size))

    def snapshot(self) -> Held:
        """Waits until the store serves what was handed over, and gives the newest vectors."""
        self.lane.flush()
        return {"newest": self.lane.newest.dump()}

    def close(self) -> None:
        """Waits until the store serves everything."""
        self.lane.close()

    def abandon(self) -> None:
        """Lets go of the lane as it is, and waits for nothing."""
        self.lane.abandon()


class OnlineSink(LanesSink[Vectors, Held, OnlinePart]):
    """One set's newest vectors as the end of a flow of (lane, vectors).

    A snapshot waits until the store serves what was written before it.

    Args:
        feature_set: whose vectors come.
        output: where they are served.
        tenancy: who writes.
        lanes: numbers of those that come: all of a cluster's flow, or a shard's own.
        carried: what earlier snapshots, of a flow that was cut otherwise, keep of lanes.
        watch: is shown each part, for metrics.
        beat: is called while the sink waits for the store.
    """

    def __init__(
        self,
        feature_set: FeatureSet,
        output: OnlineOutput,
        tenancy: OnlineTenancy,
        lanes: Sequence[int],
        carried: Mapping[str, Held] | None = None,
        watch: Callable[[OnlinePart], None] = lambda part: None,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        name = f"{feature_set.name}.{feature_set.version}.online"
        super().__init__(name, tenancy.flow, lanes, carried, beat)
        self.feature_set = feature_set
        self.output = output
        self.tenancy = tenancy
        self._watch = watch
        self._opening = Lock()
        self._store: FeatureStore | None = None

    def _part(self, name: str, number: int, resumed: Held | None) -> OnlinePart:
        part = OnlinePart(name, self, resumed)
        self._watch(part)
        return part

    def open(self, lane: str) -> ServedView:
        """Opens the set's view for a lane; is called by the lane's thread."""
        from sinks.feast import open_view  # so that a flow without it does not load Feast

        with self._opening:
            if self._store is None:
                self._store = self.output.open_store()
        return open_view(self._store, self.feature_set, lane)
