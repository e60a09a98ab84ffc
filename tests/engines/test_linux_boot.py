"""The real thing: Debian's Linux on our tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from linux_guest import require_linux
from stage2.config.load import load_vm
from stage2.config.regions import PlannedVm
from stage2.engines.run import RunOutcome, run_all
from stage2.hypervisor.clock import MonotonicClock
from stage2.hypervisor.time import TimeValue
from stage2.space.region import Populate
from stage2.vm.boot import load_images
from stage2.vm.host import Options, build
from stage2.vm.images import read_images
from stage2.vm.report import VmReport
from waiting import HANG_S

pytestmark = pytest.mark.slow
EXAMPLE = Path(__file__).parents[2] / "examples" / "linux-riscv64.toml"


@pytest.fixture(scope="module")
def linux() -> PlannedVm:
    require_linux()
    return load_vm(EXAMPLE)


def boot(*configs: PlannedVm, options: Options | None = None, until: str | None = None) -> RunOutcome:
    """Boot VMs, and run them until they end.

    Args:
        until: the time limit is over once the first has printed this.
    """

    class Clock(MonotonicClock):
        def now(self) -> TimeValue:
            over = until is not None and until in host.vms[0].console.text
            return super().now() + TimeValue.of(seconds=int(HANG_S) if over else 0)

    with build(configs, options=options) as host:
        for vm, config in zip(host.vms, configs, strict=True):
            load_images(vm, config, read_images(config))
        return run_all(host, max_seconds=HANG_S, clock=Clock())


def alone(outcome: RunOutcome) -> VmReport:
    (report,) = outcome.reports
    assert report.exit == "off", report.reason + "\n" + report.console[-2000:]
    assert "stage2-guest: memory work ok" in report.console
    assert "FAILED" not in report.console
    return report


def test_linux_boots_works_on_memory_and_powers_off_populating_only_what_it_touches(linux: PlannedVm) -> None:
    lazy = alone(boot(linux))
    assert lazy.format == "sv39x4"
    assert set(lazy.leaves) == {4096}
    assert lazy.leaves[4096] * 4096 == lazy.populated_bytes
    assert lazy.resolutions.keys() == {"populated"}
    assert lazy.populated_bytes < lazy.declared_bytes // 2
    eager = alone(boot(linux, options=Options(Populate.EAGER, 2 << 20)))
    assert eager.leaves == {2 << 20: 128}
    assert eager.stage2_faults == 0
    assert lazy.populated_bytes < eager.populated_bytes


def test_linux_for_aarch64_boots_with_an_emulated_interrupt_controller_and_timer() -> None:
    require_linux("linux-aarch64")
    report = alone(boot(load_vm(EXAMPLE.with_name("linux-aarch64-emulated.toml"))))
    assert report.format == "arm-s2-4k-40"
    assert report.resolutions.keys() == {"populated", "device"}
    assert report.devices["gic-cpu-interface"] > 0
    assert "timer: cp15 timer(s) running at 10.00MHz (virt)." in report.console


def test_linux_runs_on_two_harts(linux: PlannedVm) -> None:
    report = alone(boot(replace(linux, cpu_num=2)))
    assert "smp: Brought up 1 node, 2 CPUs" in report.console


def test_two_linux_vms_run_side_by_side_on_disjoint_host_memory(linux: PlannedVm) -> None:
    outcome = boot(linux, replace(linux, id=2, name="second"))
    assert outcome.exit_code == 0
    for report in outcome.reports:
        assert "stage2-guest: memory work ok" in report.console
    first, second = ([span for region in report.regions for span in region.hpa] for report in outcome.reports)
    assert not any(a < d and c < b for a, b in first for c, d in second)


def test_an_idle_linux_is_ended_by_the_time_limit_with_its_report(linux: PlannedVm) -> None:
    idle = replace(linux, kernel=replace(linux.kernel, cmdline="earlycon=sbi console=hvc0 stage2.init=idle"))
    outcome = boot(idle, until="stage2-guest: idle")
    assert outcome.exit_code == 3
    (report,) = outcome.reports
    assert report.exit == "time limit"
    assert "stage2-guest: idle" in report.console
    assert report.populated_bytes > 0
