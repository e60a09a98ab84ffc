"""Opening configuration files: what a file is, and the right reader for it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from enum import Enum

from ..errors import ConfigError
from .board import BoardConfig, read_board
from .defconfig import DefConfig, read_defconfig
from .document import Document, in_order, read_document, shown
from .platform import PlatformConfig, read_platform
from .regions import plan_layout
from .vm import ARCHITECTURES, VmConfig, read_vm

PathLike = str | os.PathLike[str]


class FileKind(Enum):
    """The kinds of AxVisor's TOML files; the value says what each is."""

    VM = "a VM file ([base], [kernel], [devices])"
    PLATFORM = "a platform file (arch, platform, [plat]), which describes the host"
    DEFCONFIG = "a defconfig (smp, ticks-per-sec, task-stack-size), which describes the hypervisor's build"
    BOARD = "a board file (target, features), which holds build settings and describes no memory"
    UNKNOWN = "none of AxVisor's files"


_BOARD_KEYS = {"features", "cargo_args", "vm_configs", "to_bin"}
_DEFCONFIG_KEYS = {"smp", "ticks-per-sec", "task-stack-size"}
_OPTIONS = {FileKind.PLATFORM: "--platform"}


def recognise_document(document: Document) -> FileKind:
    """What a document is, judged by its top-level keys."""
    keys = set(document.root.keys)
    if "plat" in keys:
        return FileKind.PLATFORM
    if keys & {"base", "kernel"}:
        return FileKind.VM
    if "target" in keys and keys & _BOARD_KEYS:
        return FileKind.BOARD
    if keys & _DEFCONFIG_KEYS:
        return FileKind.DEFCONFIG
    return FileKind.UNKNOWN


def recognise(path: PathLike) -> FileKind:
    """What a file is.

    Raises:
        ConfigError: it cannot be read or is no TOML.
    """
    return recognise_document(read_document(path))


def load_vm(path: PathLike) -> VmConfig:
    """Load a VM file and check that its memory fits together; the layout's notices are among the VM's.

    Raises:
        ConfigError: the file is something else, or wrong.
    """
    vm = read_vm(_open(path, FileKind.VM))
    return replace(vm, notices=in_order((*vm.notices, *plan_layout(vm).notices)))


def load_platform(path: PathLike) -> PlatformConfig:
    """Load a platform file.

    Raises:
        ConfigError: the file is something else, or wrong.
    """
    return read_platform(_open(path, FileKind.PLATFORM))


def load_defconfig(path: PathLike) -> DefConfig:
    """Load a defconfig.

    Raises:
        ConfigError: the file is something else, or wrong.
    """
    return read_defconfig(_open(path, FileKind.DEFCONFIG))


def load_board(path: PathLike) -> BoardConfig:
    """Load a board file.

    Raises:
        ConfigError: the file is something else, or wrong.
    """
    return read_board(_open(path, FileKind.BOARD))


def choose_arch(vm: VmConfig, option: str | None = None, platform: PlatformConfig | None = None) -> str | None:
    """The architecture a VM is for: from the command line, the platform or the VM's own `arch` key.

    Args:
        vm: the VM.
        option: what the user asked for on the command line.
        platform: the host, when one was given.

    Returns:
        The architecture; None when nobody names one, and the kernel's header has to be asked.

    Raises:
        ConfigError: two of them name different ones, or the option names none we know.
    """
    if option is not None and option not in ARCHITECTURES:
        raise ConfigError(f"--arch {shown(option)} is none of {', '.join(ARCHITECTURES)}")
    named: list[tuple[str, str]] = []
    if option is not None:
        named.append(("--arch", option))
    if platform is not None and platform.arch is not None and platform.file is not None:
        named.append((f"the platform {platform.file}", platform.arch))
    if vm.arch is not None:
        named.append(("[base] arch", vm.arch))
    for who, arch in named[1:]:
        if arch != named[0][1]:
            raise vm.place.error(f"{named[0][0]} says {named[0][1]}, {who} says {arch}: name one architecture")
    return named[0][1] if named else None


def _open(path: PathLike, wanted: FileKind) -> Document:
    document = read_document(path)
    kind = recognise_document(document)
    if kind is wanted:
        return document
    if kind is FileKind.UNKNOWN:
        raise ConfigError(f"is {kind.value}: {_keys(document.root.keys)}; {wanted.value} wanted", file=document.file)
    advice = f"; give it with {_OPTIONS[kind]}" if kind in _OPTIONS else ""
    raise ConfigError(f"is {kind.value}; {wanted.value} wanted{advice}", file=document.file)


def _keys(keys: Sequence[str]) -> str:
    if not keys:
        return "it is empty"
    return "it has " + ", ".join(shown(key) for key in keys[:5]) + (", ..." if len(keys) > 5 else "")
