"""`stage2 fetch`: guests, emulators of another Debian release, real hypervisors; kept in the user's cache folder."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated

from cyclopts import Parameter

from ..errors import ConfigError, HostToolError
from ..render.plain import about, plain

Progress = Callable[[str, int, int], None]
_EMULATORS, _HYPERVISORS = "emulators", "hypervisors"


def fetch(
    what: Annotated[str, Parameter(name="WHAT", show_default=False)],
    /,
    *,
    force: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Fetch a guest's kernel and ramdisk, an emulator for `stage2 conform`, or hypervisors for `stage2 layout`.

    VM files name a guest fetched:GUEST. All comes from Debian, through this machine's own package configuration, and
    nothing is installed. The emulators are QEMU and Bochs of Debian 12 (qemu-7, bochs-2) and 13 (qemu-10, bochs-3), the
    hypervisors Xen, OpenSBI and U-Boot of either (hypervisors-12, hypervisors-13), as images to look at; and Xen of
    AArch64 and Linux with its modules of KVM, which can be started in QEMU to look at the tables that they make.

    Parameters
    ----------
    what
        linux-riscv64, linux-aarch64, linux-x86_64; qemu-7, qemu-10, bochs-2, bochs-3, or emulators: those that this
        machine itself does not have;
        hypervisors-12, hypervisors-13, xen-aarch64, kvm-riscv64, kvm-x86_64, or hypervisors: all of these.
    force
        Fetch it even if it is there.
    """
    from ..images.fetch import RECIPES as GUESTS
    from ..images.hypervisors import RECIPES as HYPERVISORS
    from ..machines.fetched import RECIPES as EMULATORS

    if what == _EMULATORS:
        return _each(EMULATORS, lambda name: _emulator(name, force=False))
    if what in EMULATORS:
        return _emulator(what, force=force)
    if what == _HYPERVISORS:
        return _each(HYPERVISORS, lambda name: _hypervisors(name, force=force))
    if what in HYPERVISORS:
        return _hypervisors(what, force=force)
    if what not in GUESTS:
        names = ", ".join([*GUESTS, *EMULATORS, _EMULATORS, *HYPERVISORS, _HYPERVISORS])
        raise ConfigError(f"there is no {plain(what)!r} to fetch; there is {names}")
    return _guest(what, force=force)


def _guest(name: str, *, force: bool) -> int:
    from ..images.fetch import fetch as fetch_guest

    with _progress() as report:
        found = fetch_guest(name, progress=report, force=force)
    print(f"{plain(found.name)} is ready")
    print(f"  kernel    {plain(str(found.kernel))} ({about(found.kernel.stat().st_size)})")
    print(f"  ramdisk   {plain(str(found.ramdisk))} ({about(found.ramdisk.stat().st_size)})")
    print(f"  made of   {plain(', '.join(found.packages))}")
    return 0


def _emulator(name: str, *, force: bool) -> int:
    from ..machines.emulator import own_version
    from ..machines.fetched import RECIPES
    from ..machines.fetched import fetch as fetch_emulator

    own = own_version(RECIPES[name])
    if own is not None and not force:
        print(f"{name} is this machine's own: version {plain(own)}")
        return 0
    with _progress() as report:
        found = fetch_emulator(name, progress=report, force=force)
    print(f"{name} is ready: {plain(str(found.root))}, made of {len(found.packages)} packages")
    return 0


def _hypervisors(name: str, *, force: bool) -> int:
    from ..images.hypervisors import fetch as fetch_hypervisors

    with _progress() as report:
        found = fetch_hypervisors(name, progress=report, force=force)
    files = ", ".join(path.name for path in found.files)
    print(f"{found.name} is ready: {plain(files)} in {plain(str(found.files[0].parent))}")
    print(f"  taken from {plain(', '.join(found.packages))}")
    return 0


def _each(names: Iterable[str], fetch_one: Callable[[str], int]) -> int:
    """Several things; a line says when one cannot be had, and the others go on."""
    codes = [0]
    for name in names:
        try:
            codes.append(fetch_one(name))
        except HostToolError as error:
            print(f"stage2: {name} cannot be had: {error}", file=sys.stderr)
            codes.append(2)
    return max(codes)


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on a terminal that has colours, a line for each file elsewhere; on standard error either way."""
    from ..plain_terminal import wants_plain

    if not sys.stderr.isatty() or wants_plain():
        yield LineProgress()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(stderr=True)) as bars:

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(plain(what), total=None)
            bars.update(tasks[what], completed=done, total=total or None)

        yield report


class LineProgress:
    """Tells of each file once when it starts and once when it is there."""

    def __init__(self) -> None:
        self._started: set[str] = set()
        self._finished: set[str] = set()

    def __call__(self, what: str, done: int, total: int) -> None:
        if what not in self._started:
            self._started.add(what)
            size = f" ({about(total)})" if total else ""
            print(f"fetching {plain(what)}{size}", file=sys.stderr, flush=True)
        if total and done >= total and what not in self._finished:
            self._finished.add(what)
            print(f"fetched {plain(what)}", file=sys.stderr, flush=True)
