"""Packages of Debian, unpacked into the cache: nothing of the system changes, no root is needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.services.cache import MissingError, program, run


def unpack(packages: Sequence[str], folder: Path) -> None:
    """Unpack `packages` into `folder`, with what they need and the system lacks."""
    advice = f"install {' '.join(packages)} in the way of this system"
    apt = program("apt-get", advice)
    dpkg = program("dpkg", advice)
    try:
        missing = lacking(apt, packages, folder)
        run([apt, "download", *missing], folder)
    except MissingError:
        # The index is absent, or so old that it names files which the mirror has dropped.
        run([apt, "update"], folder)
        missing = lacking(apt, packages, folder)
        run([apt, "download", *missing], folder)
    for archive in sorted(folder.glob("*.deb")):
        run([dpkg, "--extract", str(archive), str(folder)], folder)
        archive.unlink()


def lacking(apt: str, packages: Sequence[str], folder: Path) -> list[str]:
    """The packages that an installation would add, as apt works it out."""
    plan = run([apt, "--simulate", "--no-install-recommends", "install", *packages], folder)
    return [line.split()[1] for line in plan.splitlines() if line.startswith("Inst ")]


def libraries(folder: Path) -> str:
    """The search path of the libraries that were unpacked."""
    return ":".join(str(path) for path in sorted(folder.glob("usr/lib/*-linux-gnu")))
