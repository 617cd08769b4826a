"""A disk that is full."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.chaos.account import account_problems
from tests.chaos.conftest import MEASURED
from tests.chaos.flow import END_S
from tests.chaos.kills import Resumes, resumed, run_until_resumed, together
from tests.chaos.messages import Shape
from tests.chaos.places import ALL
from tests.chaos.proof import prove
from tests.chaos.watch import until
from tests.chaos.world import world

SHAPE = Shape(instruments=400, news_per_s=160)
SIZE_MB = 64
TIMES = 2


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A folder on a file system of its own that is soon full."""
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        if os.environ.get("CI") == "true":
            pytest.fail(f"must be allowed to mount a file system: {made.stderr}")
        pytest.skip("mounting a file system needs rights that this user has not")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Takes all the room that is left."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\1" * 4096)
        except OSError:
            return ballast


def test_a_flow_whose_disk_is_full_stops_and_loses_nothing(
    kafka, places_of, tmp_path, record_property
):
    with (
        small_disk(tmp_path / "disk") as disk,
        world(kafka, tmp_path, shape=SHAPE, places=places_of(ALL)) as made,
    ):
        (unit,) = made.make_units(recovery=disk / "state")
        made.start_feed()
        run_until_resumed(made, unit)
        resumes = Resumes()
        codes = []
        for _ in range(TIMES):
            unit.live(made.chance.uniform(1.0, 2.5))
            ballast = fill(disk)
            until(lambda: None not in unit.codes, END_S, "a flow without a disk must stop")
            codes += unit.wait()
            unit.start()  # the disk is still full
            until(lambda: None not in unit.codes, END_S, "a flow without a disk must not start")
            codes += unit.wait()
            ballast.unlink()
            unit.start()
            together(resumed(made, unit, resumes))
        assert 0 not in codes
        must = prove(made)
        unit.drain()
        made.settings = unit.settings
        assert account_problems(made, must) == []
        told = f"{TIMES} times no room for snapshots: ended with {codes}; {resumes}"
        record_property(MEASURED, f"{told}; {must}")
