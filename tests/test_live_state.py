"""The folder of a flow's state: it fits or is refused, one process holds it, lanes can move."""

import os
import pickle
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from dataflows import live_state, recovery_folder
from dataflows.live_state import FlowState, SetFacts, TopicFacts, new_state, occupy, settle
from dataflows.recovery_folder import RecoveryError
from dataflows.rescale import carried_states, durable_states, rescale

ROOT = Path(__file__).parents[1]


def state(**changes: object) -> FlowState:
    made = new_state(
        "riffle",
        {"market": SetFacts("market", "fs_v1", "f" * 32, "extracted-features")},
        {"bars": TopicFacts("bars", "id-1", 4, [0, 0, 0, 0])},
        "murmur2",
        2,
        -1,
    )
    return msgspec.structs.replace(made, **changes)


def test_a_new_flow_writes_its_state_down_and_goes_on_with_it(tmp_path: Path) -> None:
    first = settle(tmp_path, state())
    again = settle(tmp_path, state(inputs={"bars": TopicFacts("bars", "id-1", 4, [7, 7, 7, 7])}))
    assert again == first
    assert again.inputs["bars"].starts == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "other"}, "the flow's name must be 'riffle', found 'other'"),
        ({"partitioner": "crc32"}, "kafka.partitioner must be 'murmur2'"),
        ({"flow": "riffle.live/2"}, "the flow's steps"),
        ({"bits_version": 99}, "the version of the kernels' bits"),
        (
            {"sets": {"market": SetFacts("market", "fs_v1", "e" * 32, "extracted-features")}},
            r"set `market` must be market fs_v1 \(ffffffffffff\).*found market fs_v1 \(eeee",
        ),
        ({"sets": {}}, "set `market` must be .*, found none"),
        ({"inputs": {}}, "stream `bars` must be an input"),
        (
            {"inputs": {"bars": TopicFacts("bars", "id-2", 4, [0] * 4)}},
            "found another topic of the same name",
        ),
        (
            {"inputs": {"bars": TopicFacts("bars", "id-1", 6, [0] * 6)}},
            "must have 4 partitions, found 6; another number puts entities elsewhere",
        ),
        ({"shards": 3}, "is the state of 2 shards, asked for 3 shards.*riffle rescale --shards 3"),
        ({"shards": 0}, "is the state of 2 shards, asked for a cluster"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    settle(tmp_path, state())
    with pytest.raises(RecoveryError, match=words):
        settle(tmp_path, state(**changes))


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").touch()
    with pytest.raises(RecoveryError, match="must be empty or hold a live flow's state"):
        settle(tmp_path, state())


def test_one_process_holds_a_shard_and_the_processes_of_a_cluster_one_place_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery_folder, "PATIENCE_S", 0.05)
    held = occupy(tmp_path / "cluster", 0)
    other = occupy(tmp_path / "cluster", 1)
    with pytest.raises(RecoveryError, match="must be free, found another process"):
        occupy(tmp_path / "cluster", 0)
    os.close(held)
    os.close(occupy(tmp_path / "cluster", 0))
    os.close(other)
    assert [p.name for p in (tmp_path / "cluster").glob("part-*")] == ["part-0.sqlite3"]


def run(folder: Path, lanes: str, die_at: int) -> dict[str, str]:
    """Runs the small flow until it kills itself; what each part of its source began with."""
    done = subprocess.run(
        [sys.executable, *f"-m bytewax.run tests.lanes_flow -r {folder} -s 0 -b 0".split()],
        cwd=ROOT,
        env={**os.environ, "LANES": lanes, "DIE_AT": str(die_at)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 9, done.stderr
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


def test_the_durable_state_is_what_bytewax_resumes_from(tmp_path: Path) -> None:
    os.close(occupy(tmp_path / "r", 0))
    for die_at in (30, 5, 1, 20):
        before = durable_states(tmp_path / "r").get("lanes.read", {})
        began = run(tmp_path / "r", "0,1", die_at)
        assert began == {f"bars/{lane}": str(before.get(f"bars/{lane}")) for lane in (0, 1)}
    found = durable_states(tmp_path / "r")
    for lane in (0, 1):
        offset = found["lanes.read"][f"bars/{lane}"]["offset"]
        assert offset > 20
        assert int(found["lanes.sum"][f"{lane:02d}"]) == offset * (offset + 1) // 2


def test_lanes_move_with_their_states_and_back(tmp_path: Path) -> None:
    settle(tmp_path, state(shards=1))
    os.close(occupy(tmp_path / "shard-0-of-1", 0))
    run(tmp_path / "shard-0-of-1", "0,1,2,3", 30)
    whole = durable_states(tmp_path / "shard-0-of-1")
    for shards in (2, 3, 0, 1):
        rescale(tmp_path, shards)
        names = {p.name for p in tmp_path.iterdir() if p.is_dir()}
        assert names == {live_state.part_name(i, shards) for i in range(max(shards, 1))}
        lanes = [set(carried_states(tmp_path / name)["lanes.read"]) for name in sorted(names)]
        assert sorted(lane for some in lanes for lane in some) == [f"bars/{i}" for i in range(4)]
    assert durable_states(tmp_path / "shard-0-of-1") == whole
    assert settle(tmp_path, state(shards=1)).shards == 1


def test_a_flow_that_runs_is_not_shared_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery_folder, "PATIENCE_S", 0.05)
    settle(tmp_path, state(shards=1))
    held = occupy(tmp_path / "shard-0-of-1", 0)
    with pytest.raises(RecoveryError, match="found a process that uses it; stop the flow first"):
        rescale(tmp_path, 2)
    os.close(held)
    assert settle(tmp_path, state(shards=1)).shards == 1


def test_a_snapshot_that_names_code_is_refused_and_not_run(tmp_path: Path) -> None:
    os.close(occupy(tmp_path / "r", 0))
    run(tmp_path / "r", "0", 10)

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path}/ran",)

    with closing(sqlite3.connect(tmp_path / "r" / "part-0.sqlite3")) as part, part:
        part.execute("UPDATE snaps SET ser_change = ?", (pickle.dumps(Evil()),))
    with pytest.raises(RecoveryError, match=r"must hold plain values, found posix\.system"):
        durable_states(tmp_path / "r")
    assert not (tmp_path / "ran").exists()
