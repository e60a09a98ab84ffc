"""Emulated machines whose Linux made two VMs by KVM: dumps of tables that KVM wrote, and what is true of them.

The machine runs Debian's kernel; its first process (`first_processes/kvm_host.c`) makes the VMs, lets them touch pages
and tells where each page is. Nothing of stage2 takes part.
"""

from __future__ import annotations

import lzma
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import told
from elftools.elf.elffile import ELFFile
from emulated import Emulated
from first_process import compiled, ramdisk
from shared_dump import shared

import effort
from linux_guest import require_linux
from opening import or_skip
from real_images import real_image
from stage2.errors import MachineError
from stage2.formats import by_name, family_for
from stage2.formats.arm.stage2_control import decode_vttbr_el2
from stage2.formats.riscv.registers import decode_hgatp
from stage2.images.fetch import fetched
from stage2.inspect.root import roots_of_registers
from stage2.inspect.source import Cpu
from stage2.machines.emulator import OWN_QEMU, Emulator
from stage2.machines.vmcb import Field
from stage2.processor import parse
from stage2.tables.regime import Regime

KEY, OFFSET = 0x4B56_4D4C, 0xFF8
"""A VM's page at GPA holds GPA ^ (KEY + number of the VM) at this offset."""
VMS = 2
GUEST = range(0x8000_0000, 0x8000_0100)
"""GPA of the guests' code."""
_READY_S = 240.0
_SAMPLES, _BETWEEN_S = 400, 0.01
_RELEASE = {"riscv64": "kvm-riscv64", "x86_64": "kvm-x86_64"}
_MODULES = {"riscv64": ("irqbypass", "kvm"), "x86_64": ("irqbypass", "kvm", "kvm-amd"), "aarch64": ()}
"""In the order in which they need each other."""
REGISTERS = {
    "riscv64": ("pc", "priv", "virt", "satp", "vsatp", "hgatp", "hstatus", "sstatus", "vsstatus", "mstatus"),
    "x86_64": ("rip", "CR0", "CR3", "CR4", "EFER"),
    "aarch64": (
        "pc", "cpsr", "VTTBR_EL2", "VTCR_EL2", "HCR_EL2", "VBAR_EL2",
        *(f"{name}_EL{level}" for level in (1, 2) for name in ("TTBR0", "TTBR1", "TCR", "SCTLR", "MAIR")),
    ),
}  # fmt: skip
"""What is asked of the gdbstub, as far as it has it."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A machine.

    Args:
        name: of the variant.
        arch: its architecture.
        machine, cpu: QEMU's board and CPU.
        own: format of the kernel's own tables.
        append: what the kernel's command line has besides.
        emulator: which QEMU.
    """

    name: str
    arch: str
    machine: str
    cpu: str
    own: str
    append: str = ""
    emulator: Emulator = OWN_QEMU


_ARM, _ARM_48 = "virt,virtualization=on,gic-version=3", "arm-s1-4k-48-high"
_QEMU_10 = Emulator("qemu", 10)
VARIANTS = {
    one.name: one
    for one in (
        Variant("riscv64", "riscv64", "virt", "rv64,h=true", "sv57"),
        Variant("x86_64", "x86_64", "q35", "EPYC,+svm,+npt", "x86-4level"),
        Variant("aarch64", "aarch64", _ARM, "cortex-a76", _ARM_48),
        Variant("aarch64-nvhe", "aarch64", _ARM, "cortex-a76", _ARM_48, "kvm-arm.mode=nvhe"),
        Variant("aarch64-pkvm", "aarch64", _ARM, "cortex-a76", _ARM_48, "kvm-arm.mode=protected"),
        Variant("aarch64-lpa2", "aarch64", _ARM, "max", "arm-s1-4k-52-lpa2-high"),
        Variant("riscv64-sv48", "riscv64", "virt", "rv64,h=true,sv57=off", "sv48", emulator=_QEMU_10),
        Variant("riscv64-sv39", "riscv64", "virt", "rv64,h=true,sv57=off,sv48=off", "sv39", emulator=_QEMU_10),
    )
}
USUAL = ("riscv64", "x86_64", "aarch64")
_CONSOLES = {"riscv64": "ttyS0", "x86_64": "ttyS0", "aarch64": "ttyAMA0"}


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a VM, as the host's kernel has it.

    Args:
        vm: the VM's number.
        gpa, hpa: where it is.
        value: its word at `OFFSET`.
        kind: "huge", "small" or "read-only": how the host holds it.
    """

    vm: int
    gpa: int
    hpa: int
    value: int
    kind: str


@dataclass(frozen=True, slots=True)
class KvmMachine:
    """A machine that was dumped.

    Args:
        variant: which.
        core: the ELF core.
        registers: of its CPU when it was dumped; by the manual's names.
        roots: the VMs' second-stage roots as the CPU had them, by number.
        pages: what the host's kernel says of the VMs' pages.
        console: all that it printed.
        kernel: the kernel's file.
        told: what the kernel says of itself; its physical addresses are HPA.
        seconds: how long booting and dumping took, for reports.
    """

    variant: Variant
    core: Path
    registers: Mapping[str, int]
    roots: Mapping[int, int]
    pages: tuple[Page, ...]
    console: str
    kernel: Path
    told: told.Kernel
    seconds: tuple[float, float]

    def pages_of(self, vm: int) -> tuple[Page, ...]:
        """What the host's kernel says of one VM's pages."""
        return tuple(page for page in self.pages if page.vm == vm)

    def stage_2(self, vm: int) -> Regime:
        """A VM's second stage: the CPU's format and controls, which are alike for both, and the VM's root."""
        if self.variant.arch == "x86_64":
            return nested(self.roots[vm])
        roots, problems = roots_of_registers((Cpu(0, self.registers),), self.variant.arch)
        assert not problems
        (second,) = [root.regime for root in roots if root.stage == 2]
        return replace(second, root=self.roots[vm])


def nested(root: int) -> Regime:
    """The second stage that KVM makes on QEMU's EPYC. N_CR3 tells neither the levels, of which there are as many as the
    host has, nor how wide the CPU's addresses are.

    Args:
        root: its HPA.
    """
    fmt = by_name("npt4")
    return Regime.of(fmt, root, controls=family_for("x86_64").controls(fmt, parse("zen1,pa=40", "x86_64")))


def chosen() -> tuple[str, ...]:
    """The variants that a run of the tests makes: one an architecture, in a soak all."""
    return tuple(VARIANTS) if effort.FACTOR > 1 else USUAL


def dumped(name: str, factory: pytest.TempPathFactory) -> AbstractContextManager[KvmMachine]:
    """A machine that all tests of this run share; a fixture of the session holds it.

    Args:
        name: a key of `VARIANTS`.
        factory: pytest's.
    """
    return shared(f"kvm-{name}", factory, lambda folder: or_skip(lambda: make(name, folder)))


def make(name: str, folder: Path) -> KvmMachine:
    """Boot a machine, wait until both VMs spin, and dump it.

    Args:
        name: a key of `VARIANTS`.
        folder: where the dump comes to be.
    """
    variant = VARIANTS[name]
    kernel, modules = _kernel(variant.arch)
    disk = folder / "initramfs.cpio"
    disk.write_bytes(ramdisk(compiled("kvm_host", variant.arch, folder), modules))
    append = f"console={_CONSOLES[variant.arch]} quiet panic=-1 hugepages=8 cryptomgr.notests {variant.append}"
    words = ["-machine", variant.machine, "-cpu", variant.cpu, "-m", "1G", "-smp", "1", "-kernel", str(kernel)]
    words += ["-initrd", str(disk), "-append", append]
    core = folder / "machine.elf"
    began = time.monotonic()
    with Emulated(variant.arch, words, variant.emulator) as machine:
        machine.wait_for("lab: ready", _READY_S)
        ready = time.monotonic()
        seen = _roots_by_cpu(machine, variant.arch)
        registers = machine.stub.registers(REGISTERS[variant.arch])
        machine.dump(core)
        console = machine.console
    dumped = time.monotonic()
    pages = tuple(_pages(console))
    roots = seen or _roots_by_vmcb(core)
    return KvmMachine(
        variant, core, registers, roots, pages, console, kernel, told.kernel(console), (ready - began, dumped - ready)
    )


def facts(made: KvmMachine) -> dict[str, object]:
    """What is known of a machine, for JSON: numbers as hexadecimal texts."""
    return {
        "arch": made.variant.arch,
        "registers": {name: hex(value) for name, value in made.registers.items()},
        "roots": {vm: hex(root) for vm, root in made.roots.items()},
        "pages": [[page.vm, hex(page.gpa), hex(page.hpa), hex(page.value), page.kind] for page in made.pages],
        "symbols": {name: hex(value) for name, value in made.told.symbols.items()},
        "code": hex(made.told.code),
        "kernel": str(made.kernel),
        "kernel_root": hex(made.told.root),
    }


def _kernel(arch: str) -> tuple[Path, list[bytes]]:
    """The kernel's file, and its modules as it loads them."""
    if arch not in _RELEASE:
        require_linux(f"linux-{arch}")
        return fetched(f"linux-{arch}").kernel, []
    release = _RELEASE[arch]
    modules = [real_image(release, f"{name}.ko.xz") for name in _MODULES[arch]]
    return real_image(release, "vmlinu[xz]-*"), [lzma.decompress(path.read_bytes()) for path in modules]


def _pages(console: str) -> Iterator[Page]:
    for found in re.finditer(r"lab: vm (0x\w+) (0x\w+) (0x\w+) (0x\w+) (\S+)", console):
        vm, gpa, hpa, value = (int(word, 16) for word in found.groups()[:4])
        yield Page(vm, gpa, hpa, value, found[5])


def _roots_by_cpu(machine: Emulated, arch: str) -> dict[int, int]:
    """Stop the machine until its CPU has been in both VMs; it is left stopped in one. No register that the gdbstub has
    tells the roots on x86, so there the answer has none.

    Raises:
        MachineError: the CPU was always in the same VM.
    """
    where, key, root = {
        "riscv64": ("pc", "a0", "hgatp"),
        "aarch64": ("pc", "x0", "VTTBR_EL2"),
        "x86_64": ("rip", "rax", ""),
    }[arch]
    found: dict[int, int] = {}
    for _ in range(_SAMPLES):
        machine.ask("stop")
        values = machine.stub.registers([where, key, root])
        if values[where] in GUEST and values[key] - KEY in range(VMS):
            found[values[key] - KEY] = _root(arch, values.get(root, 0))
            if len(found) == VMS:
                return found if root else {}
        machine.ask("cont")
        time.sleep(_BETWEEN_S)
    raise MachineError(f"of both VMs the CPU was only ever in {sorted(found)}")


def _root(arch: str, value: int) -> int:
    if arch == "riscv64":
        return decode_hgatp(value).root
    return decode_vttbr_el2(value, wide=False)[0]


def _roots_by_vmcb(core: Path) -> dict[int, int]:
    """The roots of an x86 machine: N_CR3 of each control block that has stopped a guest where ours spin."""
    found = {}
    for page in _pages_of(core):
        words = page.view("<u8")
        at = {one: words[:, one.value[0] // 8] for one in (Field.NP_ENABLE, Field.RIP, Field.RAX, Field.N_CR3)}
        vms = at[Field.RAX] - np.uint64(KEY)
        blocks = at[Field.NP_ENABLE] % np.uint64(2) == 1
        blocks &= (at[Field.RIP] >= GUEST.start) & (at[Field.RIP] < GUEST.stop) & (vms < VMS)
        for place in np.flatnonzero(blocks):
            found[int(vms[place])] = int(at[Field.N_CR3][place])
    return found


def _pages_of(core: Path) -> Iterator[npt.NDArray[np.uint8]]:
    """The memory of a core, a row a page of 4 KiB, segment after segment."""
    data = np.memmap(core, np.uint8, "r")
    with core.open("rb") as file:
        for segment in ELFFile(file).iter_segments("PT_LOAD"):
            begin, size = segment["p_offset"], segment["p_filesz"]
            yield data[begin : begin + size // 4096 * 4096].reshape(-1, 4096)
