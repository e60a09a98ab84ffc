"""`stage2 --version --all`: what this installation consists of, what it lacks, and how to get that."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from rich.console import RenderableType

from ..errors import HostToolError
from ..machines import bochs
from ..machines.aarch64 import AArch64Machine
from ..machines.emulator import Emulator
from ..machines.fetched import RECIPES, fetched
from ..machines.riscv64 import Riscv64Machine
from ..machines.x86_svm import X86SvmMachine
from ..render.tables import table
from ..requirement import pip_install, requirements

Row = tuple[str, str, str]
_EMULATORS = (
    ("qemu", AArch64Machine.PROGRAM, AArch64Machine.PACKAGE),
    ("qemu", Riscv64Machine.PROGRAM, Riscv64Machine.PACKAGE),
    ("qemu", X86SvmMachine.PROGRAM, X86SvmMachine.PACKAGE),
    ("bochs", bochs.PROGRAM, bochs.PACKAGE),
)
_FOR = {
    "unicorn": "runs guests",
    "distributed": "campaigns on a cluster",
    "cramjam": "reads dumps that are packed with Snappy",
    "qemu.qmp": "looks into a live QEMU",
}
"""Packages that may be left out, and what for."""


def render_versions(own: str) -> RenderableType:
    """A table of everything that answers may hang on.

    Args:
        own: our own version.
    """
    rows: list[Row] = [
        ("stage2", own, ""),
        ("Python", platform.python_version(), sys.executable),
        *_packages(),
        *_emulators(),
    ]
    return table(("name", "version", "where it is, or how to get it"), rows)


def _packages() -> Iterator[Row]:
    wanted = requirements()
    for name in (*(name for name, (_, always) in wanted.items() if always), *_FOR):
        what = _FOR.get(name, "")
        try:
            yield name, version(name), what
        except PackageNotFoundError:
            yield name, "not found", "; ".join(filter(None, (what, pip_install(name))))


def _emulators() -> Iterator[Row]:
    for maker, program, package in _EMULATORS:
        try:
            found = Emulator(maker).own(program)
        except HostToolError as error:
            yield program, "unknown", str(error)
            continue
        if found is None:
            yield program, "not found", f"apt-get install {package}, or stage2 fetch emulators"
        else:
            yield program, found.version, " ".join(found.command)
    for name, recipe in RECIPES.items():
        try:
            there = fetched(name)
        except HostToolError as error:
            yield f"fetched {name}", "not found", str(error)
            continue
        asked = [package.partition(" ") for package in there.packages]
        versions = [number for package, _, number in asked if package in recipe.packages]
        yield f"fetched {name}", versions[0] if versions else str(recipe.generation), str(there.root)
