"""Start the services for a person, and end them: ``python -m tests.services start``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable

from tests.services import shared
from tests.services.cache import MissingError
from tests.services.catalogue import SERVICES
from tests.services.process import Service, ServiceError


def start(services: Iterable[Service]) -> int:
    """Start what does not run, let it all run on, and say how to use it."""
    failures = 0
    addresses = {}
    for service in services:
        try:
            addresses[service] = shared.find_or_start(service, keep=True)
        except (MissingError, ServiceError) as error:
            failures += 1
            sys.stderr.write(f"{service.title} cannot be had: {error}\n")
    say(addresses)
    if addresses:
        tell("Tests of this checkout use them as they are. `make services-stop` ends them.")
    return failures


def stop(services: Iterable[Service]) -> int:
    """End what runs."""
    for service in services:
        if shared.end(service):
            tell(f"{service.title} has ended.")
    return 0


def status(services: Iterable[Service]) -> int:
    """Say what runs."""
    running = {service: shared.files_of(service).running() for service in services}
    say({service: str(state["address"]) for service, state in running.items() if state})
    for service, state in running.items():
        if state is None:
            tell(f"{service.title} does not run.")
    return 0


def say(addresses: dict[Service, str]) -> None:
    """Print where each service is, and what a person can do there."""
    width = max((len(address) for address in addresses.values()), default=0)
    for service, address in addresses.items():
        tell(f"{service.title:<16} {address:<{width}}   {service.shell(address)}")


def tell(line: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{line}\n")


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the number of services that could not be started."""
    parser = argparse.ArgumentParser(prog="python -m tests.services", description=__doc__)
    parser.add_argument("verb", choices=("start", "stop", "status"))
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(SERVICES))
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.names) - set(SERVICES):
        parser.error(f"no service is named {sorted(unknown)}; there are {', '.join(SERVICES)}")
    services = [SERVICES[name] for name in chosen.names or SERVICES]
    return {"start": start, "stop": stop, "status": status}[chosen.verb](services)


if __name__ == "__main__":
    sys.exit(main())
