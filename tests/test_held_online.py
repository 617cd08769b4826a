"""Vectors that are computed again, beside what an online store serves."""

from __future__ import annotations

import pytest

from dataflows.held_online import OnlineHeld
from operators.frames import vectors_table
from sinks.feast import FeastOnline
from tests.online_repos import ASSET, PROBE, SECOND, redis_lines, repo, row, vectors
from tests.services.names import unique

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)

COMPUTED = [
    row(("A", "1m"), 0, ret=9.0),
    row(("A", "1m"), 1, ret=1.5, n=3, up=1.0, quality=3),
    row(("B", "1m"), 7, ret=-0.0),
    row(("B", "1h"), SECOND),
]


@pytest.fixture(params=["redis", "sqlite"])
def store(request, tmp_path):
    text = "type: sqlite\npath: online.db"
    if request.param == "redis":
        text = redis_lines(request.getfixturevalue("redis"))
    return repo(tmp_path / "repo", text, project=unique("online"))


def compare(store, computed=COMPUTED):
    tables = [vectors_table(PROBE, vectors([each])) for each in computed]
    return OnlineHeld(store).compare(PROBE, tables)


def test_what_is_served_as_computed_is_equal(store):
    FeastOnline(store, PROBE).write(vectors(COMPUTED))
    found = compare(store)
    assert found.equal
    assert (found.same, found.later, found.findings) == (3, 0, [])
    assert found.held == f"online store of {store.project}"


def test_what_is_later_was_not_computed(store):
    FeastOnline(store, PROBE).write(vectors(COMPUTED))
    FeastOnline(store, PROBE).write(vectors([row(("A", "1m"), 2, ret=7.0)]))
    FeastOnline(store, PROBE).write(vectors([row(("B", "1m"), 7, known=9, ret=7.0)]))
    found = compare(store)
    assert found.equal
    assert (found.same, found.later) == (1, 2)


def test_what_is_other_older_or_missing_is_found(store):
    held = [
        row(("A", "1m"), 1, ret=1.5, n=3, up=0.0, quality=3),
        row(("B", "1m"), 6, ret=-0.0),
    ]
    FeastOnline(store, PROBE).write(vectors(held))
    found = compare(store)
    assert not found.equal
    assert (found.same, found.different, found.behind, found.missing) == (0, 1, 1, 1)
    assert [(each.kind, each.vector[:2], each.column) for each in found.findings] == [
        ("different", ("A", "1m"), "up"),
        ("missing", ("B", "1h"), ""),
        ("behind", ("B", "1m"), "ts"),
    ]
    assert (found.findings[0].computed, found.findings[0].held) == ("True", "False")
    assert found.findings[2].computed == "2023-11-14T22:13:20.000000007Z"


def test_the_sign_of_zero_counts(store):
    FeastOnline(store, PROBE).write(vectors([row(("B", "1m"), 7, ret=0.0)]))
    assert compare(store, [row(("B", "1m"), 7, ret=-0.0)]).different == 1


def test_nothing_computed_is_nothing_to_compare(store):
    assert OnlineHeld(store).compare(PROBE, []).equal


def test_more_entities_than_are_asked_for_at_once(store):
    rows = [row((f"K{n}", "1m"), n, ret=float(n)) for n in range(2_345)]
    FeastOnline(store, PROBE).write(vectors(rows))
    told = []
    tables = [vectors_table(PROBE, vectors(rows))]
    found = OnlineHeld(store).compare(PROBE, tables, lambda *done: told.append(done))
    assert (found.same, told[-1]) == (2_345, (2_345, 2_345))


def test_a_set_that_is_not_registered_is_refused(tmp_path):
    store = repo(tmp_path / "r", "type: sqlite\npath: online.db", [ASSET])
    tables = [vectors_table(PROBE, vectors(COMPUTED))]
    with pytest.raises(LookupError, match=r"view `probe_v1` must be registered"):
        OnlineHeld(store).compare(PROBE, tables)
