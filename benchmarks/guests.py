"""Booting Linux on our tables beside the same machine with the library's own MMU, and two VMs at once beside one."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stage2.config.document import parse_document
from stage2.config.load import load_vm
from stage2.config.regions import PlannedVm, plan_vm
from stage2.config.vm import read_vm
from stage2.engines.run import run_all
from stage2.engines.unicorn.riscv.machine import RiscvMachine
from stage2.engines.unicorn.riscv.vcpu import RiscvVcpu
from stage2.space.region import Populate
from stage2.vm.boot import load_images
from stage2.vm.host import Host, Options, build
from stage2.vm.images import read_images

EXAMPLE = Path(__file__).resolve().parent.parent / "examples/linux-riscv64.toml"
_BOUND_S = 300.0


@dataclass(frozen=True, slots=True)
class Boots:
    """What booting Linux to its power-off takes.

    Args:
        plain_s: on the library's own MMU, guest memory where the guest thinks it is; seconds of CPU time, median.
        lazy_s, eager_s: on our tables, populated at the first access or before.
        lazy_ratio, eager_ratio: over the plain one, medians of the rounds.
        two_ratio: wall clock of two lazy VMs at once over that of one.
        runs: rounds.
    """

    plain_s: float
    lazy_s: float
    eager_s: float
    lazy_ratio: float
    eager_ratio: float
    two_ratio: float
    runs: int


class PlainVcpu(RiscvVcpu):
    """A hart with the MMU that the library has by itself: one stage, no tables of ours."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        uc, memory = self._uc, self._vm.space.frames.memory
        for start, end, _ in list(uc.mem_regions()):
            uc.mem_unmap(start, end - start + 1)
        uc.mem_map_ptr(memory.base, memory.span, self._unicorn.UC_PROT_ALL, memory.hva)
        uc.ctl_set_tlb_mode(self._unicorn.unicorn_const.UC_TLB_CPU)


class PlainMachine(RiscvMachine):
    """A machine whose guest addresses are the host's."""

    def _make_cpu(self, number: int, page_state: int) -> RiscvVcpu:
        return PlainVcpu(number, self.vm, self._time, page_state, self._windows)


def built(configs: Sequence[PlannedVm], populate: Populate) -> Host:
    """The VMs with their images loaded."""
    host = build(configs, options=Options(populate))
    for vm, config in zip(host.vms, configs, strict=True):
        load_images(vm, config, read_images(config))
    return host


def on_our_tables(configs: Sequence[PlannedVm], populate: Populate) -> None:
    """Boot VMs side by side until they power off."""
    with built(configs, populate) as host:
        outcome = run_all(host, max_seconds=_BOUND_S)
    if outcome.exit_code:
        raise SystemExit(f"Linux did not power off: {outcome.reports[0].reason}")


def on_the_librarys_mmu(config: PlannedVm) -> None:
    """Boot one VM without our tables."""
    with built([config], Populate.EAGER) as host:
        machine = PlainMachine(host.vms[0])
        try:
            result = machine.run()
        finally:
            machine.close()
    if result.exit != "off":
        raise SystemExit(f"Linux on the library's MMU did not power off: {result.reason}")


def cpu_seconds(work: Callable[[], None]) -> float:
    """CPU time of all threads of this process."""
    began = time.process_time()
    work()
    return time.process_time() - began


def wall_seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def boots(runs: int) -> Boots:
    """Boot in turns, once unmeasured.

    Raises:
        Stage2Error: the guest was not fetched.
    """
    config = load_vm(EXAMPLE)
    second = replace(config, id=2, name="second")
    text = EXAMPLE.read_text()
    one_to_one = text.replace("0x1000_0000, 0x7, 0]", "0x1000_0000, 0x7, 1]")
    if one_to_one == text:
        raise SystemExit(f"{EXAMPLE.name} declares its memory in another way than this benchmark knows")
    identical = plan_vm(read_vm(parse_document(one_to_one, str(EXAMPLE), EXAMPLE.parent)))

    def plain() -> None:
        on_the_librarys_mmu(identical)

    def lazy() -> None:
        on_our_tables([config], Populate.LAZY)

    def eager() -> None:
        on_our_tables([config], Populate.EAGER)

    def both() -> None:
        on_our_tables([config, second], Populate.LAZY)

    for work in (plain, lazy, eager):
        work()
    rounds = [(cpu_seconds(plain), cpu_seconds(lazy), cpu_seconds(eager)) for _ in range(runs)]
    walls = [wall_seconds(both) / wall_seconds(lazy) for _ in range(runs)]
    plains, lazies, eagers = zip(*rounds, strict=True)
    return Boots(
        statistics.median(plains),
        statistics.median(lazies),
        statistics.median(eagers),
        statistics.median(lazy / plain for plain, lazy, _ in rounds),
        statistics.median(eager / plain for plain, _, eager in rounds),
        statistics.median(walls),
        runs,
    )
