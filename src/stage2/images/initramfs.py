"""The ramdisk of the fetched Linux guest: busybox, and an init that works on memory and powers off."""

from __future__ import annotations

import hashlib
from importlib.resources import files

from .cpio import archive, character_device, file, folder


def recipe_hash() -> str:
    """What our own part of the initramfs is; a ramdisk with another one was made by another version of us."""
    return hashlib.sha256(build(b"")).hexdigest()


def build(busybox: bytes) -> bytes:
    """The initramfs around a static busybox of the guest's architecture."""
    init = (files("stage2.vm") / "guests" / "linux-init.sh").read_bytes()
    return archive(
        [
            folder("dev"),
            character_device("dev/console", 5, 1),
            character_device("dev/kmsg", 1, 11),
            character_device("dev/mem", 1, 1),
            character_device("dev/null", 1, 3),
            character_device("dev/zero", 1, 5),
            folder("bin"),
            file("bin/busybox", busybox, executable=True),
            folder("proc"),
            folder("sys"),
            folder("tmp"),
            file("init", init, executable=True),
        ]
    )
