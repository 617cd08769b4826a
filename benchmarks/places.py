"""What do a table and an online store cost a live flow, beside Kafka alone?

The same messages of `market`, which are there before anything is timed, go through a flow that
writes to Kafka, and through one that writes to Kafka, PostgreSQL and Redis as well; broker,
database, store and flow share the cores. The time is that from the first vector in the log until
all places have all vectors. What the places hold is compared, bit for bit, before a time counts.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pyarrow as pa

from benchmarks import kafka_broker, online, tables
from benchmarks.contest import Timing, WrongOutputError
from benchmarks.kafka import BY_THE_BROKER, PATIENCE_S, Inputs, filled, past_of
from benchmarks.kafka_broker import reader, whole
from benchmarks.kafka_flow import Flow, Running, running
from benchmarks.kafka_messages import PARTITIONS
from benchmarks.report import Line
from dataflows.commands.diff import compare
from dataflows.held_online import OnlineHeld
from dataflows.held_table import TableHeld
from dataflows.tables import apply_tables
from feature_repo.market import market
from feature_repo.names import view_name
from feature_repo.store import apply, open_store
from sinks.vector_messages import VectorMessages
from sources.database import Database

POLL_S = 0.2
LATEST_NS = 2**62
STORE = """
project: {project}
provider: local
registry: registry.db
online_store: {{type: redis, connection_string: "{redis}", skip_dedup: true}}
offline_store: {{type: feature_repo.store.GoldOfflineStore}}
entity_key_serialization_version: 3
"""


@dataclass(frozen=True)
class Places:
    """Where vectors go beside Kafka.

    Attributes:
        database: with the set's table.
        store: folder of the Feast repository.
    """

    database: Database
    store: Path

    @property
    def settings(self) -> str:
        """The tables of a flow's settings that name them."""
        return f'[database]\nurl = "{self.database.url}"\n[online]\nstore = "{self.store}"\n'


def measure(count: int, rounds: int) -> tuple[list[Line], list[Timing]]:
    """Runs both flows in turn.

    Args:
        count: of messages.
        rounds: how often; the first, which is not counted, comes on top.
    """
    bootstrap = kafka_broker.address()
    with ExitStack() as stack:
        inputs = filled(stack, bootstrap, ((message, True) for message in past_of(count)))
        found = [(_run(bootstrap, inputs, None), _in_all(bootstrap, inputs))]
        for _ in range(rounds):
            found.append((_run(bootstrap, inputs, None), _in_all(bootstrap, inputs)))
    counted = found[1:] or found
    shares = [alone / both for alone, both in counted]
    return [Line.value("places: pace with a table and Redis, over Kafka alone", shares, "x")], [
        Timing("places: Kafka", count, [1e9 * alone / count for alone, _ in counted]),
        Timing("places: Kafka, table, Redis", count, [1e9 * both / count for _, both in counted]),
    ]


def _in_all(bootstrap: str, inputs: Inputs) -> float:
    with _places() as places:
        return _run(bootstrap, inputs, places)


@contextmanager
def _places() -> Iterator[Places]:
    redis = urlsplit(online.address()).netloc
    with (
        tables.database(tables.address()) as database,
        tempfile.TemporaryDirectory(prefix="riffle-bench-") as folder,
    ):
        store = Path(folder)
        project = f"bench_{uuid.uuid4().hex[:10]}"
        (store / "feature_store.yaml").write_text(STORE.format(project=project, redis=redis))
        wrong = [each for each in apply_tables(database, [market]) if not each.ok]
        assert not wrong, wrong
        made = apply(store / "gold", store, [market], database)
        try:
            yield Places(database, store)
        finally:
            made.teardown()


def _run(bootstrap: str, inputs: Inputs, places: Places | None) -> float:
    """Runs a flow until all is everywhere; gives the seconds from its first vector on."""
    name = f"bench-{uuid.uuid4().hex[:10]}"
    with kafka_broker.topics(bootstrap, {"vectors": PARTITIONS}, **BY_THE_BROKER) as (made,):
        flow = Flow(
            name, bootstrap, dict(zip(("bars", "news"), inputs.names, strict=True)), "market", made,
            "producer",
            {"sinks": ["kafka", "table", "online"] if places else ["kafka"]},
            more=places.settings if places else "",
        )  # fmt: skip
        with running(flow, None) as run:
            run.until_offsets(made, 1, PATIENCE_S, quiet_s=0)
            began_s = time.monotonic()
            run.until_offsets(made, inputs.vectors, PATIENCE_S, quiet_s=0)
            if places is not None:
                _until_rows(run, places.database, inputs.vectors)
            took_s = time.monotonic() - began_s
            run.drain()
            vectors = _vectors(bootstrap, made)  # the flow's topics are removed with it
        if len(vectors) != inputs.vectors:
            msg = f"there must be {inputs.vectors} vectors in Kafka, found {len(vectors)}"
            raise WrongOutputError(msg)
        if places is not None:
            _check(places, vectors)
    return took_s


def _until_rows(run: Running, database: Database, count: int) -> None:
    table = f"{database.schema}.{view_name(market)}"
    with psycopg.connect(database.url, autocommit=True) as connection:
        found = 0
        while found < count:
            run.look()
            time.sleep(POLL_S)
            (found,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone() or (0,)


def _vectors(bootstrap: str, topic: str) -> pa.Table:
    consumer = reader(bootstrap)
    values = [message.value() for piece in whole(consumer, [topic]) for message in piece]
    consumer.close()
    return VectorMessages(market).read(values)


def _check(places: Places, vectors: pa.Table) -> None:
    """Table and store must hold what the topic holds."""
    held = TableHeld(places.database, market)
    rows = pa.concat_tables(list(held.tables(market, 0, LATEST_NS, lambda done, total: None)))
    found = compare(vectors, rows)
    if not found.equal:
        msg = f"the table must hold the vectors of the topic, found {found}"
        raise WrongOutputError(msg)
    served = OnlineHeld(open_store(places.store)).compare(market, [vectors])
    if not served.equal or served.later:
        msg = f"the store must serve the newest vectors of the topic, found {served}"
        raise WrongOutputError(msg)
