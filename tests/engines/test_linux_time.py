"""Time as Debian's riscv64 Linux reads it, against the clock of its machine."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from assembler import program

from linux_guest import GUEST, require_linux
from stage2.cli.named_images import override
from stage2.config.load import load_vm
from stage2.engines.run import run_all
from stage2.engines.unicorn.riscv.machine import RiscvMachine
from stage2.images.cpio import archive, character_device, file, folder
from stage2.images.fetch import fetched
from stage2.vm.boot import TIMER_HZ, load_images
from stage2.vm.exits import Hypercall
from stage2.vm.host import build
from stage2.vm.images import read_images
from stage2.vm.sbi import Sbi
from waiting import HANG_S

pytestmark = pytest.mark.slow
EXAMPLE = Path(__file__).parents[2] / "examples" / "linux-riscv64.toml"
SAMPLES = 12
UPTIME_TICKS = TIMER_HZ // 100
"""A tick of /proc/uptime, which counts hundredths of a second, in ticks of `time`."""

INIT = f"""#!/bin/busybox sh
b=/bin/busybox
exec >/dev/kmsg 2>&1
$b mount -t proc proc /proc
echo on >/proc/sys/kernel/printk_devkmsg
i=0
while [ $i -lt {SAMPLES} ]; do
    i=$((i + 1))
    read up idle </proc/uptime
    echo "<1>uptime $up;"
    /bin/rdtime
    $b sleep 0.07
done
$b poweroff -f
"""
"""A line of each sample; every line is an SBI call of its own."""

RDTIME = """
        .globl _start
_start: la s0, digits
        rdtime t0
        li t1, 16
1:      srli t2, t0, 60
        slli t0, t0, 4
        addi t2, t2, 48
        li t3, 58
        blt t2, t3, 2f
        addi t2, t2, 39
2:      sb t2, 0(s0)
        addi s0, s0, 1
        addi t1, t1, -1
        bnez t1, 1b
        li a0, 1
        la a1, line
        li a2, 28
        li a7, 64
        ecall
        li a0, 0
        li a7, 93
        ecall
        .data
line:   .ascii "<1>rdtime "
digits: .ascii "0000000000000000;\\n"
"""


@dataclass(frozen=True)
class Sample:
    """What the guest read, and the clock (in ticks of `time`) at the SBI calls before and after it did."""

    value: int
    before: int
    after: int


def test_linux_reads_the_clock_in_rdtime_and_in_uptime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_linux()
    busybox = fetched(GUEST).ramdisk.parent / "busybox"
    ramdisk = tmp_path / "time.cpio"
    nodes = [character_device("dev/console", 5, 1), character_device("dev/kmsg", 1, 11)]
    programs = {"bin/busybox": busybox.read_bytes(), "bin/rdtime": program(RDTIME), "init": INIT.encode()}
    files = [file(name, data, executable=True) for name, data in programs.items()]
    ramdisk.write_bytes(archive([*map(folder, ("dev", "bin", "proc")), *nodes, *files]))
    config = override(load_vm(EXAMPLE), None, str(ramdisk), None, None, alone=True)

    samples: dict[str, list[Sample]] = {"rdtime": [], "uptime": []}
    last = 0
    real = Sbi.call

    def call(self: Sbi, exit_: Hypercall) -> tuple[int, int | None]:
        nonlocal last
        machine = self._harts
        assert isinstance(machine, RiscvMachine)
        now, seen = machine.clock.now().ticks(TIMER_HZ), len(machine.vm.console.text)
        answer = real(self, exit_)
        for kind, digits in re.findall(r"(rdtime|uptime) ([0-9a-f.]+);", machine.vm.console.text[seen:]):
            value = int(digits, 16) if kind == "rdtime" else int(digits.replace(".", "")) * UPTIME_TICKS
            samples[kind].append(Sample(value, last, now))
        last = now
        return answer

    monkeypatch.setattr(Sbi, "call", call)
    with build([config]) as host:
        load_images(host.vms[0], config, read_images(config))
        (report,) = run_all(host, max_seconds=HANG_S).reports
    assert report.exit == "off", report.reason + "\n" + report.console[-2000:]
    for kind, tick in (("rdtime", 1), ("uptime", UPTIME_TICKS)):
        found = samples[kind]
        assert len(found) == SAMPLES, report.console[-2000:]
        # The guest read between two SBI calls; what passed from one reading to another is the clock's, to one tick.
        for first, second in [*pairwise(found), (found[0], found[-1])]:
            passed = second.value - first.value
            assert second.before - first.after - tick <= passed <= second.after - first.before + tick
    # `time` has no offset: the value itself lies between the two calls.
    assert all(one.before - 1 <= one.value <= one.after + 1 for one in samples["rdtime"])
    # From rdtime to the call that tells of it the kernel executes the same code, unless an interrupt comes in between.
    ways = [one.after - one.value for one in samples["rdtime"]]
    assert sum(way <= min(ways) + 1 for way in ways) > SAMPLES // 2
