"""Runs contenders in turn, each in a process pinned to its core, after their outputs agree.

A contender is a function that prepares a :class:`Job`; it is called in the child process. The
children of one contest wait for each other, so that noise of the machine meets all alike.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psutil

from benchmarks.workload import TOLERANCE, Arrays, difference
from dataflows.processes import ONE_THREAD as PROCESS_THREADS

ROOT = Path(__file__).parents[1]
ONE_THREAD = {**PROCESS_THREADS, "ARROW_NUM_THREADS": "1"}
"""Each contender is one core's work, in whatever library it spends it."""


class Job(Protocol):
    """What a child process does again and again."""

    def prepare(self) -> None:
        """Clears up after the last run; not timed."""

    def run(self) -> None:
        """Does the work once; this is what is timed."""

    def outputs(self) -> Arrays:
        """What the last run gave: key, time and features, in the order of key and time."""


@dataclass(frozen=True)
class Contender:
    """One way to do the work.

    Attributes:
        name: for the tables.
        job: ``module:function`` that prepares the job.
        settings: its arguments.
        rows: rows of its input; times are given per row.
        core: on which it runs, counted from the last.
        crew: for a contender of several processes, the settings of each; they start together, on a
            core each, and the slowest one counts.
    """

    name: str
    job: str
    settings: Mapping[str, Any]
    rows: int
    core: int = 0
    crew: Sequence[Mapping[str, Any]] = ()


@dataclass
class Timing:
    """The times of one contender, in ns per row."""

    name: str
    rows: int
    ns_per_row: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The middle of them."""
        return statistics.median(self.ns_per_row)


class WrongOutputError(AssertionError):
    """Contenders that do not give the same."""


class Child:
    """A process that prepares a job and runs it when told.

    Args:
        job: ``module:function``.
        settings: its arguments.
        core: the core it is pinned to.
    """

    def __init__(self, job: str, settings: Mapping[str, Any], core: int) -> None:
        told = json.dumps({"job": job, "settings": dict(settings), "core": core})
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.child", told],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **ONE_THREAD},
        )

    def tell(self, command: str) -> None:
        """Sends a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()

    def hear(self) -> str:
        """Waits for its answer."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            msg = f"a contender ended with code {self._process.wait()}; its error is above"
            raise RuntimeError(msg)
        return line.strip()

    def cpu_seconds(self) -> float:
        """Processor time that it has used."""
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)

    def close(self) -> None:
        """Ends it."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


class Team:
    """The processes of one contender."""

    def __init__(self, contender: Contender) -> None:
        self.contender = contender
        cores = sorted(os.sched_getaffinity(0), reverse=True)
        crew = contender.crew or [{}]
        self.children = [
            Child(
                contender.job,
                {**contender.settings, **own},
                cores[(contender.core + number) % len(cores)],
            )
            for number, own in enumerate(crew)
        ]

    def ready(self) -> None:
        """Waits until all are prepared."""
        for child in self.children:
            child.hear()

    def time(self) -> float:
        """Runs once; seconds of the slowest."""
        for child in self.children:
            child.tell("run")
        return max(float(child.hear()) for child in self.children)

    def outputs(self) -> Arrays:
        """What the last run gave, of all its processes."""
        found: list[Arrays] = []
        with tempfile.TemporaryDirectory(prefix="riffle-bench-") as folder:
            for number, child in enumerate(self.children):
                path = Path(folder) / f"{number}.npz"
                child.tell(f"save {path}")
                child.hear()
                with np.load(path) as saved:
                    found.append(dict(saved))
        if len(found) == 1:
            return found[0]
        joined = {name: np.concatenate([each[name] for each in found]) for name in found[0]}
        order = np.lexsort((joined["ts"], joined["key"]))
        return {name: values[order] for name, values in joined.items()}


@contextmanager
def _teams(contenders: Sequence[Contender]) -> Iterator[list[Team]]:
    teams: list[Team] = []
    try:
        for contender in contenders:
            team = Team(contender)
            teams.append(team)
            team.ready()  # one by one: they would compete for memory and cores
        yield teams
    finally:
        for team in teams:
            for child in team.children:
                child.close()


def contest(contenders: Sequence[Contender], rounds: int, *, check: bool = True) -> list[Timing]:
    """Runs contenders in turn.

    The first run of each warms up and is not counted; its output is checked against that of the
    first contender.

    Raises:
        WrongOutputError: when two outputs differ by more than the tolerance.
    """
    with _teams(contenders) as teams:
        wanted: Arrays | None = None
        for team in teams:
            team.time()
            if check:
                outputs = team.outputs()
                wanted = outputs if wanted is None else wanted
                error = difference(outputs, wanted)
                if not error <= TOLERANCE:
                    msg = (
                        f"{team.contender.name} and {teams[0].contender.name} must give the same "
                        f"vectors, found an error of {error:.3g} of the scale"
                    )
                    raise WrongOutputError(msg)
        timings = [Timing(team.contender.name, team.contender.rows) for team in teams]
        for _ in range(rounds):
            for team, timing in zip(teams, timings, strict=True):
                timing.ns_per_row.append(team.time() * 1e9 / team.contender.rows)
    return timings
