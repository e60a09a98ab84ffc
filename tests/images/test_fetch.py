"""Fetching from the real archive, and what the fetched guest's init says when its memory is wrong."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest
from test_cpio import unpack

from stage2.config.load import load_vm
from stage2.errors import ImageError
from stage2.images import initramfs
from stage2.images.fetch import FetchedGuest, fetch, fetched
from stage2.images.kernel import inspect
from stage2.vm.boot import load_images
from stage2.vm.host import build
from stage2.vm.images import read_images
from waiting import HANG_S

GUEST = "linux-riscv64"


def host_apt_state() -> dict[str, tuple[int, int]]:
    """Size and time of each file in which apt and dpkg keep the host's state."""
    roots = ("/etc/apt", "/var/lib/apt", "/var/cache/apt", "/var/lib/dpkg")
    paths = [path for root in roots for path in Path(root).rglob("*")]
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in paths}


def test_the_real_guest_is_fetched_whole_and_the_host_stays_as_it_was(tmp_path: Path) -> None:
    if not (os.environ.get("CI") or os.environ.get("STAGE2_NETWORK") == "1"):
        pytest.skip("fetches 113 MB: set STAGE2_NETWORK=1")
    before = host_apt_state()
    seen: list[tuple[str, int, int]] = []
    guest = fetch(GUEST, cache=tmp_path, progress=lambda *what: seen.append(what))
    assert host_apt_state() == before
    kernel = inspect(guest.kernel.read_bytes())
    assert kernel.arch == "riscv64"
    assert kernel.segments[0].size > 16 << 20
    assert {"init", "bin/busybox", "dev/kmsg"} <= {entry.path for _, entry in unpack(guest.ramdisk.read_bytes())}
    assert all(0 <= done <= total for _, done, total in seen)
    assert sorted(path.name for path in tmp_path.iterdir()) == [GUEST, f"{GUEST}.lock"]
    downloads = len(seen)
    assert fetch(GUEST, cache=tmp_path, progress=lambda *what: seen.append(what)) == guest
    assert len(seen) == downloads, "a guest that is there was fetched again"


@pytest.fixture(scope="module")
def guest() -> FetchedGuest:
    try:
        return fetched(GUEST)
    except ImageError as error:
        if not os.environ.get("CI"):
            pytest.skip(str(error))
        return fetch(GUEST)


Console = Callable[..., str]


@pytest.fixture
def console(guest: FetchedGuest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Console:
    """Boots Linux with an init in which one text stands for another, and gives what it printed."""
    busybox = next(e.data for _, e in unpack(guest.ramdisk.read_bytes()) if e.path == "bin/busybox")
    script = (files("stage2.vm") / "guests" / "linux-init.sh").read_text()

    def boot(old: str = "", new: str = "", cmdline: str = "") -> str:
        from stage2.engines.run import run_all

        assert old in script
        (tmp_path / "guests").mkdir()
        (tmp_path / "guests" / "linux-init.sh").write_text(script.replace(old, new, 1) if old else script)
        with monkeypatch.context() as patched:
            patched.setattr(initramfs, "files", lambda _: tmp_path)
            (tmp_path / "ramdisk").write_bytes(initramfs.build(busybox))
        text = f"""
[base]
id = 1
name = "linux"
vm_type = 2
cpu_num = 1
arch = "riscv64"
[kernel]
entry_point = 0x8020_0000
image_location = "fs"
kernel_path = "fetched:{GUEST}"
kernel_load_addr = 0x8020_0000
ramdisk_path = "{tmp_path / "ramdisk"}"
cmdline = "earlycon=sbi console=hvc0 panic=-1 {cmdline}"
memory_regions = [ [0x8000_0000, 0x1000_0000, 0x7, 0] ]
[devices]
emu_devices = []
passthrough_devices = []
"""
        (tmp_path / "vm.toml").write_text(text)
        config = load_vm(tmp_path / "vm.toml")
        with build([config]) as host:
            load_images(host.vms[0], config, read_images(config))
            (report,) = run_all(host, max_seconds=HANG_S).reports
        assert report.exit == "off", report.reason + "\n" + report.console[-2000:]
        return report.console

    return boot


COPY = "$b cp /tmp/pattern /tmp/copy\n"
SPOIL = COPY + "$b printf X | $b dd of=/tmp/copy bs=1 seek=500000 conv=notrunc\n"


def test_one_wrong_byte_in_a_copy_fails_the_guests_memory_work(console: Console) -> None:
    text = console(COPY, SPOIL)
    assert "stage2-guest: memory work FAILED" in text
    assert "memory work ok" not in text


def test_a_quiet_kernel_still_shows_the_verdict(console: Console) -> None:
    assert "stage2-guest: memory work ok" in console(cmdline="quiet")


def test_a_shell_without_a_console_is_explained_and_no_panic(console: Console) -> None:
    text = console(cmdline="stage2.init=shell")
    assert "no console to run a shell on" in text
    assert "panic - not syncing" not in text


def test_the_sums_that_init_compares_with_are_those_of_the_content_it_writes() -> None:
    script = (files("stage2.vm") / "guests" / "linux-init.sh").read_text()
    pattern = (b"stage2\n" * (1 << 18))[: 1 << 20]
    large = b"".join(b"%d\n" % number + pattern for number in range(1, 101))
    for content in (bytes(4 << 20), pattern, large):
        assert hashlib.md5(content, usedforsecurity=False).hexdigest() in script
    subprocess.run(["sh", "-n"], input=script.encode(), check=True, timeout=HANG_S)
