"""`stage2 walk`."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from stage2.cli.main import call
from stage2.config import regions
from stage2.config.conflict import Refuse
from stage2.config.placement import Starts
from stage2.config.vm import VmConfig

VM = """\
[base]
id = 1
name = "guest"

[kernel]
entry_point = 0x8000_0000
kernel_load_addr = 0x8000_0000
memory_regions = [
    [0x8000_0000, 0x40_0000, 0x7, 0],
    [0x9000_0000, 0x1000, 0x1, 1],
]

[devices]
emu_devices = [["uart", 0x1000_0000, 0x1000, 10, 0, []]]

[stage2]
generation = "seed"
on_violation = "discard"
"""


@pytest.fixture
def vm(tmp_path: Path) -> str:
    path = tmp_path / "vm.toml"
    path.write_text(VM)
    return str(path)


def walked(capsys: pytest.CaptureFixture[str], vm: str, gpa: int, *arguments: str, arch: str = "riscv64") -> Any:
    assert call(["walk", vm, "--gpa", hex(gpa), "--arch", arch, "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(("arch", "fmt", "levels"), [("riscv64", "sv39x4", [2, 1]), ("x86_64", "ept4", [3, 2, 1])])
def test_ram_is_walked_to_its_leaf(
    vm: str, capsys: pytest.CaptureFixture[str], arch: str, fmt: str, levels: list[int]
) -> None:
    found = walked(capsys, vm, 0x8020_1234, "--access", "write", arch=arch)
    assert (found["gpa"], found["access"], found["format"]) == (0x8020_1234, "write", fmt)
    steps = found["steps"]
    assert [step["level"] for step in steps] == levels
    assert [step["kind"] for step in steps] == ["table"] * (len(levels) - 1) + ["leaf"]
    assert steps[0]["table"] == found["root"]
    for step, below in pairwise(steps):
        assert below["table"] == step["output"]
    for step in steps:
        assert step["slot"] == step["table"] + 8 * step["index"]
        assert step["fields"]
        assert {"bits", "name", "value", "meaning"} <= set(step["fields"][0])
    result = found["result"]
    assert result["kind"] == "mapped"
    assert result["size"] == 0x20_0000
    assert result["hpa"] == steps[-1]["output"] + 0x1234
    assert result["owner"] == "VM guest"
    assert result["memory_type"]["name"] == {"sv39x4": None, "ept4": "write-back"}[fmt]
    assert result["memory_type"]["meaning"]
    assert found["region"]["name"] == "ram0"


def test_page_size_decides_how_deep_the_walk_goes(vm: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = walked(capsys, vm, 0x8000_0000, "--page-size", "4k")
    assert [step["level"] for step in found["steps"]] == [2, 1, 0]
    assert found["result"]["size"] == 0x1000


def test_identical_memory_is_at_its_own_address(vm: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert walked(capsys, vm, 0x9000_0ABC)["result"]["hpa"] == 0x9000_0ABC


def test_lazy_ram_says_what_a_first_access_does_and_touch_does_it(vm: str, capsys: pytest.CaptureFixture[str]) -> None:
    lazy = walked(capsys, vm, 0x8000_5678, "--populate", "lazy")
    assert lazy["result"]["kind"] == "fault"
    assert lazy["result"]["fault"] == "translation"
    assert lazy["outcome"]["resolution"] == "populated"
    assert lazy["outcome"]["done"] is False
    touched = walked(capsys, vm, 0x8000_5678, "--populate", "lazy", "--touch")
    assert touched["result"]["kind"] == "mapped"
    assert touched["result"]["size"] == 0x1000
    assert touched["outcome"]["done"] is True


@pytest.mark.parametrize(
    ("gpa", "access", "resolution", "policy"),
    [
        (0x9000_0000, "write", "violation", "discard"),
        (0x1000_0004, "read", "device", None),
        (0x7000_0000, "fetch", "hole", "discard"),
    ],
)
def test_a_refused_access_tells_what_becomes_of_it(
    vm: str, capsys: pytest.CaptureFixture[str], gpa: int, access: str, resolution: str, policy: str | None
) -> None:
    found = walked(capsys, vm, gpa, "--access", access)
    assert found["result"]["kind"] == "fault"
    assert found["outcome"]["resolution"] == resolution
    assert found["outcome"]["policy"] == policy


def test_a_gpa_beyond_the_format_is_a_fault_and_no_error(vm: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = walked(capsys, vm, 1 << 50)
    assert found["steps"] == []
    assert found["result"]["fault"] == "address_size"
    assert found["outcome"] is None


def test_text_tells_the_same_in_sentences(vm: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["walk", vm, "--gpa", "2147483648", "--arch", "riscv64"]) == 0
    text = capsys.readouterr().out
    assert "Walk of GPA 0x80000000 of VM guest" in text
    assert "level 2: entry 2 of the table" in text
    assert "valid: the entry takes part in translation" in text
    assert "Result: GPA 0x80000000 is HPA" in text
    assert "rwx in a 2 MiB leaf" in text
    assert "Region ram0" in text
    assert "belongs to VM guest" in text


def test_the_first_of_several_vms_is_walked(vm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.toml"
    other.write_text(VM.replace("id = 1", "id = 2").replace('"guest"', '"other"').replace("0x9000_0000", "0xa000_0000"))
    found = walked(capsys, vm, 0xA000_0000)
    assert found["vm"] == "guest"
    assert found["result"]["kind"] == "fault"
    assert call(["walk", str(other), vm, "--gpa", "0xa000_0000", "--arch", "riscv64", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["result"]["hpa"] == 0xA000_0000


@pytest.mark.parametrize("count", [1, 2])
def test_the_memory_of_a_vm_is_planned_once(
    vm: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    planned: list[str] = []
    plan = regions.plan_regions

    def counting(config: VmConfig, starts: Starts | None, refuse: Refuse) -> regions.RegionPlan:
        planned.append(config.name)
        return plan(config, starts, refuse)

    monkeypatch.setattr(regions, "plan_regions", counting)
    other = tmp_path / "other.toml"
    other.write_text(Path(vm).read_text().replace("id = 1", "id = 2").replace("0x9000_0000", "0xa000_0000"))
    files = [vm, str(other)][:count]
    assert call(["walk", *files, "--gpa", "0x80000000", "--arch", "riscv64"]) == 0
    assert len(planned) == count
    capsys.readouterr()


def test_hlvx_reads_what_can_be_executed_and_nothing_else(vm: str, capsys: pytest.CaptureFixture[str]) -> None:
    """RISC-V Privileged, "Hypervisor Virtual-Machine Load and Store Instructions"."""
    found = walked(capsys, vm, 0x8020_1234, "--access", "hlvx")
    assert (found["access"], found["result"]["kind"]) == ("hlvx", "mapped")
    refused = walked(capsys, vm, 0x9000_0000, "--access", "hlvx")
    assert (refused["result"]["kind"], refused["outcome"]["access"]) == ("fault", "hlvx")
    assert refused["outcome"]["resolution"] == "violation"
    assert call(["walk", vm, "--arch", "riscv64", "--gpa", "0x9000_0000", "--access", "hlvx"]) == 0
    assert "Walk of GPA 0x90000000 of VM guest, for an hlvx" in capsys.readouterr().out


def test_an_access_of_another_architecture_is_refused(vm: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["walk", vm, "--arch", "aarch64", "--gpa", "0x8020_1234", "--access", "hlvx"]) == 2
    assert "--access hlvx: there is no such access through arm-s2-" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("written", "gpa", "hinted"),
    [
        ("2147483648", 0x8000_0000, False),
        ("80000000", 80000000, True),
        ("8000f000", 0x8000_F000, False),
        ("8_000_f000", 0x8000_F000, False),
        ("1234", 1234, False),
    ],
)
def test_bare_digits_are_decimal_and_a_notice_says_when_only_hexadecimal_would_be_in_a_region(
    vm: str, capsys: pytest.CaptureFixture[str], written: str, gpa: int, hinted: bool
) -> None:
    assert call(["walk", vm, "--gpa", written, "--arch", "riscv64"]) == 0
    streams = capsys.readouterr()
    assert streams.out.startswith(f"Walk of GPA {gpa:#x} of VM guest")
    assert ("0x80000000 is in a region: write 0x80000000 if that was meant" in streams.err) == hinted
