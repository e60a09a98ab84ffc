"""`stage2 layout` says what readelf and nm say, of real hypervisors and of kernels linked here."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from linked_kernel import BASES, SMP, link, require_binutils
from real_images import real_image
from stage2.cli.main import call

RELEASES = ("hypervisors-12", "hypervisors-13")
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


def binutils(tool: str, *arguments: str | Path) -> str:
    """What a tool of binutils prints; that of one architecture reads the ELF files of all."""
    require_binutils("riscv64")
    command = [f"riscv64-linux-gnu-{tool}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def require_as_readelf(found: dict[str, Any], file: Path) -> None:
    """Sections, segments and symbols are those that binutils print."""
    told = binutils("readelf", "-SlW", file)
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
    names = binutils("nm", file)
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


def writable_code(found: dict[str, Any]) -> list[tuple[str, str]]:
    """(code, message) of the findings that segments and sections, which are as readelf told, call for."""
    segments = [s for s in found["segments"] if {"W", "X"} <= set(s["flags"])]
    sections = [s for s in found["sections"] if {"A", "W", "X"} <= set(s["flags"])]
    return [
        ("S2105", f"a LOAD segment HVA [{s['start']:#x}, {s['end']:#x}) is writable and executable (RWX)")
        for s in segments
    ] + [
        ("S2106", f"section {s['name']} HVA [{s['start']:#x}, {s['end']:#x}) is writable and executable (AWX)")
        for s in sections
    ]


def layout_of_real(
    capsys: pytest.CaptureFixture[str], file: Path, elf: Path, *, clean: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """The layout of somebody's image, which is as readelf tells it, and the codes of its errors, all of them true."""
    found = layout(capsys, str(file), code=0 if clean else 1)
    require_as_readelf(found, elf)
    *errors, note = found["findings"]
    assert [(finding["code"], finding["message"]) for finding in errors] == writable_code(found)
    assert all(finding["severity"] == "error" for finding in errors)
    assert (note["code"], note["severity"]) == ("S2104", "note")
    return found, [finding["code"] for finding in errors]


@pytest.mark.parametrize("release", RELEASES)
def test_xen_is_one_segment_that_is_writable_and_executable(
    release: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = real_image(release, "xen-*-amd64.gz")
    elf = tmp_path / "xen"
    elf.write_bytes(gzip.decompress(packed.read_bytes()))
    found, errors = layout_of_real(capsys, packed, elf)
    assert errors == ["S2105", "S2106"]
    assert found["arch"] == "x86_64"
    (segment,) = found["segments"]
    text, rest = found["parts"]
    assert (text["name"], rest["name"]) == (".text", "no section")
    # The loader zeroes more than a megabyte behind the file's bytes, and no section tells of it.
    assert (rest["start"], rest["end"]) == (text["end"], segment["end"])
    assert found["end"] == segment["end"]


@pytest.mark.parametrize("name", ["fw_dynamic.elf", "fw_jump.elf"])
@pytest.mark.parametrize(
    ("release", "errors"),
    [
        ("hypervisors-12", ["S2105", "S2106"]),  # OpenSBI 1.1: everything in one segment, .text writable
        ("hypervisors-13", []),  # OpenSBI 1.6: two segments
    ],
)
def test_opensbis_writable_code_is_found_in_the_release_that_has_it(
    release: str, errors: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = real_image(release, name)
    found, codes = layout_of_real(capsys, file, file, clean=not errors)
    assert (found["arch"], codes) == ("riscv64", errors)


@pytest.mark.parametrize("release", RELEASES)
def test_u_boots_runtime_services_are_writable_and_executable(release: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = real_image(release, "uboot.elf")
    found, errors = layout_of_real(capsys, file, file)
    assert (found["arch"], errors) == ("riscv64", ["S2105", "S2106"])
    assert "section .efi_runtime " in found["findings"][1]["message"]


@pytest.mark.parametrize("release", RELEASES)
def test_xens_efi_file_is_refused_in_a_sentence(release: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = real_image(release, "xen-*.efi")
    assert call(["layout", str(file)]) == 2
    assert capsys.readouterr().err == (
        f"stage2: error: {file}: is a PE file (EFI): give the ELF file that it was made from\n"
    )


def test_an_image_that_may_be_loaded_anywhere_lies_where_the_platform_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # OpenSBI 1.6 is linked at 0, and moves itself.
    file = real_image("hypervisors-13", "fw_dynamic.elf")
    alone = layout(capsys, str(file))
    assert alone["load"] is None
    assert {part["load"] for part in alone["parts"]} == {None}
    host = tmp_path / "host.toml"
    host.write_text(
        'arch = "riscv64"\nplatform = "p"\n[plat]\nphys-memory-base = 0x8000_0000\nphys-memory-size = 0x800_0000\n'
        "kernel-base-paddr = 0x8020_0000\n[devices]\nmmio-regions = []\n"
    )
    placed = layout(capsys, str(file), "--platform", str(host))
    assert placed["load"] == 0x8020_0000
    loaded = [section for section in placed["sections"] if "A" in section["flags"]]
    assert all(section["load"] == section["start"] + 0x8020_0000 for section in loaded)


@pytest.mark.parametrize("arch", list(BASES))
def test_a_kernel_of_another_script_has_its_per_cpu_data_where_it_is_loaded(
    arch: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, offset = BASES[arch]
    file = link(tmp_path, arch, script={"    _skernel = .;\n": ""})
    found = layout(capsys, str(file))
    (percpu,) = [part for part in found["parts"] if part["name"] == ".percpu"]
    assert percpu["start"] == found["symbols"]["_percpu_start"] == percpu["load"] + offset
    assert (found["start"], found["load"]) == (base, base - offset)


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
        (b"", "is empty"),
        (b"\xcf\xfa\xed\xfe" + bytes(28), "is no ELF file: the hypervisor's image as the linker wrote it is wanted"),
        (b"\x1f\x8b\x08", "is a damaged gzip file: it is cut short"),
        (gzip.compress(b"text", mtime=0), "is no ELF file: the hypervisor's image as the linker wrote it is wanted"),
        (b"#!/bin/sh", "is no ELF file: the hypervisor's image as the linker wrote it is wanted"),
        (b"\x7fELF" + bytes(8), "is a damaged ELF file"),
        (
            b"\x7fELF\x02\x01\x01" + b"\xff" * 200,
            "is an ELF file for machine number 65535: images for aarch64, riscv64, x86_64 are known",
        ),
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


@pytest.mark.parametrize(
    ("at", "value", "problem"),
    [
        (18, b"\x28\0", "is an ELF file for ARM: images for aarch64, riscv64, x86_64 are known"),
        (4, b"\x01", "is a 32-bit ELF file for X86_64: a 64-bit one is wanted"),
        (16, b"\x01\0", "is an object file: link it first"),
        (16, b"\x04\0", "is a core dump, not an image"),
        (64 + 40, b"\xff" * 8, "is a damaged ELF file: a LOAD segment reaches beyond 64-bit addresses"),
    ],
)
def test_an_elf_file_of_another_kind_is_told_in_one_sentence(
    at: int, value: bytes, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = link(tmp_path)
    data = bytearray(file.read_bytes())
    data[at : at + len(value)] = value
    file.write_bytes(data)
    assert call(["layout", str(file)]) == 2
    assert capsys.readouterr().err == f"stage2: error: {file}: {problem}\n"


def test_an_image_cut_short_anywhere_never_ends_in_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = link(tmp_path).read_bytes()
    file = tmp_path / "short"
    for length in (16, 64, 100, 0x400, len(data) // 2, len(data) - 64, len(data) - 1):
        file.write_bytes(data[:length])
        assert call(["layout", str(file), "--smp", "4"]) in (0, 1, 2)
        assert "Traceback" not in capsys.readouterr().err


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return link(tmp_path_factory.mktemp("kernel")).read_bytes()


_WORDS = st.sampled_from([0, 1, 0x1000, 1 << 63, (1 << 64) - 0x1000, (1 << 64) - 1]) | st.integers(0, (1 << 64) - 1)


_CHANGES = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), _WORDS, st.sampled_from([1, 2, 4, 8])), min_size=1, max_size=8
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=_CHANGES)
def test_an_image_that_lies_about_itself_never_ends_in_a_traceback(
    changes: list[tuple[float, int, int]],
    kernel: bytes,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Words of the file's, the program's and the sections' headers are changed."""
    sections = int.from_bytes(kernel[40:48], "little")
    headers = [*range(64 + 6 * 56), *range(sections, len(kernel))]
    data = bytearray(kernel)
    for where, value, size in changes:
        at = headers[int(where * len(headers))]
        data[at : at + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    file = tmp_path_factory.getbasetemp() / "lies.elf"
    file.write_bytes(data)
    code = call(["layout", str(file), "--json"])
    error = capsys.readouterr().err
    assert (code, error.count("\n")) in ((0, 0), (1, 0), (2, 1))
