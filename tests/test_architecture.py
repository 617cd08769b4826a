"""The house rules that hold the rings, the direction of imports and the size of the code.

The rules are the tables below; the checkers read the syntax trees, so nothing is imported. An
import is judged by when it runs: at `load`, at a `call` (inside a function), or never, for `types`
only. A rule that matters is added here as a row or as one more small checker.
"""

import ast
import io
import sys
import textwrap
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What each package may import of ours; a package that is not in the table is no package of ours.
DIRECTION: Mapping[str, frozenset[str]] = {
    "operators": frozenset(),
    "sources": frozenset({"operators"}),
    "feature_repo": frozenset({"operators", "sources"}),
    "sinks": frozenset({"operators", "feature_repo", "sources"}),
    "dataflows": frozenset({"operators", "sources", "sinks", "feature_repo"}),
    "benchmarks": frozenset({"operators", "sources", "sinks", "feature_repo", "dataflows"}),
}

# The numeric ring is every module of `operators` but these, so that a new module starts inside.
OUTER_RING = frozenset(
    f"operators.{name}" for name in ("decode", "extract", "frames", "notebook", "warm")
)
RING_LIBRARIES = frozenset({"numpy", "numba", "msgspec"})
KERNEL_LIBRARIES = frozenset({"numpy", "numba"})
# Users' frames enter and leave the ring by this door, which is opened on a call, never at load.
DOOR = "operators.notebook"

# Libraries that only these modules, or modules under them, may import.
HOMES: Mapping[str, frozenset[str]] = {
    "bytewax": frozenset({"dataflows", "sources", "sinks", "operators.extract", "benchmarks"}),
    "feast": frozenset({"sinks.feast", "feature_repo", "benchmarks.online"}),
}

MODULE_LINES = 400
FUNCTION_LINES = 80


@dataclass(frozen=True)
class Module:
    """One source file, with the line numbers that hold code."""

    name: str
    path: Path
    tree: ast.Module
    code: frozenset[int]


@dataclass(frozen=True)
class Import:
    """One imported name: by whom, of what, on which line, and when it runs."""

    by: str
    of: str
    line: int
    when: str

    def __str__(self) -> str:
        return f"{self.by}:{self.line} imports {self.of}"


def under(name: str, *parents: str) -> bool:
    """Tell whether a dotted name is one of `parents` or lies within one."""
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


def modules(root: Path) -> dict[str, Module]:
    """Read every module of ours under `root`, by dotted name."""
    found = {}
    for package in DIRECTION:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            text = path.read_text(encoding="utf-8")
            tree = ast.parse(text, filename=str(path))
            found[name] = Module(name, path, tree, code_lines(text, tree))
    return found


def code_lines(text: str, tree: ast.Module) -> frozenset[int]:
    """Find the lines that hold code: no blank lines, comments or docstrings."""
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in silent and token.type != tokenize.ENDMARKER:
            lines.update(range(token.start[0], token.end[0] + 1))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            docstring = node.body[0]
            lines.difference_update(range(docstring.lineno, (docstring.end_lineno or 0) + 1))
    return frozenset(lines)


def imports(known: Mapping[str, Module]) -> list[Import]:
    """List every import, `from package import module` resolved to the module."""
    return [
        Import(module.name, of, line, when)
        for module in known.values()
        for node, when in import_nodes(module.tree, "load")
        for of, line in targets(node, module, known)
    ]


def import_nodes(node: ast.AST, when: str) -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    """Walk to the import statements, noting when each runs."""
    match node:
        case ast.Import() | ast.ImportFrom():
            yield node, when
        case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
            for statement in node.body:
                yield from import_nodes(statement, "types")
            for statement in node.orelse:
                yield from import_nodes(statement, when)
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
            for child in ast.iter_child_nodes(node):
                yield from import_nodes(child, "types" if when == "types" else "call")
        case _:
            for child in ast.iter_child_nodes(node):
                yield from import_nodes(child, when)


def targets(
    node: ast.Import | ast.ImportFrom, module: Module, known: Mapping[str, Module]
) -> Iterator[tuple[str, int]]:
    """Name the modules that one import statement reads."""
    if isinstance(node, ast.Import):
        yield from ((alias.name, node.lineno) for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        package = module.name.split(".")
        is_package = module.path.name == "__init__.py"
        package = package[: len(package) - node.level + is_package]
        base = ".".join([*package, base] if base else package)
    for alias in node.names:
        of = f"{base}.{alias.name}"
        yield (of if of in known else base), node.lineno


def ring_violations(found: list[Import]) -> Iterator[str]:
    """Kernels know numpy and numba; the numeric ring knows little more; neither knows a frame."""
    for each in found:
        if not under(each.by, "operators") or each.by in OUTER_RING or each.when == "types":
            continue
        library = each.of.partition(".")[0]
        if library in sys.stdlib_module_names:
            continue
        if under(each.by, "operators.kernels"):
            if library not in KERNEL_LIBRARIES and not under(each.of, "operators.kernels"):
                yield f"{each}; a kernel may import {named(KERNEL_LIBRARIES)} and other kernels"
        elif each.of == DOOR and each.when == "load":
            yield f"{each} at load; the numeric ring may do so only inside a function"
        elif each.of in OUTER_RING - {DOOR} or library not in RING_LIBRARIES | {"operators"}:
            yield f"{each}; the numeric ring may import {named(RING_LIBRARIES)} and itself"


def home_violations(found: list[Import]) -> Iterator[str]:
    """A framework is imported where it is at home, so that it can be replaced there."""
    for each in found:
        homes = HOMES.get(each.of.partition(".")[0])
        if homes is not None and each.when != "types" and not under(each.by, *homes):
            yield f"{each}, which is at home in {named(homes)}"


def direction_violations(found: list[Import]) -> Iterator[str]:
    """Packages import one way, even for types; nobody imports the tests."""
    for each in found:
        package, other = each.by.partition(".")[0], each.of.partition(".")[0]
        if other != package and other in {*DIRECTION, "tests"} - DIRECTION[package]:
            yield f"{each}; {package} may import of ours {named(DIRECTION[package])}"


def cycle_violations(found: list[Import], known: Mapping[str, Module]) -> Iterator[str]:
    """Modules that load each other have no order in which to be read."""
    graph: dict[str, set[str]] = {name: set() for name in known}
    for each in found:
        if each.when == "load" and each.of in known and each.of != each.by:
            graph[each.by].add(each.of)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield f"modules load in a circle: {' <- '.join(error.args[1])}"


def size_violations(known: Mapping[str, Module]) -> Iterator[str]:
    """Small on purpose; docstrings, comments and blank lines are free."""
    for module in known.values():
        if len(module.code) > MODULE_LINES:
            yield f"{module.name} has {len(module.code)} lines of code, at most {MODULE_LINES}"
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = len(module.code & set(range(node.lineno, (node.end_lineno or 0) + 1)))
                if lines > FUNCTION_LINES:
                    where = f"{module.name}:{node.lineno} {node.name}"
                    yield f"{where} has {lines} lines of code, at most {FUNCTION_LINES}"


def named(names: frozenset[str]) -> str:
    """Spell a set of names for an error."""
    return ", ".join(sorted(names)) or "nothing"


def violations(root: Path) -> list[str]:
    """Everything under `root` that breaks a rule, each with its place and the rule."""
    known = modules(root)
    found = imports(known)
    return [
        *ring_violations(found),
        *home_violations(found),
        *direction_violations(found),
        *cycle_violations(found, known),
        *size_violations(known),
    ]


def plant(root: Path, files: Mapping[str, str]) -> None:
    """Write a tree of source files."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")


def test_the_code_keeps_the_house_rules():
    assert violations(ROOT) == []


LONG_FUNCTION = "def f():\n" + "    x = 1\n" * FUNCTION_LINES

BROKEN = {
    "a kernel reads a feature set": (
        {"operators/kernels/sums.py": "from operators.plan import Plan"},
        "operators.kernels.sums:1 imports operators.plan; a kernel may import numba, numpy",
    ),
    "a kernel uses a library": (
        {"operators/kernels/sums.py": "from scipy import signal"},
        "imports scipy; a kernel may import",
    ),
    "the ring reads a frame": (
        {"operators/batch.py": "def f():\n    import polars as pl"},
        "operators.batch:2 imports polars; the numeric ring may import msgspec, numba, numpy",
    ),
    "a new module of operators starts inside the ring": (
        {"operators/brand_new.py": "import pyarrow.compute"},
        "operators.brand_new:1 imports pyarrow.compute",
    ),
    "the ring opens the door at load": (
        {"operators/notebook.py": "", "operators/engine.py": "from operators import notebook"},
        "operators.engine:1 imports operators.notebook at load",
    ),
    "the ring reads the outer ring": (
        {"operators/decode.py": "", "operators/plan.py": "import operators.decode"},
        "operators.plan:1 imports operators.decode; the numeric ring",
    ),
    "bytewax in the decoder": (
        {"operators/decode.py": "from bytewax.dataflow import Stream"},
        "operators.decode:1 imports bytewax.dataflow, which is at home in",
    ),
    "feast in the command line": (
        {"dataflows/cli.py": "def show():\n    from feast import FeatureStore"},
        "dataflows.cli:2 imports feast, which is at home in benchmarks.online, feature_repo, "
        "sinks.feast",
    ),
    "operators import a sink": (
        {"operators/extract.py": "import sinks.parquet"},
        "operators.extract:1 imports sinks.parquet; operators may import of ours nothing",
    ),
    "a source imports a dataflow, for types only": (
        {
            "sources/csv.py": """\
                from typing import TYPE_CHECKING
                if TYPE_CHECKING:
                    from dataflows.settings import Settings
                """
        },
        "sources.csv:3 imports dataflows.settings; sources may import of ours operators",
    ),
    "feature_repo imports a sink": (
        {"feature_repo/market.py": "from sinks import parquet", "sinks/parquet.py": ""},
        "feature_repo.market:1 imports sinks.parquet; feature_repo may import of ours operators",
    ),
    "the product imports a test": (
        {"dataflows/live.py": "from tests.naive import mean"},
        "dataflows.live:1 imports tests.naive",
    ),
    "a circle by relative imports": (
        {
            "operators/__init__.py": "",
            "operators/a.py": "from . import b",
            "operators/b.py": "from .a import x",
        },
        "modules load in a circle: operators.a <- operators.b <- operators.a",
    ),
    "a long module": (
        {"sinks/big.py": "x = 1\n" * (MODULE_LINES + 1)},
        f"sinks.big has {MODULE_LINES + 1} lines of code",
    ),
    "a long function": (
        {"sinks/big.py": LONG_FUNCTION},
        f"sinks.big:1 f has {FUNCTION_LINES + 1} lines of code",
    ),
}


@pytest.mark.parametrize(("files", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_rule_is_caught_once_and_named(tmp_path, files, message):
    plant(tmp_path, files)
    caught = violations(tmp_path)
    assert len(caught) == 1, caught
    assert message in caught[0]


def test_a_tree_that_keeps_the_rules_passes(tmp_path):
    plant(
        tmp_path,
        {
            "operators/__init__.py": "",
            "operators/kernels/__init__.py": "import numba\nfrom operators.kernels import sums",
            "operators/kernels/sums.py": "import math\nimport numpy.typing as npt",
            "operators/notebook.py": "import polars\nfrom operators.plan import Plan",
            "operators/plan.py": """\
                from typing import TYPE_CHECKING
                import msgspec
                from operators.kernels import sums
                if TYPE_CHECKING:
                    import polars as pl
                def compute():
                    from operators.notebook import compute
                """,
            "operators/decode.py": "import pyarrow",
            "operators/extract.py": "import bytewax.operators\nfrom operators import plan",
            "sinks/feast.py": "from feast import FeatureStore\nfrom operators import plan",
            "feature_repo/market.py": "import feast\nimport operators.plan",
            "dataflows/live.py": "import bytewax\nimport sinks.feast\nimport feature_repo.market",
            "sinks/quiet.py": '"""' + "Prose.\n" * MODULE_LINES * 2 + '"""\n' + "# note\n\n" * 500,
        },
    )
    assert violations(tmp_path) == []


def test_a_tree_that_is_not_there_yet_passes(tmp_path):
    assert violations(tmp_path) == []
