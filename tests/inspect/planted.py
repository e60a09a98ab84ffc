"""Tables of ours in host memory, sound or with something planted in them, looked at as if anybody had made them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from stage2.address import Hpa, Range
from stage2.flags import MappingFlags
from stage2.formats import TypeSources, by_name
from stage2.inspect.audit.every import Audit, audit
from stage2.inspect.root import Root
from stage2.inspect.source import MemorySource
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.memory.physical import PhysicalMemory
from stage2.prove.source import HostTables
from stage2.tables.pagetable import PageTable

BASE, SIZE = 0x8000_0000, 64 << 20
KIB_4, MIB_2 = 0x1000, 0x20_0000
READ, WRITE, EXECUTE, USER = MappingFlags.READ, MappingFlags.WRITE, MappingFlags.EXECUTE, MappingFlags.USER
CODE, DATA = READ | EXECUTE, READ | WRITE
KERNEL, PROGRAM = (
    {"x86": 0xFFFF_FFFF_8000_0000, "arm": 0xFFFF_8000_0000_0000, "riscv": 0xFFFF_FFFF_8000_0000},
    0x40_0000,
)
"""Where a kernel has its code, and where a program has its."""
FAMILIES = ("x86-ept", "x86-npt", "arm", "riscv")


@dataclass(frozen=True, slots=True)
class Names:
    """The formats of one architecture: of a kernel's half, of a program's, of a hypervisor's own, and of a stage 2."""

    family: str
    kernel: str
    program: str
    second: str
    switches: tuple[str, ...] = ()


NAMES = {
    "x86-ept": Names("x86", "x86-4level", "x86-4level", "ept4", ("smep", "smap")),
    "x86-npt": Names("x86", "x86-4level", "x86-4level", "npt4", ("smep", "smap")),
    "arm": Names("arm", "arm-s1-4k-48-high", "arm-s1-4k-48", "arm-s2-4k-40"),
    "riscv": Names("riscv", "sv39", "sv39", "sv39x4"),
}


class Seen(MemorySource):
    """Host memory as a source."""

    def __init__(self, memory: PhysicalMemory) -> None:
        super().__init__("planted")
        self._memory, self._tables = memory, HostTables(memory)

    def ranges(self) -> tuple[Range, ...]:
        return tuple(self._memory.ranges)

    def bytes_at(self, hpa: int, size: int) -> bytes | None:
        return self._tables.bytes_at(hpa, size)


MAIR_KNOWN = TypeSources(mair=0xBB44_04FF)


@dataclass(slots=True)
class Planted:
    """A machine's memory with tables in it."""

    names: Names
    memory: PhysicalMemory = field(default_factory=lambda: PhysicalMemory([Range(BASE, BASE + SIZE)]))
    roots: list[Root] = field(default_factory=list)
    types: TypeSources = MAIR_KNOWN
    _frames: FrameAllocator | None = None

    @classmethod
    def of(cls, family: str) -> Planted:
        return cls(NAMES[family])

    def table(self, name: str, *maps: tuple[int, int, int, MappingFlags], switches: Sequence[str] = ()) -> PageTable:
        """Tables of a format that map (address, HPA, size, flags)."""
        if self._frames is None:
            self._frames = FrameAllocator(self.memory)
        fmt = by_name(name)
        controls = fmt.controls_with(*switches)
        made = PageTable(
            fmt, self._frames, owner=Owner(OwnerKind.TABLES, name), controls=controls, flush=lambda _: None
        )
        for start, hpa, size, flags in maps:
            made.map_range(start, Hpa(hpa), size, flags)
        return made

    def kernel(self, *maps: tuple[int, int, int, MappingFlags], under: Root | None = None) -> Root:
        """Tables of a stage 1 for addresses of the high half."""
        made = self.table(self.names.kernel, *maps, switches=self.names.switches)
        return self._added(made, under)

    def program(self, *maps: tuple[int, int, int, MappingFlags], under: Root | None = None) -> Root:
        """Tables of a stage 1 for addresses of the low half."""
        made = self.table(self.names.program, *maps, switches=self.names.switches)
        return self._added(made, under)

    def vm(self, *maps: tuple[int, int, int, MappingFlags]) -> Root:
        """Tables of a stage 2."""
        return self._added(self.table(self.names.second, *((*one[:3], one[3] | USER) for one in maps)), None)

    def _added(self, made: PageTable, under: Root | None) -> Root:
        self.roots.append(Root(made.regime, where="TTBR1_EL1 of CPU 0", under=under, types=self.types))
        return self.roots[-1]

    @property
    def base(self) -> int:
        """Where the kernel's code is."""
        return KERNEL[self.names.family]

    @property
    def source(self) -> MemorySource:
        return Seen(self.memory)

    def audit(self) -> Audit:
        return audit(self.source, self.roots)


def sound(family: str) -> Planted:
    """A kernel with code and data, a program, and two VMs with memory of their own; nothing is wrong with it."""
    made = Planted.of(family)
    base = made.base
    kernel = ((base, BASE, MIB_2, CODE), (base + MIB_2, BASE + MIB_2, MIB_2, DATA))
    program = (
        (PROGRAM, BASE + 2 * MIB_2, KIB_4, CODE | USER),
        (PROGRAM + KIB_4, BASE + 2 * MIB_2 + KIB_4, KIB_4, DATA | USER),
    )
    if made.names.kernel == made.names.program:
        made.kernel(*kernel, *program)
    else:
        made.kernel(*kernel)
        made.program(*program)
    for number in range(2):
        made.vm((BASE, BASE + (4 + number) * MIB_2, MIB_2, CODE | WRITE))
    return made


def codes(found: Audit, level: str = "") -> list[str]:
    """The codes of findings, of one severity or of all, each once."""
    return sorted({finding.code for finding in found.findings if level in ("", finding.level.value)})
