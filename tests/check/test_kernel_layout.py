"""A tiny image or platform for each rule of the kernel's layout, named after its fault, and the whole message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from linked_kernel import link
from stage2.check.kernel_layout import RULES
from stage2.cli.main import call

PLATFORM = """
arch = "x86_64"
platform = "tiny"
[plat]
phys-memory-base = 0x0
phys-memory-size = {ram}
kernel-base-paddr = 0x20_0000
kernel-base-vaddr = "0xffff_8000_0020_0000"
phys-virt-offset = "0xffff_8000_0000_0000"
[devices]
mmio-regions = [[{device}, 0x1000]]
"""
VM = """
[base]
id = 1
name = "guest"
vm_type = 1
cpu_num = 1
arch = "x86_64"
[kernel]
entry_point = 0x20_8000
kernel_path = "kernel.bin"
kernel_load_addr = 0x20_8000
memory_regions = [[0x20_0000, 0x10_0000, 0x7, 1]]
[devices]
emu_devices = []
passthrough_devices = []
"""


def findings(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 1) -> list[dict[str, Any]]:
    assert call(["layout", *map(str, arguments), "--json"]) == code
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["findings"]
    return found


def platform(folder: Path, *, ram: str = "0x800_0000", device: str = "0xfec0_0000") -> Path:
    path = folder / "platform.toml"
    path.write_text(PLATFORM.format(ram=ram, device=device))
    return path


def only(found: list[dict[str, Any]], code: str) -> dict[str, Any]:
    """The one finding of a code; no other finding is an error."""
    assert {finding["code"] for finding in found if finding["severity"] == "error"} <= {code}
    (finding,) = [finding for finding in found if finding["code"] == code]
    return finding


def test_sections_that_overlap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = {
        ".rodata : AT(ADDR(.rodata) - OFFSET) ALIGN(4K) {": ".rodata BASE + 0x1000 : AT(ADDR(.rodata) - OFFSET) {"
    }
    file = link(tmp_path, script=script, options=("--no-check-sections",))
    found = findings(capsys, file, "--smp", 4)
    overlap = next(finding for finding in found if finding["code"] == "S2101")
    assert overlap["message"] == (
        "section .text HVA [0xffff800000200000, 0xffff800000202000) overlaps section .rodata HVA "
        "[0xffff800000201000, 0xffff800000202000) in [0xffff800000201000, 0xffff800000202000)"
    )
    assert {"start": 0xFFFF_8000_0020_1000, "end": 0xFFFF_8000_0020_2000}.items() <= overlap["overlap"].items()
    assert overlap["locations"] == [{"file": str(file), "line": None, "column": None}]


def test_a_part_that_is_not_aligned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = link(tmp_path, script={"        _srodata = .;": "        . += 16;\n        _srodata = .;"})
    found = only(findings(capsys, file, "--smp", 4), "S2102")
    assert found["message"] == ".rodata (_srodata) begins at 0xffff800000202010, which is no multiple of 0x1000"
    assert found["fix"] == "write `. = ALIGN(0x1000);` before it"


def test_parts_in_another_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = {"_srodata = .;": "_sswapped = .;", "_sdata = .;": "_srodata = .;", "_sswapped = .;": "_sdata = .;"}
    more = {"_erodata = .;": "_eswapped = .;", "    _edata = .;": "    _erodata = .;", "_eswapped = .;": "_edata = .;"}
    file = link(tmp_path, script=script | more)
    found = [finding for finding in findings(capsys, file, "--smp", 4) if finding["code"] == "S2103"]
    assert [finding["message"] for finding in found] == [
        ".data (0xffff800000202000) stands before .rodata (0xffff800000203000)"
    ]


def test_segments_that_are_loaded_over_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = {".rodata : AT(ADDR(.rodata) - OFFSET)": ".rodata : AT(ADDR(.rodata) - OFFSET - 0x1000)"}
    file = link(tmp_path, script=script, options=("--no-check-sections",))
    found = only(findings(capsys, file, "--smp", 4), "S2101")
    assert found["message"] == (
        "a LOAD segment HPA [0x200000, 0x202000) overlaps a LOAD segment HPA [0x201000, 0x202000) in "
        "[0x201000, 0x202000)"
    )
    assert {"space": "HPA", "start": 0x20_0000, "end": 0x20_2000}.items() <= found["ranges"][0].items()


def test_an_end_symbol_that_leaves_parts_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = {"    _ekernel = .;\n": "", "    .bss : AT": "    _ekernel = .;\n    .bss : AT"}
    found = findings(capsys, link(tmp_path, script=script), "--smp", 4)
    whole = "_skernel and _ekernel, [0xffff800000200000, 0xffff800000206000)"
    assert [(finding["code"], finding["message"]) for finding in found] == [
        ("S2103", f"boot stack HVA [0xffff800000206000, 0xffff80000020e000) is not within {whole}"),
        ("S2103", f".bss HVA [0xffff80000020e000, 0xffff800000210000) is not within {whole}"),
    ]


def test_an_entry_point_outside_the_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = only(findings(capsys, link(tmp_path, script={"ENTRY(_start)": "ENTRY(_sdata)"}), "--smp", 4), "S2103")
    assert found["message"] == (
        "the entry point 0xffff800000203000 is not in .text HVA [0xffff800000200000, 0xffff800000202000)"
    )


def test_a_section_whose_own_alignment_is_not_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For images of other linker scripts; the linker would keep it, so the ELF file is changed afterwards."""
    file = link(tmp_path, script={"    _skernel = .;\n": ""})
    data = bytearray(file.read_bytes())
    headers = int.from_bytes(data[40:48], "little")
    second = headers + 2 * 64
    assert data[second + 16 : second + 24] == (0xFFFF_8000_0020_2000).to_bytes(8, "little"), "this is .rodata"
    data[second + 48 : second + 56] = (0x10_0000).to_bytes(8, "little")
    file.write_bytes(data)
    found = only(findings(capsys, file, "--smp", 4), "S2102")
    assert found["message"] == ("section .rodata begins at 0xffff800000202000, which is no multiple of 0x100000")


def test_a_missing_symbol(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = only(findings(capsys, link(tmp_path, script={"        _etext = .;\n": ""}), "--smp", 4), "S2104")
    assert found["message"] == "symbol _etext is missing"


def test_a_missing_section(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = link(tmp_path, script={"    .rodata : AT(ADDR(.rodata)": "    .constants : AT(ADDR(.constants)"})
    found = only(findings(capsys, file, "--smp", 4), "S2104")
    assert found["message"] == "section .rodata is missing"


def test_a_kernel_of_another_script_gets_a_note_unless_it_is_demanded_to_be_axvisors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = link(tmp_path, script={"    _skernel = .;\n": ""})
    (note,) = findings(capsys, file, "--smp", 4, code=0)
    assert (note["code"], note["severity"]) == ("S2104", "note")
    assert note["message"] == "not linked by AxVisor's script: 1 of its symbols and sections are not there"
    (error,) = findings(capsys, file, "--smp", 4, "--layout", "axvisor")
    assert (error["severity"], error["message"]) == ("error", "symbol _skernel is missing")


def test_a_segment_that_is_writable_and_executable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = only(
        findings(capsys, link(tmp_path, script={"code PT_LOAD FLAGS(5)": "code PT_LOAD FLAGS(7)"}), "--smp", 4), "S2105"
    )
    assert found["message"] == (
        "a LOAD segment HVA [0xffff800000200000, 0xffff800000202000) is writable and executable (RWX)"
    )


def test_a_section_that_is_writable_and_executable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = link(tmp_path, options=("-N",))
    found = only(findings(capsys, file, "--smp", 4), "S2106")
    assert found["message"] == (
        "section .text HVA [0xffff800000200000, 0xffff800000202000) is writable and executable (AWX)"
    )


def test_zeroed_thread_local_data_that_occupies_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = {'.section .tbss, "awT", %nobits': '.section .tbss, "awT", %progbits'}
    found = only(findings(capsys, link(tmp_path, source=source), "--smp", 4, code=0), "S2107")
    assert (found["severity"], found["message"]) == (
        "warning",
        "section .tbss HVA [0xffff800000204160, 0xffff800000204178) has 0x18 bytes in the file",
    )


def test_a_per_cpu_area_for_fewer_cpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = only(findings(capsys, link(tmp_path, smp=2), "--smp", 4), "S2108")
    assert found["message"] == (
        "the per-CPU area HVA [0xffff800000205000, 0xffff800000205100) has 0x100 bytes; 4 CPUs with 0x80 bytes each "
        "need 0x200"
    )


def test_an_image_beyond_ram(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host = platform(tmp_path, ram="0x20_8000")
    found = only(findings(capsys, link(tmp_path), "--smp", 4, "--platform", host), "S2109")
    assert found["message"] == (
        "the hypervisor's image HPA [0x200000, 0x210000) is not in the host's RAM [0x0, 0x208000)"
    )
    assert [place["file"] for place in found["locations"]] == [str(tmp_path / "kernel.elf"), str(host)]


def test_an_image_in_a_vms_identical_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vm = tmp_path / "vm.toml"
    vm.write_text(VM)
    found = only(findings(capsys, link(tmp_path), vm, "--smp", 4, "--platform", platform(tmp_path)), "S2110")
    assert found["message"] == (
        "the hypervisor's image HPA [0x200000, 0x210000) overlaps VM guest, ram0 HPA [0x200000, 0x300000) in "
        "[0x200000, 0x210000)"
    )
    assert found["locations"][1] == {"file": str(vm), "line": 12, "column": None}


def test_an_image_in_a_devices_window(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host = platform(tmp_path, ram="0x20_8000", device="0x20_8000")
    found = [f for f in findings(capsys, link(tmp_path), "--smp", 4, "--platform", host) if f["code"] == "S2111"]
    assert [finding["message"] for finding in found] == [
        "the hypervisor's image HPA [0x200000, 0x210000) overlaps the device window HPA [0x208000, 0x209000) in "
        "[0x208000, 0x209000)"
    ]


def test_an_image_in_a_virtio_or_pci_window(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host = platform(tmp_path)
    # One window is in two lists, as platform files have them.
    windows = "virtio-mmio-regions = [[0x20_8000, 0x1000]]\npci-ranges = [[0x20_8000, 0x1000], [0x20_a000, 0x1000]]\n"
    host.write_text(host.read_text() + windows)
    found = findings(capsys, link(tmp_path), "--smp", 4, "--platform", host)
    assert [(finding["code"], finding["overlap"]["start"]) for finding in found] == [
        ("S2111", 0x20_8000),
        ("S2111", 0x20_A000),
    ]


def test_a_computed_kernel_is_held_against_ram_and_vms_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vm = tmp_path / "vm.toml"
    vm.write_text(VM)
    host = platform(tmp_path, ram="0x40_0000")
    found = findings(capsys, host, vm)
    assert [(finding["code"], finding["message"]) for finding in found] == [
        (
            "S2109",
            "the hypervisor's image (computed) HPA [0x200000, 0x491000) is not in the host's RAM [0x0, 0x400000)",
        ),
        (
            "S2110",
            "the hypervisor's image (computed) HPA [0x200000, 0x491000) overlaps VM guest, ram0 HPA "
            "[0x200000, 0x300000) in [0x200000, 0x300000)",
        ),
    ]
    assert found[0]["locations"] == [{"file": str(host), "line": 7, "column": None}]


def test_sizes_that_a_platform_file_says_are_not_called_assumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host = platform(tmp_path)
    assert call(["layout", str(host)]) == 0
    assert "sizes are assumed" in capsys.readouterr().out
    host.write_text(f"{host.read_text()}[hypervisor]\nsmp = 3\ntext-size = 0x3000\npercpu-size = 0x61\n")
    assert call(["layout", str(host), "--json"]) == 0
    parts = {part["name"]: part for part in json.loads(capsys.readouterr().out)["parts"]}
    assert (parts[".text"]["size"], parts[".text"]["assumed"]) == (0x3000, False)
    assert (parts[".percpu"]["size"], parts[".percpu"]["assumed"]) == (3 * 0x80, False)
    assert parts[".bss"]["assumed"] is True
    assert call(["layout", str(host)]) == 0
    assert "some sizes are assumed" in capsys.readouterr().out


def test_a_clean_kernel_on_a_fitting_platform_has_no_finding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert findings(capsys, link(tmp_path), "--smp", 4, "--platform", platform(tmp_path), code=0) == []


def test_every_rule_has_a_code_of_its_own_and_a_test_here() -> None:
    codes = [rule.code for rule in RULES]
    assert len(set(codes)) == len(codes) == 11
    here = Path(__file__).read_text()
    assert all(f'"{code}"' in here for code in codes)


def test_the_documentation_tells_of_every_rule_in_its_own_words() -> None:
    page = (Path(__file__).parents[2] / "docs" / "hypervisor.md").read_text()
    for rule in RULES:
        assert f"| {rule.code} | {rule.severity} | {rule.title} |" in page
