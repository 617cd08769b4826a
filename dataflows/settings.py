"""Settings of a flow's process, read from the environment; the launcher sets them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from operators.batch import NO_CLOCK_NS
from operators.kernels.hashing import KEY_GROUPS

PREFIX = "RIFFLE_"
BATCH_ROWS = 2**20
"""Each batch is 64 calls of the engine. Of 1,000 keys and seven windows of 256 rows one took, per
row, 116 ns in batches of so many rows, 181 ns in half as many and 319 ns in 2**16."""


class SettingsError(ValueError):
    """A setting that is missing or wrong."""


class BackfillSettings(BaseSettings):
    """What one process of a backfill does.

    Attributes:
        feature_set: name of a shipped set, or ``module:attribute``.
        inputs: ``STREAM=PATH`` per line.
        output: folder of the dataset.
        job: name of the job; a run that resumes has the same one.
        part: name of this shard, in the names of its files.
        processes: processes of the Bytewax cluster that this one belongs to.
        shard, shards: number of this shard, and how many there are.
        by_files: whether a shard has files of its own. If not, it keeps the key groups that are
            ``shard`` modulo ``shards`` of all files.
        batch_rows: rows per batch.
        end_ns: instant up to which the whole bounded input is complete, all shards together.
        recovery: whether the flow takes snapshots to resume from.
        warm_up: whether to rebuild from the input what snapshots lack for a changed set.
        files: file in which the launcher lists the files of the inputs and what they hold; without
            it the process looks for itself.
        alignment_ns: how far partitions may be apart; by default as far as memory allows.
        progress: file in which to tell the progress.
        parent: process with which this one dies.
        feast: folder of the Feast repository to feed, if any.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    feature_set: str
    inputs: Annotated[tuple[str, ...], NoDecode]
    output: Path
    job: str
    part: str = "00"
    processes: int = Field(1, ge=1)
    shard: int = Field(0, ge=0)
    shards: int = Field(1, ge=1, le=KEY_GROUPS)
    by_files: bool = False
    batch_rows: int = Field(BATCH_ROWS, ge=1)
    end_ns: int = NO_CLOCK_NS
    recovery: bool = False
    warm_up: bool = False
    files: Path | None = None
    alignment_ns: int | None = None
    parent: int | None = None
    progress: Path | None = None
    feast: Path | None = None

    @field_validator("inputs", mode="before")
    @classmethod
    def _lines(cls, value: object) -> object:
        """Splits ``STREAM=PATH`` per line."""
        if isinstance(value, str):
            return tuple(line.strip() for line in value.splitlines() if line.strip())
        return value

    @property
    def kept_groups(self) -> frozenset[int]:
        """The key groups of this shard."""
        if self.by_files:
            return frozenset(range(KEY_GROUPS))
        return frozenset(range(self.shard, KEY_GROUPS, self.shards))

    def environment(self) -> dict[str, str]:
        """Gives the environment variables that say the same."""
        values = self.model_dump(mode="json", exclude_none=True, exclude={"inputs"})
        told = {PREFIX + name.upper(): str(value) for name, value in values.items()}
        return {**told, PREFIX + "INPUTS": "\n".join(self.inputs)}


def backfill_settings() -> BackfillSettings:
    """Reads the settings.

    Raises:
        SettingsError: naming each variable that is missing or wrong, and what it must be.
    """
    try:
        return BackfillSettings()
    except ValidationError as error:
        told = [
            f"  {PREFIX}{'.'.join(map(str, each['loc'])).upper()}: {each['msg']}, "
            + ("found none" if each["type"] == "missing" else f"found {each['input']!r}")
            for each in error.errors()
        ]
        lines = "\n".join(told)
        msg = (
            f"dataflows.backfill: the environment must say what to do:\n{lines}\n"
            "Set them, or start the flow by `riffle backfill`, which does."
        )
        raise SettingsError(msg) from None
