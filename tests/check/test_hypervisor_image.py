"""`stage2 check --hypervisor`: the hypervisor's own image beside VMs and host, in place of a computed one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from linked_kernel import link
from stage2.cli.main import call

PLATFORM = """
arch = "x86_64"
platform = "tiny"
[plat]
phys-memory-base = 0x0
phys-memory-size = 0x800_0000
kernel-base-paddr = 0x20_0000
kernel-base-vaddr = "0xffff_8000_0020_0000"
phys-virt-offset = "0xffff_8000_0000_0000"
[hypervisor]
smp = 4
"""
VM = """
[base]
id = 1
name = "guest"
vm_type = 1
cpu_num = 1
arch = "x86_64"
[kernel]
entry_point = 0x40_0000
kernel_load_addr = 0x40_0000
memory_regions = [[{start:#x}, 0x40_0000, 0x7, 1]]
[stage2]
generation = "seed"
"""


def check(
    capsys: pytest.CaptureFixture[str], folder: Path, *options: object, start: int, code: int
) -> list[dict[str, Any]]:
    """The findings about a VM whose RAM begins at an HPA."""
    (folder / "vm.toml").write_text(VM.format(start=start))
    assert call(["check", "--json", str(folder / "vm.toml"), *map(str, options)]) == code
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["findings"]
    return found


def platform(folder: Path) -> Path:
    path = folder / "platform.toml"
    path.write_text(PLATFORM)
    return path


def test_the_image_and_not_a_computed_layout_is_held_against_a_vm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host, image = platform(tmp_path), link(tmp_path)
    (computed,) = check(capsys, tmp_path, "--platform", host, start=0x40_0000, code=1)
    assert (computed["code"], computed["message"]) == (
        "S2110",
        "the hypervisor's image (computed) HPA [0x200000, 0x494000) overlaps RAM 'ram0' of VM 1 'guest' HPA "
        "[0x400000, 0x800000) in [0x400000, 0x494000)",
    )
    assert check(capsys, tmp_path, "--platform", host, "--hypervisor", image, start=0x40_0000, code=0) == []
    (found,) = check(capsys, tmp_path, "--platform", host, "--hypervisor", image, start=0x20_0000, code=1)
    assert (found["code"], found["message"]) == (
        "S2110",
        "the hypervisor's image HPA [0x200000, 0x210000) overlaps RAM 'ram0' of VM 1 'guest' HPA "
        "[0x200000, 0x600000) in [0x200000, 0x210000)",
    )
    assert [Path(place["file"]).name for place in found["locations"]] == ["kernel.elf", "vm.toml"]


def test_an_image_without_a_platform_lies_where_its_program_headers_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = check(capsys, tmp_path, "--hypervisor", link(tmp_path), start=0x20_0000, code=1)
    assert [finding["code"] for finding in found if finding["severity"] == "error"] == ["S2110"]


def test_what_is_wrong_with_the_image_itself_is_told_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host = platform(tmp_path)
    host.write_text(host.read_text().replace("smp = 4", "smp = 64"))
    image = link(tmp_path)
    (found,) = check(capsys, tmp_path, "--platform", host, "--hypervisor", image, start=0x40_0000, code=1)
    assert (found["code"], found["severity"]) == ("S2108", "error")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (None, "kernel.elf: cannot be read: No such file or directory"),
        (b"", "kernel.elf: is empty"),
        (b"#!/bin/sh", "kernel.elf: is no ELF file: the hypervisor's image as the linker wrote it is wanted"),
        (b"\x7fELF" + bytes(80), "kernel.elf: is "),
    ],
)
def test_an_image_that_is_none_is_one_error(
    data: bytes | None, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if data is not None:
        Path("kernel.elf").write_bytes(data)
    Path("vm.toml").write_text(VM.format(start=0x40_0000))
    assert call(["check", "vm.toml", "--hypervisor", "kernel.elf"]) == 2
    streams = capsys.readouterr()
    assert (streams.out, streams.err.count("\n")) == ("", 1)
    assert told in streams.err


def test_an_image_for_another_architecture_is_one_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host, image = platform(tmp_path), link(tmp_path)
    host.write_text(host.read_text().replace("x86_64", "riscv64"))
    (tmp_path / "vm.toml").write_text(VM.format(start=0x40_0000).replace('arch = "x86_64"\n', ""))
    arguments = ["check", str(tmp_path / "vm.toml"), "--hypervisor", str(image)]
    assert call([*arguments, "--platform", str(host)]) == 2
    assert f"{image} is for x86_64, and the platform {host} is riscv64" in capsys.readouterr().err
    assert call([*arguments, "--arch", "aarch64"]) == 2
    assert f"{image} is for x86_64, and --arch says aarch64" in capsys.readouterr().err
