"""The HTTP server of a process: `/health`, `/ready` and `/metrics`, and nothing else.

One thread with an event loop serves all clients, so none can hold up another: a request has a
deadline as a whole, few are served at a time, and there is no connection to keep. The thread takes
the interpreter only to answer; kernels and client libraries leave it free while they work.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import NamedTuple

from dataflows.health import Limits, Verdict, liveness, readiness
from dataflows.metrics import exposition
from dataflows.observed import Observed
from dataflows.settings import SettingsError

REQUEST_S = 5.0
"""The time that a client has for its request and for taking the answer."""
LONGEST_HEAD = 16 * 1024
MOST_CLIENTS = 32
JSON = "application/json"
ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s:\[\]]+):(?P<port>[0-9]{1,5})")

logger = logging.getLogger(__name__)


class Answer(NamedTuple):
    """What is sent back."""

    status: HTTPStatus
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


def listen_address(listen: str, process: int = 0) -> tuple[str, int]:
    """The address of one process of several.

    Args:
        listen: ``host:port``, as the setting has it.
        process: its number, which is added to the port; not to port 0, which is any free one.

    Raises:
        SettingsError: when it is no such address.

    >>> listen_address("127.0.0.1:9464", 2)
    ('127.0.0.1', 9466)
    """
    found = ADDRESS.fullmatch(listen)
    port = int(found["port"]) if found else -1
    port += process if port else 0
    if not found or not 0 <= port < 2**16:
        msg = (
            f"listen: must be host:port such as 127.0.0.1:9464, with the port plus the number of "
            f"the process ({process}) below 65536, found {listen!r} (or RIFFLE_LISTEN)"
        )
        raise SettingsError(msg)
    return found["host"].strip("[]"), port


class HealthServer:
    """Serves what is observed of a process.

    Args:
        observed: what there is to see.
        limits: what counts as well.
        address: host and port to listen at; port 0 is any free one.

    Attributes:
        port: where it listens.
    """

    def __init__(self, observed: Observed, limits: Limits, address: tuple[str, int]) -> None:
        self.port = address[1]
        self._observed = observed
        self._limits = limits
        self._address = address
        self._clients = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts to listen.

        Raises:
            SettingsError: when the address can't be had.
        """
        loop = asyncio.new_event_loop()
        opening = asyncio.start_server(self._serve, *self._address, limit=LONGEST_HEAD)
        try:
            server = loop.run_until_complete(opening)
        except OSError as error:
            loop.close()
            msg = (
                f"listen: must be an address that is free on this machine, found "
                f"{self._address[0]}:{self._address[1]}: {error.strerror or error}; set another, "
                "or an empty one to serve neither health nor metrics (or RIFFLE_LISTEN)"
            )
            raise SettingsError(msg) from None
        self.port = server.sockets[0].getsockname()[1]
        self._loop = loop
        self._thread = threading.Thread(
            target=_run, args=(loop, server), name="health", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stops listening."""
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop = self._thread = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients += 1
        try:
            # Rudeness of a client is no event of the flow.
            with suppress(OSError, TimeoutError, EOFError, asyncio.LimitOverrunError):
                if self._clients <= MOST_CLIENTS:
                    async with asyncio.timeout(REQUEST_S):
                        await self._answer(reader, writer)
        finally:
            self._clients -= 1
            # Closed at once, or a client that does not read would keep what is unsent.
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = head.split("\r\n")
        method, target = (*line.split(" "), "", "")[:2]
        answer = self._respond(method, target.partition("?")[0], accepted(fields))
        told = [
            f"HTTP/1.1 {answer.status.value} {answer.status.phrase}",
            f"Content-Type: {answer.content_type}",
            f"Content-Length: {len(answer.body)}",
            "Cache-Control: no-store",
            "X-Content-Type-Options: nosniff",
            "Connection: close",
            *(f"{name}: {value}" for name, value in answer.headers),
        ]
        writer.write("\r\n".join([*told, "", ""]).encode("latin-1"))
        if method != "HEAD":
            writer.write(answer.body)
        await writer.drain()
        writer.write_eof()
        # The client has it all when it hangs up; a reset before could take it from its hands.
        await reader.read(LONGEST_HEAD)

    def _respond(self, method: str, path: str, accept: str) -> Answer:
        paths: dict[str, Callable[[], Answer]] = {
            "/health": lambda: _told(liveness(self._observed, self._limits)),
            "/ready": lambda: _told(readiness(self._observed, self._limits)),
            "/metrics": lambda: Answer(
                HTTPStatus.OK, *exposition(self._observed, self._limits, accept)
            ),
        }
        if path not in paths:
            return _document(HTTPStatus.NOT_FOUND, {"paths": sorted(paths)})
        if method not in ("GET", "HEAD"):
            refused = _document(HTTPStatus.METHOD_NOT_ALLOWED, {"methods": ["GET", "HEAD"]})
            return refused._replace(headers=(("Allow", "GET, HEAD"),))
        try:
            return paths[path]()
        except Exception:
            # Whatever a probe meets must not end the server.
            logger.warning("can't answer %s", path, exc_info=True)
            return _document(HTTPStatus.INTERNAL_SERVER_ERROR, {"reasons": ["see the log"]})


def _run(loop: asyncio.AbstractEventLoop, server: asyncio.Server) -> None:
    loop.run_forever()
    loop.run_until_complete(_end(server))
    loop.close()


async def _end(server: asyncio.Server) -> None:
    server.close()
    serving = asyncio.all_tasks() - {asyncio.current_task()}
    for task in serving:
        task.cancel()
    if serving:
        await asyncio.wait(serving)
    # A connection that was dropped is closed in the loop's next round.
    await asyncio.sleep(0)


def accepted(fields: list[str]) -> str:
    """What a request's header fields accept."""
    for field in fields:
        name, _, value = field.partition(":")
        if name.strip().lower() == "accept":
            return value.strip()
    return "*/*"


def _told(verdict: Verdict) -> Answer:
    status = HTTPStatus.OK if verdict.well else HTTPStatus.SERVICE_UNAVAILABLE
    return _document(status, verdict.document())


def _document(status: HTTPStatus, content: object) -> Answer:
    return Answer(status, JSON, json.dumps(content).encode() + b"\n")
