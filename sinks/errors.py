"""Why a sink stops the flow; the messages say what to do."""

from __future__ import annotations


class SinkError(RuntimeError):
    """Vectors or letters that cannot be written."""


class DeliveryError(SinkError):
    """The other side refuses what is written, and will go on to."""


class MissingTopicError(SinkError):
    """A topic that does not exist."""


class FencedError(SinkError):
    """Another run writes in our place."""


class OwnedError(SinkError):
    """A lane that another recovery directory writes."""


class ProgressLostError(SinkError):
    """The other side knows less of what was written than the snapshot does."""


class OutOfOrderError(SinkError):
    """Final vectors that come after later ones."""
