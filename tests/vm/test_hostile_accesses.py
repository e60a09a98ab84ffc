"""Whatever a guest does with the registers of emulated devices, they stand it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stage2.address import Gpa, Range
from stage2.vm.console import Console
from stage2.vm.devices import BankedDevice, Device, DeviceBus, TestDevice
from stage2.vm.gic.v2 import GicV2
from stage2.vm.gic.v3 import GicV3
from stage2.vm.pl011 import Pl011
from stage2.vm.uart16550 import Uart

SIZE = 0x4_0000
PLACES = range(0, 7 * SIZE, SIZE)
_REGISTERS = st.one_of(
    st.integers(0, SIZE - 1),
    st.integers(0, 0x400).map(lambda n: 4 * n),
    st.integers(0, 0x400).map(lambda n: 0x1_0000 + 4 * n),
)
_ACCESSES = st.lists(
    st.tuples(
        st.sampled_from(PLACES), _REGISTERS, st.sampled_from([1, 2, 4, 8]), st.integers(0, 1),
        st.one_of(st.none(), st.integers(0, (1 << 64) - 1)),
    ),
    max_size=100,
)  # fmt: skip


@given(_ACCESSES)
def test_no_access_is_too_much(accesses: list[tuple[int, int, int, int, int | None]]) -> None:
    console, bus = Console(), DeviceBus()
    old, new = GicV2(2), GicV3([0, 1])
    devices: tuple[Device | BankedDevice, ...] = (
        old.distributor, old.cpu_interface, new.distributor, new.redistributors,
        Pl011("p", console, lambda level: old.set_level(0, 33, level)), Uart("u", console, lambda level: None),
        TestDevice("t"),
    )  # fmt: skip
    for place, device in zip(PLACES, devices, strict=True):
        bus.attach(Range.sized(place, SIZE), device)
    for place, offset, width, cpu, value in accesses:
        gpa = Gpa(place + offset)
        if value is None:
            found = bus.read(gpa, width, cpu)
            assert found is not None
            assert 0 <= found < 1 << 8 * width
        else:
            assert bus.write(gpa, width, value, cpu)
        for gic in (old, new):
            listed, _ = gic.fill(cpu, 4)
            gic.take_back(cpu, [(one.intid, one.pending, one.active) for one in listed])
