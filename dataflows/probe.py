"""Asks all processes of a live flow on this machine how they are: ``python -m dataflows.probe``.

For the health check of a container, so it is quick to start: it imports nothing but the standard
library, and reads the two settings that it needs from the environment alone.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sys
from collections.abc import Sequence

TIMEOUT_S = 4.0
"""A process that is stopped still has its connections taken; it does not answer."""
ANY_HOST = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}
"""Where a server that listens everywhere is asked."""


def asked(host: str, port: int, path: str) -> list[str]:
    """Asks one process.

    Returns:
        In words, why it is not well; nothing when it is.
    """
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        told = json.loads(answer.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        return [f"no answer from {host}:{port}: {type(error).__name__}: {error}"]
    finally:
        connection.close()
    if answer.status == http.client.OK:
        return []
    return [str(reason) for reason in told.get("reasons", ())] or [f"status {answer.status}"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Asks them all, tells of those that are not well, and gives 1 if there is one."""
    parser = argparse.ArgumentParser(
        prog="python -m dataflows.probe", description="Asks a live flow's processes how they are."
    )
    parser.add_argument("question", nargs="?", choices=["health", "ready"], default="health")
    parser.add_argument("--listen", default=os.environ.get("RIFFLE_LISTEN", "127.0.0.1:9464"))
    parser.add_argument(
        "--processes", type=int, default=int(os.environ.get("RIFFLE_SHARDS", "1")),
        help="how many there are; by default as many as shards",
    )  # fmt: skip
    told = parser.parse_args(arguments)
    host, _, port = told.listen.rpartition(":")
    host = host.strip("[]")
    failing = 0
    for number in range(told.processes):
        reasons = asked(ANY_HOST.get(host, host), int(port) + number, f"/{told.question}")
        failing += bool(reasons)
        for reason in reasons:
            sys.stderr.write(f"process {number}: {reason}\n")
    return int(failing > 0)


if __name__ == "__main__":
    sys.exit(main())
