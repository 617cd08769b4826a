"""Heavy tests run alone, after all others, in one session with one summary."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONFTEST = """
import pytest
from tests.serial import SerialLast, put_last

def pytest_collection_modifyitems(items):
    put_last(items)

@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return SerialLast(config, log)
"""
TESTS = """
import os
from pathlib import Path
import pytest

@pytest.mark.parametrize("number", range({count}))
def test_it(number):
    with Path({told!r}).open("a") as told:
        print({name!r}, os.getpid(), file=told)
"""


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("light", [1, 9])
def test_heavy_tests_wait_for_the_others(tmp_path, workers, light):
    told = tmp_path / "told"
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    for folder, name, count in (("chaos", "heavy", 3), ("others", "light", light)):
        path = tmp_path / "tests" / folder / f"test_{name}.py"
        path.parent.mkdir(parents=True)
        path.write_text(TESTS.format(count=count, told=str(told), name=name))
    command = [sys.executable, "-m", "pytest", "-q", "-n", str(workers), "--rootdir", str(tmp_path)]
    done = subprocess.run(
        [*command, "-c", str(tmp_path / "pytest.ini"), "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert f"{light + 3} passed" in done.stdout.splitlines()[-1], done.stdout
    names, processes = zip(*(line.split() for line in told.read_text().splitlines()), strict=True)
    assert names == ("light",) * light + ("heavy",) * 3
    assert len(set(processes[light:])) == 1
