"""A served value never goes back in time, whatever happens to the process that writes it."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from feast.protos.feast.types.Value_pb2 import Value
from redis import Redis

from feature_repo.names import join_keys
from sinks.online_cells import KeyEncoder, read_marks
from tests.online_repos import PROBE, redis_lines, repo, served
from tests.online_writer import BATCH, COUNT, NAMES, PAUSE_S, all_vectors, value_of
from tests.services.names import unique

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
CRASHES = 6
MOST_BATCHES = COUNT // BATCH // (CRASHES + 1)
"""Before a crash, so that something is left for the last run."""
KEYS = [KeyEncoder(join_keys(PROBE))((name, "1m")) for name in NAMES]


class RedisReader:
    def __init__(self, address, store, folder):
        self._client = Redis.from_url(address)
        self._keys = [key + store.project.encode() for key in KEYS]
        from feast.infra.online_stores.helpers import _mmh3

        self._fields = [b"_mark:probe_v1", *(_mmh3(f"probe_v1:{name}") for name in ("ret", "n"))]

    def look(self):
        pipe = self._client.pipeline(transaction=False)
        for key in self._keys:
            pipe.hmget(key, self._fields)
        return pipe.execute()


class SqliteReader:
    def __init__(self, address, store, folder):
        self._path = folder / "online.db"
        self._query = (
            f"SELECT entity_key, feature_name, value FROM {store.project}_probe_v1 "
            "WHERE feature_name IN ('__mark', 'ret', 'n')"
        )
        self._connection = None

    def look(self):
        if self._connection is None:
            self._connection = sqlite3.connect(self._path, check_same_thread=False)
        found: dict[bytes, dict[str, bytes]] = {}
        for key, name, value in self._connection.execute(self._query):
            found.setdefault(key, {})[name] = value
        return [[found.get(k, {}).get(n) for n in ("__mark", "ret", "n")] for k in KEYS]


class Watch(threading.Thread):
    """Looks at all entities all the time."""

    def __init__(self, reader):
        super().__init__(daemon=True)
        self.wrong = []
        self.looks = self.changes = 0
        self.ended = threading.Event()
        self._reader = reader
        self._before = [(-(2**63),) * 4] * len(KEYS)

    def run(self):
        try:
            while not self.ended.wait(0.002):
                self.look()
        except Exception as error:  # noqa: BLE001 - the test tells it
            self.wrong.append(repr(error))

    def look(self):
        found = self._reader.look()
        marks = read_marks([mark for mark, _, _ in found], [None] * len(found))
        wanted = value_of(marks)
        for number, (mark, ret, n) in enumerate(found):
            if mark is None:
                continue
            now = tuple(marks[number].tolist())
            if now < self._before[number]:
                self.wrong.append(f"{NAMES[number]} from {self._before[number]} to {now}")
            self.changes += now != self._before[number]
            self._before[number] = now
            if Value.FromString(ret).double_val != wanted[number]:
                self.wrong.append(f"{NAMES[number]} at {now} has {ret!r}")
            if Value.FromString(n).int64_val != now[0] - 1_700_000_000 * 10**9:
                self.wrong.append(f"{NAMES[number]} at {now} has n {n!r}")
        self.looks += 1


def oracle(seed):
    """The newest vector of each entity, looked for row by row."""
    found: dict[str, tuple[tuple[int, ...], float]] = {}
    for part in all_vectors(seed):
        marks = zip(
            part.ts_ns.tolist(), part.known_at_ns.tolist(), part.n_rows.tolist(), strict=True
        )
        ret = part.features["ret"].tolist()
        for code, mark, value in zip(part.keys.codes.tolist(), marks, ret, strict=True):
            each = ((*mark, int(part.final)), value)
            found[NAMES[code]] = max(found.get(NAMES[code], each), each)
    return {name: value for name, (_, value) in found.items()}


def write(folder: Path, seed: int) -> subprocess.Popen[str]:
    arguments = [str(folder), str(folder / "kept"), str(seed)]
    writer = subprocess.Popen(
        [sys.executable, "-m", "tests.online_writer", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert said(writer) == "ready\n"
    return writer


def said(writer: subprocess.Popen[str]) -> str:
    assert writer.stdout is not None
    return writer.stdout.readline()


def crash(writer: subprocess.Popen[str], rng: random.Random) -> None:
    """Kills a writer that has handed over some batches, in the midst of what comes next."""
    for _ in range(rng.randrange(1, MOST_BATCHES)):
        assert said(writer) == "a batch\n"
    time.sleep(rng.uniform(0, 5 * PAUSE_S))
    writer.kill()
    writer.communicate()
    assert writer.returncode == -signal.SIGKILL


@pytest.mark.parametrize("kind", ["redis", "sqlite"])
def test_values_never_go_back_over_crashes(kind, tmp_path, request):
    seed = random.randrange(2**32)
    address = request.getfixturevalue("redis") if kind == "redis" else ""
    lines = redis_lines(address) if kind == "redis" else "type: sqlite\npath: online.db"
    store = repo(tmp_path / "repo", lines, [PROBE], unique("online"))
    reader = (RedisReader if kind == "redis" else SqliteReader)(address, store, tmp_path / "repo")
    watch = Watch(reader)
    rng = random.Random(seed)
    for _ in range(CRASHES):
        writer = write(tmp_path / "repo", seed)
        if not watch.is_alive():
            watch.start()
        crash(writer, rng)
    writer = write(tmp_path / "repo", seed)
    writer.communicate(timeout=120)
    assert writer.returncode == 0
    watch.look()
    watch.ended.set()
    watch.join()
    told = f"seed {seed}, {watch.looks} looks, {watch.changes} changes"
    assert watch.wrong[:3] == [], told
    assert watch.changes > 3 * len(KEYS), told
    found = served(store, [(name, "1m") for name in NAMES])
    assert {name: each["ret"] for name, each in zip(NAMES, found, strict=True)} == oracle(seed)
    assert sum(len(each) for each in all_vectors(seed)) == COUNT
    assert np.isfinite([each["ret"] for each in found]).all()
