"""Loads Feast for a process that must be at work soon."""

from __future__ import annotations

import sys
from typing import TypeVar

T = TypeVar("T")


def load_feast() -> None:
    """Loads Feast without what checks the arguments of its calls, if it is not loaded yet.

    Feast has typeguard compile its classes a second time when they are loaded: that was 2.4 of 3.4
    seconds, and a killed flow was back so much later.
    """
    if "feast" in sys.modules:
        return
    import typeguard

    checked = typeguard.typechecked
    typeguard.typechecked = _unchanged  # type: ignore[assignment]
    try:
        import feast  # noqa: F401
    finally:
        typeguard.typechecked = checked


def _unchanged(checked: T) -> T:
    return checked
