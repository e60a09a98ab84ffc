"""What the hypervisor itself costs, against the owner map."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import stage2.vm
from stage2.config.load import load_vm
from stage2.engines.run import machine_for
from stage2.memory.owners import OwnerKind
from stage2.vm.boot import load_images
from stage2.vm.cost import OWN_KINDS, cost_of
from stage2.vm.footprint import python_bytes
from stage2.vm.host import build
from stage2.vm.images import read_images

GUESTS = Path(stage2.vm.__file__).parent / "guests"


@pytest.mark.kernels
def test_the_costs_are_the_owner_maps_frames() -> None:
    configs = [load_vm(GUESTS / f"{name}-riscv64.toml") for name in ("demo", "hostile")]
    with build(configs) as host:
        for vm, config in zip(host.vms, configs, strict=True):
            load_images(vm, config, read_images(config))
        before = cost_of(host)
        machines = [machine_for(vm) for vm in host.vms]
        cost = cost_of(host)
        held = {
            (owner.kind, owner.name): host.frames.owners.bytes_of(owner)
            for _, owner in host.frames.owners
            if owner.kind in OWN_KINDS
        }
        assert cost.total.frames == sum(held.values())
        for vm, one in zip(host.vms, cost.vms, strict=True):
            statistics = vm.space.page_table.statistics()
            assert one.tables == held[OwnerKind.TABLES, vm.space.name] == statistics.table_bytes
            assert one.per_cpu == held[OwnerKind.PER_CPU, vm.space.name] == 4096
            assert one.timers == held[OwnerKind.TIMERS, vm.space.name] == 4096
            assert 1000 < one.python < 1_000_000
        assert (before.total.per_cpu, before.total.timers) == (0, 0)
        assert list(cost.owners) == list(host.frames.owners)
        for machine in machines:
            machine.close()
        after = cost_of(host)
        assert (after.total.frames, after.total.per_cpu) == (before.total.frames, 0)


def test_python_bytes_count_each_object_once_and_nothing_that_is_left_out() -> None:
    shared = ["a string of its own"]
    first = [shared, shared]
    alone = sys.getsizeof(first)
    inner = sys.getsizeof(shared) + sys.getsizeof(shared[0])
    assert python_bytes([first]) == alone + inner
    assert python_bytes([first], without=[shared]) == alone
    assert python_bytes([first, shared]) == alone + inner
    loop: list[object] = []
    loop.append(loop)
    assert python_bytes([loop]) == sys.getsizeof(loop)
