"""Images in `stage2 check`: what is at hand is read, what is not is said, and the rest is checked all the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from guest_files import CODE, arm64, bzimage, tree
from stage2.cli.main import call

VM = """\
[base]
id = 1
name = "guest"
arch = "{arch}"

[kernel]
entry_point = {entry:#x}
kernel_load_addr = 0x8000_0000
kernel_path = "Image"
{more}
memory_regions = [[0x8000_0000, 0x40_0000, 0x7, 0]]
image_location = "fs"

[devices]
emu_devices = [["uart", 0x1000_0000, 0x100, 10, 2, []]]
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def check(capsys: pytest.CaptureFixture[str], more: str = "", arch: str = "aarch64", entry: int = 0x8000_0000) -> Any:
    """The exit code, and the codes and messages of the findings."""
    Path("vm.toml").write_text(VM.format(more=more, arch=arch, entry=entry))
    code = call(["check", "--json", "--generation", "head", "vm.toml"])
    streams = capsys.readouterr()
    assert streams.err == ""
    return code, {found["code"]: found["message"] for found in json.loads(streams.out)["findings"]}


def test_images_that_fit_say_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    Path("Image").write_bytes(arm64(flags=8))
    Path("board.dtb").write_bytes(tree())
    assert check(capsys, 'dtb_path = "board.dtb"\ndtb_load_addr = 0x8020_0000') == (0, {})


def test_all_that_is_missing_is_one_note_with_the_way_to_it(capsys: pytest.CaptureFixture[str]) -> None:
    more = 'ramdisk_path = "${nowhere_at_all}/initrd"\ndtb_path = "fetched:linux-riscv64"\ndtb_load_addr = 0x8020_0000'
    code, found = check(capsys, more)
    assert (code, found) == (
        1,
        {
            "S2210": "the kernel 'Image' and the ramdisk '${nowhere_at_all}/initrd' of VM 1 'guest' are not at hand, "
            "and not checked",
            "S2211": "the dtb: a fetched guest has a kernel and a ramdisk, no dtb",
        },
    )


def test_a_device_tree_is_read_without_its_kernel(capsys: pytest.CaptureFixture[str]) -> None:
    Path("board.dtb").write_bytes(tree()[:100])
    code, found = check(capsys, 'dtb_path = "board.dtb"\ndtb_load_addr = 0x8020_0000')
    assert (code, sorted(found)) == (1, ["S2210", "S2221"])


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n"])
def test_an_image_that_cannot_be_used_is_a_finding(data: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    Path("Image").write_bytes(data)
    code, found = check(capsys)
    assert (code, sorted(found)) == (1, ["S2211"])


def test_an_entry_point_in_a_bios_that_is_not_at_hand_is_taken_to_be_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    Path("Image").write_bytes(CODE)
    code, found = check(capsys, 'bios_path = "bios"\nbios_load_addr = 0x8020_0000', entry=0x8020_0000)
    assert (code, sorted(found)) == (0, ["S2210"])
    Path("bios").write_bytes(CODE)
    assert check(capsys, 'bios_path = "bios"\nbios_load_addr = 0x8020_0000', entry=0x8030_0000)[1].keys() == {"S2207"}


def test_a_bzimage_that_upstreams_stub_starts_is_no_fault(capsys: pytest.CaptureFixture[str]) -> None:
    Path("Image").write_bytes(bzimage())
    assert check(capsys, arch="x86_64")[1].keys() == {"S2202"}
    stub = '[[region]]\nname = "low"\ngpa = 0x0\nsize = 0x10_0000\nflags = 0x7\ntype = "alloc"\n'
    Path("vm.stage2.toml").write_text(stub)
    assert check(capsys, arch="x86_64", entry=0x8000) == (0, {})
