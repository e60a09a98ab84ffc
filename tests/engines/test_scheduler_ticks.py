"""The scheduler's ticks of a run: from the defconfig, else the platform file, else as at AxVisor's seed."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_vms_apart import hostile_config

from platforms import make_platform, platform_text
from stage2.address import GIB
from stage2.cli.main import call
from stage2.config.defconfig import DefConfig
from stage2.config.platform import PlatformConfig
from stage2.engines import run as running
from stage2.engines.unicorn.machine import Machine
from stage2.hypervisor.cpus import Cpus
from stage2.hypervisor.time import NANOS_PER_MS, TimeValue
from stage2.vm.host import Options, build


@pytest.fixture
def platform(tmp_path: Path) -> PlatformConfig:
    text = platform_text("riscv64", size=GIB, kernel=0xB000_0000)
    return make_platform(tmp_path, text + "[hypervisor]\nticks-per-sec = 250\n")


@pytest.mark.parametrize(("defconfig", "period_ms"), [(None, 4), (DefConfig(ticks_per_sec=1000), 1)])
def test_a_guests_cpus_tick_as_the_defconfig_says_or_else_the_platform(
    platform: PlatformConfig, defconfig: DefConfig | None, period_ms: int
) -> None:
    with build([hostile_config()], platform=platform, options=Options(defconfig=defconfig)) as host:
        machine = running.machine_for(host.vms[0])
        assert isinstance(machine, Machine)
        try:
            first = machine.timers.scheduler_next_event()
            assert machine.timers.next_deadline == TimeValue(period_ms * NANOS_PER_MS)
            machine.timers.scheduler_next_event()
            assert machine.timers.cancel_timer(first)
            assert machine.timers.next_deadline == TimeValue(2 * period_ms * NANOS_PER_MS)
        finally:
            machine.close()


def test_the_hypervisors_own_cpu_keeps_to_the_ticks_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[int] = []

    class Counted(Cpus):
        def __init__(self, *arguments: object, ticks_per_sec: int = 0, **more: object) -> None:
            made.append(ticks_per_sec)
            super().__init__(*arguments, ticks_per_sec=ticks_per_sec, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(running, "Cpus", Counted)
    vm = Path(__file__).parents[2] / "src/stage2/vm/guests/demo-riscv64.toml"
    (tmp_path / "defconfig.toml").write_text("ticks-per-sec = 1000\nsmp = 2\n")
    assert call(["run", str(vm), "--defconfig", str(tmp_path / "defconfig.toml"), "--quiet"]) == 0
    assert call(["run", str(vm), "--quiet"]) == 0
    assert made == [1000, 100]
    (tmp_path / "defconfig.toml").write_text("ticks-per-sec = 0\n")
    assert call(["run", str(vm), "--defconfig", str(tmp_path / "defconfig.toml"), "--quiet"]) == 2
    assert "defconfig.toml:1: ticks-per-sec" in capsys.readouterr().err
