"""What the steps of a live process share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dataflows.live_plan import FlowPlan
from dataflows.live_settings import LiveSettings
from dataflows.live_state import FlowState
from dataflows.observed import Observed
from dataflows.rescale import States
from sources.database import Connections, Database

NAME = "riffle_live"
"""Of the flow, for Bytewax; the states of its steps stand under it."""
KAFKA, DATABASE, ONLINE = "kafka", "database", "online store"
"""What a flow needs, as `/health` and `/ready` call it."""
CONNECTIONS = 4
"""Of a process to the database; its lanes take turns."""


@dataclass(frozen=True)
class Context:
    """What the steps of one process share.

    Attributes:
        plan: of the flow.
        state: whose state it is.
        lanes: of this process.
        carried: states of before the last change of the number of shards.
        observed: what is shown of the process.
    """

    plan: FlowPlan
    state: FlowState
    lanes: Sequence[int]
    carried: States
    observed: Observed

    @property
    def settings(self) -> LiveSettings:
        """Of the flow."""
        return self.plan.settings

    def states(self, step: str) -> dict[str, Any]:
        """The carried states of a step."""
        return self.carried.get(f"{NAME}.{step}", {})

    @cached_property
    def connections(self) -> Connections:
        """The connections of the process to the database.

        Raises:
            SettingsError: when there is no database.
        """
        return Connections(database_of(self.settings), CONNECTIONS)


def database_of(settings: LiveSettings) -> Database:
    """The database of a flow.

    Raises:
        SettingsError: when there is none.
        DatabaseError: when it can't be one.
    """
    url = settings.database_url()
    return Database(url, settings.database.namespace if settings.database else "")
