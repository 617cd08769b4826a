"""TimescaleDB: the real extension on PostgreSQL 17, compiled to WebAssembly, from npm.

One backend, so clients take turns, transaction by transaction, and share the settings of a session
and temporary tables. For the truth of the SQL, not for speed; background jobs do not run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from tests.services import versions
from tests.services.cache import MissingError, installed, program, run
from tests.services.postgres import answers
from tests.services.process import HOST, Launch, Server, Service

NODE_ADVICE = f"TimescaleDB needs Node.js {versions.NODE} or newer, with npm"


class Timescale(Service):
    """The service, for `tests.services`."""

    name = "timescale"
    title = "TimescaleDB 2.23"
    variable = "RIFFLE_TEST_TIMESCALE"

    def install(self) -> Path:
        """The folder of the package, which npm checks against our sum."""
        self.node()
        return installed(f"timescale-{versions.TIMESCALE}", self.title, self._build)

    def node(self) -> str:
        """The path of a Node.js that is new enough."""
        node = program("node", NODE_ADVICE)
        told = run([node, "--version"], Path("/"))
        found = re.match(r"v(\d+)", told)
        if found is None or int(found[1]) < versions.NODE:
            msg = f"{node} is {told.strip()}; {NODE_ADVICE}"
            raise MissingError(msg)
        return node

    def _build(self, draft: Path) -> None:
        npm = program("npm", NODE_ADVICE)
        name, version = versions.TIMESCALE_PACKAGE, versions.TIMESCALE
        manifest = {"private": True, "dependencies": {name: version}}
        packages = {
            "": {"dependencies": {name: version}},
            f"node_modules/{name}": {"version": version, "integrity": versions.TIMESCALE_SUM},
        }
        lock = {"lockfileVersion": 3, "requires": True, "packages": packages}
        (draft / "package.json").write_text(json.dumps(manifest))
        (draft / "package-lock.json").write_text(json.dumps(lock))
        run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], draft)

    def launch(self, folder: Path, port: int, settings: Mapping[str, str]) -> Launch:
        """Its data is in memory alone, and `settings` has no meaning."""
        package = self.install() / "node_modules" / versions.TIMESCALE_PACKAGE
        script = Path(__file__).with_suffix(".mjs")
        return Launch([self.node(), str(script), str(package), str(port)])

    def address(self, port: int) -> str:
        """The URL of its one database."""
        return f"postgresql://postgres@{HOST}:{port}/postgres?sslmode=disable"

    def answers(self, address: str) -> bool:
        """Whether it takes a connection and a query."""
        return answers(address)

    def shell(self, address: str) -> str:
        """The shell of PostgreSQL."""
        return f"psql '{address}'"


TIMESCALE = Timescale()


def private() -> Server:
    """A TimescaleDB for one `with` block; see `Server`. Its data ends with each of its lives."""
    return Server(TIMESCALE)
