"""Vectors to Feast's online store: the newest of each entity, and never an older one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from bytewax.outputs import StatefulSinkPartition

from operators.batch import Vectors
from operators.feature_set import FeatureSet
from sinks.lanes import LanesSink

if TYPE_CHECKING:
    from feast import FeatureStore


@dataclass(frozen=True, slots=True)
class OnlineOutput:
    """Where vectors are served.

    Attributes:
        open_store: opens the store, in which the set's view is registered; each lane has its own.
        wait_s: how long a vector waits for company, on the clock of the wall: no value depends on
            it.
        provisional: whether provisional vectors are served too.
    """

    open_store: Callable[[], FeatureStore]
    wait_s: float = 0.5
    provisional: bool = False


@dataclass(frozen=True, slots=True)
class OnlineTenancy:
    """Who writes.

    Attributes:
        flow: name of the flow.
        job: of the recovery directory; another one's lanes are not touched.
        take_over: whether to go on with lanes of another job.
    """

    flow: str
    job: str
    take_over: bool = False


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
    """


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
        self.output = output
        self.tenancy = tenancy
        self._watch = watch

    def _part(self, name: str, number: int, resumed: Held | None) -> OnlinePart:
        raise NotImplementedError
