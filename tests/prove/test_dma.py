"""The theorem `dma`: devices that master memory, bare and behind the tables of an IOMMU; seeded faults are refuted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from json_schemas import require_schema
from stage2.address import SIZE_4K, Gpa, Hpa, Range
from stage2.cli.main import call
from stage2.config.document import parse_document
from stage2.config.regions import plan_vm
from stage2.config.stage2_format import named_format
from stage2.config.vm import read_vm
from stage2.errors import ConfigError
from stage2.flags import MappingFlags, MemoryType
from stage2.memory.owners import Owner, OwnerKind
from stage2.prove.iommu import behind_iommu
from stage2.prove.prover import prove
from stage2.prove.source import HostTables
from stage2.prove.theorem import Seat, Theorem
from stage2.tables.explain import explain_stage
from stage2.tables.pagetable import PageTable
from stage2.tables.result import Mapped
from stage2.vm.host import Host, Options, build
from stage2.vm.isolation import subject_of

FORMATS = ("sv39x4", "sv48x4", "ept4", "arm-s2-4k-40", "arm-s2-16k-40")
RAM, SHARE, PAGE = 0x8000_0000, 0x7000_0000, 0x1_0000
RW = MappingFlags.READ | MappingFlags.WRITE


def vm_text(number: int, dma: str = "net = true", populate: str = "eager") -> str:
    return f"""\
[base]
id = {number}
name = "vm{number}"
vm_type = 1
cpu_num = 1
[kernel]
entry_point = {RAM:#x}
kernel_load_addr = {RAM:#x}
memory_regions = [[{RAM:#x}, 0x40_0000, 0x7, 0]]
[devices]
passthrough_devices = [["net", 0x1000_0000, {0x1000_0000 + number * 0x10_0000:#x}, 0x10000, 0]]
[[share]]
name = "ring"
gpa = {SHARE:#x}
size = {PAGE:#x}
access = "{"r" if number == 1 else "rw"}"
peers = [{3 - number}]
[stage2]
populate = "{populate}"
[stage2.dma]
{dma if number == 1 else ""}
"""


def host_of(fmt: str, **said: str) -> Host:
    named = named_format(fmt)
    plans = [plan_vm(read_vm(parse_document(vm_text(number, **said), f"vm{number}.toml"))) for number in (1, 2)]
    return build(plans, arch=named.arch, options=Options(format=named))


@pytest.fixture(params=FORMATS)
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    with host_of(request.param) as found:
        yield found


def hpa_of(host: Host, number: int, gpa: int) -> Hpa:
    found = host.vms[number].space.hpa_of(Gpa(gpa))
    assert found is not None
    return found


def tables_of(host: Host) -> PageTable:
    """An IOMMU's tables with the RAM and the share of VM 1, as the VM has them."""
    space = host.vms[0].space
    table = PageTable(space.format, host.frames, owner=Owner(OwnerKind.TABLES, "iommu"))
    for gpa, hpa, size, _ in space.page_table.rows().tolist():
        if gpa >= SHARE:
            flags = MappingFlags.READ if gpa < RAM else RW
            table.map_range(gpa, Hpa(hpa), size, flags)
    return table


def dma_of(host: Host, table: PageTable) -> Theorem:
    return host.prove(iommu={"vm1/net": table})["dma"]


def test_a_device_with_nothing_before_it_reaches_everything(host: Host) -> None:
    proof = host.prove()
    assert [one.name for one in proof.theorems if one.holds is False] == ["dma"]
    witness = proof["dma"].witness
    assert witness is not None
    assert (
        "device net of VM vm1 reads and writes memory by itself, and no tables of an IOMMU are given" in witness.problem
    )
    assert witness.seat == Seat("VM vm1", 0x1000_0000)
    assert proof["dma"].assumed[-1] == "of VM vm2 no device reads or writes memory by itself: net (nothing tells)"
    assert [one.code for one in proof["dma"].reasons] == ["S2701"]


def test_buses_that_let_a_device_through_to_its_vms_memory_alone_are_as_good_as_an_iommu(host: Host) -> None:
    subject = subject_of(host)
    assert subject.owners is not None
    mine = tuple(span for span, owner in subject.owners if owner == Owner(OwnerKind.VM, "vm1"))
    net, other = subject.devices
    assert prove(replace(subject, devices=(replace(net, reach=mine), other)))["dma"].holds is True
    end = mine[-1].end
    for reach, first in (((*mine, Range(end, end + PAGE)), end), ((Range(mine[0].start, end + PAGE),), end)):
        witness = prove(replace(subject, devices=(replace(net, reach=reach), other)))["dma"].witness
        assert witness is not None
        assert (witness.hpa, "its buses let it through to" in witness.problem) == (first, True)


def test_tables_with_what_the_vm_has_are_proved(host: Host) -> None:
    theorem = dma_of(host, tables_of(host))
    assert theorem.holds is True, theorem.witness
    assert theorem.covered["devices"] == 2
    assert theorem.covered["bytes"] == 0x40_0000 + PAGE
    assert any("(ATS)" in one for one in theorem.assumed)


def test_the_vms_own_tables_are_as_good_as_its_own_theorems(host: Host) -> None:
    assert host.prove(iommu={"vm1/net": "shared"}).proved
    assert host.prove(iommu="shared").proved
    subject = behind_iommu(subject_of(host), "vm1/net", None)
    assert subject.owners is not None
    owners = tuple(one for one in subject.owners if one[1] != Owner(OwnerKind.VM, "vm1"))
    theorem = prove(replace(subject, owners=owners))["dma"]
    assert theorem.witness is not None
    assert theorem.witness.problem.startswith("device net of VM vm1 reaches what its VM reaches: VM vm1 reaches [")


def other_vms_ram(host: Host, table: PageTable) -> tuple[int, int, str]:
    hpa = hpa_of(host, 1, RAM)
    table.map_range(0x1_0000, hpa, PAGE, RW)
    return 0x1_0000, hpa, "VM vm2"


def a_table_of_the_vm(host: Host, table: PageTable) -> tuple[int, int, str]:
    hpa = host.vms[0].space.page_table.table_ranges[0].start
    table.map_range(0x1_0000, Hpa(hpa), PAGE, MappingFlags.READ)
    return 0x1_0000, hpa, "page tables of VM vm1"


def its_own_tables(host: Host, table: PageTable) -> tuple[int, int, str]:
    table.map_range(0x1_0000, Hpa(table.root), PAGE, RW)
    return 0x1_0000, table.root, "page tables of VM iommu"


def memory_of_nobody(host: Host, table: PageTable) -> tuple[int, int, str]:
    hpa = host.memory.ranges[-1].end - PAGE
    table.map_range(0x1_0000, Hpa(hpa), PAGE, RW)
    return 0x1_0000, hpa, "nobody"


def past_the_end_of_its_ram(host: Host, table: PageTable) -> tuple[int, int, str]:
    """One mapping that begins in the VM's memory and ends outside."""
    top = max(hpa + size for gpa, hpa, size, _ in host.vms[0].space.page_table.rows().tolist() if gpa >= RAM)
    table.map_range(0x10_0000, Hpa(top - PAGE), 2 * PAGE, RW)
    return 0x10_0000 + PAGE, top, ""


def a_share_that_may_only_be_read(host: Host, table: PageTable) -> tuple[int, int, str]:
    hpa = hpa_of(host, 0, SHARE)
    table.protect_range(SHARE, PAGE, RW)
    return SHARE, hpa, "share ring"


def the_other_vms_device(host: Host, table: PageTable) -> tuple[int, int, str]:
    table.map_range(0x1_0000, Hpa(0x1020_0000), PAGE, RW, memory_type=MemoryType.UNCACHED)
    return 0x1_0000, 0x1020_0000, "device net of VM vm2"


FAULTS: tuple[Callable[[Host, PageTable], tuple[int, int, str]], ...] = (
    other_vms_ram,
    a_table_of_the_vm,
    its_own_tables,
    memory_of_nobody,
    past_the_end_of_its_ram,
    a_share_that_may_only_be_read,
    the_other_vms_device,
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_seeded_fault_of_an_iommus_tables_is_refuted_where_its_walk_leads(
    host: Host, fault: Callable[[Host, PageTable], tuple[int, int, str]]
) -> None:
    table = tables_of(host)
    if fault is the_other_vms_device and host.vms[0].space.format.family == "riscv":
        table.map_range(0x1_0000, Hpa(0x1020_0000), PAGE, RW)
        iova, hpa, owner = 0x1_0000, 0x1020_0000, "device net of VM vm2"
    else:
        iova, hpa, owner = fault(host, table)
    proof = host.prove(iommu={"vm1/net": table})
    assert [one.name for one in proof.theorems if one.holds is False] == ["dma"]
    witness = proof["dma"].witness
    assert witness is not None
    assert witness.seat is not None
    assert (witness.seat.who, witness.seat.address, witness.hpa) == ("device net of VM vm1", iova, hpa)
    assert owner in (witness.owner or "")
    assert not proof["dma"].reasons
    walk = explain_stage(host.memory, table.regime, iova)
    assert isinstance(walk.result, Mapped)
    assert walk.result.hpa == hpa
    if witness.other is not None:
        space = next(vm.space for vm in host.vms if f"VM {vm.name}" == witness.other.who)
        assert space.hpa_of(Gpa(witness.other.address)) == hpa


def test_entries_that_are_not_sound_are_refuted(host: Host) -> None:
    table = tables_of(host)
    slot = explain_stage(host.memory, table.regime, RAM).steps[0].slot
    host.memory.store_u64(Hpa(slot), (1 << 64) - 1)
    witness = dma_of(host, table).witness
    assert witness is not None
    assert witness.problem.startswith("the tables of the IOMMU before device net of VM vm1: ")
    if host.vms[0].space.format.family != "arm":  # there it is a table, outside memory
        assert witness.slot == slot


def test_tables_that_a_vm_reaches_are_refuted() -> None:
    with host_of("sv39x4") as host:
        subject = subject_of(host)
        base = hpa_of(host, 1, RAM)
        words = np.zeros(1 << 11, np.uint64)

        class Within(HostTables):
            """Tables in VM 2's RAM, which the guest could write."""

            def contains(self, address: int, size: int = 1) -> bool:
                return address == base

        host.memory.write(base, words.tobytes())
        regime = replace(host.vms[0].space.regime, root=base)
        witness = prove(behind_iommu(subject, "vm1/net", (regime, Within(host.memory))))["dma"].witness
        assert witness is not None
        assert witness.problem == (
            f"VM vm2 reaches {Range.sized(base, 4 * SIZE_4K)}, a table of the IOMMU before device net of VM vm1"
        )


def test_memory_that_the_vm_holds_and_has_not_touched_is_its_own() -> None:
    with host_of("sv39x4", populate="lazy") as host:
        frames = host.frames.allocate(PAGE, align=PAGE, owner=Owner(OwnerKind.VM, "vm1"))
        table = PageTable("sv39x4", host.frames, owner=Owner(OwnerKind.TABLES, "iommu"))
        table.map_range(RAM, frames, PAGE, RW)
        assert dma_of(host, table).holds is True
        table.map_range(RAM + PAGE, Hpa(frames + PAGE), PAGE, RW)
        assert dma_of(host, table).holds is False


def test_a_device_that_its_file_calls_no_master_is_listed() -> None:
    with host_of("sv39x4", dma="net = false") as host:
        theorem = host.prove()["dma"]
        assert theorem.holds is True
        assert "of VM vm1 no device reads or writes memory by itself: net (the VM's file says so)" in theorem.assumed


def test_formats_that_no_iommu_walks_are_refused() -> None:
    with host_of("npt4") as host:
        with pytest.raises(ConfigError, match="AMD's IOMMU reads tables of its own format"):
            host.prove(iommu="shared")
        table = PageTable("x86-4level", host.frames, owner=Owner(OwnerKind.TABLES, "iommu"))
        with pytest.raises(ConfigError, match="none of a second stage"):
            dma_of(host, table)


def test_devices_are_named_so_that_there_is_no_doubt() -> None:
    with host_of("sv39x4") as host:
        with pytest.raises(ConfigError) as caught:
            host.prove(iommu={"net": "shared"})
        assert str(caught.value) == "several VMs are given a device 'net': name it vm1/net"
        with pytest.raises(ConfigError) as caught:
            host.prove(iommu={"disk": "shared"})
        assert str(caught.value) == "no VM is given a device 'disk'; their devices are: vm1/net, vm2/net"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        Path(f"vm{number}.toml").write_text(vm_text(number))
    return ["vm1.toml", "vm2.toml", "--arch", "riscv64"]


def test_the_command_takes_folders_and_shared_tables(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["prove", *files]) == 1
    assert call(["prove", *files, "--iommu", "shared"]) == 0
    assert call(["prove", *files, "--iommu", "vm1/net=shared"]) == 0
    for number in (1, 2):
        Path(f"vm{number}.toml").write_text(
            vm_text(number).replace(f"peers = [{3 - number}]", f"peers = [{3 - number}]")
        )
    assert call(["build", *files, "--tables-at", "0x1_0800_0000:0x10_0000", "-o", "iommu"]) == 0
    capsys.readouterr()
    assert call(["prove", *files, "--iommu", "vm1/net=iommu", "--json"]) == 1
    answer = capsys.readouterr().out
    require_schema("prove", answer)
    (refuted,) = (one for one in json.loads(answer)["theorems"] if one["holds"] is False)
    seat = refuted["witness"]["seat"]
    assert (refuted["name"], seat["space"], seat["who"]) == ("dma", "IOVA", "device net of VM vm1")
    assert seat["walk"]["result"]["hpa"] == refuted["witness"]["hpa"]
    for bad in ("net", "=iommu", "vm1/net=", "vm1/net=nothing", "disk=iommu"):
        assert call(["prove", *files, "--iommu", bad]) == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith("stage2: error: ")


def test_a_folders_devices_may_be_behind_an_iommu(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["build", *files, "-o", "out"]) == 0
    assert call(["prove", "out", "--iommu", "vm1/net=out"]) == 0
    assert "2 devices" in capsys.readouterr().out
