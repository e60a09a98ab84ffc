"""QEMU's RISC-V `virt` machine with a monitor in HS-mode (Privileged, "Hypervisor" Extension).

There is no firmware: the monitor begins in M-mode, delegates everything and goes to HS-mode.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ..address import Hpa, Range
from ..errors import MachineError
from ..formats.invalidation import Operation
from ..formats.riscv import entry
from ..formats.riscv.status import status_of
from . import mailbox
from .emulator import OWN_QEMU, Emulator
from .mailbox import OPERATION_ENTRY, PROBE_ENTRY, RESULT_ENTRY, Command
from .qemu import QemuMachine

_MONITOR = "hs-riscv64.bin"
_MAP = 0x8010_1000
"""Root of the monitor's own identity map; as in its source."""
GUEST_CODE = Range.sized(0x8020_0000, 0x1_0000)
"""HPAs of the guest's code, which a VM's tables must map: a load and a store that trap afterwards."""
_LIST, _RESULTS = 0x8800_0000, 0x8C00_0000
MOST = 1 << 20
"""Entries of a list."""

_UXL_64, _VSXL_64 = 2 << 32, 2 << 32
_STCE, _PBMTE, _ADUE = 1 << 63, 1 << 62, 1 << 61
_ENVCFG = _STCE | _PBMTE | _ADUE
"""Of menvcfg and henvcfg; the CPU keeps those that it has."""

_OPERATIONS = {
    "HFENCE.GVMA x0, x0": 0,
    "HFENCE.GVMA x0, vmid": 1,
    "HFENCE.GVMA gpa, x0": 2,
    "HFENCE.GVMA gpa, vmid": 3,
    "HFENCE.VVMA x0, x0": 4,
    "HFENCE.VVMA x0, asid": 5,
    "HFENCE.VVMA gva, x0": 6,
    "HFENCE.VVMA gva, asid": 7,
    # A guest's own fences, as its hypervisor does them for it.
    "SFENCE.VMA x0, x0": 4,
    "SFENCE.VMA x0, asid": 5,
    "SFENCE.VMA va, x0": 6,
    "SFENCE.VMA va, asid": 7,
}
"""Numbers of INVALIDATE's operations; bit 0: with an identifier, bit 1: with an address, bit 2: of the VS-stage."""


@dataclass(frozen=True, slots=True)
class Registers:
    """What LOAD loads, in its order.

    Args:
        hgatp, vsatp: the roots of both stages.
        vsstatus: SUM and MXR of the VS-stage.
        sstatus: MXR of both stages.
        henvcfg: STCE, PBMTE and ADUE of the VS-stage.
        vs_code, vu_code: GVAs of the guest's code for either mode.
        menvcfg: STCE, PBMTE and ADUE of the G-stage.
    """

    hgatp: int
    vsatp: int = 0
    vsstatus: int = _UXL_64
    sstatus: int = 0
    henvcfg: int = _ENVCFG
    vs_code: int = 0
    vu_code: int = 0
    menvcfg: int = _ENVCFG

    @classmethod
    def of(cls, hgatp: int, vsatp: int, controls_1: int, controls_2: int, vs_code: int, vu_code: int) -> Registers:
        """The registers for the controls of both stages (`formats.riscv.entry`).

        The manual lets sstatus.MXR work on both stages and vsstatus.MXR on the first one only. QEMU 7.2 looks at the
        latter for the second stage too, so both are set where both stages have it.
        """
        both = status_of(controls_2 & entry.MXR)
        guest = _UXL_64 | both | status_of(controls_1)
        henvcfg, menvcfg = _environment(controls_1), _environment(controls_2)
        return cls(hgatp, vsatp, guest, _UXL_64 | both, henvcfg, vs_code, vu_code, menvcfg)

    @property
    def values(self) -> tuple[int, ...]:
        """In the monitor's order."""
        return (
            self.hgatp, self.vsatp, self.vsstatus, self.sstatus, self.henvcfg, self.vs_code, self.vu_code, self.menvcfg,
        )  # fmt: skip


def _environment(controls: int) -> int:
    """menvcfg or henvcfg for the controls of the stage that it governs."""
    found = _STCE | (_ADUE if controls & entry.HARDWARE_AD else 0)
    return found | (_PBMTE if controls & entry.SVPBMT == entry.SVPBMT else 0)


class Riscv64Machine(QemuMachine):
    """A hart with the hypervisor extension.

    The results of a probe are scause, stval, htval, htinst, hstatus and sepc of the trap that it ended in; real
    accesses always end in one.

    Args:
        emulator: which QEMU.
        extensions: optional ones that the hart has: "svnapot", "svpbmt". `have` changes them.
        model: QEMU's CPU model, which has its own extensions; None for `rv64` with those above.
    """

    PROGRAM: ClassVar[str] = "qemu-system-riscv64"
    PACKAGE: ClassVar[str] = "qemu-system-misc"
    RAM: ClassVar[Range] = Range.sized(0x8000_0000, 0xC400_0000)
    """At its end QEMU puts a device tree at every start (before QEMU 8, at the end of what lies below 3 GiB)."""
    MAILBOX: ClassVar[int] = 0x8010_0000

    def __init__(self, emulator: Emulator = OWN_QEMU, extensions: Iterable[str] = (), model: str | None = None) -> None:
        self.extensions, self._model = frozenset(extensions), model
        self._loaded: Registers | None = None
        super().__init__(emulator)

    def prepare(self) -> None:
        code = files(__package__).joinpath("monitors", _MONITOR).read_bytes()
        self.memory.write(Hpa(self.RAM.start), code)
        # Leaves of 1 GiB from 0 to the end of RAM: supervisor pages, accessed and dirty.
        leaf = entry.V | entry.R | entry.W | entry.X | entry.A | entry.D
        for index in range(-(-self.RAM.end >> 30)):
            self.memory.store_u64(Hpa(_MAP + 8 * index), entry.pack_address(index << 30) | leaf)

    def arguments(self, ram: str, door: int) -> list[str]:
        size = self.RAM.size
        cpu = ["rv64", "h=on", "sstc=on", *(f"{name}={_on(name in self.extensions)}" for name in ("svnapot", "svpbmt"))]
        return [
            "-machine", "virt,memory-backend=ram", "-cpu", self._model or ",".join(cpu), "-accel", "tcg", "-smp", "1",
            "-object", f"memory-backend-file,id=ram,size={size},mem-path={ram},share=on", "-m", str(size >> 20),
            "-bios", "none", "-display", "none", "-monitor", "none", "-serial", "none", "-nodefaults",
            "-chardev", f"socket,id=door,fd={door}", "-semihosting-config", "enable=on,target=native,chardev=door",
        ]  # fmt: skip

    @property
    def features(self) -> frozenset[str]:
        """What the hart's registers say that it has, as `processor.riscv` calls it; not Svade and Svnapot."""
        isa, environment, _, sv48, sv57 = (self.word(mailbox.INFO + 8 * index) for index in range(5))
        found = {"h": isa >> 7 & 1, "sv48": sv48, "sv57": sv57}
        found |= {"svadu": environment & _ADUE, "svpbmt": environment & _PBMTE}
        return frozenset(name for name, value in found.items() if value)

    @property
    def widths(self) -> dict[str, int]:
        """Bits of an ASID and of a VMID that vsatp and hgatp hold; QEMU's has two more, which are reserved."""
        vsatp, hgatp = (self.word(mailbox.INFO + 8 * index) >> 44 & 0xFFFF for index in (2, 5))
        return {"asid": vsatp.bit_length(), "vmid": (hgatp & 0x3FFF).bit_length()}

    def have(self, extensions: Iterable[str]) -> None:
        """Be a hart with these optional extensions: QEMU starts again if they are others than before."""
        wanted = frozenset(extensions)
        if wanted != self.extensions:
            self.extensions = wanted
            self._loaded = None
            self.restart()

    def set_registers(self, registers: Registers, *, keep_tlb: bool = False) -> None:
        """Load the registers of both stages; all cached translations are dropped unless `keep_tlb`."""
        self.load(registers.values, keep_tlb=keep_tlb)
        self._loaded = registers

    def probe(
        self,
        address: npt.NDArray[np.uint64],
        value: npt.NDArray[np.uint64],
        kind: npt.NDArray[np.uint64],
        renew: npt.NDArray[np.uint64],
    ) -> npt.NDArray[np.void]:
        """Make accesses one after the other.

        Args:
            address, value, kind: of each; kinds are `Access` and the bits of `mailbox`.
            renew: of a fetch, the HPA whose word the monitor stores anew before, 0 for none: QEMU runs what it has
                translated from there before until it sees a store, and it sees none of ours.

        Returns:
            `RESULT_ENTRY` of each.

        Raises:
            MachineError: the list is longer than MOST, or the machine is lost.
        """
        count = len(address)
        if count > MOST:
            raise MachineError(f"{count} probes are more than a list holds: {MOST}")
        entries = self._at(_LIST, PROBE_ENTRY, count)
        entries["address"], entries["value"], entries["kind"], entries["reserved"] = address, value, kind, renew
        self.command(Command.PROBE, list=_LIST, count=count, results=_RESULTS)
        return self._at(_RESULTS, RESULT_ENTRY, count).copy()

    def invalidate(self, operations: Iterable[Operation]) -> None:
        """Do fences, in their order.

        Raises:
            MachineError: an operation is none of RISC-V's, or concerns the VS-stage of a VMID that is not in hgatp.
        """
        rows: list[tuple[int, int]] = []
        for operation in operations:
            number = _OPERATIONS.get(operation.name)
            if number is None:
                raise MachineError(f"a RISC-V hart has no operation {operation.name}")
            of_guest = bool(number & 4)
            if of_guest and self._loaded is not None and operation.vmid != self._loaded.hgatp >> 44 & 0x3FFF:
                raise MachineError(f"{operation}: it acts on the VMID in hgatp, which is another")
            identifier = operation.asid if of_guest else operation.vmid
            high = (identifier or 0) << 32 if number & 1 else 0
            rows += [(number | high, operand) for operand in operation.operands()]
        for start in range(0, len(rows), MOST):
            part = np.array(rows[start : start + MOST], OPERATION_ENTRY)
            self._at(_LIST, OPERATION_ENTRY, len(part))[:] = part
            self.command(Command.INVALIDATE, list=_LIST, count=len(part))

    def _at(self, hpa: int, kind: np.dtype[np.void], count: int) -> npt.NDArray[np.void]:
        """Memory as an array of entries."""
        first = hpa - self.RAM.start >> 3
        return self._words[first : first + (kind.itemsize * count >> 3)].view(kind)


def _on(value: bool) -> str:
    return "on" if value else "off"
