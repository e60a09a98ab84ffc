"""Images of hypervisors: found by the pattern of a package's name, kept whole or not at all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stage2.errors import HostToolError
from stage2.images import hypervisors
from stage2.images.apt import Release
from stage2.images.hypervisors import RECIPES, fetch, fetched, newest
from stage2.images.store import Progress

NAME = "hypervisors-13"
FILES = {
    "xen-hypervisor-4.20-amd64": ("boot/xen-4.20-amd64.gz", "boot/xen-4.20-amd64.efi", "boot/xen-4.20-amd64.config"),
    "opensbi": tuple(f"usr/lib/riscv64-linux-gnu/opensbi/generic/fw_{name}" for name in ("jump.elf", "jump.bin")),
    "u-boot-qemu": ("usr/lib/u-boot/qemu-riscv64/uboot.elf", "usr/lib/u-boot/qemu-x86/uboot.elf"),
    "linux-image-6.12.9+deb13-cloud-amd64": (
        "boot/vmlinuz-6.12.9+deb13-cloud-amd64",
        *(
            f"usr/lib/modules/6.12.9+deb13-cloud-amd64/kernel/{name}.ko.xz"
            for name in ("virt/lib/irqbypass", "arch/x86/kvm/kvm", "arch/x86/kvm/kvm-amd", "arch/x86/kvm/kvm-intel")
        ),
    ),
}
OTHERS = ("linux-image-6.12.9+deb13-amd64", "linux-image-6.12.9+deb13-cloud-amd64-unsigned", "opensbi-tools")
"""Packages that only look alike."""


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[str, ...]]:
    """A fake archive: package -> files; what a test changes is changed in it."""
    files = dict(FILES)

    class Apt:
        def matching(self, pattern: str) -> list[str]:
            return [name for name in (*files, *OTHERS) if re.search(pattern, name)]

        def download(self, package: str, work: Path, progress: Progress) -> tuple[str, Path]:
            progress(package, 1, 1)
            return "1.0", Path(package)

    def unpack(deb: Path, tree: Path) -> None:
        tree.mkdir()
        for file in files[deb.name]:
            (tree / file).parent.mkdir(parents=True, exist_ok=True)
            (tree / file).write_text(file)

    def updated(work: Path, release: Release) -> Apt:
        assert release == RECIPES[NAME].release == Release("trixie", "stable", "amd64")
        return Apt()

    monkeypatch.setattr(hypervisors, "updated", updated)
    monkeypatch.setattr(hypervisors, "unpack", unpack)
    return files


def test_of_several_versions_the_newest_is_taken() -> None:
    assert newest(["xen-hypervisor-4.9-amd64", "xen-hypervisor-4.20-amd64", "xen-hypervisor-4.17-amd64"]) == (
        "xen-hypervisor-4.20-amd64"
    )
    assert newest([]) is None


def test_only_the_images_are_kept_and_fetched_once(archive: dict[str, tuple[str, ...]], tmp_path: Path) -> None:
    seen: list[str] = []
    found = fetch(NAME, cache=tmp_path, progress=lambda what, *_: seen.append(what))
    assert [path.name for path in found.files] == [
        "fw_jump.elf", "uboot.elf", "xen-4.20-amd64.efi", "xen-4.20-amd64.gz"
    ]  # fmt: skip
    assert found.files[1].read_text() == "usr/lib/u-boot/qemu-riscv64/uboot.elf"
    assert found.packages == ("xen-hypervisor-4.20-amd64 1.0", "opensbi 1.0", "u-boot-qemu 1.0")
    assert sorted(path.name for path in tmp_path.iterdir()) == [NAME, f"{NAME}.lock"]
    count = len(seen)
    assert fetch(NAME, cache=tmp_path, progress=lambda what, *_: seen.append(what)) == found
    assert len(seen) == count
    found.files[0].write_text("changed")
    with pytest.raises(HostToolError, match=f"is not what was fetched: run `stage2 fetch {NAME} --force`"):
        fetched(NAME, tmp_path)
    assert fetch(NAME, cache=tmp_path) == found


def test_of_linux_the_kernel_and_its_modules_of_kvm_are_kept(
    archive: dict[str, tuple[str, ...]], tmp_path: Path
) -> None:
    found = fetch("kvm-x86_64", cache=tmp_path)
    assert [path.name for path in found.files] == [
        "irqbypass.ko.xz", "kvm-amd.ko.xz", "kvm.ko.xz", "vmlinuz-6.12.9+deb13-cloud-amd64"
    ]  # fmt: skip
    assert found.packages == ("linux-image-6.12.9+deb13-cloud-amd64 1.0",)


def test_a_release_without_a_package_or_a_package_without_its_image_says_so(
    archive: dict[str, tuple[str, ...]], tmp_path: Path
) -> None:
    archive["u-boot-qemu"] = FILES["u-boot-qemu"][1:]
    with pytest.raises(HostToolError, match=r"u-boot-qemu 1\.0 does not hold what it used to: no usr/lib/u-boot"):
        fetch(NAME, cache=tmp_path)
    del archive["xen-hypervisor-4.20-amd64"]
    with pytest.raises(HostToolError, match=r"Debian trixie has no package \^xen-hypervisor"):
        fetch(NAME, cache=tmp_path)
    with pytest.raises(HostToolError, match=f"{NAME} is not there yet: run `stage2 fetch {NAME}`"):
        fetched(NAME, tmp_path)


def test_a_damaged_manifest_is_told(archive: dict[str, tuple[str, ...]], tmp_path: Path) -> None:
    fetch(NAME, cache=tmp_path)
    (tmp_path / NAME / "manifest.json").write_text("[]")
    with pytest.raises(HostToolError, match=r"manifest\.json is damaged: run `stage2 fetch hypervisors-13 --force`"):
        fetched(NAME, tmp_path)
