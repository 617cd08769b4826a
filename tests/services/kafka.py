"""Apache Kafka: broker and controller in one process (KRaft), from Maven's repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tests.services import versions
from tests.services.cache import MissingError, installed, program, run
from tests.services.names import unique
from tests.services.process import (
    HOST,
    Launch,
    Server,
    Service,
    ServiceError,
    becomes,
    connects,
    free_port,
)

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

JAVA_ADVICE = f"Kafka needs Java {versions.JAVA} or newer (openjdk-{versions.JAVA}-jre-headless)"
MAVEN_ADVICE = "Kafka is downloaded by Maven (package maven)"
ANSWER_S = 5
TOPIC_S = 30
WARM_UP = "warm-up"

POM = """\
<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>riffle</groupId>
  <artifactId>kafka</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>{kafka}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId>
      <artifactId>log4j-slf4j-impl</artifactId>
      <version>{log4j}</version>
    </dependency>
  </dependencies>
</project>
"""

# One node: nothing is replicated, one coordinator has all groups, and one all transactions, so that
# `settled` can ask them; no group waits for members that might still come. The cleaner looks often,
# since a test of compaction waits for it, and has buffers for small logs.
SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "offsets.topic.num.partitions": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "log.retention.ms": "-1",  # tests write stamps of long ago
    "log.cleaner.backoff.ms": "500",
    "log.cleaner.dedupe.buffer.size": "8388608",
    "log.index.size.max.bytes": "1048576",
    "num.io.threads": "4",
    "num.network.threads": "2",
}

COMPACTED = {
    "cleanup.policy": "compact",
    "segment.ms": "1000",
    "min.cleanable.dirty.ratio": "0.01",
    "delete.retention.ms": "100",
}

# By the variables that Kafka's own scripts read. The compiler of servers would take more time than
# it gives back in the minutes of a test run.
JVM = {
    "KAFKA_HEAP_OPTS": "-Xms128m -Xmx512m",
    "KAFKA_JVM_PERFORMANCE_OPTS": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1",
}

LOGGING = """\
Configuration:
  Appenders:
    Console:
      name: log
      PatternLayout: {pattern: "%d{ISO8601} %p %m (%c)%n%throwable"}
  Loggers:
    Root: {level: warn, AppenderRef: {ref: log}}
"""


class Kafka(Service):
    """The service, for `tests.services`."""

    name = "kafka"
    title = f"Kafka {versions.KAFKA}"
    variable = "RIFFLE_TEST_KAFKA"

    def install(self) -> Path:
        """The jars, and a formatted log directory to copy, which saves a start of Java each."""
        self.java()
        return installed(f"kafka-{versions.KAFKA}", f"Apache {self.title}", self._build)

    def java(self) -> str:
        """The path of a Java that is new enough."""
        java = program("java", JAVA_ADVICE)
        told = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
        found = re.search(r'version "(\d+)', told.stderr)
        if found is None or int(found[1]) < versions.JAVA:
            msg = f"{java} is `{told.stderr.partition(chr(10))[0]}`; {JAVA_ADVICE}"
            raise MissingError(msg)
        return java

    def command(self, home: Path) -> list[str]:
        """The command that runs a class of Kafka."""
        return [
            self.java(),
            *(word for name, own in JVM.items() for word in os.environ.get(name, own).split()),
            f"-Dlog4j2.configurationFile={home / 'log4j2.yaml'}",
            "-cp",
            f"{home / 'lib'}/*",
        ]

    def _build(self, draft: Path) -> None:
        maven = program("mvn", MAVEN_ADVICE)
        pom = POM.format(kafka=versions.KAFKA, log4j=versions.LOG4J)
        (draft / "pom.xml").write_text(pom)
        (draft / "log4j2.yaml").write_text(LOGGING)
        plugin = "org.apache.maven.plugins:maven-dependency-plugin"
        goal = f"{plugin}:{versions.MAVEN_DEPENDENCY_PLUGIN}:copy-dependencies"
        strict = ["--batch-mode", "--quiet", "--strict-checksums"]
        run([maven, *strict, goal, "-DoutputDirectory=lib", "-DincludeScope=runtime"], draft)
        properties = draft / "format.properties"
        write_properties(properties, draft / "formatted", 1, 2)
        cluster = "AAAAAAAAAAAAAAAAAAAAAQ"
        tool = [*self.command(draft), "kafka.tools.StorageTool", "format"]
        run([*tool, "--cluster-id", cluster, "--config", str(properties)], draft)

    def launch(self, folder: Path, port: int, settings: Mapping[str, str]) -> Launch:
        """Copy the formatted directory, once; the port of the controller stays as well."""
        home = self.install()
        properties, data = folder / "server.properties", folder / "data"
        if not data.exists():
            shutil.copytree(home / "formatted", data)
            write_properties(properties, data, port, free_port(), settings)
        return Launch([*self.command(home), "kafka.Kafka", str(properties)])

    def address(self, port: int) -> str:
        """The bootstrap address."""
        return f"{HOST}:{port}"

    def answers(self, address: str) -> bool:
        """Whether the broker knows itself, which it does once it may be used."""
        host, _, port = address.partition(",")[0].rpartition(":")
        if not connects(host, int(port)):
            return False
        from confluent_kafka import KafkaException

        try:
            return bool(admin(address).list_topics(timeout=ANSWER_S).brokers)
        except KafkaException:
            return False

    def settled(self, address: str) -> bool:
        """Whether the coordinators of groups and transactions work.

        The first use makes their topics. A consumer that joins its group meanwhile is sent away,
        and has been seen to stay away for more than twenty seconds.
        """
        from confluent_kafka import KafkaException, Producer

        quick: dict[str, str | int] = {"retry.backoff.ms": 20, "retry.backoff.max.ms": 50}
        producer = Producer(
            {"bootstrap.servers": address, "log_level": 0, "transactional.id": WARM_UP} | quick
        )
        try:
            client = admin(address)
            client.describe_consumer_groups([WARM_UP])[WARM_UP].result(ANSWER_S)
            producer.init_transactions(ANSWER_S)
        except KafkaException:
            return False
        return True

    def shell(self, address: str) -> str:
        """The list of topics, by the tool kcat."""
        return f"kcat -b {address} -L"

    def private_settings(self) -> dict[str, str]:
        """A broker that was killed may not come back before its old session has timed out."""
        return {"broker.session.timeout.ms": "1500", "broker.heartbeat.interval.ms": "300"}


def write_properties(
    path: Path,
    data: Path,
    port: int,
    controller_port: int,
    settings: Mapping[str, str] | None = None,
) -> None:
    """Write the configuration of a broker."""
    broker, controller = f"PLAINTEXT://{HOST}:{port}", f"CONTROLLER://{HOST}:{controller_port}"
    every = {
        **SETTINGS,
        "listeners": f"{broker},{controller}",
        "advertised.listeners": broker,
        "controller.quorum.voters": f"1@{HOST}:{controller_port}",
        "log.dirs": str(data),
        **(settings or {}),
    }
    path.write_text("".join(f"{key}={value}\n" for key, value in every.items()))


def admin(bootstrap: str) -> AdminClient:
    """A client for topics; refused connections are no news while a broker starts."""
    from confluent_kafka.admin import AdminClient

    return AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})


class Topics:
    """Creates topics on one broker, each under a name that no other has, and deletes them."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.names: list[str] = []

    def __call__(
        self,
        partitions: int = 1,
        *,
        append_time: bool = False,
        compacted: bool = False,
        config: Mapping[str, str] | None = None,
        prefix: str = "topic",
    ) -> str:
        """Create a topic and return its name.

        Args:
            partitions: How many partitions.
            append_time: Whether the broker dates each record (LogAppendTime).
            compacted: Whether only the newest record of a key stays; segments are short then, so
                that the cleaner soon has something to clean.
            config: Settings of the topic, which go before those above.
            prefix: How the name begins.
        """
        from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]

        settings: dict[str, str] = {}
        if append_time:
            settings["message.timestamp.type"] = "LogAppendTime"
        if compacted:
            settings |= COMPACTED
        name = unique(prefix, "-")
        topic = NewTopic(name, partitions, 1, config={**settings, **(config or {})})
        client = admin(self.bootstrap)
        client.create_topics([topic])[name].result(TOPIC_S)
        self.names.append(name)
        # The controller answers before the broker knows: one that asked at once found no topic.
        if not becomes(lambda: name in client.list_topics(timeout=ANSWER_S).topics, TOPIC_S):
            msg = f"topic {name}: made, but unknown to the broker for {TOPIC_S} s"
            raise ServiceError(msg)
        return name

    def delete(self) -> None:
        """Delete the topics; one that a test has deleted itself is none to delete."""
        from confluent_kafka import KafkaError, KafkaException

        if not self.names:
            return
        client = admin(self.bootstrap)
        for done in client.delete_topics(self.names).values():
            try:
                done.result(TOPIC_S)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise
        self.names = []


class Broker(Server):
    """A broker that one test owns."""

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(KAFKA, settings)
        self.bootstrap = self.address
        self.topic = Topics(self.bootstrap)


KAFKA = Kafka()


def private(settings: Mapping[str, str] | None = None) -> Broker:
    """A broker for one `with` block, to kill, pause and start; see `Server`."""
    return Broker(settings)
