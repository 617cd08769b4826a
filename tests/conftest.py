"""Each process of a test run compiles into a cache of its own.

Tests call kernels with arrays that no run has, so they add to the cache; several processes that
write one cache have crashed it (numba issues 4807 and 10128). What set-up compiled is copied.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from numba import config

from tests.kernel_cache import copy_cache
from tests.serial import SerialLast, put_last

pytest_plugins = ["tests.services.fixtures"]

# The first example of a test loads kernels, which on a busy machine takes most of a second.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

_cache = tempfile.TemporaryDirectory(prefix="riffle-kernels-")
copy_cache(Path(_cache.name))
config.CACHE_DIR = _cache.name  # type: ignore[attr-defined]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the heavy tests behind the others."""
    put_last(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> SerialLast | None:
    """Runs the heavy tests alone, once the others are done."""
    return SerialLast(config, log) if config.getoption("dist") == "load" else None


@pytest.fixture
def feast_lets_go(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Closes the connections to PostgreSQL that Feast opens and keeps."""
    from feast.infra.online_stores.postgres_online_store import postgres

    opened = []
    connect = postgres._get_conn

    def kept(config: Any) -> Any:
        opened.append(connect(config))
        return opened[-1]

    monkeypatch.setattr(postgres, "_get_conn", kept)
    yield
    for connection in opened:
        connection.close()
