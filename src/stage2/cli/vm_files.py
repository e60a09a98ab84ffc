"""VM files as commands take them: with `--generation` and `--define`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..config.regions import PlannedVm
    from ..config.vm import VmConfig

GenerationName = Literal["seed", "head", "tg", "present"]
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def load_vms(
    paths: Sequence[Path], generation: GenerationName | None = None, define: Sequence[str] | None = None
) -> list[PlannedVm]:
    """Load VM files and plan the memory of each.

    Args:
        paths: the files.
        generation: the format they are in; None for what each says, or shows.
        define: `NAME=VALUE`, what `${NAME}` in a path stands for.

    Raises:
        ConfigError: a file is wrong, or a definition is none.
    """
    from ..config.regions import plan_vm

    return [plan_vm(vm) for vm in read_vms(paths, generation, define)]


def read_vms(
    paths: Sequence[Path], generation: GenerationName | None = None, define: Sequence[str] | None = None
) -> list[VmConfig]:
    """VM files as they are, whether or not their memory fits together; otherwise as `load_vms`."""
    from ..config.generation import Generation
    from ..config.load import read_vm_file

    defines = dict(_definition(text) for text in define or ())
    stated = None if generation is None else Generation(generation)
    return [read_vm_file(path, generation=stated, defines=defines) for path in paths]


def _definition(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not _NAME.fullmatch(name):
        raise ConfigError(f"--define {text[:80]}: NAME=VALUE is wanted, as workspace=/path/to/upstream")
    return name, value
