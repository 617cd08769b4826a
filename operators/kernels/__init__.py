"""The numeric ring: free functions over plain arrays, compiled by numba.

Kernels are compiled once, at set-up (``python -m operators.warm``), into a cache that the
running processes only read: several processes writing one numba cache have crashed it
(numba issues 4807 and 10128). The cache folder is named after the sources, because numba looks
only at the file of the outer function when it decides whether a cached one is stale.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

from numba import config, njit

BITS_VERSION = 1
"""Grows whenever a change of a kernel changes the bits of any feature."""


def _sources_digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


if "NUMBA_CACHE_DIR" not in os.environ:
    folder = Path(sys.prefix) / "numba-cache" / _sources_digest()
    config.CACHE_DIR = str(folder)  # type: ignore[attr-defined]

kernel = njit(cache=True, nogil=True, fastmath=False, parallel=False, error_model="numpy")
"""Decorator of a kernel that Python calls."""

inlined = njit(forceinline=True, fastmath=False, parallel=False, error_model="numpy")
"""Decorator of a step that is inlined into kernels."""
