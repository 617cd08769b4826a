"""The live flow, broken or poisoned as the environment says: ``python -m bytewax.run`` this."""

from __future__ import annotations

from typing import Any

from dataflows import live
from tests.chaos.poison import poison
from tests.chaos.sabotage import sabotage


def __getattr__(name: str) -> Any:
    if name == "flow":
        sabotage()
        poison()
        return live.get_flow()
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
