"""Images and device trees as distributions and boot loaders have them: unpacked, refused by name, or judged."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from guest_files import (
    BASE,
    BZ2,
    CODE,
    GZIP,
    XZ,
    ZSTD,
    arm64,
    at,
    bzimage,
    efi_application,
    elf,
    fit,
    linux,
    lzma_alone,
    riscv64,
    tree,
    uimage,
    zboot,
)  # fmt: skip
from stage2.check import guest_images, guest_tree, image_places
from stage2.cli.main import call
from stage2.config.load import load_vm
from stage2.errors import ImageError
from stage2.images.fdt import Node
from stage2.images.kernel import inspect
from stage2.vm.images import check_images, read_images

NOISE = arm64() + random.Random(1).randbytes(300_000)
UNPACKED = {
    "Image": (arm64(), ()),
    "Image-with-EFI-stub": (linux(b"ARM\x64", efi=True), ()),
    "Image.gz": (GZIP(arm64()), ("gzip file",)),
    "Image.xz": (XZ(arm64()), ("xz file",)),
    "Image.bz2": (BZ2(arm64()), ("bzip2 file",)),
    "Image.zst": (ZSTD(arm64()), ("zstd file",)),
    "Image.lzma": (lzma_alone(arm64()), ("lzma file",)),
    "vmlinuz-efi-zboot-gzip": (zboot(GZIP(arm64()), "gzip"), ("EFI zboot image", "gzip file")),
    "vmlinuz-efi-zboot-zstd": (zboot(ZSTD(arm64()), "zstd22"), ("EFI zboot image", "zstd file")),
    "vmlinuz-efi-zboot-xz": (zboot(XZ(arm64()), "xzkern"), ("EFI zboot image", "xz file")),
    "vmlinuz-efi-zboot-in-gzip": (
        GZIP(zboot(GZIP(arm64()), "gzip")), ("gzip file", "EFI zboot image", "gzip file"),
    ),
    "uImage": (uimage(arm64()), ("U-Boot image",)),
    "uImage-gzip": (uimage(GZIP(arm64()), 1), ("U-Boot image", "gzip file")),
    "Image.zst-of-several-frames": (ZSTD(arm64()[:100]) + ZSTD(arm64()[100:]), ("zstd file",)),
    "Image.zst-of-pzstd": (b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + ZSTD(arm64()), ("zstd file",)),
    "Image.zst-with-size-appended": (ZSTD(arm64()) + len(arm64()).to_bytes(4, "little"), ("zstd file",)),
    "Image.xz-with-size-appended": (XZ(arm64()) + len(arm64()).to_bytes(4, "little"), ("xz file",)),
    "uImage-zstd": (uimage(ZSTD(arm64()), 6), ("U-Boot image", "zstd file")),
}  # fmt: skip
REFUSED = {
    "Image.lz4": (b"\x04\x22\x4d\x18" + CODE, "packed with lz4"),
    "Image.lz4-legacy": (b"\x02\x21\x4c\x18" + CODE, "packed with lz4"),
    "Image.lzo": (b"\x89LZO\0\r\n\x1a\n" + CODE, "packed with lzo"),
    "vmlinuz-efi-zboot-lz4": (zboot(CODE, "lz4"), "EFI zboot image is packed with lz4"),
    "vmlinuz-efi-zboot-cut-short": (zboot(GZIP(arm64()), "gzip")[:80], "payload lies outside"),
    "vmlinuz-efi-zboot-of-nothing": (zboot(CODE, "gzip"), "is not packed"),
    "uImage-ramdisk": (uimage(CODE, kind=3), "of type 3, no kernel"),
    "uImage-lzo": (uimage(CODE, 4), "packed with lzo"),
    "uImage-damaged": (uimage(CODE)[:8] + b"\xff" + uimage(CODE)[9:], "checksum is wrong"),
    "uImage-data-damaged": (uimage(CODE)[:-1] + b"\xff", "data's checksum is wrong"),
    "uImage-cut-short": (uimage(CODE)[:-8], "cut short"),
    "gzip-of-gzip-of-gzip-of-gzip-of-gzip": (GZIP(GZIP(GZIP(GZIP(GZIP(CODE))))), "more than 4 times"),
    "gzip-damaged": (GZIP(arm64())[:20] + b"\xff" * 20, "damaged|cut short"),
    "zstd-damaged": (b"\x28\xb5\x2f\xfd\x00\x58\x06\0\0", "zstd file is damaged"),
    "zstd-cut-short": (ZSTD(CODE * 4096)[:-1], "zstd file is cut short"),
    "zstd-cut-short-within-large-data": (ZSTD(NOISE)[: len(NOISE) // 2], "zstd file is cut short"),
    "fitImage": (fit(), "a FIT image"),
    "boot.img": (b"ANDROID!" + CODE, "Android boot image"),
    "initrd.cpio": (b"070701" + CODE, "give it as ramdisk_path"),
    "initrd.img": (GZIP(b"070701" + CODE), "give it as ramdisk_path"),
    "virt.dtb": (tree(), "give it as dtb_path"),
    "virt.dts": (b"/dts-v1/;\n/ { };\n", "compile it with dtc"),
    "virt-with-a-comment-first.dts": (b"// SPDX-License-Identifier: MIT\n\n/dts-v1/;\n/ { };\n", "compile it with dtc"),
    "firmware.hex": (b":020000040800F2\r\n:00000001FF\r\n", "objcopy -I ihex"),
    "firmware.srec": (b"S00600004844521B\nS9030000FC\n", "objcopy -I srec"),
    "dtbo.img": (b"\xd7\xb7\xab\x1e" + CODE, "table of device trees"),
    "disk-with-gpt.raw": (at(0x200, b"EFI PART"), "a disk image"),
    "disk.vmdk": (b"KDMV" + CODE, "VMDK"),
    "kernel.7z": (b"7z\xbc\xaf\x27\x1c" + CODE, "7z archive"),
    "disk.qcow2": (b"QFI\xfb" + CODE, "qcow2"),
    "root.squashfs": (b"hsqs" + CODE, "squashfs"),
    "root.ext4": (at(0x438, b"\x53\xef"), "ext4"),
    "netinst.iso": (at(0x8001, b"CD001"), "ISO image"),
    "linux-image.deb": (b"!<arch>\n" + CODE, ".deb package"),
    "kernel.rpm": (b"\xed\xab\xee\xdb" + CODE, "RPM package"),
    "kernel.tar": (at(257, b"ustar"), "tar archive"),
    "not-found.html": (b"<!DOCTYPE html>" + CODE, "HTML page"),
    "lfs-pointer": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "zImage-arm32": (at(0x24, b"\x18\x28\x6f\x01"), "32-bit Arm"),
    "vmlinux-arm32": (elf(40), "guests are"),
    "vmlinux-32-bit": (elf(243, bits=1), "32-bit"),
    "vmlinux-big-endian": (elf(183, order=2), "big-endian"),
    "built-in.o": (elf(183, segments=0), "has to be linked"),
    "uki.efi": (efi_application(b".text", b".linux"), "unified kernel image"),
    "grub.efi": (efi_application(b".text"), "EFI application"),
}


@pytest.mark.parametrize("name", UNPACKED)
def test_a_wrapped_kernel_is_the_kernel_in_it(name: str) -> None:
    data, layers = UNPACKED[name]
    image = inspect(data)
    assert (image.kind, image.arch, image.wrappers) == ("Linux Image (aarch64)", "aarch64", layers)
    assert CODE in image.segments[0].data


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_kernel_here_is_refused_by_name_and_never_run(name: str) -> None:
    data, says = REFUSED[name]
    with pytest.raises(ImageError, match=says):
        inspect(data)


# --- placement ------------------------------------------------------------------------------------------------------

VM = """\
[base]
id = 1
name = "guest"
arch = "{arch}"

[kernel]
entry_point = {entry:#x}
kernel_load_addr = {load:#x}
kernel_path = "kernel"
{more}
memory_regions = [
    [0x8000_0000, 0x40_0000, 0x7, 0],
]

[devices]
emu_devices = [["uart", 0x1000_0000, 0x100, 10, 2, []]]

[stage2]
generation = "head"
"""


def codes(
    folder: Path, image: bytes, *, arch: str = "aarch64", load: int = BASE, entry: int | None = None, more: str = ""
) -> list[str]:
    """The findings of a VM with an image, by their codes."""
    (folder / "kernel").write_bytes(image)
    path = folder / "vm.toml"
    path.write_text(VM.format(arch=arch, entry=load if entry is None else entry, load=load, more=more))
    vm = load_vm(path)
    found = check_images(vm, read_images(vm), arch)
    assert all(place.file == str(path) and place.line for finding in found for place in finding.locations)
    return [finding.code for finding in found]


PLACED: dict[str, tuple[bytes, dict[str, object], list[str]]] = {
    "arm64-at-2-MiB": (arm64(), {}, []),
    "arm64-at-text-offset": (arm64(text_offset=0x8_0000), {"load": BASE + 0x8_0000}, []),
    "arm64-beside-text-offset": (arm64(text_offset=0x8_0000), {"load": BASE}, ["S2203"]),
    "arm64-of-before-3.17": (arm64(image_size=0), {"load": BASE + 0x8_0000}, []),
    "arm64-big-endian": (arm64(flags=1), {}, ["S2205"]),
    "arm64-of-64-KiB-pages": (arm64(flags=3 << 1), {}, ["S2209"]),
    "arm64-with-bss-beyond-its-region": (arm64(image_size=0x80_0000), {}, ["S2206"]),
    "riscv-at-2-MiB": (riscv64(), {"arch": "riscv64", "load": BASE + 0x20_0000}, []),
    "riscv-at-512-KiB": (riscv64(), {"arch": "riscv64", "load": BASE + 0x8_0000}, ["S2204"]),
    "arm64-in-a-riscv-vm": (arm64(), {"arch": "riscv64"}, ["S2201"]),
    "bzImage": (bzimage(), {"arch": "x86_64"}, ["S2202"]),
    "entry-before-the-kernel": (arm64(flags=8), {"load": BASE + 0x20_0000, "entry": BASE}, ["S2207"]),
    "entry-within-the-kernel": (arm64(), {"entry": BASE + 0x40}, ["S2208"]),
    "elf-entered-elsewhere": (elf(183), {"entry": BASE + 4}, ["S2208"]),
    "raw-binary-entered-within": (CODE, {"entry": BASE + 4}, []),
}


@pytest.mark.parametrize("name", PLACED)
def test_a_kernel_is_held_against_its_place(name: str, tmp_path: Path) -> None:
    image, how, wanted = PLACED[name]
    assert codes(tmp_path, image, **how) == wanted  # type: ignore[arg-type]


# --- device trees ---------------------------------------------------------------------------------------------------


def memory(start: int, size: int) -> Callable[[Node], object]:
    return lambda root: root.child(f"memory@{start:x}").set("device_type", "memory").set_u64("reg", start, size)


def device(reg: list[int], **more: str) -> Callable[[Node], object]:
    def change(root: Node) -> None:
        soc = root.find("soc")
        assert soc is not None
        node = soc.child(f"dev@{reg[0]:x}").set("compatible", "a,device").set("reg", reg)
        for key, value in more.items():
            node.set(key, value)

    return change


def initrd(start: int, end: int) -> Callable[[Node], object]:
    def change(root: Node) -> None:
        chosen = root.find("chosen")
        assert chosen is not None
        chosen.set_u64("linux,initrd-start", start).set("linux,initrd-end", [end])

    return change


def reserved(start: int) -> Callable[[Node], object]:
    def change(root: Node) -> None:
        node = root.child("reserved-memory").set("#address-cells", 2).set("#size-cells", 2).set("ranges")
        node.child(f"firmware@{start:x}").set_u64("reg", start, 0x1000).set("no-map")

    return change


def filled(size: int) -> Callable[[Node], object]:
    return lambda root: root.child("firmware").set("blob", b"\0" * size)


def without_memory(root: Node) -> None:
    root.children = [child for child in root.children if not child.name.startswith("memory")]


def pci(root: Node) -> None:
    """A PCI host whose configuration space is not there; its functions have addresses of their own kind."""
    bus = root.child("pcie@30000000").set("device_type", "pci").set("#address-cells", 3).set("#size-cells", 2)
    bus.set_u64("reg", 0x3000_0000, 0x1000).set("ranges", [0x0200_0000, 0, 0, 0, 0x4000_0000, 0, 0x1000])
    bus.child("net@1").set("reg", [0x800, 0, 0, 0, 0])


RAMDISK = 'ramdisk_path = "ramdisk"\nramdisk_load_addr = 0x8020_0000'
TREES: dict[str, tuple[bytes, str, list[str]]] = {
    "virt": (tree(), "", []),
    "truncated": (tree()[:100], "", ["S2221"]),
    "of-another-magic": (b"\0" * 200, "", ["S2221"]),
    "of-a-future-version": (tree()[:20] + b"\0\0\0\x20\0\0\0\x20" + tree()[28:], "", ["S2221"]),
    "source-text-behind-a-license": (b"// SPDX-License-Identifier: MIT\n/dts-v1/;\n/ { };\n", "", ["S2222"]),
    "source-text": (b"/dts-v1/;\n/ { model = \"x\"; };\n", "", ["S2222"]),
    "at-an-odd-address": (tree(), "dtb_load_addr = 0x8030_0004", ["S2223"]),
    "without-memory": (tree(without_memory), "", ["S2224"]),
    "more-memory-than-the-vm": (tree(memory(0x9000_0000, 0x1000)), "", ["S2225"]),
    "memory-that-begins-lower": (tree(memory(0x7FF0_0000, 0x20_0000)), "", ["S2225"]),
    "reserved-memory-of-another-machine": (tree(reserved(0x4000_0000)), "", ["S2226"]),
    "reserved-memory-within": (tree(reserved(BASE + 0x1000)), "", []),
    "reservation-block-of-another-machine": (tree(reserved=((0x4000_0000, 0x1000),)), "", ["S2226"]),
    "initrd-outside": (tree(initrd(0x9000_0000, 0x9000_1000)), "", ["S2227"]),
    "initrd-that-ends-before-it-begins": (tree(initrd(BASE + 0x2000, BASE + 0x1000)), "", ["S2227"]),
    "initrd-elsewhere-than-the-ramdisk": (tree(initrd(BASE + 0x1000, BASE + 0x2000)), RAMDISK, ["S2227"]),
    "initrd-where-the-ramdisk-is": (tree(initrd(BASE + 0x20_0000, BASE + 0x21_0000)), RAMDISK, []),
    "device-that-nothing-backs": (tree(device([0x100_0000, 0x1000])), "", ["S2228"]),
    "device-partly-backed": (tree(device([0xF00, 0x200])), "", ["S2228"]),
    "device-that-is-disabled": (tree(device([0x100_0000, 0x1000], status="disabled")), "", []),
    "device-beyond-its-bus": (tree(device([0x2000_0000, 0x1000])), "", []),
    "pci-host": (tree(pci), "", ["S2228"]),
    "larger-than-2-MiB": (tree(filled(2 << 20)), "", ["S2229"]),
    "nearly-2-MiB": (tree(filled((2 << 20) - 0x1000)), "", []),
}  # fmt: skip


@pytest.mark.parametrize("name", TREES)
def test_a_device_tree_is_held_against_the_vm(name: str, tmp_path: Path) -> None:
    blob, more, wanted = TREES[name]
    (tmp_path / "tree.dtb").write_bytes(blob)
    (tmp_path / "ramdisk").write_bytes(b"\x01" * 0x1000)
    assert codes(tmp_path, arm64(), more=f'dtb_path = "tree.dtb"\n{more}') == wanted


def test_there_are_enough_images_and_trees() -> None:
    assert len(UNPACKED) + len(REFUSED) + len(PLACED) + len(TREES) >= 25


def test_every_rule_about_images_and_trees_is_met_by_one_of_them() -> None:
    met = {code for *_, wanted in (*PLACED.values(), *TREES.values()) for code in wanted}
    assert met == {rule.code for rule in (*guest_images.RULES, *guest_tree.RULES, image_places.OUTSIDE_REGION)}


# --- commands -------------------------------------------------------------------------------------------------------


def test_a_run_refuses_what_cannot_work_in_one_line_and_tells_the_rest_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kernel").write_bytes(GZIP(riscv64(flags=1)))
    path = tmp_path / "vm.toml"
    path.write_text(VM.format(arch="riscv64", entry=BASE + 0x8_0000, load=BASE + 0x8_0000, more=""))
    assert call(["run", str(path)]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"stage2: {path}:8:20: warning S2205: ")
    assert second.startswith(f"stage2: error: {path}:8: S2204: the kernel is put at 0x80080000")
    assert "set kernel_load_addr and entry_point to 0x80200000" in second


def test_a_tree_of_another_machine_does_not_fill_the_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def many(root: Node) -> None:
        for number in range(30):
            device([0x100_0000 + number * 0x1000, 0x1000])(root)

    (tmp_path / "kernel").write_bytes(riscv64())
    (tmp_path / "tree.dtb").write_bytes(tree(many))
    path = tmp_path / "vm.toml"
    # A kernel beside 2 MiB, so that nothing runs.
    path.write_text(VM.format(arch="riscv64", entry=BASE + 0x1000, load=BASE + 0x1000, more='dtb_path = "tree.dtb"'))
    assert call(["run", str(path)]) == 2
    *listed, more, error = capsys.readouterr().err.splitlines()
    assert len(listed) == 20
    assert all("warning S2228" in line for line in listed)
    assert more == "stage2: and 10 more findings (stage2 show lists them all)"
    assert "S2204" in error


def test_show_lists_the_findings_of_images_that_are_there_and_needs_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "vm.toml"
    path.write_text(VM.format(arch="riscv64", entry=BASE, load=BASE, more='dtb_path = "tree.dtb"'))
    assert call(["show", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["findings"] == []
    (tmp_path / "kernel").write_bytes(riscv64())
    (tmp_path / "tree.dtb").write_bytes(tree(memory(0x9000_0000, 0x1000)))
    assert call(["show", str(path), "--json"]) == 0
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert (finding["code"], finding["severity"]) == ("S2225", "error")
    assert finding["ranges"][0]["start"] == 0x9000_0000
    assert call(["show", str(path)]) == 0
    assert "error S2225: /memory@90000000 says that there is RAM" in " ".join(capsys.readouterr().out.split())
