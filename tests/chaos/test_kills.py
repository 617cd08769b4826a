"""Nothing is lost and nothing comes twice, however often the flow is killed, in any place."""

from __future__ import annotations

import os

import pytest

from tests.chaos.account import account_problems
from tests.chaos.conftest import MEASURED
from tests.chaos.kills import RESUME_S, Resumes, together, torment
from tests.chaos.places import ALL
from tests.chaos.proof import prove
from tests.chaos.world import world

KILLS = int(os.environ.get("RIFFLE_CHAOS_KILLS", "30"))


@pytest.mark.parametrize(("shards", "processes"), [(2, 0), (1, 2)], ids=["shards", "cluster"])
def test_a_flow_that_is_killed_gives_what_it_would_have_given(
    kafka, places_of, tmp_path, shards, processes, record_property
):
    with world(kafka, tmp_path, places=places_of(ALL)) as made:
        units = made.make_units(shards, processes)
        made.start_feed()
        resumes = Resumes()
        share = -(-KILLS // len(units))
        together(*(torment(made, unit, share, resumes) for unit in units))
        must = prove(made)
        for unit in units:
            unit.drain()
        assert account_problems(made, must) == []
        record_property(MEASURED, f"{resumes}; {must}")
    assert resumes.kills >= KILLS
    assert max(resumes.seconds) <= RESUME_S
