"""Each process of a test run compiles into a cache of its own.

Tests call kernels with arrays that no run has, so they add to the cache; several processes that
write one cache have crashed it (numba issues 4807 and 10128). What set-up compiled is copied.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from numba import config

from tests.kernel_cache import copy_cache
from tests.serial import SerialLast, put_last

pytest_plugins = ["tests.services.fixtures"]

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


@pytest.fixture(scope="module")
def garbage_collected() -> Iterator[None]:
    """Lets connections that Feast never closes go where that is no error, not in a later module."""
    yield
    gc.collect()
