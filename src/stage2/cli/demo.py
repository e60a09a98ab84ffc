"""`stage2 demo`: the bundled guest of an architecture, one region of every kind."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from ..errors import ConfigError

_HOSTILE = ("riscv64",)
"""Architectures that have a hostile guest."""


def demo(
    *,
    arch: Literal["riscv64", "aarch64", "x86_64"] = "riscv64",
    hostile: Annotated[bool, Parameter(negative="")] = False,
    json_file: Annotated[Path | None, Parameter(name="--json", allow_leading_hyphen=True)] = None,
) -> int:
    """Run a tiny bundled guest that touches lazy RAM, identical memory, a device, a ROM and a hole.

    Needs no network. Files, sources and bytes of the guests are in the package's folder vm/guests.

    Parameters
    ----------
    arch
        The guest's architecture.
    hostile
        Run a second guest beside it that attacks everything outside its own regions (riscv64 only).
    json_file
        Write the report as JSON to this file ("-" for standard output).
    """
    from ..config.load import load_vm
    from .run import run_configs

    if hostile and arch not in _HOSTILE:
        raise ConfigError(f"--hostile: there is no hostile guest for {arch}, only for {', '.join(_HOSTILE)}")
    with as_file(files("stage2.vm") / "guests") as folder:
        names = ["demo", "hostile"] if hostile else ["demo"]
        configs = [load_vm(folder / f"{name}-{arch}.toml") for name in names]
        return run_configs(configs, json_file=json_file, max_seconds=300)
