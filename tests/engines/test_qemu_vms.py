"""Several VMs at once on QEMU's AArch64 board, each on cores of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from qemu_guests import EXAMPLES, GUESTS, require_qemu, run_files

import effort
from linux_guest import require_linux
from stage2.engines.run import RunOutcome

# The smaller the window that a fault populates, the more edits there are: some thousand of them in a soak.
AROUND = 0x8000 if effort.FACTOR > 1 else 0x4_0000
POINTS = 1000 if effort.FACTOR > 1 else 100


@pytest.fixture(autouse=True)
def board() -> None:
    require_qemu()


def quiet(name: str, folder: Path) -> Path:
    """An example whose kernel prints little: every character of an emulated serial port is an exit."""
    text = (EXAMPLES / name).read_text()
    made = folder / name
    made.write_text(text.replace("panic=-1", "quiet panic=-1"))
    assert made.read_text() != text
    return made


def consoles(outcome: RunOutcome) -> str:
    return "\n\n".join(f"{one.name}: {one.exit}, {one.reason}\n{one.console[-1500:]}" for one in outcome.reports)


def test_two_linux_vms_with_a_share_beside_the_hostile_guest_are_isolated_at_each_edit(
    tmp_path: Path,
) -> None:
    require_linux("linux-aarch64")
    sides = [quiet(f"share-linux-aarch64-{side}.toml", tmp_path) for side in "ab"]
    outcome = run_files([*sides, GUESTS / "hostile-aarch64.toml"], around=AROUND, paranoid=True)
    assert [report.exit for report in outcome.reports] == ["off"] * 3, consoles(outcome)
    writer, reader, hostile = outcome.reports
    assert "share: pattern written" in writer.console
    assert "share: 32 words of the other VM ok" in reader.console
    assert hostile.console.endswith("accesses that went through: 0\n")
    # The first has the board's interrupt controller and serial port, the second their models.
    assert not writer.devices
    assert set(reader.devices) == {"gic-distributor", "gic-cpu-interface", "console"}
    assert outcome.proofs > POINTS
    assert str(outcome.proof) == "proved: apart, owned, declared, wellformed, tlb, dma (wx: not applicable)"
    assert outcome.exit_code == 0


def test_a_vm_has_two_cpus_that_psci_starts(tmp_path: Path) -> None:
    require_linux("linux-aarch64")
    text = (EXAMPLES / "linux-aarch64.toml").read_text()
    text = text.replace("cpu_num = 1", "cpu_num = 2")
    file = tmp_path / "two.toml"
    file.write_text(text)
    outcome = run_files([file], around=AROUND)
    (report,) = outcome.reports
    assert report.exit == "off", consoles(outcome)
    assert ", 2 cpu, " in report.console


def test_two_cpus_send_each_other_interrupts_by_an_emulated_controller(tmp_path: Path) -> None:
    require_linux("linux-aarch64")
    text = (EXAMPLES / "linux-aarch64.toml").read_text()
    text = text[: text.index("emu_devices")].replace("cpu_num = 1", "cpu_num = 2").replace("earlycon ", "quiet ")
    text += """
emu_devices = [["gic", 0x800_0000, 0x2_0000, 0, 1, []], ["console", 0x900_0000, 0x1000, 33, 0, []]]
[stage2]
generation = "seed"
"""
    file = tmp_path / "two.toml"
    file.write_text(text)
    outcome = run_files([file], around=AROUND)
    (report,) = outcome.reports
    assert report.exit == "off", consoles(outcome)
    assert ", 2 cpu, " in report.console
    assert "kicked" in {one.kind for one in report.exits}


def test_the_hostile_guest_comes_nowhere_and_rings_no_doorbell() -> None:
    outcome = run_files([GUESTS / "hostile-aarch64.toml"])
    (report,) = outcome.reports
    assert report.exit == "off", report.reason
    assert report.console.endswith("accesses that went through: 0\n")
    assert "semihosting and EL2's registers: 2 reads, 2 writes, 2 others refused\n" in report.console
