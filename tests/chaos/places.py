"""Where the vectors of a proof go beside Kafka: a table, and Feast's online store on Redis."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

from dataflows.live_settings import LiveSettings
from tests.chaos.online import Online
from tests.chaos.tables import Table

KAFKA, TABLE, ONLINE = "kafka", "table", "online"
ALL = (KAFKA, TABLE, ONLINE)
WAIT = "200ms"


@dataclass(frozen=True)
class Places:
    """The places of a world's vectors.

    Attributes:
        sinks: which of Kafka, the table and the online store there are.
        database: URL of the database.
        redis: URL of Redis.
        early: those that are given provisional vectors as well.
        wait: how long the newest vectors are gathered for the online store.
        project: in Feast.
    """

    sinks: Sequence[str] = (KAFKA,)
    database: str = ""
    redis: str = ""
    early: Sequence[str] = ()
    wait: str = WAIT
    project: str = field(default_factory=lambda: f"chaos_{uuid.uuid4().hex[:8]}")

    @cached_property
    def table(self) -> Table | None:
        """The table, if there is one."""
        return Table(self.database) if TABLE in self.sinks else None

    @cached_property
    def online(self) -> Online | None:
        """The online store, if there is one."""
        place = urlsplit(self.redis)
        at = f"{place.hostname}:{place.port}"
        return Online(at, self.project) if ONLINE in self.sinks else None

    def settings(self, folder: Path) -> str:
        """Their part of the flow's settings."""
        said = ""
        if TABLE in self.sinks:
            said += f'[database]\nurl = "{self.database}"\n'
        if ONLINE in self.sinks:
            said += f'[online]\nstore = "{folder / "feast"}"\nwait = "{self.wait}"\n'
        return said

    @property
    def of_set(self) -> str:
        """Their part of the settings of a set."""
        return f"sinks = {list(self.sinks)}\nearly = {list(self.early)}\n"

    def make(self, settings: LiveSettings, folder: Path) -> None:
        """Makes them, as a user does before the first start."""
        if self.table is not None:
            self.table.make(settings)
        if self.online is not None:
            self.online.make(folder / "feast")
