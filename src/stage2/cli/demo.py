"""`stage2 demo`: the bundled guest, one region of every kind."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def demo(
    *,
    hostile: Annotated[bool, Parameter(negative="")] = False,
    json_file: Annotated[Path | None, Parameter(name="--json", allow_leading_hyphen=True)] = None,
) -> int:
    """Run a tiny bundled guest that touches lazy RAM, identical memory, a device, a ROM and a hole.

    Needs no network. Files, sources and bytes of the guests are in the package's folder vm/guests.

    Parameters
    ----------
    hostile
        Run a second guest beside it that attacks everything outside its own regions.
    json_file
        Write the report as JSON to this file ("-" for standard output).
    """
    from ..config.load import load_vm
    from .run import run_configs

    with as_file(files("stage2.vm") / "guests") as folder:
        names = ["demo", "hostile"] if hostile else ["demo"]
        configs = [load_vm(folder / f"{name}-riscv64.toml") for name in names]
        return run_configs(configs, json_file=json_file, max_seconds=60)
