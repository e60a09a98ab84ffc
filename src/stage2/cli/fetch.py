"""`stage2 fetch`: a guest's kernel and ramdisk, kept in the user's cache folder."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

from cyclopts import Parameter

from ..render.plain import about, plain

Progress = Callable[[str, int, int], None]


def fetch(
    guest: Annotated[str, Parameter(name="GUEST", show_default=False)],
    /,
    *,
    force: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Fetch a guest's kernel and ramdisk, so that VM files can name them fetched:GUEST.

    They come from Debian, through this machine's own package configuration; nothing is installed.

    Parameters
    ----------
    guest
        linux-riscv64
    force
        Fetch it even if it is there.
    """
    from ..images.fetch import fetch as fetch_guest

    with _progress() as report:
        found = fetch_guest(guest, progress=report, force=force)
    print(f"{plain(found.name)} is ready")
    print(f"  kernel    {plain(str(found.kernel))} ({about(found.kernel.stat().st_size)})")
    print(f"  ramdisk   {plain(str(found.ramdisk))} ({about(found.ramdisk.stat().st_size)})")
    print(f"  made of   {plain(', '.join(found.packages))}")
    return 0


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on a terminal, a line for each file elsewhere; on standard error either way."""
    if not sys.stderr.isatty():
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
