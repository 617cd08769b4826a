"""Settings of a live flow: a TOML file, and the environment over it."""

from __future__ import annotations

import os
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings import (
    SettingsError as PydanticSettingsError,
)

from dataflows.settings import PREFIX, SettingsError
from operators.durations import NS_PER_UNIT, parse_duration_ns

CONFIG = PREFIX + "CONFIG"
"""The environment variable that names the TOML file."""
NESTED = "__"
TOPICS = {"readings": "preprocessed-data", "windows": "windowed-data"}
"""Topics of streams that are not called like their stream."""


def _duration_ns(value: object) -> object:
    if isinstance(value, str):
        return 0 if value == "0" else parse_duration_ns(value)
    if value is None:
        return value
    msg = "must be a duration with its unit, such as '100ms'"
    raise ValueError(msg)


DurationNs: TypeAlias = Annotated[int, BeforeValidator(_duration_ns)]
"""Written as ``"100ms"``, held as nanoseconds."""


def _named(value: str) -> str:
    if not value or not all(c.isalnum() or c in "._-" for c in value):
        msg = f"must be made of letters, digits and ._- only, got {value!r}"
        raise ValueError(msg)
    return value


Name: TypeAlias = Annotated[str, AfterValidator(_named)]
"""What may be part of the name of a topic, a group and a transactional id."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class KafkaTable(_Table):
    """How Kafka is reached, and the topics that the flow keeps for itself.

    Attributes:
        bootstrap: ``host:port`` of one or more brokers.
        properties: of librdkafka, passed on to every client: SASL, TLS and the like.
        property_files: files that hold the value of a property, for secrets.
        group: consumer group under which positions are published for lag tools; the flow's name
            by default.
        partitioner: how entities got to their partitions; ``none`` for topics where one entity's
            rows are in several, which needs a single shard or a cluster.
        on_gone: what to do when a log begins behind the offset that is to be read next: ``stop``,
            or go on at the ``earliest`` there is.
        clock_topic, progress_topic: see :mod:`sources.broker_clock` and :mod:`sinks.kafka_lane`.
        clock_margin: how much the brokers' clocks may differ; 0 with one broker, 1 s with more.
    """

    bootstrap: str
    properties: dict[str, SecretStr] = Field(default_factory=dict)
    property_files: dict[str, Path] = Field(default_factory=dict)
    group: Name | None = None
    partitioner: Literal["murmur2", "crc32", "none"] = "murmur2"
    on_gone: Literal["stop", "earliest"] = "stop"
    clock_topic: Name = "riffle-clock"
    progress_topic: Name = "riffle-progress"
    clock_margin: DurationNs | None = None
    tick: DurationNs = Field("50ms", validate_default=True)


class InputTable(_Table):
    """The topic of a stream, or the table that it is read from as it grows.

    Attributes:
        topic: by default called like the stream; those of readings and windows are
            ``preprocessed-data`` and ``windowed-data``.
        form: ``json``, an object a message, or ``arrow``, record batches as IPC streams.
        arrival: where the time of arrival comes from: the ``broker``, which must stamp messages
            as it appends them; a ``column`` of the rows; or the ``producer``'s stamp, with which
            what is late depends on when it was read.
        archive: folder in which ``riffle archive`` keeps the topic's past.
        table: a table or view of the database, in place of a topic; names that need no quotes.
        poll: time between two looks for new rows of the table.
    """

    topic: Name | None = None
    form: Literal["json", "arrow"] = "json"
    arrival: Literal["broker", "column", "producer"] = "broker"
    archive: Path | None = None
    table: Name | None = None
    poll: DurationNs = Field("1s", validate_default=True)

    @model_validator(mode="after")
    def _one(self) -> InputTable:
        of_table = self.model_fields_set & {"table", "poll"}
        of_topic = self.model_fields_set - of_table
        if of_topic and of_table:
            both = f"{sorted(of_topic)} and {sorted(of_table)}"
            msg = f"must be of a topic or of a table, found {both}"
            raise ValueError(msg)
        if self.poll < NS_PER_UNIT["ms"]:
            msg = "poll must be at least '1ms'"
            raise ValueError(msg)
        return self


class DatabaseTable(_Table):
    """The database with the tables of vectors, and those that are inputs.

    Attributes:
        url: ``postgresql://user:password@host/database``.
        url_file: a file that holds it instead, for secrets.
        namespace: the schema of Riffle's tables.
        compress_after: age at which TimescaleDB compresses vectors; 0 for never.
        keep: age at which vectors are dropped; 0 to keep all.
    """

    url: SecretStr | None = None
    url_file: Path | None = None
    namespace: Name = "riffle"
    compress_after: DurationNs = Field("30d", validate_default=True)
    keep: DurationNs = 0

    @model_validator(mode="after")
    def _one(self) -> DatabaseTable:
        if (self.url is None) == (self.url_file is None):
            msg = "must have one of url and url_file, found " + ("both" if self.url else "none")
            raise ValueError(msg)
        return self


class OnlineTable(_Table):
    """The online store.

    Attributes:
        store: folder of a Feast repository, with its ``feature_store.yaml``.
        wait: how long the newest vectors are gathered before they are written.
    """

    store: Path
    wait: DurationNs = Field("500ms", validate_default=True)

    @model_validator(mode="after")
    def _soon(self) -> OnlineTable:
        least, most = NS_PER_UNIT["ms"] * 10, NS_PER_UNIT["s"] * 10
        if not least <= self.wait <= most:
            msg = "wait must be between '10ms' and '10s'"
            raise ValueError(msg)
        return self


Place: TypeAlias = Literal["kafka", "table", "online"]
"""Where vectors may go."""


class SetTable(_Table):
    """Where a set's vectors go.

    Attributes:
        sinks: the places: ``kafka``, a ``table`` of the database, the ``online`` store.
        early: of the table and the online store, those that are given provisional vectors too.
        topic: of final vectors.
        form: of the messages.
        delivery: of final vectors: ``exactly_once`` to readers of committed messages, or
            ``at_least_once``.
        provisional_topic: of provisional vectors.
        transaction: the most time between two commits to Kafka.
    """

    sinks: list[Place] = Field(default_factory=lambda: list[Place](["kafka"]), min_length=1)
    early: list[Literal["table", "online"]] = Field(default_factory=list)
    topic: Name = "extracted-features"
    form: Literal["json", "arrow"] = "json"
    delivery: Literal["exactly_once", "at_least_once"] = "exactly_once"
    provisional_topic: Name | None = None
    transaction: DurationNs = Field("100ms", validate_default=True)

    @model_validator(mode="after")
    def _fits(self) -> SetTable:
        if (doubled := len(self.sinks) - len(set(self.sinks))) > 0:
            msg = f"sinks must be different places, found {doubled} more than once"
            raise ValueError(msg)
        wanted = [*self.early, *(["kafka"] if self.provisional_topic else [])]
        if lacking := [place for place in wanted if place not in self.sinks]:
            msg = f"sinks must have {lacking}, which are to be given provisional vectors"
            raise ValueError(msg)
        return self

    @property
    def provisional(self) -> bool:
        """Whether anyone wants provisional vectors."""
        return bool(self.early) or self.provisional_topic is not None


class LiveSettings(BaseSettings):
    """What a live flow does, and which part of it one process is.

    Attributes:
        name: of the flow, in its group, its transactional ids and its progress.
        kafka, inputs, sets, database, online: see their tables; a set is named as on the command
            line.
        start: where a new flow begins to read: ``earliest``, ``latest``, or a time.
        emit_from: time before which vectors are computed, to warm up, but not given.
        recovery: folder of the flow's state.
        snapshot_every: time between two snapshots.
        alignment: how far a partition may be read ahead of the others.
        batch_messages: the most messages of a batch.
        listen: address of ``/health``, ``/ready`` and ``/metrics``; a shard adds its number to the
            port. Empty for none.
        ready_lag: the most that a flow may lag behind and be ready.
        shard, shards: number of this process, and how many there are.
        take_over: whether to go on with the progress of a flow of this name whose recovery folder
            is lost.
        parent: process with which this one dies.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter=NESTED, extra="forbid", frozen=True
    )

    name: Name = "riffle"
    kafka: KafkaTable
    inputs: dict[str, InputTable] = Field(default_factory=dict)
    sets: dict[str, SetTable] = Field(min_length=1)
    database: DatabaseTable | None = None
    online: OnlineTable | None = None
    start: str = "earliest"
    emit_from: str | None = None
    recovery: Path = Path("state")
    snapshot_every: DurationNs = Field("5s", validate_default=True)
    alignment: DurationNs = Field("1m", validate_default=True)
    batch_messages: int = Field(10_000, ge=1)
    listen: str = "127.0.0.1:9464"
    ready_lag: DurationNs = Field("30s", validate_default=True)
    shard: int = Field(0, ge=0)
    shards: int = Field(1, ge=1, le=64)
    take_over: bool = False
    parent: int | None = None

    @model_validator(mode="after")
    def _fits(self) -> LiveSettings:
        if self.shard >= self.shards:
            msg = f"shard must be below shards, {self.shards}, found {self.shard}"
            raise ValueError(msg)
        if self.snapshot_every < NS_PER_UNIT["s"] or self.snapshot_every % NS_PER_UNIT["s"]:
            msg = "snapshot_every must be whole seconds, at least '1s'"
            raise ValueError(msg)
        if self.kafka.partitioner == "none" and self.shards > 1:
            msg = (
                "kafka.partitioner must be 'murmur2' or 'crc32' with several shards, because a "
                "shard reads only its own partitions, found 'none'; use one shard or a cluster"
            )
            raise ValueError(msg)
        tables = sorted(stream for stream, given in self.inputs.items() if given.table)
        if tables and self.kafka.partitioner != "none":
            msg = (
                "kafka.partitioner must be 'none' where an input is a table, which has all entities"
                f" in one partition, found {self.kafka.partitioner!r} and tables for {tables}"
            )
            raise ValueError(msg)
        if tables and self.database is None:
            msg = f"database must be set, as inputs are tables, {tables}, found none"
            raise ValueError(msg)
        for name, table in self.sets.items():
            for place, what in (("table", "database"), ("online", "online")):
                if place in table.sinks and getattr(self, what) is None:
                    msg = f"{what} must be set, as sets.{name}.sinks has {place!r}, found none"
                    raise ValueError(msg)
        return self

    def topic_of(self, stream: str) -> str:
        """The topic of a stream, or its table: after it are its letters' topics named."""
        given = self.input_of(stream)
        return given.table or given.topic or TOPICS.get(stream, stream)

    def input_of(self, stream: str) -> InputTable:
        """The settings of a stream's topic or table."""
        return self.inputs.get(stream, InputTable())

    def client_properties(self) -> dict[str, str]:
        """The properties of every Kafka client, secrets among them.

        Raises:
            SettingsError: when the file of a property can't be read.
        """
        given = {name: value.get_secret_value() for name, value in self.kafka.properties.items()}
        for name, path in self.kafka.property_files.items():
            given[name] = secret(path, f'kafka.property_files."{name}"')
        return given

    def database_url(self) -> str:
        """The URL of the database, secrets among it.

        Raises:
            SettingsError: when there is none, or its file can't be read.
        """
        if self.database is None:
            msg = f"database.url: must be set, found none; in the file, or as {PREFIX}DATABASE__URL"
            raise SettingsError(msg)
        if self.database.url_file is not None:
            return secret(self.database.url_file, "database.url_file")
        assert self.database.url is not None  # noqa: S101 - one of them is there
        return self.database.url.get_secret_value()


def live_settings(path: Path | None = None, **given: Any) -> LiveSettings:
    """Reads the settings: what is given wins over the environment, and that over the file.

    Args:
        path: of the TOML file; by default the one that the environment names, if it does.
        given: settings by name.

    Raises:
        SettingsError: naming each setting that is missing, wrong or unknown, and what it must be.
    """
    named = os.environ.get(CONFIG)
    path = path or (Path(named) if named else None)
    told = _told(path) if path else {}

    class Layered(LiveSettings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, InitSettingsSource(settings_cls, told)

    try:
        return Layered(**given)
    except (ValidationError, PydanticSettingsError) as error:
        where = f"{path}" if path else f"no file, as {CONFIG} names none,"
        told_of = error.errors() if isinstance(error, ValidationError) else None
        lines = "\n".join(f"  {_problem(each)}" for each in told_of) if told_of else f"  {error}"
        msg = f"settings of the live flow, from {where} and the environment:\n{lines}"
        raise SettingsError(msg) from None


def secret(path: Path, setting: str) -> str:
    """Reads a secret from its file.

    Args:
        path: of the file.
        setting: that names it, for messages.

    Raises:
        SettingsError: when it can't be read.
    """
    try:
        return path.read_text(encoding="utf-8").rstrip("\n")
    except OSError as error:
        msg = f"{setting}: must be a readable file, found {path}: {error.strerror}"
        raise SettingsError(msg) from None


def _told(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"{path}: must be a TOML file with the flow's settings, found: {error.strerror}"
        raise SettingsError(msg) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        msg = f"{path}: must be TOML, found: {error}"
        raise SettingsError(msg) from None


def _problem(error: ErrorDetails) -> str:
    """Words one problem: which setting, what it must be, what was found."""
    parts = [str(part) for part in error["loc"]]
    name = ".".join(parts)
    variable = PREFIX + NESTED.join(parts).upper()
    if error["type"] == "extra_forbidden":
        known = _known(parts[:-1])
        near = get_close_matches(parts[-1], known, 1)
        hint = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(sorted(known))}"
        return f"{name}: is no setting; {hint}"
    if error["type"] == "missing":
        return f"{name}: must be set, found none; in the file, or as {variable}"
    said = error["msg"].removeprefix("Value error, ")
    if not parts:
        return said
    secret = "properties" in parts or parts[0] == "database"
    return f"{name}: {said}" + ("" if secret else f", found {error['input']!r} (or {variable})")


def _known(parts: list[str]) -> list[str]:
    """The settings of a table."""
    tables: dict[str, type[BaseModel]] = {
        "": LiveSettings, "kafka": KafkaTable, "inputs": InputTable, "sets": SetTable,
        "database": DatabaseTable, "online": OnlineTable,
    }  # fmt: skip
    return list(tables.get(parts[0] if parts else "", LiveSettings).model_fields)
