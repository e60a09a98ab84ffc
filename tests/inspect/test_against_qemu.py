"""What a dump of Linux and its registers say, held against QEMU's own translations: QEMU is the judge."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import pytest
from linux_machines import ARCHITECTURES, LinuxMachine, linux_fixture, started

import effort
from stage2.inspect.find.finder import find
from stage2.inspect.mapping import MapPart, map_parts
from stage2.inspect.opened import open_source
from stage2.inspect.qemu.endpoint import Endpoint
from stage2.inspect.qemu.gdbstub import GdbStub
from stage2.inspect.qemu.live import open_live
from stage2.inspect.root import roots_of_registers
from stage2.inspect.route import Route, route_of
from stage2.inspect.source import MemorySource
from stage2.inspect.through import NOWHERE
from stage2.inspect.translate import translate_many
from waiting import HANG_S

stopped_linux = linux_fixture(*ARCHITECTURES)
ASKED = 10_000
PAGE = 1 << 12
U64Array = npt.NDArray[np.uint64]
READ_ALL: dict[str, dict[str, int]] = {
    "aarch64": {"cpsr": 0x3C5},
    "riscv64": {"priv": 1, "sstatus": 2 << 32 | 3 << 18},
    "x86_64": {},
}
"""What lets the judge read every page that is mapped: EL1 without PAN; S-mode with SUM and MXR."""


def test_translations_from_the_dump_are_qemus(stopped_linux: LinuxMachine) -> None:
    route = route_by_registers(stopped_linux)
    with open_source(str(stopped_linux.core)) as dump, open_live(stopped_linux.both) as live:
        asked = addresses(dump, route)
        found = translate_many(dump, route, asked)
        again = translate_many(live, route, asked)
        assert np.array_equal(found.hpa, again.hpa)
        assert np.array_equal(found.permissions, again.permissions)
        words = {hpa: live.read(hpa, 8) for hpa in found.hpa.tolist() if live.contains(hpa, 8)}
    mapped = int(np.count_nonzero(found.hpa != np.uint64(NOWHERE)))
    assert ASKED // 4 < mapped < ASKED - ASKED // 4
    wrong = []
    with judge(stopped_linux) as stub:
        for gva, hpa in zip(asked.tolist(), found.hpa.tolist(), strict=True):
            if hpa == NOWHERE:
                good = stub.memory(gva, 8) is None
            elif hpa in words:
                good = stub.memory(gva, 8) == words[hpa]
            else:
                continue  # a device's registers, which are not to be touched
            if not good:
                wrong.append((hex(gva), hex(hpa)))
    assert not wrong, wrong[:10]


def test_a_search_finds_the_kernels_own_root_first_and_registers_tell_which_are_alive(
    stopped_linux: LinuxMachine,
) -> None:
    route = route_by_registers(stopped_linux)
    with open_live(stopped_linux.both) as live:
        alive = {one.root.regime.root for one in find(live, arch=live.arch).roots if one.alive}
    running = {root.regime.root for root in route.roots}
    assert running <= alive
    with open_source(str(stopped_linux.core)) as dump:
        best = find(dump, registers=False).roots[0].root.regime
        # The kernel's addresses are the same by every process's tables; on Arm they have a root of their own.
        high = next(root.regime for root in reversed(route.first))
        half = slice(0, None) if high.format.high_half else slice(256, None)
        tables = [
            dump.tables(np.array([one.root], np.uint64), 1 << one.format.root_bits).reshape(-1) for one in (best, high)
        ]
    assert best.format.levels == high.format.levels
    assert np.array_equal(tables[0][half], tables[1][half])
    if not high.format.high_half:
        assert not tables[0][:256].any()


def test_x86_addresses_lead_where_gva2gpa_says(request: pytest.FixtureRequest) -> None:
    one = started("x86_64", request)
    route = route_by_registers(one)
    with open_source(str(one.core)) as dump:
        asked = addresses(dump, route)
        found = translate_many(dump, route, asked)
    with judge(one) as stub:
        told = [stub.monitor(f"gva2gpa {gva:#x}").strip() for gva in asked.tolist()]
    want = ["Unmapped" if hpa == NOWHERE else f"gpa: {hpa:#x}" for hpa in found.hpa.tolist()]
    assert told == want


@pytest.mark.parametrize("arch", ["x86_64", "riscv64"])  # of Arm's mappings QEMU has no list
def test_the_map_covers_what_qemu_lists(request: pytest.FixtureRequest, arch: str) -> None:
    one = started(arch, request)
    route = route_by_registers(one)
    with open_source(str(one.core)) as dump:
        ours = pages_of(list(map_parts(dump, route.first[0], None)))
    (listed,) = one.ask("info mem")
    if arch == "riscv64":
        rows = re.findall(r"^([0-9a-f]{16}) ([0-9a-f]{16}) ([0-9a-f]{16}) ([r-][w-][x-][u-])", listed, re.MULTILINE)
        theirs = {
            int(va, 16) + at: (int(pa, 16) + at, rights)
            for va, pa, size, rights in rows
            for at in range(0, int(size, 16), PAGE)
        }
        assert ours == theirs
        return
    ranges = re.findall(r"^([0-9a-f]{16})-([0-9a-f]{16}) [0-9a-f]{16} ([u-])r([w-])", listed, re.MULTILINE)
    rights_of = {at: u + w for va, end, u, w in ranges for at in range(int(va, 16), int(end, 16), PAGE)}
    assert {at: rights[3] + rights[1] for at, (_, rights) in ours.items()} == rights_of
    (listed,) = one.ask("info tlb")
    leaves = re.findall(r"^([0-9a-f]{16}): ([0-9a-f]{16}) .(.)(P|-)", listed, re.MULTILINE)
    theirs_hpa = {
        int(va, 16) + at: int(pa, 16) + at
        for va, pa, _, large in leaves
        for at in range(0, 1 << 21 if large == "P" else PAGE, PAGE)
    }
    assert {at: hpa for at, (hpa, _) in ours.items()} == theirs_hpa


def route_by_registers(one: LinuxMachine) -> Route:
    """The way of a GVA by the registers that the gdb stub tells."""
    with open_live(one.both) as live:
        roots, problems = roots_of_registers(live.registers(), live.arch)
    assert not problems
    return route_of(roots, "gva")


def addresses(source: MemorySource, route: Route) -> U64Array:
    """Addresses of words: half of them in what is mapped, the others beside it and anywhere."""
    generator = np.random.default_rng(effort.SEED)
    parts = [part for first in route.first for part in map_parts(source, first, route.second)]
    start, size = (np.concatenate([getattr(part, name) for part in parts]) for name in ("start", "size"))
    which = generator.integers(0, len(start), ASKED // 2)
    inside = start[which] + (generator.random(len(which)) * size[which]).astype(np.uint64)
    which = generator.integers(0, len(start), ASKED // 4)
    beside = start[which] + np.where(generator.random(len(which)) < 0.5, size[which], np.uint64(-PAGE % (1 << 64)))
    anywhere = generator.integers(0, 1 << 64, ASKED - len(inside) - len(beside), np.uint64)
    made: U64Array = np.concatenate([inside, beside, anywhere]) & ~np.uint64(7)
    return made


def pages_of(parts: list[MapPart]) -> dict[int, tuple[int, str]]:
    """Each mapped page: GVA -> HPA, and its rights with `u` for a page of user mode, as QEMU writes them."""
    made = {}
    for part in parts:
        for one in part.told():
            assert one.hpa is not None
            both = (one.permissions | one.permissions >> 3) & 7
            flags = zip("rwx", (1, 2, 4), strict=True)
            rights = "".join(name if both & bit else "-" for name, bit in flags) + "-u"[one.permissions >> 3 != 0]
            made.update({one.start + at: (one.hpa + at, rights) for at in range(0, one.size, PAGE)})
    return made


@contextmanager
def judge(one: LinuxMachine) -> Iterator[GdbStub]:
    """A gdb stub that reads by GVA whatever is mapped; the machine is afterwards as before."""
    stub = GdbStub(Endpoint("gdb", str(one.gdb)), seconds=HANG_S)
    try:
        values = READ_ALL[one.arch]
        before = stub.registers(values)
        assert before.keys() == values.keys()
        try:
            write(stub, values)
            yield stub
        finally:
            write(stub, before)
    finally:
        stub.close()


def write(stub: GdbStub, values: dict[str, int]) -> None:
    """Set registers of the stub's CPU."""
    for name, value in values.items():
        register = stub.description.registers[name]
        assert stub.ask(f"P{register.number:x}={value.to_bytes(register.bits // 8, 'little').hex()}") == "OK", name
