"""QEMU's AArch64 CPU as an oracle: hand-made tables, memory types, and what it is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from opening import machine_fixture
from stage2.address import Hpa, Range
from stage2.conform.oracle import Case, Pair
from stage2.conform.oracles.aarch64 import DATA, TABLES
from stage2.conform.oracles.qemu_aarch64 import ORACLE, QemuAArch64
from stage2.conform.probe import PROBE, Means, Probes
from stage2.conform.trial import Trial
from stage2.errors import EncodingError
from stage2.flags import RWX, Access, MappingFlags
from stage2.formats import by_name
from stage2.formats.arm.effective import combine, describe_mair
from stage2.formats.arm.layout import AF, TABLE_OR_PAGE, VALID
from stage2.formats.arm.stage1_control import SCTLR_M, SCTLR_WXN, regimes, stage_1_registers
from stage2.machines.aarch64 import WINDOW, WINDOW_GPA, AArch64Machine
from stage2.machines.mailbox import PROBE_ENTRY, TRANSLATE
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.tables.pagetable import PageTable

OWNER, OTHERS = Owner(OwnerKind.TABLES, "compared"), Owner(OwnerKind.TABLES, "others")
R, RX = MappingFlags.READ, MappingFlags.READ | MappingFlags.EXECUTE
GPA, GVA = 0x4000_0000, 0x12_0000_0000
USED = Range(TABLES.start, TABLES.start + (8 << 20))
machine = machine_fixture(ORACLE.open)


@contextmanager
def tables(
    machine: AArch64Machine, second: str, first: str | None = None, *,
    switches_1: tuple[str, ...] = (), switches_2: tuple[str, ...] = (),
) -> Iterator[tuple[PageTable | None, PageTable]]:  # fmt: skip
    """(stage 1, stage 2), which map what the guest needs and nothing else."""
    frames = FrameAllocator(machine.memory)
    for span in (Range(machine.RAM.start, USED.start), Range(USED.end, machine.RAM.end)):
        frames.claim(span, owner=OTHERS)
    fmt = by_name(second)
    outer = PageTable(fmt, frames, owner=OWNER, controls=fmt.controls_with(*switches_2), identifier=1)
    inner = None
    try:
        outer.map_range(WINDOW_GPA, Hpa(WINDOW.start), WINDOW.size, RX)
        if first is not None:
            outer.map_range(USED.start, Hpa(USED.start), USED.size, RWX)
            fmt = by_name(first)
            inner = PageTable(fmt, frames, owner=OWNER, controls=fmt.controls_with(*switches_1), identifier=1)
        yield inner, outer
    finally:
        machine.memory.zero(USED)


Build = Callable[[PageTable | None, PageTable], None]


class Tables:
    """Hand-made tables of a pair, compared as the suite compares random ones."""

    def __init__(
        self, machine: AArch64Machine, second: str, first: str | None = None, *,
        switches_1: tuple[str, ...] = (), switches_2: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        self.machine, self.first, self.second = machine, first, second
        self.switches_1, self.switches_2 = switches_1, switches_2

    def compare(self, build: Build, probes: Probes) -> None:
        """Nothing differs, and everything is asked."""
        switches = {"switches_1": self.switches_1, "switches_2": self.switches_2}
        walker = Trial(ORACLE, ORACLE.version())
        pair = Pair("by hand", self.first, self.second)
        with tables(self.machine, self.second, self.first, **switches) as (inner, outer):
            build(inner, outer)
            case = Case(pair, None if inner is None else inner.regime, outer.regime, probes)
            verdict = walker.case(self.machine, case, ORACLE.places(self.machine, pair), USED)
        walker.close()
        assert verdict.mismatches == []
        assert (verdict.cases, verdict.unjudged, verdict.deviations) == (len(probes), 0, {})


def every_kind(addresses: list[int]) -> Probes:
    """Reads, writes and fetches of EL1 and EL0, and translations of both, of every address."""
    listed = []
    for means in Means:
        for access in Access:
            if means is Means.TRANSLATE and access is Access.FETCH:
                continue
            for user in (False, True):
                upper = 0x800 if access is Access.WRITE else 0
                listed += [(address | upper, 0x5555, access, user, means) for address in addresses]
    return np.array(listed, PROBE)


def rights() -> list[MappingFlags]:
    return [MappingFlags(bits) for bits in range(1, 8)]


ALONE = [pair for pair in ORACLE.pairs if pair.first is None and pair.regime is None]


@pytest.mark.parametrize("pair", ALONE, ids=lambda pair: pair.name)
def test_every_permission_and_every_leaf_of_stage_2_is_compared(machine: AArch64Machine, pair: Pair) -> None:
    fmt = by_name(pair.second)
    sizes = [size for size in fmt.leaf_sizes if size <= DATA.size]
    places = [index * max(sizes) for index in range(1, 8)]

    def build(_: PageTable | None, outer: PageTable) -> None:
        for address, flags in zip(places, rights(), strict=True):
            outer.map_range(address, Hpa(DATA.start), max(sizes), flags, largest=max(sizes))
        outer.map_page(8 * max(sizes), Hpa(DATA.start), RWX)

    # The last addresses: a page, the hole behind it, and beyond the width unless stage 1 refuses that.
    more = [8 * max(sizes), 8 * max(sizes) + fmt.page_size, (1 << min(fmt.input_bits, 51)) | GPA]
    Tables(machine, pair.second).compare(build, every_kind([*places, *(at + 0x3000 for at in places), *more]))


@pytest.mark.parametrize("pair", [pair for pair in ORACLE.pairs if pair.first is not None], ids=lambda pair: pair.name)
def test_every_permission_of_both_stages_is_compared(machine: AArch64Machine, pair: Pair) -> None:
    assert pair.first is not None
    first, second = by_name(pair.first), by_name(pair.second)
    page = max(first.page_size, second.page_size)
    inner_rights = [flags | user for flags in rights() if flags & R for user in (MappingFlags(0), MappingFlags.USER)]

    def build(inner: PageTable | None, outer: PageTable) -> None:
        assert inner is not None
        for index, flags in enumerate(rights()):
            outer.map_range(GPA + index * page, Hpa(DATA.start + index * page), page, flags)
        for index, flags in enumerate(inner_rights):
            for below in range(8):
                inner.map_range(GVA + (8 * index + below) * page, Hpa(GPA + below * page), page, flags)

    addresses = [GVA + index * page for index in range(8 * len(inner_rights))]
    Tables(machine, pair.second, pair.first).compare(build, every_kind([*addresses, 1 << first.input_bits]))


@pytest.mark.parametrize("switch", ["pan", "wxn", "hpd", "af", "ad"])
def test_switches_of_stage_1_are_compared(machine: AArch64Machine, switch: str) -> None:
    def build(inner: PageTable | None, outer: PageTable) -> None:
        assert inner is not None
        outer.map_range(GPA, Hpa(DATA.start), 1 << 20, RWX)
        for index, flags in enumerate((R, RX, RWX, R | MappingFlags.WRITE)):
            for user in (MappingFlags(0), MappingFlags.USER):
                at = 2 * index + bool(user)
                inner.map_range(GVA + 4096 * at, Hpa(GPA + 4096 * at), 4096, flags | user)

    probes = every_kind([GVA + 4096 * index for index in range(8)])
    if switch == "pan":
        probes = probes[(probes["means"] == Means.ACCESS) | (probes["user"] == 1)]
    if switch == "ad":
        # A fetch from a clean page is a known deviation.
        probes = probes[probes["access"] != Access.FETCH]
    Tables(machine, "arm-s2-4k-40", "arm-s1-4k-39", switches_1=(switch,)).compare(build, probes)


MAIR = 0x00_0C_4F_F4_BB_44_04_FF
SHARED = (0, 2, 3)


@pytest.mark.parametrize("fwb", [False, True])
def test_memory_types_of_both_stages_combine_as_on_the_machine(machine: AArch64Machine, fwb: bool) -> None:
    first = [(index, share) for index in range(8) for share in SHARED]
    second = [(kind, share) for kind in range(16) for share in SHARED]
    leaf = VALID | TABLE_OR_PAGE | AF
    with tables(machine, "arm-s2-4k-40", "arm-s1-4k-39", switches_2=("fwb",) if fwb else ()) as (inner, outer):
        assert inner is not None
        outer.map_range(GPA, Hpa(DATA.start), 4096 * len(second), RWX, largest=4096)
        for at, (kind, share) in enumerate(second):
            slot = outer.explain(GPA + 4096 * at).steps[-1].slot_hpa
            machine.memory.store_u64(slot, DATA.start + 4096 * at | leaf | 3 << 6 | kind << 2 | share << 8)
        for base, (index, share) in enumerate(first):
            start = GVA + (base << 21)
            inner.map_range(start, Hpa(GPA), 4096 * len(second), R, largest=4096)
            table = inner.explain(start).steps[-1].slot_hpa
            for at in range(len(second)):
                machine.memory.store_u64(Hpa(table + 8 * at), GPA + 4096 * at | leaf | index << 2 | share << 8)
        listed = np.zeros(len(first) * len(second), PROBE_ENTRY)
        grid = np.arange(len(listed))
        listed["address"] = GVA + (grid // len(second) << 21) + grid % len(second) * 4096
        listed["kind"] = TRANSLATE
        machine.enter(inner.regime, outer.regime, mair=MAIR)
        pars = machine.probe(listed)["value"].copy()
        assert not (pars & np.uint64(1)).any()
        judged = 0
        for place, par in enumerate(pars.tolist()):
            (index, share), (kind, below) = first[place // len(second)], second[place % len(second)]
            try:
                ours = combine((MAIR >> 8 * index & 0xFF, share), (kind, below), fwb=fwb)
            except EncodingError:
                continue
            judged += 1
            if confused(MAIR >> 8 * index & 0xFF, kind, fwb):
                continue
            assert (ours.name, ours.shareability) == shown(par), (index, share, kind, below)
        assert judged == len(first) * 3 * (7 if fwb else 13)


def confused(first: int, second: int, fwb: bool) -> bool:
    """Whether QEMU combines a Device type otherwise than the manual.

    Under FWB it takes stage 2's Device type even where stage 1's is stricter (AArch64.S2ApplyFWBMemAttrs combines
    them). Without FWB it looks at the lower half of a Normal attribute as if it were a Device type too, so that
    Non-cacheable, whose half is 4, passes for Device-nGnRE.
    """
    first_device, second_device = first >> 4 == 0, second >> 2 == 0
    if fwb:
        return first_device and second < 4 and first >> 2 < second
    if first_device == second_device:
        return False
    device, non_cacheable = (first >> 2, second & 3 == 1) if first_device else (second, first & 0xF == 4)
    return non_cacheable and device >= 2


def shown(par: int) -> tuple[str, str]:
    """Memory type and shareability in PAR_EL1."""
    words = {0: "Non-shareable", 2: "Outer Shareable", 3: "Inner Shareable"}
    return describe_mair(par >> 56), words[par >> 7 & 3]


@pytest.mark.parametrize(
    "name", ["arm-s1-4k-39", "arm-s1-4k-48", "arm-s1-4k-52-lpa2", "arm-s1-16k-47", "arm-s1-64k-48"]
)
def test_the_registers_of_a_stage_1_regime_are_read_back_as_it(name: str) -> None:
    fmt = by_name(name)
    for switches in ((), ("af",), ("ad",), ("hpd",), ("pa36", "wxn")):
        controls = fmt.controls_with(*switches)
        found = stage_1_registers(fmt, 0x7654_0000, controls, 0x1234)
        sctlr = SCTLR_M | (SCTLR_WXN if "wxn" in switches else 0)
        # TTBR1's half needs a granule and a size of its own.
        read = regimes(1, tcr=found["TCR_EL1"] | 25 << 16 | 2 << 30, ttbr0=found["TTBR0_EL1"], sctlr=sctlr)
        assert read.low is not None
        assert (read.low.format.name, read.low.root, read.low.controls) == (name, 0x7654_0000, controls)
        assert read.asid == 0x1234


def test_a_regime_that_ttbr0_cannot_have_is_refused() -> None:
    high, low = by_name("arm-s1-4k-48-high"), by_name("arm-s1-4k-48")
    with pytest.raises(EncodingError, match="TTBR0"):
        stage_1_registers(high, 0, high.default_controls, 1)
    with pytest.raises(EncodingError, match="TTBR0"):
        stage_1_registers(low, 0, low.controls_with("el2"), 1)


def test_tags_are_instructions_that_tell_their_number() -> None:
    words = [ORACLE.tag(index) for index in (1, 2, 0x8000, 0xFFFF)]
    assert len(set(words)) == 4
    assert [word >> 5 & 0xFFFF for word in words] == [1, 2, 0x8000, 0xFFFF]
    assert all(word & 0xFFE0_001F == 0xD420_0000 for word in words)


def test_it_is_not_asked_what_ends_qemu_or_leads_into_the_monitor(machine: AArch64Machine) -> None:
    walker = Trial(ORACLE, ORACLE.version())
    with tables(machine, "arm-s2-4k-48") as (_, outer):
        case = Case(
            Pair("by hand", None, "arm-s2-4k-48"), None, outer.regime, every_kind([WINDOW_GPA, 1 << 46, 1 << 52])
        )
        predictions = walker.predict(machine.memory, case, marks=False)
        asked = case.probes[ORACLE.allows(case, predictions)]
    # Of QEMU 7.2, a hole of the root may be asked for by instruction only, since it takes a block there for one. It may
    # always be asked where a write to the window fails; an address that stage 1 refuses not at all.
    assert set(asked["address"]) == {1 << 46, 1 << 46 | 0x800, WINDOW_GPA | 0x800}
    means = set(Means) if ORACLE.newer else {Means.TRANSLATE}
    assert set(asked["means"][asked["address"] >= 1 << 46]) == means
    walker.close()


def test_another_width_of_addresses_is_refused(machine: AArch64Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AArch64Machine, "pa_bits", 48)
    with pytest.raises(Exception, match="48-bit"):
        QemuAArch64().open()
