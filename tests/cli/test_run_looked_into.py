"""A run on QEMU's board is looked into from outside: live, and by a dump that QEMU writes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from linux_guest import require_linux
from opening import or_skip
from stage2.cli.main import call
from stage2.inspect.inspection import Inspection, open_memory
from stage2.inspect.qemu.endpoint import Endpoint
from stage2.inspect.qemu.live import open_live
from stage2.inspect.qemu.qmp import Qmp
from stage2.inspect.source import Cpu
from stage2.machines.emulator import OWN_QEMU
from waiting import HANG_S, until

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "linux-aarch64.toml"
BANNER = b"Linux version "
RAM = range(0x8000_0000, 0x1_0000_0000)


@pytest.fixture(scope="module")
def looked_into(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, tuple[Cpu, ...], Inspection]]:
    """The dump of a run, its registers, and the dump as it is looked into with them."""
    require_linux("linux-aarch64")
    or_skip(lambda: OWN_QEMU.program("qemu-system-aarch64", "qemu-system-arm"))
    folder = tmp_path_factory.mktemp("run")
    qmp, gdb, core, said = (folder / name for name in ("qmp", "gdb", "core", "said"))
    with said.open("wb") as out:
        command = [sys.executable, "-m", "stage2", "run", "--engine", "qemu", str(EXAMPLE), "--qmp", str(qmp)]
        command += ["--gdb", str(gdb), "--cmdline", "earlycon quiet panic=-1 stage2.init=shell"]
        run = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        until(lambda: run.poll() is not None or (gdb.exists() and b"# " in said.read_bytes()), "no shell comes up")
        assert run.poll() is None, said.read_text(errors="replace")[-2000:]
        monitor = Qmp(Endpoint("qmp", str(qmp)), seconds=HANG_S)
        monitor.execute("stop")
        monitor.execute("dump-guest-memory", paging=False, protocol=f"file:{core}", seconds=HANG_S)
        monitor.close()
        with open_live(f"qmp:{qmp},gdb:{gdb}") as live:
            registers = live.registers()
        with open_memory(str(core), registers=registers[0].values) as memory:
            yield qmp, registers, memory
    finally:
        if run.poll() is None:
            os.kill(run.pid, signal.SIGKILL)
        run.wait(HANG_S)
        core.unlink(missing_ok=True)


def test_the_dump_shows_the_guests_kernel_through_both_stages(
    looked_into: tuple[Path, tuple[Cpu, ...], Inspection],
) -> None:
    _, _, memory = looked_into
    route = memory.route("gva")
    assert route.second is not None
    assert route.second.regime.format.stage == 2
    ours = [(one.gpa, one.hpa) for one in memory.map("gpa") if one.gpa in RAM and one.hpa is not None]
    assert ours
    found = 0
    for span in memory.source.ranges():
        data = memory.source.read(span.start, span.size)
        at = data.find(BANNER)
        while at >= 0:
            hpa = span.start + at
            for one in memory.reach(hpa=hpa):
                if one.range.gva is not None and one.root.under is not None:
                    assert memory.translate(gva=one.range.gva).hpa == hpa
                    assert memory.read(len(BANNER), gva=one.range.gva) == BANNER
                    found += 1
            at = data.find(BANNER, at + 1)
    assert found


def test_a_search_of_the_dump_finds_the_stage_2_that_registers_name(
    looked_into: tuple[Path, tuple[Cpu, ...], Inspection],
) -> None:
    _, _, memory = looked_into
    second = memory.route("gpa").second
    assert second is not None
    assert second.regime.root in [one.root.regime.root for one in memory.find().roots if one.root.stage == 2]


def test_live_and_dump_say_the_same_while_the_machine_stands_still(
    looked_into: tuple[Path, tuple[Cpu, ...], Inspection],
) -> None:
    qmp, registers, memory = looked_into
    with open_memory(f"qmp:{qmp}", registers=registers[0].values) as live:
        parts = zip(live.map_parts("gva"), memory.map_parts("gva"), strict=True)
        for one, other in parts:
            assert np.array_equal(one.start, other.start)
            assert np.array_equal(one.output, other.output)


def test_a_socket_of_qemu_is_refused_for_another_engine(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    example = EXAMPLE.with_name("linux-riscv64.toml")
    require_linux("linux-riscv64")
    assert call(["run", str(example), "--engine", "unicorn", "--qmp", str(tmp_path / "s")]) == 2
    assert "--qmp is a socket of QEMU" in capsys.readouterr().err
