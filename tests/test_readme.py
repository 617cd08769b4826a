"""Runs the blocks of the pages for newcomers, as a reader would, from top to bottom.

Blocks of one page share a fresh folder, in which `make demo` has left its inputs (cut down here):

- ``python``: is executed; all blocks of a page are one program, which runs after the commands;
- ``python NAME.py``: is saved under that name as well;
- ``sh``: its `riffle` commands are run; others, such as `make`, are left out;
- ``diff PATH``: is applied to a copy of that file of ours, which the following blocks import.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dataflows.demo_data import write_inputs

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "docs/tour.md", "docs/adding_a_feature.md"]
ROWS = 120
RIFFLE = "import sys; from dataflows.cli import main; sys.argv[0] = 'riffle'; main()"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    name: str
    line: int
    text: str


def blocks(page: str) -> Iterator[Block]:
    """The fenced blocks of a page, with their first line's number."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for found in re.finditer(r"^```(\w+) ?(\S*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        line = text[: found.start(3)].count("\n") + 1
        yield Block(found[1], found[2], line, found[3])


def script(page: str, python: list[Block]) -> str:
    """One program of several blocks, whose tracebacks name the page's lines."""
    parts = []
    for each in python:
        source = "\n" * (each.line - 1) + each.text
        parts.append(f"exec(compile({source!r}, {page!r}, 'exec'), globals())\n")
    return "".join(parts)


def patched(folder: Path, diff: Block) -> None:
    """Copies the package of a file of ours and applies the change to the copy."""
    package = folder / Path(diff.name).parent
    source = ROOT / Path(diff.name).parent
    for path in source.glob("*.py"):
        package.mkdir(exist_ok=True)
        (package / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    lines = diff.text.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if line[0] in " -")
    after = "".join(line[1:] for line in lines if line[0] in " +")
    target = folder / diff.name
    text = target.read_text(encoding="utf-8")
    assert text.count(before) == 1, f"{diff.name}: the lines of the diff must stand in it once"
    target.write_text(text.replace(before, after), encoding="utf-8")


def run(folder: Path, *arguments: str) -> str:
    """Runs Python in the folder, which shadows our packages."""
    paths = os.pathsep.join([str(folder), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": "0", "COLUMNS": "200"}
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command,
        check=False,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def folder(tmp_path):
    write_inputs(tmp_path / "out" / "inputs", ROWS)
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run_from_top_to_bottom(page, folder):
    python: list[Block] = []
    for each in blocks(page):
        if each.language == "python":
            python.append(each)
            if each.name:
                (folder / each.name).write_text(each.text, encoding="utf-8")
        elif each.language == "diff":
            patched(folder, each)
        elif each.language == "sh":
            for line in each.text.splitlines():
                command = shlex.split(line, comments=True)
                if command and command[0] == "riffle":
                    printed = run(folder, "-c", RIFFLE, *command[1:])
                    assert printed.strip()
    assert python, "the page must have a python block"
    program = folder / "page.py"
    program.write_text(script(page, python), encoding="utf-8")
    run(folder, str(program))


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


def test_the_readme_promises_nothing_that_the_command_line_does_not_have():
    from typer.main import get_command

    from dataflows.cli import app

    known = set(get_command(app).commands)  # type: ignore[attr-defined]
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        assert set(re.findall(r"^(?:.*`)?riffle ([a-z]+)", text, re.MULTILINE)) <= known, page
