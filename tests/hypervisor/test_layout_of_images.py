"""`stage2 layout` says what readelf and nm say, of real hypervisors and of kernels linked here."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from linked_kernel import BASES, SMP, link
from stage2.cli.main import call

OPENSBI = Path("/usr/lib/riscv64-linux-gnu/opensbi/generic")
_SECTION = re.compile(
    r"\s*\[\s*\d+\] (?P<name>\S+)\s+(?P<type>[A-Z_]+)\s+(?P<start>[0-9a-f]+)\s+[0-9a-f]+\s+(?P<size>[0-9a-f]+)\s+"
    r"[0-9a-f]+\s+(?P<flags>[A-Za-z]*)\s+\d+\s+\d+\s+(?P<align>\d+)$"
)
_SEGMENT = re.compile(
    r"\s*LOAD\s+0x[0-9a-f]+ (0x[0-9a-f]+) (0x[0-9a-f]+) (0x[0-9a-f]+) (0x[0-9a-f]+) (.{3}) (0x[0-9a-f]+)"
)


def layout(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, Any]:
    assert call(["layout", *arguments, "--json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def require_as_readelf(found: dict[str, Any], file: Path) -> None:
    """Sections, segments and symbols are those that binutils print."""
    tool = shutil.which("readelf") or shutil.which("x86_64-linux-gnu-readelf")
    assert tool is not None, "binutils is there, or the kernels could not have been linked"
    told = subprocess.run([tool, "-SlW", file], capture_output=True, text=True, check=True, timeout=60).stdout
    sections = [match for line in told.splitlines() if (match := _SECTION.fullmatch(line)) and match["type"] != "NULL"]
    assert [(s["name"], s["start"], s["size"], s["align"]) for s in found["sections"]] == [
        (s["name"], int(s["start"], 16), int(s["size"], 16), max(int(s["align"]), 1)) for s in sections
    ]
    for ours, theirs in zip(found["sections"], sections, strict=True):
        assert set(ours["flags"]) == set(theirs["flags"]) & set("AWXT"), ours["name"]
    segments = [[*match.groups()] for line in told.splitlines() if (match := _SEGMENT.match(line))]
    assert [[s["start"], s["load"], s["file_size"], s["size"], s["align"]] for s in found["segments"]] == [
        [int(s[0], 16), int(s[1], 16), int(s[2], 16), int(s[3], 16), max(int(s[5], 16), 1)] for s in segments
    ]
    assert [s["flags"] for s in found["segments"]] == [s[4].replace(" ", "").replace("E", "X") for s in segments]
    names = subprocess.run(
        [tool.replace("readelf", "nm"), file], capture_output=True, text=True, timeout=60, check=False
    ).stdout
    listed = [line.split(" ", 2) for line in names.splitlines()]
    assert found["symbols"] == {name: int(value, 16) for value, _, name in listed if not name.startswith("$")}


@pytest.mark.parametrize("arch", list(BASES))
def test_a_kernel_linked_by_the_layouts_own_script_is_clean_and_told_as_binutils_do(
    arch: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = link(tmp_path, arch)
    found = layout(capsys, str(file), "--smp", str(SMP))
    assert found["findings"] == []
    require_as_readelf(found, file)
    base, offset = BASES[arch]
    assert (found["arch"], found["start"], found["load"]) == (arch, base, base - offset)
    parts = {part["name"]: part for part in found["parts"]}
    assert list(parts) == [".text", ".rodata", ".data", ".tdata", ".tbss", ".percpu", "boot stack", ".bss"]
    assert parts[".percpu"]["size"] == SMP * 128
    assert all(part["load"] == part["start"] - offset for part in parts.values())
    assert {name: part["flags"] for name, part in parts.items() if part["flags"] != "RW-"} == {
        ".text": "R-X",
        ".rodata": "R--",
    }


@pytest.mark.parametrize("name", ["fw_dynamic.elf", "fw_jump.elf"])
def test_opensbis_writable_code_is_found(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if not OPENSBI.is_dir():
        assert not os.environ.get("CI"), "CI needs the Debian package opensbi"
        pytest.skip("needs the Debian package opensbi")
    found = layout(capsys, str(OPENSBI / name), code=1)
    require_as_readelf(found, OPENSBI / name)
    assert [(finding["code"], finding["severity"]) for finding in found["findings"]] == [
        ("S2105", "error"),
        ("S2106", "error"),
        ("S2104", "note"),
    ]
    assert found["arch"] == "riscv64"


def test_an_image_packed_with_gzip_is_read_as_it_is_unpacked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = link(tmp_path)
    packed = tmp_path / "kernel.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    plain = layout(capsys, str(file), "--smp", str(SMP))
    assert layout(capsys, str(packed), "--smp", str(SMP)) == plain | {"file": str(packed)}


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"MZ" + bytes(100), "is a PE file (EFI): give the ELF file that it was made from"),
        (b"", "is no ELF file: the hypervisor's image as the linker wrote it is wanted"),
        (b"#!/bin/sh", "is no ELF file: the hypervisor's image as the linker wrote it is wanted"),
        (b"\x7fELF" + bytes(8), "is a damaged ELF file"),
        (b"\x7fELF\x02\x01\x01" + b"\xff" * 200, "is for 65535: images of aarch64, riscv64, x86_64 are known"),
        (b"\x1f\x8b\x08" + bytes(20), "is a damaged gzip file"),
    ],
)
def test_a_file_that_is_no_image_is_told_in_one_sentence(
    data: bytes, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "image"
    file.write_bytes(data)
    assert call(["layout", str(file)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"stage2: error: {file}: {problem}")
    assert error.count("\n") == 1


def test_an_image_cut_short_anywhere_never_ends_in_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = link(tmp_path).read_bytes()
    file = tmp_path / "short"
    for length in (16, 64, 100, 0x400, len(data) // 2, len(data) - 64, len(data) - 1):
        file.write_bytes(data[:length])
        assert call(["layout", str(file), "--smp", "4"]) in (0, 1, 2)
        assert "Traceback" not in capsys.readouterr().err
