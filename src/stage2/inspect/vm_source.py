"""Memory of our own making: a host with its VMs, running or not; a snapshot of one VM; a folder of tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..address import Range
from ..errors import SnapshotError, SourceError, Stage2Error
from ..formats import family_of
from ..prove.packing import U64Array
from ..prove.source import HostTables
from ..tableimage.folder import LoadedWords, holds_own, read_folder, read_own
from ..tables.regime import Regime
from ..vm.host import Host
from ..vm.snapshots.pages import PAGE
from ..vm.snapshots.snapshot import Snapshot
from ..vm.vm import Vm
from .file_bytes import FileBytes
from .pieces import FileSource, Pieces, laid_out
from .source import Cpu, MemorySource

_OF_TABLES = (
    "CR0", "CR3", "CR4", "EFER", "TTBR0_EL1", "TTBR1_EL1", "TCR_EL1", "SCTLR_EL1", "MAIR_EL1", "satp", "sstatus",
)  # fmt: skip
"""The registers of a guest that say which tables it has, as a machine names them but for upper case."""
_UNDER_A_HYPERVISOR = {"satp": "vsatp", "sstatus": "vsstatus"}
"""What RISC-V's registers are called where there is a stage 2 (H extension, "Virtual Supervisor CSRs")."""


class HostSource(MemorySource):
    """The memory of a host, and what its VMs' registers are. It is looked at as it is at each moment.

    Args:
        host: must outlive the source; a VM stands for its host, of whose VMs only it is known.
        name: how messages call it.
    """

    def __init__(self, host: Host | Vm, name: str = "the host") -> None:
        super().__init__(name)
        self._host = host
        self._memory = host.space.frames.memory if isinstance(host, Vm) else host.memory
        self._tables = HostTables(self._memory)

    @property
    def _vms(self) -> Sequence[Vm]:
        return (self._host,) if isinstance(self._host, Vm) else self._host.vms

    def ranges(self) -> tuple[Range, ...]:
        return tuple(self._memory.ranges)

    def bytes_at(self, hpa: int, size: int) -> bytes | None:
        return self._tables.bytes_at(hpa, size)

    def word_at(self, hpa: int) -> int | None:
        return self._tables.word_at(hpa) if self.contains(hpa, 8) else None

    def holds(self, addresses: U64Array, size: int) -> npt.NDArray[np.bool_]:
        return self._tables.holds(addresses, size)

    def tables(self, addresses: U64Array, entries: int) -> U64Array:
        if not len(addresses) or np.any(addresses & np.uint64(7)):
            return super().tables(addresses, entries)
        return self._tables.tables(addresses, entries)

    @property
    def arch(self) -> str | None:
        return next((vm.arch for vm in self._vms), None)

    def known_roots(self) -> tuple[tuple[str, Regime], ...]:
        return tuple((vm.name, vm.space.regime) for vm in self._vms)

    def registers(self) -> tuple[Cpu, ...]:
        """A CPU for each vCPU: its stage 2, and of RISC-V and Arm its guest's stage 1, where a machine holds it.

        Raises:
            SourceError: a machine does not give its registers.
        """
        found = [values for vm in self._vms for values in self._registers_of(vm)]
        return tuple(Cpu(number, values) for number, values in enumerate(found))

    def _registers_of(self, vm: Vm) -> list[dict[str, int]]:
        stage_2 = _stage_2(vm.space.regime)
        machine = vm.machine
        if machine is None or machine.unsaved is not None or vm.arch == "x86_64":
            return [stage_2]  # on x86 CR3 is the host's own; the guest's is in no register of the host
        try:
            cpus = machine.at_rest(machine.save).cpus
        except Stage2Error as error:
            raise SourceError(f"{self.name}: the registers of VM {vm.name} cannot be had: {error}") from None
        return [stage_2 | _of_tables(cpu, _UNDER_A_HYPERVISOR) for cpu in cpus]


def _of_tables(cpu: Mapping[str, int], renamed: Mapping[str, str]) -> dict[str, int]:
    """What of a machine's registers says which tables there are, by the manual's names."""
    named = {name: name for name in _OF_TABLES} | {name.lower(): name for name in _OF_TABLES}
    found = {named[name]: value for name, value in cpu.items() if name in named}
    return {renamed.get(name, name): value for name, value in found.items()}


class SnapshotSource(MemorySource):
    """A snapshot of one VM: its memory as the guest sees it, so addresses are GPAs, and stage 1 is all there is.

    Args:
        snapshot: it.
        name: how messages call it.
    """

    def __init__(self, snapshot: Snapshot, name: str) -> None:
        super().__init__(name)
        self.snapshot = snapshot

    @cached_property
    def _spans(self) -> tuple[Range, ...]:
        gpas = self.snapshot.pages.gpas
        if not len(gpas):
            return ()
        cut = np.flatnonzero(gpas[1:] - gpas[:-1] != np.uint64(PAGE)) + 1
        first, last = np.concatenate(([0], cut)), np.concatenate((cut - 1, [len(gpas) - 1]))
        pairs = zip(gpas[first].tolist(), gpas[last].tolist(), strict=True)
        return tuple(Range(start, end + PAGE) for start, end in pairs)

    def ranges(self) -> tuple[Range, ...]:
        return self._spans

    def bytes_at(self, hpa: int, size: int) -> bytes | None:
        return self.snapshot.read(hpa, size) if self.contains(hpa, size) else None

    def tables(self, addresses: U64Array, entries: int) -> U64Array:
        inside = addresses & np.uint64(PAGE - 1)
        pages = addresses - inside
        held, _ = self.snapshot.pages.index(pages)
        if 8 * entries > PAGE or np.any(inside % np.uint64(8 * entries)) or not held.all():
            return super().tables(addresses, entries)
        rows = self.snapshot.pages.of_gpas(pages).reshape(len(pages), PAGE // (8 * entries), entries)
        found: U64Array = rows[np.arange(len(pages)), (inside // np.uint64(8 * entries)).astype(np.intp)]
        return found

    @property
    def arch(self) -> str | None:
        return self.snapshot.state.arch

    def registers(self) -> tuple[Cpu, ...]:
        cpus = self.snapshot.state.machine.cpus
        return tuple(Cpu(number, _of_tables(cpu, {})) for number, cpu in enumerate(cpus))


def open_snapshot(path: str | Path) -> SnapshotSource:
    """A file of `stage2 snapshot`, which is read as a whole, because its checksums are of the whole.

    Raises:
        SourceError: it is none, or damaged.
    """
    try:
        return SnapshotSource(Snapshot.open(Path(path)), str(path))
    except SnapshotError as error:
        raise SourceError(str(error)) from None


class FolderSource(FileSource):
    """The tables in a folder of `stage2 build`: nothing else of the host's memory is there.

    Args:
        name: the folder.
        data: the bytes of all pieces, one after the other.
        pieces: where they lie.
        arch: of the VMs.
        roots: of each VM by its name, and the hypervisor's own.
        notices: what is wrong with the pieces.
    """

    def __init__(
        self,
        name: str,
        data: bytes,
        pieces: Pieces,
        arch: str | None,
        roots: tuple[tuple[str, Regime], ...],
        notices: tuple[str, ...],
    ) -> None:
        cpus = [Cpu(number, _stage_2(regime)) for number, (_, regime) in enumerate(_second(roots))]
        super().__init__(FileBytes.of(name, data), pieces, arch=arch, cpus=cpus, notices=notices)
        self._roots = roots

    def known_roots(self) -> tuple[tuple[str, Regime], ...]:
        return self._roots


def _second(roots: tuple[tuple[str, Regime], ...]) -> list[tuple[str, Regime]]:
    return [one for one in roots if one[1].format.stage == 2]


def _stage_2(regime: Regime) -> dict[str, int]:
    """The registers of a stage 2; none where no register can hold it, as with x86's identifier 0."""
    fmt = regime.format
    try:
        return family_of(fmt).stage_2_registers(fmt, regime.root, regime.controls, regime.identifier)
    except Stage2Error:
        return {}


def open_folder(path: str | Path) -> FolderSource:
    """A folder that `stage2 build` wrote.

    Raises:
        SourceError: it is none, or damaged.
    """
    folder = Path(path)
    try:
        loaded = read_folder(folder)
        own = read_own(folder) if holds_own(folder) else None
    except Stage2Error as error:
        raise SourceError(str(error)) from None
    parts: list[LoadedWords] = [*loaded, *(() if own is None else (own,))]
    rows: list[tuple[int, int, int]] = []
    data = bytearray()
    for part in parts:
        for span, (_, found) in part.pieces:
            rows.append((span.start, len(found), len(data)))
            data += found
    notices: list[str] = []
    pieces = laid_out(np.array(rows, np.uint64).reshape(-1, 3), len(data), str(folder), notices)
    roots = [(vm.name, vm.regime) for vm in loaded]
    roots += [("the hypervisor", regime) for regime in (() if own is None else own.regimes)]
    arch = family_of(roots[0][1].format).arch if roots else None
    return FolderSource(str(folder), bytes(data), pieces, arch, tuple(roots), tuple(notices))
