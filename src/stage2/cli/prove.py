"""`stage2 prove`: isolation, proved or refuted on the tables themselves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from .vm_files import GenerationName

if TYPE_CHECKING:
    from ..prove.subject import Subject


def prove(
    vms: Annotated[list[Path], Parameter(name="VM.toml|DIR", show_default=False)],
    /,
    *,
    platform: Path | None = None,
    host_dtb: Annotated[Path | None, Parameter(name="--host-dtb")] = None,
    arch: Literal["riscv64", "aarch64", "x86_64"] | None = None,
    populate: Literal["lazy", "eager"] = "eager",
    page_size: Literal["auto", "4k", "2m", "1g"] = "auto",
    stage2_format: Annotated[str | None, Parameter(name="--stage2-format")] = None,
    cpu: str | None = None,
    generation: GenerationName | None = None,
    define: Annotated[list[str] | None, Parameter(negative="")] = None,
    json_output: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Prove that VMs are isolated, on the bytes of their tables, or show where they are not. Needs no images.

    The tables are those that `stage2 build` would write, or those in a folder that it wrote. Exit code 0: every theorem
    that applies holds; 1: one is refuted; 2: bad input.

    Parameters
    ----------
    vms
        AxVisor VM files, which are built side by side, or one folder of `stage2 build`.
    platform
        AxVisor platform file of the host, or a board file.
    host_dtb
        The host's device tree: its RAM, reservations and devices, and the nodes that VMs are given.
    arch
        Architecture of the guests, when neither file nor platform says.
    populate
        When RAM gets frames: with lazy nothing is mapped that nobody touched yet.
    page_size
        Largest leaf of the tables.
    stage2_format
        Format of the stage-2 tables (npt4, arm-s2-16k-40, sv48x4); without it the narrowest that is wide enough.
    cpu
        Processor that the tables are for (cortex-a72, "cortex-a72,pa=40"; "--cpu list" names all).
    generation
        Format of the VM files: seed, head, tg or present; without it each file says or shows its own.
    define
        NAME=VALUE: what ${NAME} stands for in paths of the VM files; without it the environment is asked.
    json_output
        Print JSON instead of text.
    """
    from ..prove.prover import prove as prove_all
    from ..render.json_text import json_text
    from ..render.proof import proof_json, render_proof
    from ..render.tables import print_renderable

    if len(vms) == 1 and vms[0].is_dir():
        subject = _of_folder(vms[0])
    else:
        subject = _of_files(
            vms, platform, host_dtb, arch, populate, page_size, stage2_format, cpu, generation, define
        )  # fmt: skip
    proof = prove_all(subject)
    if json_output:
        print(json_text("prove", proof_json(proof, subject)))
    else:
        print_renderable(render_proof(proof, subject))
    return 0 if proof.proved else 1


def _of_folder(folder: Path) -> Subject:
    """The tables in a folder of `stage2 build`."""
    from ..tableimage.proof import subject_of_folder

    return subject_of_folder(folder)


def _of_files(
    vms: list[Path],
    platform: Path | None,
    host_dtb: Path | None,
    arch: str | None,
    populate: str,
    page_size: str,
    stage2_format: str | None,
    cpu: str | None,
    generation: GenerationName | None,
    define: list[str] | None,
) -> Subject:
    """The tables of VM files, made as `stage2 build` makes them."""
    from ..config.cpu import NamedCpu
    from ..vm.isolation import subject_of
    from ..vm.own_space import own_space, says_own_space
    from .hosts import build_host

    # It is not closed: the process ends, and what it had goes with it.
    host = build_host(
        vms, platform=platform, host_dtb=host_dtb, arch=arch, populate=populate, page_size=page_size,
        stage2_format=stage2_format, cpu=cpu, generation=generation, define=define,
    )  # fmt: skip
    own = own_space(host, cpu=None if cpu is None else NamedCpu(cpu)) if says_own_space(host) else None
    return subject_of(host, own)
