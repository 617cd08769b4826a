"""The number of shards changes while the input goes on."""

from __future__ import annotations

import subprocess
import sys

from tests.chaos.account import account_problems
from tests.chaos.conftest import MEASURED
from tests.chaos.flow import ROOT, Unit
from tests.chaos.kills import Resumes, resumed, together
from tests.chaos.messages import Shape
from tests.chaos.proof import prove
from tests.chaos.world import World, world

SHAPE = Shape(instruments=400, news_per_s=160)


def rescale(made: World, shards: int) -> None:
    """Shares the state out anew, by the command."""
    command = [sys.executable, "-m", "dataflows.cli", "rescale", "--shards", str(shards)]
    done = subprocess.run(
        [*command, str(made.config)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_shards_become_more_and_fewer(kafka, tmp_path, record_property):
    with world(kafka, tmp_path, shape=SHAPE) as made:
        made.start_feed()
        resumes = Resumes()
        units: list[Unit] = []
        for number, shards in enumerate((1, 2, 3, 1)):
            if number:
                end(made, units, resumes, gently=number % 2 == 0)
                rescale(made, shards)
            units = made.make_units(shards)
            for unit in units:
                unit.start()
            together(*(resumed(made, unit, resumes if number else None) for unit in units))
            for unit in units:
                unit.live(1.0)
        must = prove(made)
        for unit in units:
            unit.drain()
        assert account_problems(made, must) == []
        record_property(MEASURED, f"1, 2, 3, 1 shards; {resumes}; {must}")


def end(made: World, units: list[Unit], resumes: Resumes, *, gently: bool) -> None:
    """Ends all units: in good order, or by a kill at some moment after a snapshot."""
    if not gently:
        units[0].live(made.chance.uniform(1.0, 2.5))
    for unit in units:
        if gently:
            unit.drain()
        else:
            unit.kill()
            resumes.kills += 1
