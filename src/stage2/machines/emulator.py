"""Which QEMU or Bochs is run: the machine's own, or a generation of it, own or fetched.

A generation is an emulator's major version, and nothing but data: everything that runs an emulator takes an `Emulator`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..errors import HostToolError
from . import fetched as fetching

_ASKED = {"qemu": ("--version", r"QEMU emulator version (\S+)"), "bochs": ("--help", r"Bochs x86 Emulator (\S+)")}
"""Maker -> the argument that makes a program tell its version, and how it tells it."""
_ASK_S = 20


@dataclass(frozen=True, slots=True)
class Program:
    """A program that can be started.

    Args:
        command: the words before its arguments.
        version: `7.2.22`.
        root: the folder that stands for `/` to it; None for the machine's own.
    """

    command: tuple[str, ...]
    version: str
    root: Path | None = None

    def share(self, *names: str) -> list[Path]:
        """Those folders of /usr/share that are its own, if it is not the machine's."""
        return [] if self.root is None else [self.root / "usr/share" / name for name in names]


@dataclass(frozen=True, slots=True)
class Emulator:
    """An emulator of a maker.

    Args:
        maker: "qemu" or "bochs".
        generation: its major version: the machine's own if it is of it, else what `stage2 fetch` fetched. None for the
            machine's own, of whatever version.
    """

    maker: str
    generation: int | None = None

    def program(self, name: str, package: str) -> Program:
        """A program of it.

        Args:
            name: the program.
            package: Debian's package that has it, for the error.

        Raises:
            HostToolError: it is not there; the text says what to install or to fetch.
        """
        own = self.own(name)
        if own is not None:
            return own
        if self.generation is None:
            raise HostToolError(
                f"{name} is not installed: install Debian's package {package} (apt-get install {package})"
            )
        found = fetching.fetched(f"{self.maker}-{self.generation}")
        command = found.command(name)
        return Program(command, _version(self.maker, command, found.loader.stat().st_mtime_ns), found.root)

    def own(self, name: str) -> Program | None:
        """The machine's own program, if it is installed and of this generation.

        Raises:
            HostToolError: it does not tell its version.
        """
        path = shutil.which(name)
        if path is None:
            return None
        found = Program((path,), _version(self.maker, (path,), os.stat(path).st_mtime_ns))
        return found if self.generation in (None, major(found.version)) else None


def own_version(recipe: fetching.Recipe) -> str | None:
    """The version of the machine's own emulator, if all programs of a recipe are installed in its generation.

    Raises:
        HostToolError: one does not tell its version.
    """
    emulator = Emulator(recipe.maker, recipe.generation)
    found = [emulator.own(program) for program in recipe.programs]
    return found[0].version if found[0] is not None and all(found) else None


OWN_QEMU, OWN_BOCHS = Emulator("qemu"), Emulator("bochs")


def major(version: str) -> int:
    """The generation of a version: 7 of `7.2.22`."""
    found = re.match(r"\d+", version)
    return int(found.group()) if found else 0


@cache
def _version(maker: str, command: tuple[str, ...], _changed: int) -> str:
    """What a program says of its version."""
    argument, pattern = _ASKED[maker]
    try:
        done = subprocess.run([*command, argument], capture_output=True, text=True, timeout=_ASK_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise HostToolError(f"{command[-1]} {argument} failed: {error}") from None
    found = re.search(pattern, done.stdout + done.stderr)
    if found is None:
        raise HostToolError(f"{command[-1]} {argument} does not tell its version")
    return found.group(1)
