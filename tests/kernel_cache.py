"""The compiled kernels that set-up has left, to copy."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from numba import config

import operators.kernels  # noqa: F401 - decides where set-up compiled to

SET_UP_CACHE = Path(config.CACHE_DIR)  # type: ignore[attr-defined]


def copy_cache(target: Path) -> None:
    """Copies what set-up compiled, file by file; one that is being replaced is left out."""
    for path in SET_UP_CACHE.rglob("*.nb*"):
        place = target / path.relative_to(SET_UP_CACHE)
        place.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            shutil.copy2(path, place)
