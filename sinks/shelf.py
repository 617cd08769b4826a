"""Files of one sink partition: written aside, and made visible together with the snapshot.

A file is written under a hidden name in the folder where it belongs and renamed when the flow takes
a snapshot, whose state is the number of the next file. Whoever resumes from that state removes the
files from that number on: they are of a time that is replayed. So a resumed flow leaves neither a
gap nor a duplicate, and no reader meets a file that is half written.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

OWNER = "_riffle.json"
"""Says which job the files of a folder are of; readers of datasets pass over names like this."""
SYNCED_ONE_BY_ONE = 64
"""More files than this are brought to the disk by one call for all of them."""


class State(TypedDict):
    """What a snapshot keeps of a sink partition."""

    seq: int


@dataclass(frozen=True)
class Owned:
    """Whose files a sink writes, and when they become visible.

    Attributes:
        job: name of the job, the same when it resumes.
        parts: names of the sink's partitions.
        durable: whether there will be a resume from the flow's snapshots, with which the files
            become visible. If not, they do when the flow ends.
    """

    job: str
    parts: tuple[str, ...] = ("00",)
    durable: bool = True


class OccupiedError(RuntimeError):
    """A folder that holds the files of another job."""


def claim(folder: Path, job: str) -> None:
    """Makes a folder a job's own.

    Args:
        folder: is made if there is none.
        job: name of the job; one that resumes keeps its name.

    Raises:
        OccupiedError: when it holds files of another job.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / OWNER
    fresh = folder / f".{OWNER}.{os.getpid()}"
    fresh.write_text(json.dumps({"job": job}), encoding="utf-8")
    try:
        try:
            # A link comes into being with its content, unlike a file.
            os.link(fresh, mark)
        except FileExistsError:
            owner = json.loads(mark.read_text(encoding="utf-8"))["job"]
            if owner == job:
                return
            if next(folder.rglob("*.parquet"), None) is not None:
                msg = (
                    f"{folder}: must be empty or of this job, found files of another one; choose "
                    "another output folder, resume that job with its recovery directory, or "
                    "replace its files with --overwrite"
                )
                raise OccupiedError(msg) from None
            fresh.replace(mark)
    finally:
        fresh.unlink(missing_ok=True)


class Shelf:
    """The files of one sink partition under a folder.

    Args:
        folder: where they are, or in folders under it.
        part: name of the sink partition.
        owned: whose files they are, and whether a snapshot counts on them.
        state: to resume from.
    """

    def __init__(self, folder: Path, part: str, owned: Owned, state: State | None) -> None:
        claim(folder, owned.job)
        self.folder = folder
        self.part = part
        self._durable = owned.durable
        self.seq = state["seq"] if state else 0
        self._aside: list[tuple[Path, Path]] = []
        self._clear()

    def _clear(self) -> None:
        """Removes what was written after the snapshot that this run resumes from."""
        ours = re.compile(rf"\.?part-{re.escape(self.part)}-(\d+)\.(parquet|aside)")
        for path in [*self.folder.rglob(f"*part-{self.part}-*")]:
            found = ours.fullmatch(path.name)
            if found and (found[2] == "aside" or int(found[1]) >= self.seq):
                path.unlink()

    def new(self, within: str = "") -> Path:
        """Gives the name under which to write the next file.

        Args:
            within: the folder under the shelf's own that it belongs to.
        """
        folder = self.folder / within
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"part-{self.part}-{self.seq:06d}"
        self.seq += 1
        aside = folder / f".{stem}.aside"
        self._aside.append((aside, folder / f"{stem}.parquet"))
        return aside

    def show(self) -> State:
        """Makes all files visible; they must have been closed."""
        if self._durable:
            self._sync()
        for aside, final in self._aside:
            aside.rename(final)
        self._aside.clear()
        return {"seq": self.seq}

    def _sync(self) -> None:
        """Brings the files to the disk; the snapshot that counts on them will be there too."""
        if len(self._aside) > SYNCED_ONE_BY_ONE:
            os.sync()
            return
        for aside, _ in self._aside:
            with aside.open("rb") as file:
                os.fsync(file.fileno())
