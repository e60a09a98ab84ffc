"""Opening configuration files: what a file is, and the right reader for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from enum import Enum

from ..errors import ConfigError
from ..formats.record import Format
from .board import BoardConfig, read_board
from .boot import require_boot
from .cpu import NamedCpu
from .defconfig import DefConfig, read_defconfig
from .document import Document, read_document
from .extensions import ARCHITECTURES, OUR_TABLES
from .generation import Generation
from .platform import PlatformConfig, read_platform
from .regions import PlannedVm, plan_vm
from .stage2_format import NamedFormat, format_reaching
from .vm import VmConfig, companion_name, read_vm
from .wording import shown

PathLike = str | os.PathLike[str]


class FileKind(Enum):
    """The kinds of AxVisor's TOML files; the value says what each is."""

    VM = "a VM file ([base], [kernel], [devices])"
    PLATFORM = "a platform file (arch, platform, [plat]), which describes the host"
    DEFCONFIG = "a defconfig (smp, ticks-per-sec, task-stack-size), which describes the hypervisor's build"
    BOARD = "a board file (target, features), which holds build settings and describes no memory"
    OURS = "tables of ours ([stage2], [[region]], [[rom]], [[share]]), read with the VM file NAME.toml beside it"
    UNKNOWN = "none of AxVisor's files"


_BOARD_KEYS = {"features", "cargo_args", "vm_configs", "to_bin"}
_DEFCONFIG_KEYS = {"smp", "ticks-per-sec", "task-stack-size"}
_OPTIONS = {FileKind.PLATFORM: "--platform", FileKind.BOARD: "--platform"}


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
    if keys & set(OUR_TABLES):
        return FileKind.OURS
    return FileKind.UNKNOWN


def recognise(path: PathLike) -> FileKind:
    """What a file is.

    Raises:
        ConfigError: it cannot be read or is no TOML.
    """
    return recognise_document(read_document(path))


def load_vm(
    path: PathLike,
    *,
    generation: Generation | None = None,
    defines: Mapping[str, str] | None = None,
    resolve: Callable[[VmConfig], VmConfig] | None = None,
) -> PlannedVm:
    """Load a VM file, with `NAME.stage2.toml` beside it, and plan its memory; the plan's notices are among the VM's.

    Args:
        path: the file.
        generation: the format it is in; None for what the file says, or shows.
        defines: what `${name}` stands for in its paths, before the environment is asked.
        resolve: finds the addresses of the nodes that it passes through, in the host's device tree
            (`images.host_nodes.with_nodes`); None where there is no tree.

    Raises:
        ConfigError: the file is something else, or wrong.
    """
    document, ours = open_vm(path, defines)
    vm = read_vm(document, generation, ours)
    return plan_vm(vm if resolve is None else resolve(vm))


def open_vm(path: PathLike, defines: Mapping[str, str] | None = None) -> tuple[Document, Document | None]:
    """A VM file, and `NAME.stage2.toml` beside it where that is there, with nothing but TOML read.

    Raises:
        ConfigError: one of them is no TOML, or the first is another kind of file.
    """
    document = _open(path, FileKind.VM, defines)
    beside = companion_name(document.file)
    return document, read_document(beside, defines) if os.path.lexists(beside) else None


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


def load_host(path: PathLike) -> PlatformConfig | BoardConfig:
    """Load what `--platform` names: a platform file, or a board file that stands for the default host.

    Raises:
        ConfigError: the file is something else, or wrong, or a board of no architecture known here.
    """
    if recognise(path) is not FileKind.BOARD:
        return load_platform(path)
    board = load_board(path)
    if board.arch is None:
        raise ConfigError(
            f"the target {shown(board.target)} is of no architecture known here: {', '.join(ARCHITECTURES)}",
            file=board.file,
        )
    return board


def choose_arch(
    vm: VmConfig,
    option: str | None = None,
    platform: PlatformConfig | BoardConfig | None = None,
    named: NamedFormat | None = None,
) -> str | None:
    """The architecture a VM is for: from the command line, the platform, the VM's own `arch` key or its format.

    Args:
        vm: the VM.
        option: what the user asked for on the command line.
        platform: the host, when one was given.
        named: the stage-2 format of the command line; None for that of the VM's file, if it names one.

    Returns:
        The architecture; None when nobody names one, and the kernel's header has to be asked.

    Raises:
        ConfigError: two of them name different ones, or the option names none we know.
    """
    if option is not None and option not in ARCHITECTURES:
        raise ConfigError(f"--arch {shown(option)} is none of {', '.join(ARCHITECTURES)}")
    said: list[tuple[str, str]] = []
    if option is not None:
        said.append(("--arch", option))
    if platform is not None and platform.arch is not None and platform.file is not None:
        kind = "board" if isinstance(platform, BoardConfig) else "platform"
        said.append((f"the {kind} {platform.file}", platform.arch))
    if vm.arch is not None:
        said.append((f"{'[base]' if vm.options.arch is None else '[stage2]'} arch", vm.arch))
    fmt = named or vm.options.format
    if fmt is not None:
        said.append((fmt.who, fmt.arch))
    for who, arch in said[1:]:
        if arch != said[0][1]:
            raise vm.place.error(f"{said[0][0]} says {said[0][1]}, {who} says {arch}: name one architecture")
    return said[0][1] if said else None


def choose_format(
    vm: PlannedVm,
    arch: str,
    platform: PlatformConfig | BoardConfig | None = None,
    named: NamedFormat | None = None,
    cpu: NamedCpu | None = None,
) -> Format:
    """The format of a VM's stage-2 tables: the one that is named, else the narrowest that reaches all its regions.

    Args:
        vm: the VM.
        arch: its architecture.
        platform: the host, when one was given; a board may ask for four-level tables.
        named: the format of the command line; None for that of the VM's file, if it names one.
        cpu: the processor of the command line; None for that of the VM's file, if it names one.

    Raises:
        ConfigError: the named format is of another architecture, the processor does not have it, a region is beyond
            what can be translated, or a guest of the architecture cannot be started as the VM's file says.
    """
    require_boot(vm.kernel.boot, arch)
    end = max(region.end for region in vm.plan.regions)
    four_levels = platform is not None and platform.four_levels
    return format_reaching(
        arch, end, vm.place, named=named or vm.options.format, four_levels=four_levels, cpu=cpu or vm.options.cpu
    )


def _open(path: PathLike, wanted: FileKind, defines: Mapping[str, str] | None = None) -> Document:
    document = read_document(path, defines)
    kind = recognise_document(document)
    if kind is wanted:
        return document
    if kind is FileKind.UNKNOWN:
        raise ConfigError(
            f"is {kind.value}: {_keys(document.root.keys)}; wanted here: {wanted.value}", file=document.file
        )
    advice = f"; give it with {_OPTIONS[kind]}" if kind in _OPTIONS else ""
    raise ConfigError(f"is {kind.value}; wanted here: {wanted.value}{advice}", file=document.file)


def _keys(keys: Sequence[str]) -> str:
    if not keys:
        return "it is empty"
    return "it has " + ", ".join(shown(key) for key in keys[:5]) + (", ..." if len(keys) > 5 else "")
