"""An audit of tables that KVM and Xen wrote says whether their guests are apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import kvm_machines
import pytest
import xen_machine
from kvm_machines import VMS, KvmMachine
from xen_machine import DOMAINS, XenMachine

from stage2.address import Range
from stage2.inspect.audit.every import audit
from stage2.inspect.opened import open_source
from stage2.inspect.root import Root
from stage2.inspect.source import MemorySource
from stage2.tables.explain import explain_stage
from stage2.tables.regime import Regime
from stage2.tables.result import Mapped

SHARED = "S3011"
"""The rule that two VMs reach the same memory."""


class Planted(MemorySource):
    """A memory in which one word is another.

    Args:
        under: the memory, which is left as it is.
        hpa: where the word is.
        word: what is there instead.
    """

    def __init__(self, under: MemorySource, hpa: int, word: int) -> None:
        super().__init__(under.name)
        self._under, self._hpa, self._word = under, hpa, word.to_bytes(8, "little")

    def ranges(self) -> tuple[Range, ...]:
        return self._under.ranges()

    def bytes_at(self, hpa: int, size: int) -> bytes | None:
        found = self._under.bytes_at(hpa, size)
        at = self._hpa - hpa
        if found is None or at < 0 or at + 8 > size:
            return found
        return found[:at] + self._word + found[at + 8 :]


@pytest.fixture(scope="session", params=kvm_machines.chosen())
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KvmMachine]:
    with kvm_machines.dumped(request.param, tmp_path_factory) as made:
        yield made


@pytest.fixture(scope="session")
def xen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[XenMachine]:
    with xen_machine.dumped(tmp_path_factory) as made:
        yield made


def stage_2_of(xen: XenMachine, domain: str) -> Regime:
    with xen.seen_from(domain) as memory:
        (second,) = [root.regime for root in memory.roots if root.stage == 2]
    return second


def shared(source: MemorySource, regimes: Sequence[Regime]) -> list[str]:
    """What the audit says of memory that two guests reach."""
    found = audit(source, [Root(one) for one in regimes])
    told = [str(finding) for finding in found.findings if finding.code == SHARED]
    assert found.has_errors == bool(told)
    return told


def planted(source: MemorySource, one: Regime, gpa: int, other: Regime, there: int) -> tuple[Planted, int]:
    """The memory with a leaf of one guest being the leaf that another has at a GPA of its own; and the HPA of that."""
    mine, aim = explain_stage(source, one, gpa), explain_stage(source, other, there)
    assert isinstance(aim.result, Mapped)
    assert mine.steps[-1].level == aim.steps[-1].level
    return Planted(source, mine.steps[-1].slot_hpa, aim.steps[-1].entry), aim.steps[-1].output


def test_the_vms_of_kvm_are_apart_and_a_page_that_both_have_is_found(host: KvmMachine) -> None:
    regimes = [host.stage_2(vm) for vm in range(VMS)]
    small = [next(page for page in host.pages_of(vm) if page.kind == "small") for vm in range(VMS)]
    with open_source(str(host.core)) as source:
        assert shared(source, regimes) == []
        double, hpa = planted(source, regimes[0], small[0].gpa, regimes[1], small[1].gpa)
        assert hpa == small[1].hpa
        (told,) = shared(double, regimes)
        assert f"{hpa:#x}" in told


def test_the_domains_of_xen_are_apart_and_a_block_that_both_have_is_found(xen: XenMachine) -> None:
    regimes = [stage_2_of(xen, domain) for domain in DOMAINS]
    dom0, dom1 = (xen.kernels[domain].code for domain in DOMAINS)
    with open_source(str(xen.core)) as source:
        assert shared(source, regimes) == []
        double, hpa = planted(source, regimes[1], dom1, regimes[0], dom0)
        (told,) = shared(double, regimes)
        assert f"{hpa:#x}" in told
