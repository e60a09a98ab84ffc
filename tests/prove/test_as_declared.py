"""What cannot be built is mapped as its file says, and refuted by the table, with what `check` says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from faults import FAULTS, stand_in
from json_schemas import require_schema
from stage2.cli.main import call
from stage2.config.document import parse_document
from stage2.config.regions import plan_vm
from stage2.config.vm import read_vm
from stage2.errors import ConfigError
from stage2.space.region import Populate
from stage2.vm.host import Options, build
from stage2.vm.reasons import REFUTING

PLATFORM = """\
arch = "{arch}"
platform = "board"
[plat]
family = "board"
phys-memory-base = 0x8000_0000
phys-memory-size = 0x4000_0000
kernel-base-paddr = 0x8020_0000
kernel-base-vaddr = "0xffff_ffc0_8020_0000"
phys-virt-offset = "0xffff_ffc0_0000_0000"
kernel-aspace-base = "0xffff_ffc0_0000_0000"
kernel-aspace-size = "0x0000_003f_ffff_f000"
[devices]
mmio-regions = [[0x1000_0000, 0x1000]]
"""
VM = """\
[base]
id = {number}
name = "vm{number}"
vm_type = 1
cpu_num = 1
arch = "{arch}"
[kernel]
entry_point = {ram:#x}
kernel_load_addr = {ram:#x}
memory_regions = [[{ram:#x}, {size:#x}, 0x7, 1]]
[devices]
passthrough_devices = [{device}]
"""


def vm(number: int, ram: int, size: int = 0x40_0000, device: str = "", arch: str = "riscv64") -> str:
    return VM.format(number=number, ram=ram, size=size, device=device, arch=arch)


def proved(capsys: pytest.CaptureFixture[str], texts: list[str], arch: str = "riscv64") -> dict[str, dict[str, Any]]:
    """The theorems about VMs on a platform, by name."""
    Path("board.toml").write_text(PLATFORM.format(arch=arch))
    for number, text in enumerate(texts):
        Path(f"vm{number}.toml").write_text(text)
    files = [f"vm{number}.toml" for number in range(len(texts))]
    code = call(["prove", *files, "--platform", "board.toml", "--json"])
    answer = capsys.readouterr().out
    require_schema("prove", answer)
    found = json.loads(answer)
    assert code == (0 if found["proved"] else 1)
    return {one["name"]: one for one in found["theorems"]}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refuted(theorems: dict[str, dict[str, Any]]) -> set[str]:
    return {name for name, one in theorems.items() if one["holds"] is False}


def codes(theorem: dict[str, Any]) -> list[str]:
    return [one["code"] for one in theorem["reasons"]]


def test_two_vms_with_one_ram_are_refuted_by_both_of_their_tables(capsys: pytest.CaptureFixture[str]) -> None:
    theorems = proved(capsys, [vm(1, 0x9000_0000), vm(2, 0x9020_0000)])
    assert refuted(theorems) == {"apart", "owned"}
    witness = theorems["apart"]["witness"]
    assert witness["problem"] == "VM vm1 and VM vm2 both reach [0x90200000, 0x90400000)"
    assert [witness[key]["who"] for key in ("seat", "other")] == ["VM vm1", "VM vm2"]
    assert all(witness[key]["walk"]["result"]["hpa"] == 0x9020_0000 for key in ("seat", "other"))
    assert codes(theorems["apart"]) == codes(theorems["owned"]) == ["S2403"]


def test_ram_that_the_host_lacks_belongs_to_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    theorems = proved(capsys, [vm(1, 0xBFE0_0000)])
    assert refuted(theorems) == {"owned"}
    assert theorems["owned"]["witness"]["problem"] == "VM vm1 reaches [0xc0000000, 0xc0200000), which belongs to nobody"
    assert codes(theorems["owned"]) == ["S2501"]


def test_ram_over_the_hypervisor_is_refuted(capsys: pytest.CaptureFixture[str]) -> None:
    theorems = proved(capsys, [vm(1, 0x8000_0000)])
    assert refuted(theorems) == {"owned"}
    assert theorems["owned"]["witness"]["owner"] == "hypervisor"
    assert codes(theorems["owned"]) == ["S2110"]


def test_a_device_that_two_vms_have_is_refuted(capsys: pytest.CaptureFixture[str]) -> None:
    uart = '["uart", 0x1000_0000, 0x1000_0000, 0x1000, 10]'
    theorems = proved(capsys, [vm(1, 0x9000_0000, device=uart), vm(2, 0xA000_0000, device=uart)])
    assert refuted(theorems) == {"apart", "owned"}
    assert theorems["owned"]["witness"]["owner"] == "device uart of VM vm1"
    assert codes(theorems["apart"]) == ["S2608"]


def test_the_local_apic_is_the_hypervisors_whoever_is_given_it(capsys: pytest.CaptureFixture[str]) -> None:
    apic = '["Local APIC", 0xfee0_0000, 0xfee0_0000, 0x1000, 1]'
    theorems = proved(capsys, [vm(1, 0x9000_0000, device=apic, arch="x86_64")], "x86_64")
    assert refuted(theorems) == {"owned"}
    assert theorems["owned"]["witness"]["owner"] == "hypervisor (local APIC)"
    assert codes(theorems["owned"]) == ["S2611"]


@pytest.mark.parametrize(
    "fault",
    [fault for fault in FAULTS if any(fault.name.partition("-")[0] in codes for codes in REFUTING.values())],
    ids=lambda folder: folder.name,
)
def test_what_check_finds_of_isolation_the_tables_refute(
    fault: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call(["prove", "--json", *stand_in(fault, tmp_path, monkeypatch)]) == 1
    theorems = [one for one in json.loads(capsys.readouterr().out)["theorems"] if one["holds"] is False]
    assert fault.name.partition("-")[0] in {code for theorem in theorems for code in codes(theorem)}
    assert all(theorem["reasons"] for theorem in theorems)


def test_damaged_dma_ranges_let_everything_through(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (fault,) = (one for one in FAULTS if one.name.startswith("S2704"))
    arguments = stand_in(fault, tmp_path, monkeypatch)
    assert call(["prove", *arguments]) == 1
    assert "its buses let it through to [0x80000000, 0x88000000)" in " ".join(capsys.readouterr().out.split())
    tree = Path("host.dts").read_text()
    Path("host.dts").write_text(tree.replace("dma-ranges = <0x0 ", "dma-ranges = <"))
    assert call(["prove", *arguments]) == 1
    assert "it reaches all of the host's memory" in " ".join(capsys.readouterr().out.split())


def test_only_who_asks_for_it_gets_tables_of_what_cannot_be(capsys: pytest.CaptureFixture[str]) -> None:
    plans = [plan_vm(read_vm(parse_document(vm(number, 0x9000_0000), f"vm{number}.toml"))) for number in (1, 2)]
    with pytest.raises(ConfigError, match="one VM would reach the other's memory"):
        build(plans, options=Options(populate=Populate.EAGER))
    with build(plans, options=Options(populate=Populate.EAGER, as_declared=True)) as host:
        assert str(host.prove()).startswith("refuted: apart: VM vm1 and VM vm2 both reach [0x90000000")


def test_two_vms_of_one_id_are_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        Path(f"{name}.toml").write_text(vm(1, 0x9000_0000 if name == "a" else 0xA000_0000))
    assert call(["prove", "a.toml", "b.toml"]) == 2
    assert "VM id 1 is taken" in capsys.readouterr().err
