"""`run_all(paranoid=True)`: isolation proved at every edit while real guests run."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path

import pytest

import effort
from linux_guest import require_linux
from stage2.address import Gpa
from stage2.config.load import load_vm
from stage2.config.regions import PlannedVm
from stage2.engines.run import run_all
from stage2.flags import RWX
from stage2.vm.boot import load_images
from stage2.vm.host import Host, build
from stage2.vm.images import read_images
from waiting import HANG_S

EXAMPLES = Path(__file__).parents[2] / "examples"
# The smaller the window that a fault populates, the more edits there are: some thousand of them in a soak.
AROUND = 0x1_0000 if effort.FACTOR > 1 else 0x8_0000
POINTS = 1000 if effort.FACTOR > 1 else 100


def guest(name: str) -> PlannedVm:
    with as_file(files("stage2.vm") / "guests") as folder:
        return load_vm(folder / f"{name}-riscv64.toml")


def load(host: Host) -> None:
    for vm, config in zip(host.vms, host.configs, strict=True):
        load_images(vm, config, read_images(config))


def linux(side: str) -> PlannedVm:
    """One of the two VMs."""
    config = load_vm(EXAMPLES / f"share-linux-{side}.toml")
    options = replace(config.options, fault_around=AROUND)
    return replace(config, extensions=replace(config.extensions, options=options))


def test_two_linux_vms_with_a_share_beside_the_hostile_guest_are_isolated_at_each_edit() -> None:
    require_linux()
    with build([linux("a"), linux("b"), guest("hostile")]) as host:
        load(host)
        outcome = run_all(host, max_seconds=HANG_S, paranoid=True)
    assert [report.exit for report in outcome.reports] == ["off"] * 3
    assert "share: 32 words of the other VM ok" in outcome.reports[1].console
    assert outcome.reports[2].console.endswith("accesses that went through: 0\n")
    assert outcome.proofs > POINTS
    assert outcome.proof is not None
    assert str(outcome.proof) == "proved: apart, owned, declared, wellformed, tlb (wx, dma: not applicable)"
    assert outcome.exit_code == 0


def test_a_foreign_page_that_gets_into_a_table_stops_every_guest_at_the_next_edit() -> None:
    with build([guest("demo"), guest("hostile")]) as host:
        load(host)
        victim, hostile = host.vms
        fault = hostile.space.handle_page_fault

        def sabotaged(gpa: int, access: object):  # type: ignore[no-untyped-def]
            # In one operation: what is half done when another VM's is over is nothing to be proved.
            with hostile.space.lock:
                found = victim.space.hpa_of(Gpa(0x8000_0000))
                if found is not None and hostile.space.hpa_of(0x4000_0000) is None:
                    hostile.space.page_table.map_page(0x4000_0000, found, RWX)
                return fault(gpa, access)  # type: ignore[arg-type]

        hostile.space.handle_page_fault = sabotaged  # type: ignore[method-assign]
        victim.space.handle_page_fault(Gpa(0x8000_0000), 0)  # type: ignore[arg-type]
        outcome = run_all(host, max_seconds=HANG_S, paranoid=True)
    assert outcome.exit_code == 1
    assert outcome.proof is not None
    assert {one.name for one in outcome.proof.theorems if one.holds is False} == {"apart", "owned", "declared"}
    for report in outcome.reports:
        assert report.exit in ("stopped", "off")
    assert outcome.reports[1].exit == "stopped"
    assert outcome.reports[1].reason.startswith("isolation refuted: apart: VM demo and VM hostile both reach ")


@pytest.mark.parametrize("paranoid", [False, True])
def test_locks_and_watchers_are_as_before_when_a_run_is_over(paranoid: bool) -> None:
    with build([guest("demo")]) as host:
        load(host)
        (vm,) = host.vms
        before = vm.space.lock
        outcome = run_all(host, max_seconds=HANG_S, paranoid=paranoid)
        assert outcome.reports[0].exit == "off"
        assert vm.space.lock is before
        assert vm.space.page_table.editor.watcher is None
        assert bool(outcome.proofs) is paranoid
