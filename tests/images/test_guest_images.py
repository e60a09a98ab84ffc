"""Kernels by their headers, the initramfs, and where guests are fetched from."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage2.errors import HostToolError, ImageError
from stage2.images.apt import private_sources
from stage2.images.aptsources import Source, configured_sources, parse_deb822, parse_one_line
from stage2.images.cpio import archive, character_device, file, folder
from stage2.images.fetch import fetch, fetched
from stage2.images.initramfs import build
from stage2.images.kernel import inspect
from waiting import HANG_S


def _wrapped(data: bytes, times: int) -> bytes:
    """Packed so often, the same bytes whenever it is done: they are part of a test's name."""
    return data if not times else _wrapped(gzip.compress(data, mtime=0), times - 1)


_FIVE_TIMES = _wrapped(b"x", 5)


def linux_image(magic: bytes, image_size: int = 0x20000) -> bytes:
    header = bytearray(64)
    header[0x10:0x18] = image_size.to_bytes(8, "little")
    header[0x38:0x3C] = magic
    return bytes(header) + b"code"


@pytest.mark.parametrize(("magic", "arch"), [(b"RSC\x05", "riscv64"), (b"ARM\x64", "aarch64")])
def test_a_linux_image_tells_its_architecture_and_the_memory_it_needs(magic: bytes, arch: str) -> None:
    image = inspect(linux_image(magic))
    assert image.arch == arch
    assert not image.absolute
    assert image.segments[0].size == 0x20000


def test_a_compressed_kernel_is_understood_as_what_it_holds() -> None:
    assert inspect(gzip.compress(linux_image(b"RSC\x05"))).arch == "riscv64"


def test_a_bzimage_is_x86() -> None:
    data = bytearray(0x400)
    data[0x202:0x206] = b"HdrS"
    assert inspect(bytes(data)).arch == "x86_64"


def test_an_elf_file_gives_its_segments_and_a_physical_entry() -> None:
    path = shutil.which("true")
    assert path is not None
    image = inspect(Path(path).read_bytes())
    assert image.kind == "ELF"
    assert image.absolute
    assert all(segment.size >= len(segment.data) for segment in image.segments)


def test_an_unknown_image_is_raw_and_names_no_architecture() -> None:
    image = inspect(b"just bytes")
    assert (image.kind, image.arch) == ("raw binary", None)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"\x7fELF", "ELF file is damaged"),
        (b"\x7fELF" + bytes(60), "ELF"),
        (gzip.compress(b"x" * 100, mtime=0)[:20], "cut short"),
        (_FIVE_TIMES, "more than 4 times"),
        (b"\x1f\x8bnonsense", "damaged"),
        (linux_image(b"RSC\x05", 1 << 62), "asks for"),
    ],
)
def test_a_damaged_image_is_refused_with_a_reason(data: bytes, says: str) -> None:
    with pytest.raises(ImageError, match=says):
        inspect(data)


@given(st.binary(max_size=200))
def test_a_hostile_elf_file_is_refused_or_raw_but_never_crashes(tail: bytes) -> None:
    with contextlib.suppress(ImageError):
        inspect(b"\x7fELF\x02\x01\x01" + bytes(9) + tail)


def test_cpio_unpacks_what_we_packed(tmp_path: Path) -> None:
    if shutil.which("cpio") is None:
        if os.environ.get("CI"):
            pytest.fail("CI needs the Debian package cpio")
        pytest.skip("needs the Debian package cpio")
    data = archive([folder("a"), file("a/f", b"content", executable=True), file("a/empty", b"")])
    subprocess.run(["cpio", "-id", "--quiet"], input=data, cwd=tmp_path, check=True, timeout=HANG_S)
    assert (tmp_path / "a/f").read_bytes() == b"content"
    assert (tmp_path / "a/f").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "a/empty").read_bytes() == b""
    listing = subprocess.run(
        ["cpio", "-tv", "--quiet"],
        input=archive([character_device("c", 5, 1)]),
        capture_output=True,
        check=True,
        timeout=HANG_S,
    ).stdout.decode()
    assert listing.startswith("crw-------")
    assert "5,   1" in listing


def test_the_initramfs_is_the_same_bytes_each_time_and_holds_an_init() -> None:
    assert build(b"busybox") == build(b"busybox")
    assert b"memory work ok" in build(b"busybox")


ONE_LINE = """
# comment
deb [arch=amd64 signed-by=/usr/share/keyrings/d.gpg] http://mirror.example/debian bookworm main contrib
deb-src http://mirror.example/debian bookworm main
deb http://mirror.example/debian-security bookworm-security main
"""
DEB822 = """Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/d.gpg

Types: deb
URIs: http://mirror.example/other
Suites: stable
Components: main
Enabled: no

# a comment
Types: deb
URIs: http://mirror.example/inline
Suites: x
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
"""


def test_sources_are_understood_in_both_of_apts_forms() -> None:
    archive_ = Source("http://mirror.example/debian", ("bookworm",), ("main", "contrib"), "/usr/share/keyrings/d.gpg")
    assert parse_one_line(ONE_LINE)[0] == archive_
    assert [source.is_debian_archive for source in parse_one_line(ONE_LINE)] == [True, False]
    found = parse_deb822(DEB822)
    assert [source.uri for source in found] == ["http://mirror.example/debian", "http://mirror.example/inline"]
    assert found[0].suites == ("bookworm", "bookworm-updates")
    assert found[1].signed_by is not None
    assert "BEGIN PGP PUBLIC KEY BLOCK" in found[1].signed_by


def test_a_host_without_a_debian_archive_is_told_so(tmp_path: Path) -> None:
    assert configured_sources(tmp_path) == []
    with pytest.raises(HostToolError, match="no Debian archive"):
        private_sources([], "trixie", "riscv64")


def test_a_host_without_apt_is_told_what_to_do_instead(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostToolError, match=r"apt-get.*--kernel"):
        fetch("linux-riscv64", cache=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["linux-riscv64.lock"]


def test_an_unknown_guest_is_refused_naming_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="linux-riscv64"):
        fetch("windows", cache=tmp_path)


def test_a_guest_that_was_not_fetched_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="stage2 fetch linux-riscv64"):
        fetched("linux-riscv64", tmp_path)


def test_a_changed_byte_in_the_cache_is_noticed(tmp_path: Path) -> None:
    folder_ = tmp_path / "linux-riscv64"
    folder_.mkdir()
    for name in ("kernel", "initramfs.cpio"):
        (folder_ / name).write_bytes(b"x")
    manifest = {
        "packages": [],
        "kernel": {"file": "kernel", "sha256": "0" * 64},
        "ramdisk": {"file": "initramfs.cpio", "sha256": "0" * 64},
    }
    (folder_ / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ImageError, match="not what was fetched"):
        fetched("linux-riscv64", tmp_path)
