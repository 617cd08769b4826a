"""PostgreSQL: the one of Debian, installed or unpacked into the cache."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from tests.services import debian, versions
from tests.services.cache import MissingError, installed
from tests.services.process import HOST, Launch, Server, Service

PROGRAMS = Path(f"usr/lib/postgresql/{versions.POSTGRES}/bin")
# A crash of PostgreSQL alone loses nothing that it has written, so a test of one needs no fsync.
SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "fsync": "off",
    "jit": "off",
    "max_connections": "100",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
CONNECT_S = 5


class Postgres(Service):
    """The service, for `tests.services`."""

    name = "postgres"
    title = f"PostgreSQL {versions.POSTGRES}"
    variable = "RIFFLE_TEST_POSTGRES"
    # It ends at once, and frees its shared memory, which kill -9 would leave behind.
    end_signal = signal.SIGQUIT
    kill_signal = signal.SIGQUIT
    # Does not wait for clients to leave, as SIGTERM would.
    stop_signal = signal.SIGINT

    def install(self) -> Path:
        """The root of the programs: that of the system, or a folder of the cache."""
        if (Path("/") / PROGRAMS / "postgres").exists():
            return Path("/")
        return installed(
            f"postgres-{versions.POSTGRES}",
            self.title,
            lambda draft: debian.unpack([f"postgresql-{versions.POSTGRES}"], draft),
        )

    def launch(self, folder: Path, port: int, settings: Mapping[str, str]) -> Launch:
        """Make a cluster, once, that trusts everyone on this machine."""
        root = self.install()
        data, user = folder / "data", unprivileged()
        programs = root / PROGRAMS
        env = {} if root == Path("/") else {"LD_LIBRARY_PATH": debian.libraries(root)}
        if not data.exists():
            data.mkdir()
            make_cluster(programs / "initdb", data, env, user)
        every = {**SETTINGS, "port": str(port), **settings}
        options = [part for key, value in every.items() for part in ("-c", f"{key}={value}")]
        return Launch([str(programs / "postgres"), "-D", str(data), *options], env, user)

    def address(self, port: int) -> str:
        """The URL of the database `postgres`."""
        return f"postgresql://postgres@{HOST}:{port}/postgres"

    def answers(self, address: str) -> bool:
        """Whether it takes a connection and a query."""
        return answers(address)

    def shell(self, address: str) -> str:
        """The shell of PostgreSQL."""
        return f"psql {address}"


def make_cluster(
    initdb: Path, data: Path, env: Mapping[str, str], user: pwd.struct_passwd | None
) -> None:
    """Fill the folder `data` for a server that runs as `user`."""
    if user is not None:
        os.chown(data, user.pw_uid, user.pw_gid)
    argv = [str(initdb), "--pgdata", str(data), "--username", "postgres", "--auth", "trust"]
    argv += ["--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync", "--no-instructions"]
    try:
        made = subprocess.run(
            argv,
            env={**os.environ, **env},
            cwd="/",
            user=None if user is None else user.pw_uid,
            group=None if user is None else user.pw_gid,
            extra_groups=None if user is None else [],
            capture_output=True,
            text=True,
            check=False,
        )
    except PermissionError as error:
        who = "this user" if user is None else f"the user {user.pw_name}"
        msg = f"{who} may not run {initdb}; name a folder for all by RIFFLE_SERVICES_CACHE"
        raise MissingError(msg) from error
    if made.returncode:
        msg = f"`{' '.join(argv)}` failed: {made.stderr.strip()[-2000:]}"
        raise MissingError(msg)


def answers(url: str) -> bool:
    """Whether a server of this protocol answers a query."""
    import psycopg

    try:
        with psycopg.connect(url, connect_timeout=CONNECT_S) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False


@cache
def unprivileged() -> pwd.struct_passwd | None:
    """The user to run as, which must not be root: ourselves, or for root another one."""
    if os.geteuid():
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    msg = "PostgreSQL does not run as root, and there is no user `postgres` or `nobody`"
    raise MissingError(msg)


POSTGRES = Postgres()


def private(settings: Mapping[str, str] | None = None) -> Server:
    """A PostgreSQL for one `with` block, to kill, pause and start; see `Server`."""
    return Server(POSTGRES, settings)
