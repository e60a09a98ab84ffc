"""`stage2 prove`: isolation, proved or refuted on the tables themselves."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from ..errors import ConfigError
from .page import require_page, write_proved_page
from .picture import require_svg, write_proved_picture, write_tree
from .vm_files import GenerationName

if TYPE_CHECKING:
    from ..prove.subject import Subject
    from ..prove.theorem import Proof
    from ..prove.world import World
    from ..vm.host import Host


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
    iommu: Annotated[list[str] | None, Parameter(negative="")] = None,
    certificate: Path | None = None,
    verify: Path | None = None,
    svg: Path | None = None,
    tree: Path | None = None,
    html: Path | None = None,
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
    iommu
        What stands between devices and memory: DEVICE=DIR for the tables in a folder of `stage2 build`, DEVICE=shared
        for the stage-2 tables of its VM, or `shared` for those and every device. DEVICE is a name, or VM/NAME.
    certificate
        Write the proof into this file (NAME.json), and every range of leaves beside it (NAME.ranges).
    verify
        A certificate: hold the tables against it, and prove its theorems anew by a second implementation.
    svg
        File that gets a picture besides: what the tables map, beside the host's memory, with what refutes a theorem
        marked.
    tree
        File that gets a picture of the tables themselves, level by level: how full they are, and what they cover.
    html
        Page for browsers that gets the same picture (NAME.html) and the theorems, and answers any address with its
        walk.
    json_output
        Print JSON instead of text.
    """
    from ..prove.prover import prove_world
    from ..prove.world import World
    from ..render.json_text import json_text
    from ..render.proof import proof_json, render_proof
    from ..render.tables import print_renderable

    require_svg(svg)
    require_svg(tree, "--tree")
    require_page(html)
    host: Host | None = None
    if len(vms) == 1 and vms[0].is_dir():
        subject = _of_folder(vms[0])
    else:
        subject, host = _of_files(
            vms, platform, host_dtb, arch, populate, page_size, stage2_format, cpu, generation, define
        )  # fmt: skip
    for said in iommu or ():
        subject = _behind(subject, said)
    if verify is not None:
        return _verify(verify, subject, json_output=json_output)
    world = World.of(subject, by_row=certificate is not None)
    proof = prove_world(world)
    if host is not None:
        from ..vm.reasons import with_reasons

        proof = with_reasons(proof, host, subject)
    if certificate is not None:
        _write(certificate, proof, world)
    if svg is not None:
        write_proved_picture(svg, world, proof)
    if tree is not None:
        write_tree(tree, subject)
    if html is not None:
        processors = [] if host is None else [vm.space.processor for vm in host.vms]
        write_proved_page(html, world, proof, processors)
    if json_output:
        print(json_text("prove", proof_json(proof, subject)))
    else:
        print_renderable(render_proof(proof, subject))
    return 0 if proof.proved else 1


def _write(path: Path, proof: Proof, world: World) -> None:
    """Write a certificate; its details come first, so that there is none without them."""
    from ..prove.certificate import certificate, details_of
    from ..whole_file import write_whole

    if path.suffix != ".json":
        raise ConfigError(
            "a certificate's name ends in .json; its ranges go beside it, as .ranges", file=os.fspath(path)
        )
    text, details = certificate(proof, world, details_of(path).name)
    write_whole(details_of(path), details)
    write_whole(path, text)


def _verify(path: Path, subject: Subject, *, json_output: bool) -> int:
    """Hold tables against a certificate."""
    from ..prove.verify import verify
    from ..render.json_text import json_text
    from ..render.tables import print_renderable
    from ..render.verification import render_verification, verification_json

    found = verify(path, subject)
    if json_output:
        print(json_text("verify", verification_json(found)))
    else:
        print_renderable(render_verification(found))
    return 0 if found.problem is None else 1


def _behind(subject: Subject, said: str) -> Subject:
    """A subject with what one --iommu says."""
    from ..prove.iommu import behind_iommu, devices_named
    from ..tableimage.proof import iommu_tables

    device, separator, tables = said.rpartition("=")
    if tables == "shared":
        return behind_iommu(subject, device if separator else None, None)
    if not device or not tables:
        raise ConfigError(f"--iommu {said[:80]!r}: DEVICE=DIR, DEVICE=shared or shared is wanted")
    vm = devices_named(subject, device)[0].vm
    return behind_iommu(subject, device, iommu_tables(Path(tables), vm))


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
) -> tuple[Subject, Host]:
    """The tables of VM files, made as `stage2 build` makes them."""
    from ..config.cpu import NamedCpu
    from ..vm.isolation import subject_of
    from ..vm.own_space import own_space, says_own_space
    from .hosts import build_host

    # It is not closed: the process ends, and what it had goes with it.
    host = build_host(
        vms, platform=platform, host_dtb=host_dtb, arch=arch, populate=populate, page_size=page_size,
        stage2_format=stage2_format, cpu=cpu, generation=generation, define=define, as_declared=True,
    )  # fmt: skip
    own = own_space(host, cpu=None if cpu is None else NamedCpu(cpu)) if says_own_space(host) else None
    return subject_of(host, own), host
