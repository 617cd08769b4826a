"""The numeric ring: free functions over plain arrays, compiled by numba.

Kernels are compiled once, at set-up (``python -m operators.warm``), into a cache that the
running processes only read: several processes writing one numba cache have crashed it
(numba issues 4807 and 10128). The cache folder is named after the sources, because numba looks
only at the file of the outer function when it decides whether a cached one is stale.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

from numba import config, njit

BITS_VERSION = 1
"""Grows whenever a change of a kernel changes the bits of any feature."""


def _sources_digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def writable_view(cache: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder of this process's own that shows a cache which can't be written.

    numba uses no cache that it can't write, and would compile everything at each start instead. The
    compiled kernels stay where they are; only the indexes are copied, a kilobyte each.
    """
    view = tempfile.TemporaryDirectory(prefix="riffle-kernels-")
    for path in cache.rglob("*.nb[ci]"):
        place = Path(view.name, path.relative_to(cache))
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".nbi":
            shutil.copyfile(path, place)
        else:
            place.symlink_to(path.resolve())
    return view


if "NUMBA_CACHE_DIR" not in os.environ:
    folder = Path(sys.prefix) / "numba-cache" / _sources_digest()
    if folder.is_dir() and not os.access(folder, os.W_OK):
        # An image with a read-only file system, or an installation by another user.
        _view = writable_view(folder)
        folder = Path(_view.name)
    config.CACHE_DIR = str(folder)  # type: ignore[attr-defined]

kernel = njit(cache=True, nogil=True, fastmath=False, parallel=False, error_model="numpy")
"""Decorator of a kernel that Python calls."""

inlined = njit(forceinline=True, fastmath=False, parallel=False, error_model="numpy")
"""Decorator of a step that is inlined into kernels."""
