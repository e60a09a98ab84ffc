"""What to install for what is missing, as the package's own metadata says."""

from __future__ import annotations

import re
from functools import cache

_NAME = re.compile(r"[A-Za-z0-9._-]+")
OPTIONAL = ("unicorn", "distributed", "cramjam", "qemu.qmp")
"""Packages that users may add: the engine, campaigns on a cluster, dumps that are packed with Snappy, and a look into a
live QEMU."""


@cache
def requirements() -> dict[str, tuple[str, bool]]:
    """What the project asks for, by a package's name: with versions as pip takes it (`unicorn==2.1.4`), and whether
    nothing works without it.
    """
    from importlib.metadata import PackageNotFoundError, requires

    try:
        lines = requires("stage2") or []
    except PackageNotFoundError:  # run from its sources, not installed
        lines = []
    found = {}
    for line in lines:
        requirement, _, marker = line.partition(";")
        if (name := _NAME.match(requirement)) is not None:
            found[name[0]] = (requirement.strip(), "extra" not in marker)
    return found


def pip_install(name: str) -> str:
    """The command that installs a package in the versions that the project takes.

    The package itself, never an extra of ours: the package index has another project of our name.
    """
    return f"pip install '{requirements().get(name, (name,))[0]}'"
