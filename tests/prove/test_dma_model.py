"""What a device behind an IOMMU may reach, on random tables, against a model that looks at one page after the other."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from stage2.address import SIZE_4K, Gpa, Hpa, Range
from stage2.flags import MappingFlags, MapType
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.memory.physical import PhysicalMemory
from stage2.prove.iommu import behind_iommu
from stage2.prove.prover import prove
from stage2.prove.source import HostTables
from stage2.prove.subject import GivenDevice, Space, Subject
from stage2.space.region import MemoryRegion
from stage2.tables.explain import explain_stage
from stage2.tables.pagetable import PageTable
from stage2.tables.result import Mapped

PAGES, BASE, TABLES = 24, 0x8000_0000, 0x9000_0000
R, W = MappingFlags.READ, MappingFlags.READ | MappingFlags.WRITE


@dataclass(frozen=True)
class Page:
    """A page of host memory.

    Args:
        held: it is the VM's.
        vm: what the VM may do there; None where it does not map it.
        device: what the device may do there; None as before.
    """

    held: bool
    vm: MappingFlags | None
    device: MappingFlags | None

    @property
    def is_sound(self) -> bool:
        if self.device is None:
            return True
        return self.held if self.vm is None else self.device in self.vm


SOUND = st.sampled_from(
    [Page(True, None, None), Page(True, None, W), Page(True, W, R), Page(True, W, W), Page(True, R, R)]
)
SPOILED = st.sampled_from([Page(False, None, R), Page(False, None, W), Page(True, R, W)])
"""Memory that the VM maps is its own in either: another theorem is about that."""


@given(
    st.lists(SOUND, max_size=PAGES),
    st.lists(SPOILED, max_size=1),
    st.lists(SOUND, max_size=PAGES),
    st.sampled_from(["sv39x4", "ept4", "arm-s2-4k-40"]),
    st.booleans(),
)
def test_a_device_reaches_what_its_vm_may_and_holds(
    before: list[Page], spoiled: list[Page], after: list[Page], fmt: str, turned: bool
) -> None:
    pages = [*before, *spoiled, *after]
    memory = PhysicalMemory([Range.sized(BASE, 0x100_0000), Range.sized(TABLES, 0x100_0000)])
    frames = FrameAllocator(memory)
    vm = PageTable(fmt, frames, owner=Owner(OwnerKind.TABLES, "vm"))
    iommu = PageTable(fmt, frames, owner=Owner(OwnerKind.TABLES, "iommu"))
    hpas = [0xA000_0000 + number * SIZE_4K for number in range(len(pages))]
    for number, (page, hpa) in enumerate(zip(pages, hpas, strict=True)):
        # The device may see its memory in another order than the VM does.
        iova = (2 * PAGES - number if turned else number) * SIZE_4K
        if page.vm is not None:
            vm.map_range(BASE + number * SIZE_4K, Hpa(hpa), SIZE_4K, page.vm)
        if page.device is not None:
            iommu.map_range(iova, Hpa(hpa), SIZE_4K, page.device)
    regions = tuple(
        MemoryRegion(Gpa(BASE + number * SIZE_4K), SIZE_4K, page.vm, MapType.MAP_ALLOC)
        for number, page in enumerate(pages)
        if page.vm is not None
    )
    owners = tuple(
        (Range.sized(hpa, SIZE_4K), Owner(OwnerKind.VM, "vm"))
        for page, hpa in zip(pages, hpas, strict=True)
        if page.held
    )
    devices = (GivenDevice("vm", "net", masters=True),)
    source = HostTables(memory)
    subject = Subject(source, (Space("vm", vm.regime, regions),), owners=owners, devices=devices)
    theorem = prove(behind_iommu(subject, "net", (iommu.regime, source)))["dma"]
    assert theorem.holds is all(page.is_sound for page in pages)
    if theorem.witness is not None:
        assert theorem.witness.seat is not None
        assert theorem.witness.hpa is not None
        assert not pages[(theorem.witness.hpa - hpas[0]) // SIZE_4K].is_sound
        walk = explain_stage(memory, iommu.regime, theorem.witness.seat.address)
        assert isinstance(walk.result, Mapped)
        assert walk.result.hpa == theorem.witness.hpa
    memory.close()
