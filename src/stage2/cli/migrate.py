"""`stage2 migrate`: a VM file of an older format, in upstream's present one."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..errors import ConfigError
from .vm_files import GenerationName


def migrate(
    old: Annotated[Path, Parameter(name="OLD.toml", show_default=False)],
    /,
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    generation: GenerationName | None = None,
) -> int:
    """Write a VM file of an older format in upstream's present one, GuestConfig, with its comments.

    What could not be carried over, and what means something else now, is listed on standard error. Our own tables go to
    NEW.stage2.toml beside NEW.toml.

    Parameters
    ----------
    old
        AxVisor VM file in the format of the seed, of head or of the monorepo before GuestConfig.
    output
        The file to write; standard output without it.
    generation
        Format of the old file: seed, head or tg; without it the file says or shows it.
    """
    from ..config.document import read_document
    from ..config.generation import Generation
    from ..config.load import load_vm
    from ..config.migrate import migrate as migrated
    from ..config.vm import companion_name
    from ..render.plain import plain
    from ..whole_file import write_whole

    stated = None if generation is None else Generation(generation)
    vm = load_vm(old, generation=stated).declared
    beside = Path(companion_name(os.fspath(old)))
    found = migrated(_text(old), read_document(old), vm, _text(beside) if beside.exists() else "")
    if output is None:
        print(found.text, end="")
    else:
        target = Path(companion_name(os.fspath(output)))
        if found.ours:
            write_whole(target, found.ours)
        elif target.exists() and not _same(target, beside):
            raise ConfigError("belongs to the new file by its name, and would be read with it", file=os.fspath(target))
        write_whole(output, found.text)
    for notice in found.lost:
        print(f"stage2: {plain(str(notice))}", file=sys.stderr)
    if found.ours and output is None:
        text = f"our own tables belong in {companion_name('NEW.toml')} beside NEW.toml: -o writes both"
        print(f"stage2: {plain(os.fspath(old))}: {text}", file=sys.stderr)
    return 0


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8-sig")


def _same(one: Path, other: Path) -> bool:
    return other.exists() and one.samefile(other)
