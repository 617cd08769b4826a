"""A relay between clients and a server that loses what it is told to lose."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal
from urllib.parse import urlsplit

from tests.services.process import HOST

Loss = Literal["the request", "the answer"]


class Relay:
    """Passes bytes on in both directions.

    Args:
        url: of the server.

    Attributes:
        url: of the relay.
        lost: how often something was lost.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._server = (parts.hostname or HOST, parts.port or 0)
        self._listener = socket.create_server((HOST, 0))
        port = self._listener.getsockname()[1]
        user = f"{parts.username}@" if parts.username else ""
        self.url = parts._replace(netloc=f"{user}{HOST}:{port}").geturl()
        self.lost = 0
        self._to_lose: list[tuple[bytes, Loss]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def lose(self, mark: bytes, what: Loss, times: int = 1) -> None:
        """Breaks the connections of the next clients that send these bytes."""
        self._to_lose += [(mark, what)] * times

    def close(self) -> None:
        """Takes no more clients."""
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                broken = threading.Event()
                for way in (self._up, self._down):
                    args = (client, server, broken)
                    threading.Thread(target=way, args=args, daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket, broken: threading.Event) -> None:
        with suppress(OSError):
            while data := client.recv(65_536):
                loss = next((loss for loss in self._to_lose if loss[0] in data), None)
                if loss is not None:
                    self._to_lose.remove(loss)
                    self.lost += 1
                    if loss[1] == "the request":
                        break
                    broken.set()  # before the server can answer
                server.sendall(data)
        if not broken.is_set():
            _end(client, server)

    def _down(self, client: socket.socket, server: socket.socket, broken: threading.Event) -> None:
        with suppress(OSError):
            while data := server.recv(65_536):
                if broken.is_set():  # what was asked for is done
                    break
                client.sendall(data)
        _end(client, server)


def _end(*sockets: socket.socket) -> None:
    for each in sockets:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()


@contextmanager
def relay(url: str) -> Iterator[Relay]:
    """A relay to the server of a URL, for one `with` block."""
    made = Relay(url)
    try:
        yield made
    finally:
        made.close()
