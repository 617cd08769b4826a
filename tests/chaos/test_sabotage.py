"""Proofs that are worth their name: the real flow passes them, and broken ones do not."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import sabotage
from tests.chaos.flow import FailedFlowError
from tests.chaos.kills import LOST_S, SlowResumeError, resumed, together, wait_for_vectors
from tests.chaos.messages import Shape
from tests.chaos.places import ALL, ONLINE, TABLE, Places
from tests.chaos.proof import NotProvenError, prove
from tests.chaos.sabotage import BROKEN, LONG, SHORT
from tests.chaos.test_ends import MODULE, fork, wake
from tests.chaos.watch import until
from tests.chaos.world import World, world
from tests.services.process import Server

SHAPE = Shape(instruments=200, news_per_s=80)
QUIET_S = 6.0
STARTED = "goes on"
WAITS = {"message.timeout.ms": "3000"}
KILLS = 3
TRIES = 4
WHOLE = ""
Run = Callable[[World, str], None]


def kills(made: World, name: str) -> None:
    """A flow is killed and stays down for a while, several times."""
    (unit,) = made.make_units(module=MODULE, environment={sabotage.VARIABLE: name})
    made.start_feed()
    for _ in range(KILLS):
        unit.start()
        together(resumed(made, unit))
        unit.live(made.chance.uniform(1.2, 2.2))  # with the end of an epoch in it
        unit.kill()
        time.sleep(made.chance.uniform(0.5, 2.0))  # rows come in that nobody reads
    unit.start()
    together(resumed(made, unit))
    prove(made, QUIET_S)


def copy(made: World, name: str) -> None:
    """A flow runs, and then another one on a copy of its state as well."""
    zombie, other = fork(made, environment={sabotage.VARIABLE: name})
    # What the first one writes looks like a resume of the other.
    until(lambda: STARTED in other.last_lines(), LOST_S, "the copy must start")
    other.live(3)
    zombie.end()
    other.check_alive()
    prove(made, QUIET_S)


def stopped(made: World, name: str) -> None:
    """A flow stands still, another one takes its place, and the first one goes on."""
    zombie, other = fork(made, stopped=True, environment={sabotage.VARIABLE: name})
    wake(made, zombie)
    other.live(4)
    zombie.end()
    other.check_alive()
    prove(made, QUIET_S)


def outage(broker: Server, made: World, name: str) -> None:
    """The broker stands still for longer than messages wait."""
    (unit,) = made.make_units(module=MODULE, environment={sabotage.VARIABLE: name})
    made.start_feed()
    unit.start()
    together(resumed(made, unit))
    unit.live(1.5)
    broker.pause()
    unit.live(9)
    broker.resume()
    wait_for_vectors(made)
    prove(made, QUIET_S)


def caught(
    name: str, run: Run, kafka: str, folder: Path, places_of: Callable[..., Places], **more: Any
) -> None:
    """A broken flow must show what is wrong with it, in one of some worlds.

    Kills come at random, and chance may spare a flow in one of them.
    """
    broken, seen = BROKEN[name], []
    for number in range(TRIES):
        own = folder / str(number)
        own.mkdir()
        places = places_of(broken.sinks, early=broken.early)
        with world(kafka, own, transaction=broken.transaction, places=places, **more) as made:
            seen.append(f"{shown(run, made, name)}\n{made.told()}")
            if re.search(broken.symptom, seen[-1]):
                return
    tries = "\n".join(seen)
    pytest.fail(f"{broken.symptom!r} must show, found in {TRIES} tries:\n{tries}")


def shown(run: Run, made: World, name: str) -> str:
    """What a flow shows of what is wrong with it."""
    try:
        run(made, name)
    except (NotProvenError, FailedFlowError, SlowResumeError) as error:
        return str(error)
    return "nothing"


@pytest.mark.parametrize("transaction", [SHORT, LONG])
def test_the_real_flow_survives_these_kills(transaction, kafka, places_of, tmp_path):
    early = (TABLE, ONLINE) if transaction == SHORT else ()
    places = places_of(ALL, early=early)
    with world(kafka, tmp_path, shape=SHAPE, transaction=transaction, places=places) as made:
        kills(made, WHOLE)


@pytest.mark.parametrize("name", sabotage.names("kills"))
def test_a_broken_flow_is_caught_by_kills(name, kafka, places_of, tmp_path):
    caught(name, kills, kafka, tmp_path, places_of, shape=SHAPE)


@pytest.mark.parametrize("name", sabotage.names("stopped"))
def test_a_broken_flow_is_caught_when_it_goes_on_after_another_took_its_place(
    name, kafka, places_of, tmp_path
):
    """Letters go to Kafka, whose fence would do the work of the others'."""
    caught(name, stopped, kafka, tmp_path, places_of, shape=SHAPE.without_letters())


def test_the_real_flow_survives_a_copy_of_its_state(kafka, tmp_path):
    with world(kafka, tmp_path, shape=SHAPE) as made:
        copy(made, WHOLE)


@pytest.mark.parametrize("name", sabotage.names("copy"))
def test_a_broken_flow_is_caught_by_a_copy_of_its_state(name, kafka, tmp_path):
    caught(name, copy, kafka, tmp_path, Places, shape=SHAPE)


def test_the_real_flow_survives_an_outage(private_kafka, tmp_path):
    """Transactions are long, so that each lane is in one when the broker stops."""
    bootstrap = private_kafka.bootstrap
    with world(bootstrap, tmp_path, shape=SHAPE, properties=WAITS, transaction=LONG) as made:
        outage(private_kafka, made, WHOLE)


@pytest.mark.parametrize("name", sabotage.names("outage"))
def test_a_broken_flow_is_caught_by_an_outage(name, private_kafka, tmp_path):
    run = partial(outage, private_kafka)
    caught(name, run, private_kafka.bootstrap, tmp_path, Places, shape=SHAPE, properties=WAITS)


def test_every_broken_flow_says_in_a_sentence_what_is_wrong_with_it():
    sentences = [each.breaker.__doc__ or "" for each in BROKEN.values()]
    assert all(sentence.endswith(".") for sentence in sentences)
    assert len(set(sentences)) == len(sentences) >= 8
