"""A flow whose vectors are false from some moment on, so that none of them can be overlooked.

Two runs of a flow compute the same vectors, so what one writes over the other does not show. A run
that must write nothing any more is therefore made to compute what nobody else does. It writes no
letters then: they go to Kafka, whose fence would end it before it meets those of other places.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

VARIABLE = "CHAOS_POISON"
"""Names a file; from when it is there, vectors are false."""
COVERAGE = 7.0


def by(file: Path) -> Mapping[str, str]:
    """The environment of a flow whose vectors are false when a file is there."""
    return {VARIABLE: str(file)}


def poison() -> None:
    """Has this process give false vectors, if and when the environment says so."""
    from dataflows import live
    from sinks.kafka_letters import LettersPart

    name = os.environ.get(VARIABLE)
    if not name:
        return
    file, vectors = Path(name), live._vectors

    def poisoned(*given: Any) -> Any:
        wanted = vectors(*given)

        def false(items: Any) -> Any:
            found = wanted(items)
            if not file.exists():
                return found
            return [
                (key, replace(each, coverage=np.full(len(each), COVERAGE))) for key, each in found
            ]

        return false

    live._vectors = poisoned  # type: ignore[assignment]
    write = LettersPart.write_batch

    def silent(self: LettersPart, values: Any) -> None:
        if not file.exists():
            write(self, values)

    LettersPart.write_batch = silent  # type: ignore[method-assign]
