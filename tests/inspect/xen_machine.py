"""An emulated AArch64 machine on which Debian's Xen runs two domains, both of them Debian's Linux: a dump of it.

Dom0 and the second domain (Xen's "dom0less": a node of the device tree makes it) run the same kernel and the same first
process. Xen owns stage 2 of each and its own tables of EL2; each Linux owns a stage 1.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest
import told
from emulated import PACKAGES, Emulated
from first_process import compiled, ramdisk
from kvm_machines import REGISTERS
from shared_dump import shared

from linux_guest import require_linux
from opening import or_skip
from real_images import real_image
from stage2.errors import MachineError
from stage2.formats.arm.stage2_control import decode_vttbr_el2
from stage2.images.fdt import Node, flatten, parse
from stage2.images.fetch import fetched
from stage2.inspect.inspection import Inspection, open_memory
from stage2.machines.emulator import OWN_QEMU

DOMAINS = ("dom0", "dom1")
_BEFORE = {"dom0": "", "dom1": "(XEN) DOM1: "}
"""What a domain's lines on the console begin with."""
_MACHINE = ["-machine", "virt,virtualization=on,gic-version=3", "-cpu", "cortex-a57", "-m", "1G", "-smp", "1"]
_KERNEL_AT, _RAMDISK_AT = 0x4900_0000, 0x5200_0000
_DOM0_MEM, _DOM1_KIB = "256M", 128 << 10
_CONSOLES = {"dom0": "hvc0", "dom1": "ttyAMA0"}
_READY_S, _TREE_S = 300.0, 60.0
_SAMPLES, _BETWEEN_S = 400, 0.02


@dataclass(frozen=True, slots=True)
class XenMachine:
    """A machine that was dumped.

    Args:
        core: the ELF core.
        registers: of its CPU when it was dumped; by the manual's names.
        in_domain: the same of a moment at which the CPU was in each domain; all of EL2 but VTTBR_EL2 is alike in both.
        kernels: what each domain's kernel says of itself; its physical addresses are GPA.
        console: all that it printed.
        kernel: the file of the kernel that both run.
        xen: the file of Xen.
        seconds: how long booting and dumping took, for reports.
    """

    core: Path
    registers: Mapping[str, int]
    in_domain: Mapping[str, Mapping[str, int]]
    kernels: Mapping[str, told.Kernel]
    console: str
    kernel: Path
    xen: Path
    seconds: tuple[float, float]

    def seen_from(self, domain: str) -> Inspection:
        """The dump with the registers of a moment at which the CPU was in a domain; the caller closes it."""
        return open_memory(str(self.core), registers=self.in_domain[domain])

    def stage_2_root(self, domain: str) -> int:
        """HPA of a domain's stage-2 root."""
        return decode_vttbr_el2(self.in_domain[domain]["VTTBR_EL2"], wide=False)[0]


def dumped(factory: pytest.TempPathFactory) -> AbstractContextManager[XenMachine]:
    """The machine that all tests of this run share; a fixture of the session holds it.

    Args:
        factory: pytest's.
    """
    return shared("xen", factory, lambda folder: or_skip(lambda: make(folder)))


def make(folder: Path) -> XenMachine:
    """Boot Xen with both domains, wait until both live, and dump the machine.

    Args:
        folder: where the dump comes to be.
    """
    require_linux("linux-aarch64")
    kernel, xen = fetched("linux-aarch64").kernel, real_image("xen-aarch64", "xen-*-arm64")
    disk, tree, core = (folder / name for name in ("initramfs.cpio", "machine.dtb", "machine.elf"))
    disk.write_bytes(ramdisk(compiled("witness", "aarch64", folder)))
    tree.write_bytes(_tree(folder, kernel.stat().st_size, disk.stat().st_size))
    words = [*_MACHINE, "-kernel", str(xen), "-dtb", str(tree)]
    for file, at in ((kernel, _KERNEL_AT), (disk, _RAMDISK_AT)):
        words += ["-device", f"loader,file={file},addr={at:#x},force-raw=on"]
    began = time.monotonic()
    with Emulated("aarch64", words) as machine:
        for domain in DOMAINS:
            machine.wait_for(rf"^{_BEFORE[domain].replace('(', '.').replace(')', '.')}lab: ready", _READY_S)
        kernels = {domain: told.kernel(machine.console, _BEFORE[domain]) for domain in DOMAINS}
        ready = time.monotonic()
        seen = _in_each(machine, kernels)
        registers = machine.stub.registers(REGISTERS["aarch64"])
        machine.dump(core)
        console = machine.console
    return XenMachine(core, registers, seen, kernels, console, kernel, xen, (ready - began, time.monotonic() - ready))


def facts(made: XenMachine) -> dict[str, object]:
    """What is known of a machine, for JSON: numbers as hexadecimal texts."""
    return {
        "arch": "aarch64",
        "registers": _hex(made.registers),
        "in_domain": {domain: _hex(values) for domain, values in made.in_domain.items()},
        "stage_2_roots": {domain: hex(made.stage_2_root(domain)) for domain in DOMAINS},
        "kernels": {
            domain: {"symbols": _hex(one.symbols), "code_gpa": hex(one.code), "root_gpa": hex(one.root)}
            for domain, one in made.kernels.items()
        },
        "kernel": str(made.kernel),
    }


def _hex(values: Mapping[str, int]) -> dict[str, str]:
    return {name: hex(value) for name, value in values.items()}


def _tree(folder: Path, kernel: int, disk: int) -> bytes:
    """The board's device tree as QEMU has it, with what Xen is to start (Xen, docs/misc/arm/device-tree/booting.txt).

    Args:
        folder: for QEMU's tree.
        kernel, disk: bytes of the kernel and of the ramdisk.
    """
    program = OWN_QEMU.program("qemu-system-aarch64", PACKAGES["aarch64"])
    board = folder / "board.dtb"
    words = [*program.command, _MACHINE[0], f"{_MACHINE[1]},dumpdtb={board}", *_MACHINE[2:], "-display", "none"]
    subprocess.run(words, check=True, capture_output=True, timeout=_TREE_S)
    root = parse(board.read_bytes())
    chosen = root.find("chosen")
    assert chosen is not None
    chosen.set("#address-cells", 2).set("#size-cells", 2)
    chosen.set("xen,xen-bootargs", f"dom0_mem={_DOM0_MEM} console=dtuart dtuart=/pl011@9000000 sync_console")
    _modules(chosen, "dom0", kernel, disk)
    second = chosen.child("domU1").set("compatible", "xen,domain").set("#address-cells", 2).set("#size-cells", 2)
    second.set_u64("memory", _DOM1_KIB).set("cpus", 1).set("vpl011")
    _modules(second, "dom1", kernel, disk)
    return flatten(root)


def _modules(parent: Node, domain: str, kernel: int, disk: int) -> None:
    """What a domain boots. Both have the same files, of which Xen makes each a copy."""
    for kind, at, size in (("kernel", _KERNEL_AT, kernel), ("ramdisk", _RAMDISK_AT, disk)):
        node = parent.child(f"module@{at:x}").set("compatible", [f"multiboot,{kind}", "multiboot,module"])
        node.set_u64("reg", at, size)
        if kind == "kernel":
            node.set("bootargs", f"console={_CONSOLES[domain]} quiet panic=-1 cryptomgr.notests")


def _in_each(machine: Emulated, kernels: Mapping[str, told.Kernel]) -> dict[str, dict[str, int]]:
    """Stop the machine until its CPU has been in each domain, which its root of the kernel's half tells; it is left
    stopped.

    Raises:
        MachineError: it never was.
    """
    domains = {kernel.root: domain for domain, kernel in kernels.items()}
    found: dict[str, dict[str, int]] = {}
    for _ in range(_SAMPLES):
        machine.ask("stop")
        values = machine.stub.registers(REGISTERS["aarch64"])
        # The rest of the register is an ASID.
        domain = domains.get(values["TTBR1_EL1"] & (1 << 48) - 2)
        if domain is not None and not values["cpsr"] & 8:
            found[domain] = values
            if len(found) == len(DOMAINS):
                return found
        machine.ask("cont")
        time.sleep(_BETWEEN_S)
    raise MachineError(f"the CPU was only ever in {sorted(found)}")
