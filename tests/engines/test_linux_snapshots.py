"""Snapshots of Debian's Linux on RISC-V and AArch64, taken in the middle of its work on memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from writer_guest import sum_of

import effort
from linux_guest import require_linux
from stage2.config.load import load_vm
from stage2.engines.run import machine_for
from stage2.engines.unicorn.machine import Machine
from stage2.vm.boot import load_images
from stage2.vm.host import Host, build
from stage2.vm.images import read_images
from stage2.vm.snapshots.snapshot import Snapshot

pytestmark = pytest.mark.slow
EXAMPLES = Path(__file__).parents[2] / "examples"
STEP = 50_000_000
"""Nanoseconds of the guest's time between two looks at its console."""
IN_THE_MIDDLE = "4 MiB of zeros, md5 ok"
DONE = "stage2-guest: memory work ok"


GUESTS = [("linux-riscv64", 2), ("linux-riscv64", 1), ("linux-aarch64-emulated", 1)]


@pytest.fixture(params=GUESTS if effort.FACTOR > 1 else GUESTS[:1])
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    example, cpus = request.param
    require_linux(example.removesuffix("-emulated"))
    config = replace(load_vm(EXAMPLES / f"{example}.toml"), cpu_num=cpus)
    with build([config]) as host:
        load_images(host.vms[0], config, read_images(config))
        yield host


def run_until(machine: Machine, said: str) -> None:  # type: ignore[type-arg]
    """Run a machine until its guest has printed something."""

    def look() -> None:
        if said in machine.vm.console.text:
            machine.stop("stopped", "it was said")
        else:
            machine.when(machine.clock.now().nanos + STEP, look)

    machine.when(machine.clock.now().nanos + STEP, look)
    assert machine.run().exit == "stopped"


def to_the_end(machine: Machine, moment: Snapshot) -> tuple[str, Snapshot]:  # type: ignore[type-arg]
    """What the guest prints from a snapshot to its end, and what it is then."""
    result = machine.run()
    assert result.exit == "off", result.reason
    assert machine.vm.console.position > moment.state.console_position
    return machine.vm.console.text, machine.vm.snapshot()


def test_linux_goes_on_from_the_middle_of_its_work_and_does_it_twice(host: Host, tmp_path: Path) -> None:
    vm = host.vms[0]
    machine = machine_for(vm)
    assert isinstance(machine, Machine)
    try:
        run_until(machine, IN_THE_MIDDLE)
        moment = vm.snapshot()
        assert DONE not in vm.console.text
        leaves = moment.state.leaves.tolist()
        first, end = to_the_end(machine, moment)
        assert DONE in first
        assert 0 < end.copied < len(end.pages) / 2
        back = vm.restore(moment)
        assert back.pages <= end.copied
        assert vm.snapshot(follow=False).state.leaves.tolist() == leaves
        assert sum_of(vm.snapshot(follow=False)) == sum_of(moment)
        again, same_end = to_the_end(machine, moment)
        assert again == first
        assert sum_of(same_end) == sum_of(end)
    finally:
        machine.close()
    moment.save(tmp_path / "linux.snapshot")
    machine = machine_for(vm)
    assert isinstance(machine, Machine)
    try:
        vm.restore(Snapshot.open(tmp_path / "linux.snapshot"))
        assert to_the_end(machine, moment)[0] == first
    finally:
        machine.close()
