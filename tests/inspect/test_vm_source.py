"""Hosts, folders and snapshots of ours as memory sources: the same bytes, the roots that they really have."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from stage2.config.load import load_vm
from stage2.errors import SourceError
from stage2.inspect.opened import open_source
from stage2.inspect.root import roots_of_registers
from stage2.inspect.source import MemorySource
from stage2.inspect.vm_source import HostSource, SnapshotSource
from stage2.space.region import Populate
from stage2.tableimage.contents import collect, files_of
from stage2.tableimage.folder import write_folder
from stage2.tables.explain import explain_stage
from stage2.vm.host import Host, Options, build

sys.path.insert(0, str(Path(__file__).parents[1] / "engines"))
from writer_guest import RAM, Writer

ROOT = Path(__file__).parents[2]
PAIR = [ROOT / "examples" / f"share-linux-{side}.toml" for side in "ab"]


@pytest.fixture
def host() -> Iterator[Host]:
    with build([load_vm(path) for path in PAIR], options=Options(Populate.EAGER)) as made:
        yield made


def test_a_host_has_its_memory_and_the_roots_of_its_vms(host: Host) -> None:
    found = HostSource(host)
    assert found.arch == host.vms[0].arch
    assert found.ranges() == tuple(host.memory.ranges)
    assert found.known_roots() == tuple((vm.name, vm.space.regime) for vm in host.vms)
    roots, problems = roots_of_registers(found.registers(), found.arch)
    assert problems == ()
    assert {(root.regime.root, root.regime.format) for root in roots} == {
        (vm.space.regime.root, vm.space.regime.format) for vm in host.vms
    }
    for vm in host.vms:
        for region in vm.space.memory_regions:
            walk = explain_stage(found, vm.space.regime, region.start, None)
            assert walk == vm.space.page_table.explain(region.start, None)


def test_a_host_answers_for_many_addresses_as_for_one(host: Host) -> None:
    found = HostSource(host)
    tables = [span.start for vm in host.vms for span in vm.space.page_table.table_ranges]
    at = np.array(tables, np.uint64)
    for shift in (0, 8, 4):
        places = at + np.uint64(shift)
        assert np.array_equal(found.tables(places, 256), MemorySource.tables(found, places, 256))
    beyond = np.array([found.ranges()[-1].end], np.uint64)
    assert not found.holds(beyond, 8).any()
    assert found.word_at(int(beyond[0])) is None
    assert found.bytes_at(int(beyond[0]) - 4, 8) is None


def test_a_folder_of_build_has_the_tables_and_says_whose_they_are(host: Host, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write_folder(folder, files_of(collect(host.vms)))
    found = open_source(str(folder))
    assert found.arch == host.vms[0].arch
    assert found.known_roots() == tuple((vm.name, vm.space.regime) for vm in host.vms)
    assert sorted(found.ranges(), key=lambda span: span.start) == list(found.ranges())
    for vm in host.vms:
        for span in vm.space.page_table.table_ranges:
            assert found.read(span.start, span.size) == host.memory.read(span.start, span.size)  # type: ignore[arg-type]
    roots, _ = roots_of_registers(found.registers(), found.arch)
    assert {root.regime.root for root in roots} == {vm.space.regime.root for vm in host.vms}


def test_a_damaged_folder_is_refused(host: Host, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write_folder(folder, files_of(collect(host.vms)))
    next(folder.rglob("*.bin")).write_bytes(b"x")
    with pytest.raises(SourceError, match="the manifest says"):
        open_source(str(folder))


@pytest.fixture(params=["riscv64", "aarch64", "x86_64"])
def writer(request: pytest.FixtureRequest) -> Iterator[Writer]:
    pytest.importorskip("unicorn")
    made = Writer(request.param)
    made.run_until(2000)
    yield made
    made.close()


def test_a_running_vm_tells_its_stage_2_and_what_of_its_guest_the_host_s_registers_hold(writer: Writer) -> None:
    found = HostSource(writer.vm)
    [cpu] = found.registers()
    assert {
        "riscv64": {"hgatp", "vsatp"},
        "aarch64": {"VTTBR_EL2", "VTCR_EL2", "HCR_EL2", "TTBR0_EL1", "TTBR1_EL1", "TCR_EL1", "SCTLR_EL1"},
        "x86_64": set(),  # no register holds a VM without an identifier
    }[writer.vm.arch] <= cpu.values.keys()
    assert not {"satp", "CR3"} & cpu.values.keys(), "those would be the host's own"
    roots, problems = roots_of_registers(found.registers(), found.arch)
    assert problems == ()
    regime = writer.vm.space.regime
    assert {root.regime.root for root in roots if root.stage == 2} == (
        set() if writer.vm.arch == "x86_64" else {regime.root}
    )
    assert found.known_roots() == ((writer.vm.name, regime),)


def test_a_snapshot_has_the_guest_s_memory_by_gpa_and_its_registers(writer: Writer, tmp_path: Path) -> None:
    snapshot = writer.vm.snapshot()
    snapshot.save(tmp_path / "vm.snapshot")
    found = open_source(str(tmp_path / "vm.snapshot"))
    assert isinstance(found, SnapshotSource)
    assert found.arch == writer.vm.arch
    [cpu] = found.registers()
    assert {"riscv64": "satp", "aarch64": "TTBR0_EL1", "x86_64": "CR3"}[writer.vm.arch] in cpu.values
    assert sum(span.size for span in found.ranges()) == snapshot.size
    span = next(span for span in found.ranges() if span.contains(RAM))
    assert found.read(span.start, 4096) == snapshot.read(span.start, 4096)
    assert found.bytes_at(span.end - 4, 8) is None
    pages = np.arange(span.start, span.end, 4096, dtype=np.uint64)
    for entries, shift in ((512, 0), (1, 8), (2, 8)):
        at = (pages if not shift else pages[:1]) + np.uint64(shift)
        assert np.array_equal(found.tables(at, entries), MemorySource.tables(found, at, entries))
