"""Real data that the tests may use and the project does not ship."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("RIFFLE_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))


def shared(name: str) -> Path:
    """A file or folder of the shared data.

    Without the data the test is skipped; in CI it fails.
    """
    path = DATA / name
    if not path.exists():
        message = f"{path} is not there; RIFFLE_SHARED_DATA names the folder with the data"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path
