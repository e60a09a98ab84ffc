"""Debian's Linux on QEMU, one machine for each architecture: nothing of ours in it, and nobody told it to be looked at.

Init is busybox's shell in an endless loop, so that the machine is most likely stopped in a user program, whose tables
are loaded. It stands still from then on, and a dump of its memory lies beside it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from elftools.elf.elffile import ELFFile

from linux_guest import require_linux
from opening import or_skip
from stage2.images.fetch import fetched
from stage2.inspect.qemu.endpoint import Endpoint
from stage2.inspect.qemu.qmp import Qmp
from stage2.machines.emulator import OWN_QEMU
from stage2.machines.process import Child, printed
from waiting import HANG_S, until

ARCHITECTURES = ("x86_64", "aarch64", "riscv64")
ON = {
    "x86_64": ("qemu-system-x86_64", "qemu-system-x86", ("-machine", "q35", "-cpu", "max,la57=off"), "console=ttyS0"),
    # With page-table isolation a program's tables would show no kernel.
    "aarch64": (
        "qemu-system-aarch64", "qemu-system-arm", ("-machine", "virt,gic-version=3", "-cpu", "cortex-a76"),
        "console=ttyAMA0 kpti=off",
    ),
    "riscv64": ("qemu-system-riscv64", "qemu-system-misc", ("-machine", "virt", "-cpu", "rv64"), "console=ttyS0"),
}  # fmt: skip
"""Architecture -> QEMU's program, Debian's package of it, its arguments, the kernel's."""
RAM_MIB = 256
READY = "stage2-user-loop"
_LOOP = f'quiet panic=-1 rdinit=/bin/busybox -- sh -c "echo {READY}; while :; do :; done"'


@dataclass(frozen=True)
class Sockets:
    """A QEMU that listens.

    Args:
        arch: "aarch64".
        qmp, gdb: paths of its sockets.
        console: what the serial port says goes there.
        child: the process.
    """

    arch: str
    qmp: Path
    gdb: Path
    console: Path
    child: Child

    @property
    def both(self) -> str:
        """Both sockets, as a user writes it."""
        return f"qmp:{self.qmp},gdb:{self.gdb}"

    def ask(self, *lines: str) -> list[str]:
        """What lines of the monitor print."""
        monitor = self.monitor()
        try:
            return [monitor.monitor(line, seconds=HANG_S) for line in lines]
        finally:
            monitor.close()

    def monitor(self) -> Qmp:
        """A connection of one's own; there is one at a time."""
        return Qmp(Endpoint("qmp", str(self.qmp)), seconds=HANG_S)


@dataclass(frozen=True)
class LinuxMachine(Sockets):
    """Linux, stopped.

    Args:
        core: an ELF dump of its memory, by `dump-guest-memory`.
    """

    core: Path

    @cached_property
    def dumped(self) -> tuple[tuple[int, npt.NDArray[np.uint8]], ...]:
        """The dump's pieces of memory: HPA, bytes."""
        with self.core.open("rb") as file:
            loads = [one.header for one in ELFFile(file).iter_segments("PT_LOAD")]
        whole = np.memmap(self.core, np.uint8, "r")
        return tuple((one.p_paddr, whole[one.p_offset : one.p_offset + one.p_filesz]) for one in loads)


@contextmanager
def machine(arch: str, folder: Path, *more: str, stub: str = "") -> Iterator[Sockets]:
    """A machine with sockets in a folder.

    Args:
        more: further arguments; without a kernel it runs its firmware.
        stub: where the gdb stub listens, as QEMU takes it; "" for a socket in the folder.
    """
    program, package, arguments, _ = ON[arch]
    command = or_skip(lambda: OWN_QEMU.program(program, package)).command
    qmp, gdb, console = (folder / f"{arch}.{name}" for name in ("qmp", "gdb", "console"))
    log = os.memfd_create("qemu-log", os.MFD_CLOEXEC)
    child = Child(
        [
            *command, *arguments, "-accel", "tcg", "-display", "none", "-nic", "none", "-monitor", "none", "-no-reboot",
            "-serial", f"file:{console}", "-qmp", f"unix:{qmp},server=on,wait=off",
            "-gdb", stub or f"unix:{gdb},server=on,wait=off", *more,
        ],
        log=log,
    )  # fmt: skip
    try:
        last = qmp if stub else gdb
        until(lambda: last.exists() or child.ended is not None, f"{arch}: QEMU makes no sockets")
        assert child.ended is None, f"{arch}: QEMU {child.how_it_ended()}{printed(log)}"
        yield Sockets(arch, qmp, gdb, console, child)
    finally:
        child.end()
        os.close(log)


@contextmanager
def linux(arch: str, folder: Path) -> Iterator[LinuxMachine]:
    """A machine that has booted Linux, stopped in a user program, and dumped."""
    require_linux(f"linux-{arch}")
    guest = fetched(f"linux-{arch}")
    kernel = ("-kernel", str(guest.kernel), "-initrd", str(guest.ramdisk), "-append", f"{ON[arch][3]} {_LOOP}")
    with machine(arch, folder, "-m", f"{RAM_MIB}M", *kernel) as made:
        until(lambda: made.child.ended is not None or READY in said(made), f"{arch}: Linux does not come up")
        assert made.child.ended is None, said(made)[-2000:]
        core = folder / f"{arch}.core"
        monitor = made.monitor()
        monitor.execute("stop")
        monitor.execute("dump-guest-memory", paging=False, protocol=f"file:{core}", seconds=HANG_S)
        monitor.close()
        try:
            yield LinuxMachine(arch, made.qmp, made.gdb, made.console, made.child, core)
        finally:
            core.unlink()


def said(one: Sockets) -> str:
    """What the machine's serial port has said so far."""
    return one.console.read_text(errors="replace") if one.console.exists() else ""


_STACK = pytest.StashKey[ExitStack]()
_STARTED = pytest.StashKey[dict[str, LinuxMachine]]()


def started(arch: str, request: pytest.FixtureRequest) -> LinuxMachine:
    """The Linux of an architecture, booted when a test first asks for it, and there until all tests are done."""
    stash = request.config.stash
    if _STACK not in stash:
        stash[_STACK], stash[_STARTED] = ExitStack(), {}
        request.config.add_cleanup(stash[_STACK].close)
    if arch not in stash[_STARTED]:
        factory: pytest.TempPathFactory = request.getfixturevalue("tmp_path_factory")
        # A Unix socket's path has 107 bytes at most, and pytest's are long already.
        stash[_STARTED][arch] = stash[_STACK].enter_context(linux(arch, factory.mktemp("m")))
    return stash[_STARTED][arch]


def linux_fixture(*architectures: str) -> object:
    """The fixture `stopped_linux` of a test file, for some architectures."""

    @pytest.fixture(params=architectures)
    def stopped_linux(request: pytest.FixtureRequest) -> LinuxMachine:
        return started(request.param, request)

    return stopped_linux
