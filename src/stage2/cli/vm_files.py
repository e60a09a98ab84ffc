"""VM files and the host as commands take them: `--generation`, `--define`, `--platform` and `--host-dtb`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..config.board import BoardConfig
    from ..config.conflict import Refuse
    from ..config.platform import PlatformConfig
    from ..config.regions import PlannedVm
    from ..config.vm import VmConfig
    from ..images.host_tree import HostTree

GenerationName = Literal["seed", "head", "tg", "present"]
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def load_vms(
    paths: Sequence[Path],
    generation: GenerationName | None = None,
    define: Sequence[str] | None = None,
    tree: HostTree | None = None,
    *,
    lenient: bool = False,
) -> list[PlannedVm]:
    """Load VM files and plan the memory of each.

    Args:
        paths: the files.
        generation: the format they are in; None for what each says, or shows.
        define: `NAME=VALUE`, what `${NAME}` in a path stands for.
        tree: the host's device tree, in which the nodes are that they pass through.
        lenient: a node that is not in it is a notice, not an error.

    Raises:
        ConfigError: a file is wrong, or a definition is none.
    """
    from ..config.regions import plan_vm

    return [plan_vm(vm) for vm in read_vms(paths, generation, define, tree, lenient=lenient)]


def read_vms(
    paths: Sequence[Path],
    generation: GenerationName | None = None,
    define: Sequence[str] | None = None,
    tree: HostTree | None = None,
    *,
    lenient: bool = False,
    refuse: Refuse | None = None,
) -> list[VmConfig]:
    """VM files as they are, whether or not their memory fits together; otherwise as `load_vms`.

    Args:
        refuse: what is done with a file that says what cannot be; None ends at the first. One that is no TOML, or is
            another kind of file, ends it always.
    """
    from ..config.conflict import raise_it
    from ..config.generation import Generation
    from ..config.load import open_vm
    from ..config.vm import read_vm

    defines = dict(_definition(text) for text in define or ())
    stated = None if generation is None else Generation(generation)
    resolve = None if tree is None else partial(_with_nodes, tree, lenient=lenient)
    found = []
    for document, ours in [open_vm(path, defines) for path in paths]:
        try:
            vm = read_vm(document, stated, ours)
            found.append(vm if resolve is None else resolve(vm))
        except ConfigError as error:
            (refuse or raise_it)(error)
    return found


def _with_nodes(tree: HostTree, vm: VmConfig, *, lenient: bool) -> VmConfig:
    from ..images.host_nodes import with_nodes

    return with_nodes(vm, tree=tree, lenient=lenient)


def load_machine(
    platform: Path | None, host_dtb: Path | None
) -> tuple[PlatformConfig | BoardConfig | None, HostTree | None]:
    """Load what is said of the host: by a platform or board file, a device tree, or both.

    Raises:
        ConfigError: one of them is wrong, or they are of different hosts.
        HostToolError: the tree is source, and dtc is missing or refuses it.
    """
    from ..config.load import load_host

    given = None if platform is None else load_host(platform)
    if host_dtb is None:
        return given, None
    from ..images.host_platform import platform_of
    from ..images.host_tree import HostTree

    tree = HostTree.read(host_dtb)
    return platform_of(tree, given), tree


def _definition(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not _NAME.fullmatch(name):
        raise ConfigError(f"--define {text[:80]}: NAME=VALUE is wanted, as workspace=/path/to/upstream")
    return name, value
