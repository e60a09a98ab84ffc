"""A dump of Xen with two domains: its tables, and those of the Linux in each domain, lead where both say."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import xen_machine
from xen_machine import DOMAINS, XenMachine

from stage2.address import Range
from stage2.cli.main import call
from stage2.inspect.inspection import Inspection, open_memory
from stage2.inspect.root import Root
from stage2.tables.result import Mapped

BANNER = b"Linux version "
READ, WRITE, EXECUTE = 1, 2, 4
VECTORS = 0x800
"""Bytes of a table of exception vectors (Arm ARM DDI 0487, D1.3.1)."""


@pytest.fixture(scope="session")
def xen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[XenMachine]:
    with xen_machine.dumped(tmp_path_factory) as made:
        yield made


@pytest.fixture(params=DOMAINS)
def domain(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def seen(xen: XenMachine, domain: str) -> Iterator[Inspection]:
    with xen.seen_from(domain) as found:
        yield found


def root_of(memory: Inspection, where: str) -> Root:
    """The root that a register selects."""
    (found,) = [root for root in memory.roots if root.where == f"{where} of CPU 0"]
    return found


def in_the_image(xen: XenMachine, domain: str, symbol: str, size: int) -> bytes:
    """Bytes of the kernel's file from a symbol on; its first byte is `_text`."""
    symbols = xen.kernels[domain].symbols
    return xen.kernel.read_bytes()[symbols[symbol] - symbols["_text"] :][:size]


def test_a_symbol_of_a_domains_kernel_leads_through_both_stages_to_the_bytes_of_its_image(
    xen: XenMachine, domain: str, seen: Inspection
) -> None:
    kernel = xen.kernels[domain]
    banner = kernel.symbols["linux_banner"]
    walk = seen.walk(gva=banner)
    assert isinstance(walk.result, Mapped)
    assert walk.stage_1 is not None
    assert walk.stage_2 is not None
    assert walk.result.gpa == kernel.place("linux_banner")
    assert walk.stage_1.root == kernel.root
    assert walk.stage_2.root == xen.stage_2_root(domain)
    size = 256
    found = seen.read(size, gva=banner)
    assert found.startswith(BANNER)
    assert found == in_the_image(xen, domain, "linux_banner", size)
    assert seen.source.read(walk.result.hpa, size) == found


def test_the_command_walks_there_too(xen: XenMachine, domain: str, capsys: pytest.CaptureFixture[str]) -> None:
    registers = [f"--register={name}={value:#x}" for name, value in xen.in_domain[domain].items()]
    gva = xen.kernels[domain].symbols["linux_banner"]
    assert call(["walk", str(xen.core), *registers, "--gva", f"{gva:#x}", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert call(["translate", str(xen.core), *registers, f"{gva:#x}", "--json"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert line["gpa"] == xen.kernels[domain].place("linux_banner")
    assert f"{line['hpa']:#x}" in json.dumps(told) or str(line["hpa"]) in json.dumps(told)


def test_the_way_back_names_the_symbol_and_the_domain_alone(xen: XenMachine, domain: str, seen: Inspection) -> None:
    banner = xen.kernels[domain].symbols["linux_banner"]
    gpa = xen.kernels[domain].place("linux_banner")
    hpa = seen.translate(gva=banner).hpa
    assert hpa is not None
    back = list(seen.reach(hpa=hpa))
    by_gva = [one.range for one in back if one.root.regime.root == xen.kernels[domain].root]
    assert banner in [one.gva for one in by_gva]
    assert {one.gpa for one in by_gva} == {gpa}
    assert [one.range.gpa for one in back if one.root.stage == 2] == [gpa]
    (other,) = set(DOMAINS) - {domain}
    with xen.seen_from(other) as from_there:
        assert [one.root.stage for one in from_there.reach(hpa=hpa) if one.root.role.startswith("stage 2")] == []


def test_the_domains_share_no_memory(xen: XenMachine) -> None:
    reached: dict[str, list[Range]] = {}
    for domain in DOMAINS:
        with xen.seen_from(domain) as memory:
            leads = [(one.hpa, one.size) for one in memory.map("gpa")]
            reached[domain] = [Range.sized(hpa, size) for hpa, size in leads if hpa is not None]
            assert sum(span.size for span in reached[domain] if memory.source.contains(span.start)) >= 128 << 20
    ours, theirs = (reached[domain] for domain in DOMAINS)
    assert not [one for one in ours if any(one.overlaps(other) for other in theirs)]


def test_xens_own_tables_lead_to_its_image_and_let_nothing_be_written_that_is_executed(xen: XenMachine) -> None:
    with xen.seen_from("dom0") as memory:
        own = root_of(memory, "TTBR0_EL2")
    vectors = xen.registers["VBAR_EL2"]
    with open_memory(str(xen.core), own.name) as memory:
        code = memory.read(VECTORS, gva=vectors)
        assert code in xen.xen.read_bytes()
        allowed = memory.translate(gva=vectors).permissions
        assert allowed & (READ | WRITE | EXECUTE) == READ | EXECUTE
        assert not [one for one in memory.map() if one.permissions & WRITE and one.permissions & EXECUTE]
        # It edits the domains' tables through a map of all RAM.
        for domain in DOMAINS:
            assert list(memory.reach(hpa=xen.stage_2_root(domain)))


def test_a_search_of_the_dump_alone_names_xens_own_root_and_both_domains(xen: XenMachine) -> None:
    with open_memory(str(xen.core)) as memory:
        found = [one.root for one in memory.find().roots]
    seconds = {root.regime.root for root in found if root.stage == 2}
    assert seconds == {xen.stage_2_root(domain) for domain in DOMAINS}
    own = [root for root in found if "EL2" in root.role]
    assert xen.registers["TTBR0_EL2"] in [root.regime.root for root in own]
    for domain in DOMAINS:
        guests = [root for root in found if root.under and root.under.regime.root == xen.stage_2_root(domain)]
        assert xen.kernels[domain].root in [root.regime.root for root in guests]
