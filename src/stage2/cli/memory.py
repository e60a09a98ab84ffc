"""Memory sources on the command line: SOURCE, `--root`, `--register`, `--base`, `--core`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ..address import ADDRESS_LIMIT, Range
from ..errors import ConfigError
from .arguments import parse_address

if TYPE_CHECKING:
    from ..inspect.inspection import Inspection
    from ..inspect.listing import Progress
    from ..inspect.source import MemorySource

_SOURCE = (
    "An ELF core, a LiME or AVML dump, a raw image (with --base), a folder of `stage2 build`, a snapshot, a VM file, "
    "or a running QEMU: qmp:SOCKET, gdb:SOCKET or both with a comma between."
)
Source = Annotated[str, Parameter(name="SOURCE", show_default=False, help=_SOURCE)]
_ROOT = (
    "FORMAT@ADDRESS[,control=value], once a stage; without it registers and source say, else what `stage2 find` finds "
    "likeliest is taken."
)
Roots = Annotated[list[str] | None, Parameter(name="--root", negative="")]
"""Of commands that tell by themselves what several roots are to them."""
StageRoots = Annotated[list[str] | None, Parameter(name="--root", negative="", help=_ROOT)]
_REGISTERS = (
    "NAME=VALUE beside the registers that the source knows, such as VTCR_EL2=0x802a3558. May be given several times."
)
RegisterValues = Annotated[list[str] | None, Parameter(name="--register", negative="", help=_REGISTERS)]
Base = Annotated[str | None, Parameter(help="Address of the first byte of a raw image.")]
Core = Annotated[int | None, Parameter(help="CPU whose registers come first.")]
Switched = Annotated[bool, Parameter(negative="")]
_REGISTER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_LIVE = ("qmp:", "gdb:", "raw:")


def looks_like_memory(text: str) -> bool:
    """Whether a word names a memory source rather than a configuration file."""
    return text.startswith(_LIVE) or (not text.endswith(".toml") and Path(text).is_file())


def open_memory_source(text: str, base: str | None = None) -> MemorySource:
    """The source that a word names; a VM file is built and looked at as a host.

    Raises:
        SourceError, ConfigError: it cannot be opened.
    """
    from ..inspect.opened import open_source

    if text.endswith(".toml") and not text.startswith(_LIVE):
        from ..inspect.vm_source import HostSource
        from .hosts import build_host

        if base is not None:
            raise ConfigError(f"--base means nothing for {text}, which is a VM file")
        host = build_host([Path(text)], platform=None, arch=None, populate="eager", page_size="auto")
        return HostSource(host, text)
    return open_source(text, base=None if base is None else parse_address("--base", base))


@contextmanager
def inspected(
    text: str,
    root: Sequence[str] | None = None,
    register: Sequence[str] | None = None,
    base: str | None = None,
    core: int | None = None,
) -> Iterator[Inspection]:
    """A memory that a command looks into; what it could not tell is said on standard error.

    Args:
        text: SOURCE.
        root, register, base, core: the options of these names.

    Raises:
        SourceError, ConfigError: it cannot be opened, or an option is not as it should be.
    """
    from ..inspect.inspection import Inspection

    with Inspection(
        open_memory_source(text, base), tuple(root or ()), registers=_values(register or ()), core=core
    ) as found:
        told = found.notices
        _tell(told)
        yield found
        _tell([notice for notice in found.notices if notice not in told])


def _tell(notices: Sequence[str]) -> None:
    from ..render.plain import plain

    for notice in notices:
        print(f"stage2: notice: {plain(notice)}", file=sys.stderr)


def _values(given: Sequence[str]) -> dict[str, int]:
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not _REGISTER.fullmatch(name.strip()):
            raise ConfigError(f"--register {text}: write NAME=VALUE, such as VTTBR_EL2=0x1000044136000")
        found[_spelled(name.strip())] = parse_address(f"--register {name}", value)
    return found


def _spelled(name: str) -> str:
    """A register's name as manuals have it."""
    from ..formats import registers

    known = {register.name.lower(): register.name for register in registers()}
    return known.get(name.lower(), name)


def parse_range(option: str, value: str) -> Range:
    """`ADDRESS`, `START:SIZE` or `START-END`.

    Raises:
        ConfigError: it is none of them, or empty.
    """
    for mark in (":", "-"):
        first, found, second = value.partition(mark)
        if found:
            start, other = parse_address(option, first), parse_address(option, second)
            end = start + other if mark == ":" else other
            if not start < end <= ADDRESS_LIMIT:
                raise ConfigError(f"{option} {value}: the range is empty, or ends beyond 64 bits")
            return Range(start, end)
    return Range.sized(parse_address(option, value), 1)


@contextmanager
def progress_bar(what: str) -> Iterator[Progress | None]:
    """A bar on a terminal, for work that may take long; nothing elsewhere."""
    from ..plain_terminal import wants_plain

    if not sys.stderr.isatty() or wants_plain():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
