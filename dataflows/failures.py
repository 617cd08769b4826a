"""How a live process ends that can't go on: in words, and with a code that a supervisor knows."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from types import TracebackType

log = logging.getLogger("riffle")

FAILED = 1
"""Exit code for what may work when it is tried again."""
REFUSED = 2
"""Exit code for what was asked and cannot be."""


def refusals() -> tuple[type[Exception], ...]:
    """Errors that a person must mend: to try again would end the same way."""
    # Looked up when something has failed: a command must not load all that others may fail with.
    from dataflows.named_sets import UnknownSetError
    from dataflows.recovery_folder import RecoveryError
    from dataflows.settings import SettingsError
    from dataflows.shards import UnsplittableError
    from dataflows.topics import TopicsError
    from operators.decode import RefusedInputError
    from operators.snapshot import SnapshotMismatchError
    from sinks.dataset import UnreadableError
    from sinks.errors import (
        DeliveryError,
        FencedError,
        MissingTopicError,
        OwnedError,
        ProgressLostError,
    )
    from sinks.shelf import OccupiedError
    from sinks.vector_messages import UnreadableMessageError
    from sources.archive import ArchiveError
    from sources.database import DatabaseError
    from sources.kafka_client import KafkaInputError

    return (
        RecoveryError, UnknownSetError, SettingsError, TopicsError, RefusedInputError,
        SnapshotMismatchError, FencedError, OwnedError, ProgressLostError, KafkaInputError,
        DatabaseError, DeliveryError, MissingTopicError,
        UnsplittableError, UnreadableError, OccupiedError, UnreadableMessageError, ArchiveError,
    )  # fmt: skip


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it came from; Bytewax puts its own around a step's."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def end_in_words() -> None:
    """Makes an error that a person must mend end the process in words and with :data:`REFUSED`.

    A cluster that does not answer at the start is told in words too, but may answer later.
    """
    from sources.kafka_client import ClusterSilentError

    def told(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        mendable = next((each for each in causes(error) if isinstance(each, refusals())), None)
        if mendable is None:
            log.critical("the process failed", exc_info=(kind, error, trace))
            return
        log.critical("%s: %s", type(mendable).__name__, mendable)
        logging.shutdown()
        sys.stderr.flush()
        # Clients that wait for a broker at the interpreter's end would keep the process from it.
        os._exit(FAILED if isinstance(mendable, ClusterSilentError) else REFUSED)

    sys.excepthook = told
