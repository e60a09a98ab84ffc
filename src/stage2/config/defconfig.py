"""AxVisor's `defconfig.toml`: how the hypervisor itself is built."""

from __future__ import annotations

from dataclasses import dataclass

from ..address import MIB, SIZE_4K
from .document import Document, Notice, Table
from .extent import require_pages

TICKS_PER_SEC = 100
"""Of AxVisor's seed, where no file says otherwise."""


@dataclass(frozen=True, slots=True)
class DefConfig:
    """The hypervisor's own figures.

    Args:
        file: path as the user named it; None for the defaults.
        smp: number of host CPUs.
        ticks_per_sec: timer ticks in Hz (100 at the seed, 1000 at head).
        task_stack_size: bytes of a task's stack, whole pages.
        notices: what a user should know about the file.
    """

    file: str | None = None
    smp: int = 1
    ticks_per_sec: int = TICKS_PER_SEC
    task_stack_size: int = 0x4_0000
    notices: tuple[Notice, ...] = ()


_DEFAULTS = DefConfig()


def read_ticks(table: Table) -> int:
    """`ticks-per-sec` of a file that says how the hypervisor is built.

    Raises:
        ConfigError: it is no number, or out of bounds.
    """
    return table.integer("ticks-per-sec", TICKS_PER_SEC, 1, 1_000_000)


def read_defconfig(document: Document) -> DefConfig:
    """Read a defconfig; what it does not say is as in the seed's.

    Raises:
        ConfigError: a value is wrong.
    """
    root = document.root
    smp = root.integer("smp", _DEFAULTS.smp, 1, 512)
    ticks = read_ticks(root)
    stack = root.integer("task-stack-size", _DEFAULTS.task_stack_size, SIZE_4K, 64 * MIB)
    if (item := root.find("task-stack-size")) is not None:
        require_pages(item, stack)
    root.note_unknown()
    return DefConfig(document.file, smp, ticks, stack, tuple(document.notices))
