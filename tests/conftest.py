"""Each process of a test run compiles into a cache of its own.

Tests call kernels with arrays that no run has, so they add to the cache; several processes that
write one cache have crashed it (numba issues 4807 and 10128). What set-up compiled is copied.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from numba import config

from tests.kernel_cache import copy_cache

_cache = tempfile.TemporaryDirectory(prefix="riffle-kernels-")
copy_cache(Path(_cache.name))
config.CACHE_DIR = _cache.name  # type: ignore[attr-defined]
