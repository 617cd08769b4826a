"""Redis: the one on PATH, or that of Debian, unpacked into the cache."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

from tests.services import debian, versions
from tests.services.cache import installed
from tests.services.process import HOST, Launch, Server, Service

ANSWER_S = 5

Reply: TypeAlias = "str | int | list[Reply] | None"


class Redis(Service):
    """The service, for `tests.services`."""

    name = "redis"
    title = f"Redis {versions.REDIS}"
    variable = "RIFFLE_TEST_REDIS"

    def install(self) -> Path:
        """The root of the programs: that of the system, or a folder of the cache."""
        if shutil.which("redis-server"):
            return Path("/")
        return installed(
            f"redis-{versions.REDIS}",
            self.title,
            lambda draft: debian.unpack(["redis-server"], draft),
        )

    def launch(self, folder: Path, port: int, settings: Mapping[str, str]) -> Launch:
        """Keep the data in memory, unless `settings` say otherwise."""
        root = self.install()
        env = {} if root == Path("/") else {"LD_LIBRARY_PATH": debian.libraries(root)}
        server = shutil.which("redis-server") or str(root / "usr/bin/redis-server")
        every = {
            "bind": HOST,
            "port": str(port),
            "dir": str(folder),
            "save": "",
            "appendonly": "no",
            # Its title would be written over its environment, by which it is found in a test.
            "set-proc-title": "no",
            **settings,
        }
        options = [part for key, value in every.items() for part in (f"--{key}", value)]
        return Launch([server, *options], env)

    def address(self, port: int) -> str:
        """The URL of database 0."""
        return f"redis://{HOST}:{port}/0"

    def answers(self, address: str) -> bool:
        """Whether it answers a PING."""
        try:
            return command(address, "PING") == "PONG"
        except OSError:
            return False

    def shell(self, address: str) -> str:
        """The shell of Redis."""
        return f"redis-cli -u {address}"

    def private_settings(self) -> dict[str, str]:
        """Each write is in the log before it is answered, so kill -9 loses none."""
        return {"appendonly": "yes"}


class RedisError(RuntimeError):
    """What Redis answers instead of a result."""


def command(url: str, *words: str | int) -> Reply:
    """Send one command on a connection of its own, and return the answer.

    Enough to ask what is in there, without a client library.
    """
    place = urlsplit(url)
    where = (place.hostname, place.port or 6379)
    with (
        socket.create_connection(where, ANSWER_S) as connection,
        connection.makefile("rb") as replies,
    ):
        send(connection, "SELECT", place.path.strip("/") or "0")
        read(replies)
        send(connection, *words)
        return read(replies)


def send(connection: socket.socket, *words: str | int) -> None:
    """Send a command: an array of strings with their lengths."""
    encoded = [str(word).encode() for word in words]
    parts = [b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded]
    connection.sendall(b"*%d\r\n%s" % (len(parts), b"".join(parts)))


def read(replies: BufferedReader) -> Reply:
    """Read one answer."""
    line = replies.readline()
    if not line.endswith(b"\r\n"):
        msg = "Redis has closed the connection"
        raise ConnectionError(msg)
    kind, rest = line[:1], line[1:-2].decode()
    match kind:
        case b"+":
            return rest
        case b"-":
            raise RedisError(rest)
        case b":":
            return int(rest)
        case b"$":
            return None if int(rest) < 0 else replies.read(int(rest) + 2)[:-2].decode()
        case b"*":
            return None if int(rest) < 0 else [read(replies) for _ in range(int(rest))]
        case _:
            msg = f"Redis answered {line!r}, which is no reply of RESP 2"
            raise RedisError(msg)


REDIS = Redis()


def private(settings: Mapping[str, str] | None = None) -> Server:
    """A Redis for one `with` block, to kill, pause and start; see `Server`."""
    return Server(REDIS, settings)
