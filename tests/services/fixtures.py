"""Fixtures for tests that talk to real services.

`kafka`, `postgres`, `timescale` and `redis` are addresses of services that others use at the same
time, so a test takes names of its own (`topic`, `database`, :func:`tests.services.names.unique`).
`private_kafka`, `private_postgres` and `private_redis` are a test's own, to kill and to pause.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.services import kafka as kafka_service
from tests.services import postgres as postgres_service
from tests.services import redis as redis_service
from tests.services import shared
from tests.services import timescale as timescale_service
from tests.services.cache import MissingError
from tests.services.catalogue import SERVICES
from tests.services.kafka import Broker, Topics
from tests.services.names import unique
from tests.services.process import Server


def pytest_sessionstart() -> None:
    # The controller of a parallel run outlives its workers, so what one started stays for others.
    for service in SERVICES.values():
        shared.hold(service)


def pytest_unconfigure() -> None:
    for service in SERVICES.values():
        shared.release(service)


@contextmanager
def or_skipped() -> Iterator[None]:
    """A service that this machine cannot have skips the test, but fails it where CI=true."""
    try:
        yield
    except MissingError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def kafka() -> str:
    """The bootstrap address of the shared broker."""
    with or_skipped():
        return shared.address(kafka_service.KAFKA)


@pytest.fixture(scope="session")
def postgres() -> str:
    """The URL of the shared PostgreSQL."""
    with or_skipped():
        return shared.address(postgres_service.POSTGRES)


@pytest.fixture(scope="session")
def timescale() -> str:
    """The URL of the shared TimescaleDB; see `tests.services.timescale` for what it cannot do."""
    with or_skipped():
        return shared.address(timescale_service.TIMESCALE)


@pytest.fixture(scope="session")
def redis() -> str:
    """The URL of the shared Redis."""
    with or_skipped():
        return shared.address(redis_service.REDIS)


@pytest.fixture
def topic(kafka: str) -> Iterator[Topics]:
    """Creates topics on the shared broker, e.g. `topic(4, append_time=True)`."""
    topics = Topics(kafka)
    yield topics
    topics.delete()


@pytest.fixture
def database(postgres: str) -> Iterator[str]:
    """The URL of an empty database of the shared PostgreSQL."""
    name = unique("test")
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield urlsplit(postgres)._replace(path=f"/{name}").geturl()
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def private_kafka() -> Iterator[Broker]:
    """A broker of the test's own."""
    with or_skipped(), kafka_service.private() as broker:
        yield broker


@pytest.fixture
def private_postgres() -> Iterator[Server]:
    """A PostgreSQL of the test's own."""
    with or_skipped(), postgres_service.private() as server:
        yield server


@pytest.fixture
def private_redis() -> Iterator[Server]:
    """A Redis of the test's own."""
    with or_skipped(), redis_service.private() as server:
        yield server
