"""VM files as commands take them: with `--generation` and `--define`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..config.regions import PlannedVm

GenerationName = Literal["seed", "head", "tg", "present"]
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def load_vms(
    paths: Sequence[Path], generation: GenerationName | None = None, define: Sequence[str] | None = None
) -> list[PlannedVm]:
    """Load VM files.

    Args:
        paths: the files.
        generation: the format they are in; None for what each says, or shows.
        define: `NAME=VALUE`, what `${NAME}` in a path stands for.

    Raises:
        ConfigError: a file is wrong, or a definition is none.
    """
    from ..config.generation import Generation
    from ..config.load import load_vm

    defines = dict(_definition(text) for text in define or ())
    stated = None if generation is None else Generation(generation)
    return [load_vm(path, generation=stated, defines=defines) for path in paths]


def _definition(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not _NAME.fullmatch(name):
        raise ConfigError(f"--define {text[:80]}: NAME=VALUE is wanted, as workspace=/path/to/upstream")
    return name, value
