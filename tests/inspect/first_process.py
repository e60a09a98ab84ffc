"""Programs that are the first process of an emulated machine's Linux: compiled here, without a C library."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from stage2.images.cpio import archive, character_device, file, folder

HERE = Path(__file__).parent / "first_processes"
PACKAGES = {
    "x86_64": ("gcc", "linux-libc-dev"),
    "aarch64": ("gcc-aarch64-linux-gnu", "linux-libc-dev-arm64-cross"),
    "riscv64": ("gcc-riscv64-linux-gnu", "linux-libc-dev-riscv64-cross"),
}
"""What Debian has the compiler and the kernel's headers in."""
_OPTIONS = (
    "-std=gnu11 -O1 -Wall -Wextra -Werror -Wno-unused-function -ffreestanding -fno-stack-protector"
    " -nostdlib -static -fno-pie -no-pie -Wl,--build-id=none"
)
_OPTIONS_OF = {"riscv64": ("-Wl,--no-relax",)}
"""A relaxed program reaches its data by gp, which nobody has set."""
_COMPILE_S = 120


def compiled(name: str, arch: str, into: Path) -> bytes:
    """The program NAME.c, for an architecture.

    Args:
        name: of the program.
        arch: as our files name it.
        into: a folder for what the compiler writes.
    """
    compiler = f"{arch}-linux-gnu-gcc"
    if shutil.which(compiler) is None:
        missing = f"needs the Debian packages {' and '.join(PACKAGES[arch])}"
        if os.environ.get("CI"):
            pytest.fail(f"CI {missing}")
        pytest.skip(missing)
    out = into / f"{name}-{arch}"
    words = [compiler, *_OPTIONS.split(), *_OPTIONS_OF.get(arch, ()), "-o", str(out), str(HERE / f"{name}.c")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=_COMPILE_S, check=False)
    assert done.returncode == 0, done.stderr
    return out.read_bytes()


def ramdisk(program: bytes, modules: Sequence[bytes] = ()) -> bytes:
    """An initramfs whose /init is a program.

    Args:
        program: the first process.
        modules: kernel modules, in the order in which they need each other.
    """
    return archive(
        [
            folder("dev"),
            character_device("dev/console", 5, 1),
            folder("proc"),
            folder("modules"),
            *(file(f"modules/{place}", module) for place, module in enumerate(modules)),
            file("init", program, executable=True),
        ]
    )
