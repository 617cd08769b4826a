"""Names for what a test makes in a service that others use at the same time."""

from __future__ import annotations

import uuid


def unique(prefix: str, joint: str = "_") -> str:
    """A name that nobody else has: of a table, a topic, a key, a consumer group."""
    return f"{prefix}{joint}{uuid.uuid4().hex[:12]}"
